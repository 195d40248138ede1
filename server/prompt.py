"""From messages to ids: the chat template's markup may steer the model, a message's text never does.

Rendered text is tokenized as a whole, as transformers does it, so ids are those the model was trained on. What keeps
content from becoming control is a mark: before rendering, a sentinel character (one that occurs nowhere in the request)
is put into every control token that a message spells, and into every beginning or end of one at the edges of its
strings, where it could be completed by what the template puts beside it. After rendering the sentinels are taken out
and their places kept: a control token with such a place inside was spelled by a message, and is encoded as text.

In the assistant's own turns only special tokens are marked: `</think>` and its kind there are the model's own words,
which templates look for to drop old thoughts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from ..engine.errors import RequestError
from .template import compile_template, render
from .tokenizer import Tokenizer

_TAKES_PARTS = re.compile(
    r"content['\"\]\w.()]*\s+is\s+(not\s+)?(string|iterable|sequence|mapping)"
    r"|in\s+(message|msg|m)(\.content|\[['\"]content['\"]\])|\.type\s*==|\[['\"]type['\"]\]\s*==\s*['\"](text|image)"
)
_ROLES_OF_TEMPLATES = {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation."""

    ids: list[int]
    text: str
    defused: int  # control tokens that messages spelled, encoded as text


class Renderer:
    """One chat template and its tokenizer."""

    def __init__(self, tokenizer: Tokenizer, chat_template: str | None = None):
        """chat_template: instead of the model's own. Raises ModelError where a template is not Jinja."""
        self._tokenizer = tokenizer
        sources = {"default": chat_template} if chat_template else tokenizer.templates
        self._sources = sources
        self._templates = {name: compile_template(source) for name, source in sources.items()}
        every = sorted(tokenizer.control, key=len, reverse=True)
        self._every = _Spelling(every)
        self._special = _Spelling([t for t in every if t in tokenizer.special])
        self._variables = {
            name: text
            for name in _ROLES_OF_TEMPLATES
            if isinstance(text := tokenizer.named(name), str)
        }  # fmt: skip

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """Ids of a conversation. Raises RequestError where the template refuses it."""
        name = "tool_use" if tools and "tool_use" in self._templates else "default"
        if name not in self._templates:
            raise RequestError(
                "this model has no chat template; give one with --chat-template, or use /v1/completions",
                param="messages",
            )
        sentinel = _unused_character([messages, tools, dict(template_kwargs or {}), self._sources[name]])
        given = {
            "messages": [self._message(m, i, name, sentinel) for i, m in enumerate(messages)],
            "tools": self._marked(tools, self._every, sentinel),
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **self._variables,
            **self._marked(dict(template_kwargs or {}), self._every, sentinel),
        }
        tail = given["messages"][-1].get("content") if continue_final_message and messages else None
        if continue_final_message and not isinstance(tail, str):
            raise RequestError("continue_final_message needs a last message with text", param="messages")
        text = self._rendered(name, given)
        if tail is not None:
            text = _cut_after(text, tail)
        return self._encoded(text, sentinel)

    def _rendered(self, name: str, given: dict[str, Any]) -> str:
        """Templates want tool arguments as objects; the few that paste them as text get them as text."""
        template = self._templates[name]
        try:
            return render(template, given)
        except RequestError:
            pasted = deepcopy(given["messages"])
            changed = False
            for message in pasted:
                for call in message.get("tool_calls") or ():
                    function = call.get("function", call)
                    if isinstance(function.get("arguments"), Mapping):
                        function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
                        changed = True
            if not changed:
                raise
            return render(template, {**given, "messages": pasted})

    def _message(self, message: dict[str, Any], i: int, name: str, sentinel: str) -> dict[str, Any]:
        """One message as templates expect it, its control tokens marked."""
        message = dict(message)
        content = message.get("content")
        if isinstance(content, list):
            texts = [_text_of(part, f"messages[{i}].content[{j}]") for j, part in enumerate(content)]
            takes_parts = _TAKES_PARTS.search(self._sources[name])
            message["content"] = [{"type": "text", "text": t} for t in texts] if takes_parts else "\n".join(texts)
        if message.get("tool_calls"):
            message["tool_calls"] = [_call(call) for call in message["tool_calls"]]
        spelling = self._special if message.get("role") == "assistant" else self._every
        marked: dict[str, Any] = self._marked(message, spelling, sentinel)
        marked["role"] = message.get("role")
        return marked

    def _marked(self, value: Any, spelling: _Spelling, sentinel: str) -> Any:
        """A copy of any JSON value with every string marked."""
        if isinstance(value, str):
            return spelling.mark(value, sentinel)
        if isinstance(value, Mapping):
            return {spelling.mark(str(k), sentinel): self._marked(v, spelling, sentinel) for k, v in value.items()}
        if isinstance(value, list):
            return [self._marked(v, spelling, sentinel) for v in value]
        return value

    def _encoded(self, marked: str, sentinel: str) -> Prompt:
        """Ids of rendered text: control tokens as such where the template put them, as text where a message did."""
        tokenizer = self._tokenizer
        pieces = marked.split(sentinel)
        text = "".join(pieces)
        places = []
        at = 0
        for piece in pieces[:-1]:
            at += len(piece)
            places.append(at)
        controls = list(self._every.find(text)) if places else []
        forged = [c for c in controls if _any_inside(places, *c)]
        if not forged:
            return Prompt(tokenizer.encode(text, add_special_tokens=False), text, 0)
        ids: list[int] = []
        at = 0
        for begin, end in controls:
            if begin < at or (begin, end) in forged:
                continue
            ids += tokenizer.encode_content(text[at:begin], first=at == 0)
            ids.append(tokenizer.control[text[begin:end]])
            at = end
        ids += tokenizer.encode_content(text[at:], first=at == 0)
        return Prompt(ids, text, len(forged))


