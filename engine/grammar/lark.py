"""Lark grammars in llguidance's dialect: what is let through, and JSON Schemas inside them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from . import dialects, joined
from .errors import GrammarRefused
from .lower import Lowered
from .probe import ESCAPES
from .schema import Schema
from .spec import Limits
from .whitespace import CALLS, PLAIN, Layout

# Text that is not grammar (strings, expressions, comments) is passed over; the rest is looked for.
_SCAN = re.compile(
    r'(?P<skip>"(?:\\.|[^"\\\n])*"|//[^\n]*|\#[^\n]*|/(?![/*])(?:\\.|[^/\\\n])+/)'
    r"|(?P<json>%json\s*(?=\{))|(?P<call>%call\s*(?=\{))|(?P<arguments>%arguments\s*(?=\{))|(?P<joined>%joined\s*(?=\{))"
    r"|(?P<options>%llguidance\s*(?!\s*\{\s*\}))"
    r"|(?P<control><[^<>\s]+>)|(?P<attribute>\b(?:temperature|max_tokens|stop|stop_capture)\s*=)|(?P<other>@\w+)"
)
_WHY = {
    "control": "a grammar cannot name control tokens",
    "options": "%llguidance options are not supported",
    "attribute": "temperature, max_tokens and stop in a rule are not followed",
    "arguments": "%arguments is not known",
    "call": "%call is not known",
    "joined": "%joined is not known",
    "other": "there are no other grammars to refer to",
}


def checked(
    text: str,
    controls: tuple[int, ...],
    whitespace: str | None,
    limits: Limits,
    documents: dict[str, Lowered] | None = None,
    ours: bool = False,
) -> str:
    """The grammar, with each `%json {...}` put through the gatekeeper. controls: the tokens that it may name (<[id]>).
    documents: takes each document by its text. ours: the server wrote it; then `%call {...}` is as `%json`, laid out as
    calls are, and each `%arguments {...}` (dialects.py) and `%joined {...}` (joined.py) becomes rules. Raises
    GrammarRefused with the line."""
    out, at = [], 0
    rules: list[str] = []
    while found := _SCAN.search(text, at):
        out.append(text[at : found.start()])
        at = found.end()
        kind = found.lastgroup or ""
        if kind == "skip":
            out.append(found[0])
        elif kind == "json":
            schema, at = _object(text, at)
            out.append(embedded(schema, whitespace, limits, f"line {_line(text, found.start())}", documents))
        elif kind == "call" and ours:
            schema, at = _object(text, at)
            out.append(embedded(schema, None, limits, f"line {_line(text, found.start())}", documents, CALLS))
        elif kind == "arguments" and ours:
            asked, at = _object(text, at)
            with _placed(f"line {_line(text, found.start())}"):
                item, more = dialects.arguments(asked, f"arguments_{found.start()}", controls, limits)
            out.append(item)
            rules += more
        elif kind == "joined" and ours:
            asked, at = _object(text, at)
            with _placed(f"line {_line(text, found.start())}"):
                item, more = joined.rules(
                    _checked_within(asked, whitespace, limits, documents), f"joined_{found.start()}", limits
                )
            out.append(item)
            rules += more
        elif kind == "control" and re.fullmatch(r"<\[\d+\]>", found[0]) and int(found[0][2:-2]) in controls:
            out.append(found[0])
        else:
            raise GrammarRefused(_WHY[kind], path=f"line {_line(text, found.start())}")
    return "\n".join(["".join(out) + text[at:], *rules])


def _checked_within(asked: str, whitespace: str | None, limits: Limits, documents: dict[str, Lowered] | None) -> str:
    """The object of `%joined`, with a grammar in Lark that was let through."""
    found = json.loads(asked)
    if found["kind"] == "lark":
        found["text"] = checked(found["text"], (), whitespace, limits, documents)
    return json.dumps(found)


def renumbered(text: str, number: Callable[[int], int]) -> str:
    """The same grammar over another vocabulary. number: of a control token, in that."""

    def other(found: re.Match[str]) -> str:
        return f"<[{number(int(found[0][2:-2]))}]>" if found.lastgroup == "control" else found[0]

    return _SCAN.sub(other, text)


def embedded(
    schema: str,
    whitespace: str | None,
    limits: Limits,
    where: str,
    documents: dict[str, Lowered] | None = None,
    layout: Layout = PLAIN,
) -> str:
    """A JSON Schema as an item of a rule. whitespace: what may stand between its tokens, beside the marks of
    `layout`."""
    with _placed(where):
        lowered = Lowered(Schema(schema, limits), len(layout.comma), len(layout.colon))
    options: dict[str, Any] = {"json_allowed_escapes": ESCAPES, "whitespace_flexible": False}
    options |= {"item_separator": layout.comma, "key_separator": layout.colon}
    if whitespace is not None:
        options["whitespace_pattern"] = whitespace
    written = json.dumps({"x-guidance": options, **lowered.schema})
    if documents is not None:
        documents[written] = lowered
    return "%json " + written


@contextmanager
def _placed(where: str) -> Iterator[None]:
    """Errors inside say where."""
    try:
        yield
    except GrammarRefused as error:
        raise GrammarRefused(f"{where}: {error.message.removesuffix(f' (at {error.path})')}", path=error.path) from None


def _object(text: str, at: int) -> tuple[str, int]:
    try:
        _, end = json.JSONDecoder(parse_int=str).raw_decode(text, at)
    except ValueError as error:
        raise GrammarRefused(f"%json: {error}", path=f"line {_line(text, at)}") from None
    return text[at:end], end


def _line(text: str, at: int) -> int:
    return text.count("\n", 0, at) + 1
