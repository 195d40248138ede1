"""Which parts of a rendered prompt are markup of the template, and which are content of the request. Pure.

The template renders once more with two sentinels around every string of the messages. It does not count unless the same
text comes out: a template may look at what it is given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

Segment = dict[str, Any]  # {"text", "content": bool}


def segments(render: Callable[[list[dict[str, Any]]], str], messages: list[dict[str, Any]], text: str,
             marks: tuple[str, str]) -> list[Segment] | None:  # fmt: skip
    """The parts of `text`, in order; None where they cannot be told. marks: two characters that occur nowhere."""
    begin, end = marks
    marked = render([_around(message, begin, end) for message in messages])
    if marked.replace(begin, "").replace(end, "") != text:
        return None
    found: list[Segment] = []
    depth = 0
    for piece in _split(marked, begin, end):
        if piece in marks:
            depth += 1 if piece == begin else -1
        elif piece:
            found.append({"text": piece, "content": depth > 0})
    return _joined(found)


def _around(message: Mapping[str, Any], begin: str, end: str) -> dict[str, Any]:
    """The same message with marks around its strings, but for those that say what kind of thing something is."""

    def changed(value: Any, key: str) -> Any:
        if key == "arguments" and isinstance(value, str):
            with suppress(ValueError):
                return changed(json.loads(value), "")
        if isinstance(value, str):
            core = value.strip()  # templates cut white space off
            return value if key in ("role", "type") or not core else value.replace(core, f"{begin}{core}{end}", 1)
        if isinstance(value, Mapping):
            return {name: changed(item, name) for name, item in value.items()}
        return [changed(item, key) for item in value] if isinstance(value, list) else value

    return {key: changed(value, key) for key, value in message.items()}


def _split(text: str, begin: str, end: str) -> list[str]:
    pieces: list[str] = []
    for i, part in enumerate(text.split(begin)):
        pieces += [begin] * (i > 0)
        for j, inner in enumerate(part.split(end)):
            pieces += [end] * (j > 0) + [inner]
    return pieces


def _joined(found: list[Segment]) -> list[Segment]:
    out: list[Segment] = []
    for segment in found:
        if out and out[-1]["content"] == segment["content"]:
            out[-1]["text"] += segment["text"]
        else:
            out.append(segment)
    return out
