"""Lark grammars in llguidance's dialect: what is let through, and JSON Schemas inside them."""

from __future__ import annotations

import json
import re
from typing import Any

from .errors import GrammarRefused
from .lower import Lowered
from .probe import ESCAPES
from .schema import Schema
from .spec import Limits

# Text that is not grammar (strings, expressions, comments) is passed over; the rest is looked for.
_SCAN = re.compile(
    r'(?P<skip>"(?:\\.|[^"\\\n])*"|//[^\n]*|\#[^\n]*|/(?![/*])(?:\\.|[^/\\\n])+/)'
    r"|(?P<json>%json\s*(?=\{))|(?P<options>%llguidance\s*(?!\s*\{\s*\}))"
    r"|(?P<control><[^<>\s]+>)|(?P<attribute>\b(?:temperature|max_tokens|stop|stop_capture)\s*=)|(?P<other>@\w+)"
)
_WHY = {
    "control": "a grammar cannot name control tokens",
    "options": "%llguidance options are not supported",
    "attribute": "temperature, max_tokens and stop in a rule are not followed",
    "other": "there are no other grammars to refer to",
}


def checked(text: str, controls: tuple[int, ...], whitespace: str | None, limits: Limits) -> str:
    """The grammar, with each `%json {...}` put through the gatekeeper. controls: the tokens that it may name (<[id]>).
    Raises GrammarRefused with the line."""
    out, at = [], 0
    while found := _SCAN.search(text, at):
        out.append(text[at : found.start()])
        at = found.end()
        kind = found.lastgroup or ""
        if kind == "skip":
            out.append(found[0])
        elif kind == "json":
            schema, at = _object(text, at)
            out.append(embedded(schema, whitespace, limits, f"line {_line(text, found.start())}"))
        elif kind == "control" and re.fullmatch(r"<\[\d+\]>", found[0]) and int(found[0][2:-2]) in controls:
            out.append(found[0])
        else:
            raise GrammarRefused(_WHY[kind], path=f"line {_line(text, found.start())}")
    return "".join(out) + text[at:]


def embedded(schema: str, whitespace: str | None, limits: Limits, where: str) -> str:
    """A JSON Schema as an item of a rule."""
    try:
        plain: dict[str, Any] = Lowered(Schema(schema, limits)).schema
    except GrammarRefused as error:
        raise GrammarRefused(f"{where}: {error.message.removesuffix(f' (at {error.path})')}", path=error.path) from None
    options: dict[str, Any] = {"json_allowed_escapes": ESCAPES, "whitespace_flexible": False}
    if whitespace is not None:
        options["whitespace_pattern"] = whitespace
    return "%json " + json.dumps({"x-guidance": options, **plain})


def _object(text: str, at: int) -> tuple[str, int]:
    try:
        _, end = json.JSONDecoder().raw_decode(text, at)
    except ValueError as error:
        raise GrammarRefused(f"%json: {error}", path=f"line {_line(text, at)}") from None
    return text[at:end], end


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
