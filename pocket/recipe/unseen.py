"""Extractions and calls that nothing in the recipe resembles: `unseen.jsonl`, a hundred of each.

Whoever wrote them, by hand and in ordinary words, had not seen the generators, and generators are not to be changed for
the sake of one of them: then the file would measure what was taught and no longer what was learned. A line has `kind`;
of an extraction `text`, `schema` and the one right `json`; of a call `tools`, `question` and the right `calls`, which
may be none.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .samples import Sample
from .synth import chat

PATH = Path(__file__).with_name("unseen.jsonl")
_ASKED = "Extract the data as JSON.\nSchema: {}\n\nText: {}"


def samples(kind: str) -> list[Sample]:
    """Those of one kind, "extract" or "tools", with the right answer as their last message."""
    lines = [json.loads(line) for line in PATH.read_text(encoding="utf-8").splitlines()]
    return [_SAMPLES[kind](line) for line in lines if line["kind"] == kind]


def _extract(line: dict[str, Any]) -> Sample:
    asked = _ASKED.format(json.dumps(line["schema"], ensure_ascii=False), line["text"])
    answer = json.dumps(line["json"], ensure_ascii=False)
    return Sample("extract", [chat.user(asked), chat.assistant(answer)], facts=line)


def _tools(line: dict[str, Any]) -> Sample:
    answer = chat.calls(line["calls"]) if line["calls"] else chat.assistant("")
    return Sample("tools", [chat.user(line["question"]), answer], line["tools"], facts=line)


_SAMPLES = {"extract": _extract, "tools": _tools}