class _Spelling:
    """Finds a set of control tokens in text, and marks them."""

    def __init__(self, tokens: list[str]):
        self._tokens = tokens
        self._set = frozenset(tokens)
        self._pattern = re.compile("(?=(" + "|".join(map(re.escape, tokens)) + "))") if tokens else None
        self._heads = {t[:n] for t in tokens for n in range(1, len(t))}
        self._tails = {t[n:] for t in tokens for n in range(1, len(t))}
        self._longest = max(map(len, tokens), default=0)

    def find(self, text: str) -> Iterable[tuple[int, int]]:
        """(begin, end) of each control token, overlapping ones too; of those that begin together the longest."""
        if self._pattern is not None:
            for match in self._pattern.finditer(text):
                yield match.start(1), match.end(1)

    def mark(self, text: str, sentinel: str) -> str:
        """A sentinel inside every control token, and behind what begins or before what ends one at the edges."""
        if self._pattern is None or not text:
            return text
        places = {begin + 1 for begin, end in self.find(text) if end - begin > 1}
        for n in range(min(self._longest - 1, len(text)), 0, -1):
            if text[len(text) - n :] in self._heads:
                places.add(len(text) if n == 1 else len(text) - n + 1)
            if text[:n] in self._tails:
                places.add(0 if n == 1 else n - 1)
        for place in sorted(places, reverse=True):
            text = text[:place] + sentinel + text[place:]
        return text


def _any_inside(places: list[int], begin: int, end: int) -> bool:
    return any(begin < p < end for p in places)


def _unused_character(values: list[Any]) -> str:
    """A private-use character that occurs nowhere in the request or the template."""
    used = set(json.dumps(values, ensure_ascii=False, default=str))
    return next(c for c in map(chr, range(0xE000, 0xF8FF)) if c not in used)


def _text_of(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in ("text", "input_text", "refusal"):
        raise RequestError(f"{where}.type is {kind!r}; this model takes text only", param=f"{where}.type")
    text = part.get("text", part.get("refusal"))
    if not isinstance(text, str):
        raise RequestError(f"{where}.text is {text!r}; expected a string", param=f"{where}.text")
    return text


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call of the history, its arguments an object: on the wire they are JSON in a string."""
    call = deepcopy(call)
    function = call.get("function")
    if isinstance(function, dict) and isinstance(function.get("arguments"), str):
        try:
            parsed = json.loads(function["arguments"] or "{}")
        except ValueError:
            return call
        if isinstance(parsed, dict):
            function["arguments"] = parsed
    return call


def _cut_after(text: str, tail: str) -> str:
    """End the prompt right after the last message's text, so that the model goes on with it."""
    for shown in (tail, tail.strip()):
        if shown and (at := text.rfind(shown)) >= 0:
            return text[: at + len(shown)]
    raise RequestError(
        "continue_final_message: the chat template does not show the last message as it is", param="messages"
    )
