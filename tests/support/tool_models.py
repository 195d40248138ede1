"""Model folders with random weights whose template shows a format of tool calls, its tags in the vocabulary."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

TEMPLATE = (
    "{%- if tools %}{% for tool in tools %}{{ tool.function.name }} {% endfor %}TAGS\n{% endif %}"
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' + (message.content or '') }}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FORMATS: dict[str, tuple[str, ...]] = {  # the tags by which a template of a format is known
    "hermes": ("<tool_call>", "</tool_call>"),
    "mistral": ("[TOOL_CALLS]", "[ARGS]"),
}


def make(source: Path, folder: Path, format: str, *, control: bool) -> dict[str, int]:
    """A copy of the model folder `source` whose calls are of `format`; its tags, one token each, by id.

    control: they are control tokens of the vocabulary, else plain text of one token each, which no text becomes.
    They take the place of the last merges, so that the weights still fit."""
    shutil.copytree(source, folder)
    tags = FORMATS[format]
    path = folder / "tokenizer.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    ids = _added(description, tags) if control else _merged(description, tags)
    path.write_text(json.dumps(description, ensure_ascii=False), encoding="utf-8")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings["chat_template"] = TEMPLATE.replace("TAGS", " ".join(tags))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    return ids


def _shortened(model: dict[str, Any], count: int) -> int:
    """Take `count` merges away, and the tokens they make, which are the last; the first id that is free then."""
    for _ in range(count):
        left, right = model["merges"].pop()
        del model["vocab"][left + right]
    return len(model["vocab"])


def _added(description: dict[str, Any], tags: tuple[str, ...]) -> dict[str, int]:
    first = _shortened(description["model"], len(tags))
    ids = {tag: first + i for i, tag in enumerate(tags)}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    description["added_tokens"] += [{"id": token, "content": tag, **plain} for tag, token in ids.items()]
    return ids


def _merged(description: dict[str, Any], tags: tuple[str, ...]) -> dict[str, int]:
    """Merges from the left on, before all others."""
    wanted = dict.fromkeys(tag[:end] for tag in tags for end in range(2, len(tag) + 1))
    model = description["model"]
    first = _shortened(model, len(wanted))
    new = {text: first + i for i, text in enumerate(text for text in wanted)}
    model["vocab"] |= new
    model["merges"] = [[text[:-1], text[-1]] for text in wanted] + model["merges"]
    return {tag: model["vocab"][tag] for tag in tags}
