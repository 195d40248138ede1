"""Lark grammars as items, to tell how far from its end an answer can be. What this does not read is left untold."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping

from . import regexes
from .errors import GrammarRefused
from .items import Both, Choice, Control, Document, Item, Lazy, Not, Rule, Sequence, Times, Unknown, Word
from .lower import Bounds, Lowered
from .schema import Schema
from .spec import Limits

_TOKEN = re.compile(
    r"(?P<space>[ \t\r]+|//[^\n]*|\#[^\n]*)|(?P<line>\n)"
    r'|(?P<string>"(?:\\.|[^"\\\n])*")(?!i)|(?P<regex>/(?![/*])(?:\\.|[^/\\\n])+/)(?![imslux])'
    r"|<\[(?P<control>\d+)\]>|(?P<json>%json)(?=\s*\{)|(?P<count>\{\s*\d+\s*(?:,\s*\d*\s*)?\})|(?P<mark>[()|*+?&~:])"
    r"|(?P<name>[A-Za-z_]\w*)|(?P<lazy>\[lazy\])"
)
_ANYTHING = "(?s:.*)"
_OURS: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [  # what Python writes otherwise
    (re.compile(r"\\/"), lambda found: "/"),
    (re.compile(r"\\x\{([0-9A-Fa-f]+)\}"), lambda found: f"\\U{int(found[1], 16):08x}"),
    (re.compile(r"\(\?s:\."), lambda found: r"(?:[\s\S]"),
]
NUMBER = 64  # bytes of a number at most


def read(text: str, documents: Mapping[str, Lowered]) -> dict[str, Item]:
    """The rules by name. documents: those of `%json`, by their text. Raises Unknown."""
    return _Reader(text, documents).rules()


class _Reader:
    def __init__(self, text: str, documents: Mapping[str, Lowered]):
        self._documents = documents
        self._tokens: list[tuple[str, str]] = []
        self._at, self._depth = 0, 0
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise Unknown
            at = found.end()
            kind = found.lastgroup or ""
            written = found[kind]
            if kind == "json":
                begin = text.index("{", at)
                try:
                    _, at = json.JSONDecoder().raw_decode(text, begin)
                except ValueError:
                    raise Unknown from None
                written = text[begin:at]
            if kind != "space":
                self._tokens.append((kind, written))

    def rules(self) -> dict[str, Item]:
        found: dict[str, Item] = {}
        while self._at < len(self._tokens):
            if self._peek()[0] == "line":
                self._at += 1
                continue
            kind, name = self._next()
            if kind != "name" or name in found:
                raise Unknown
            mark = self._next()
            lazy = mark[0] == "lazy"
            if (self._next() if lazy else mark) != ("mark", ":"):
                raise Unknown
            found[name] = Lazy(self._choice()) if lazy else self._choice()
            if self._at < len(self._tokens) and self._peek()[0] != "line":
                raise Unknown
        return found

    def _peek(self) -> tuple[str, str]:
        while self._depth and self._at < len(self._tokens) and self._tokens[self._at][0] == "line":
            self._at += 1
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _next(self) -> tuple[str, str]:
        found = self._peek()
        self._at += 1
        return found

    def _goes_on(self, mark: str) -> bool:
        """Take a mark that may stand on one of the next lines."""
        ahead = self._at
        while ahead < len(self._tokens) and self._tokens[ahead][0] == "line":
            ahead += 1
        if ahead < len(self._tokens) and self._tokens[ahead] == ("mark", mark):
            self._at = ahead + 1
            return True
        return False

    def _choice(self) -> Item:
        options = [self._both()]
        while self._goes_on("|"):
            options.append(self._both())
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def _both(self) -> Item:
        parts = [self._sequence()]
        while self._peek() == ("mark", "&"):
            self._at += 1
            parts.append(self._sequence())
        return parts[0] if len(parts) == 1 else Both(tuple(parts))

    def _sequence(self) -> Item:
        parts = []
        while (item := self._item()) is not None:
            while (times := self._times()) is not None:
                item = Times(item, *times)
            parts.append(item)
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _times(self) -> tuple[int, int | None] | None:
        kind, text = self._peek()
        if kind == "count":
            self._at += 1
            low, comma, high = text.strip("{} ").replace(" ", "").partition(",")
            return int(low), int(high) if high else None if comma else int(low)
        if kind == "mark" and text in "*+?":
            self._at += 1
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[text]
        return None

    def _item(self) -> Item | None:
        kind, text = self._peek()
        if kind in ("line", "end") or (kind == "mark" and text in "|)&"):
            return None
        self._at += 1
        match kind:
            case "string":
                return Word(_unquoted(text))
            case "regex":
                return _regex(text[1:-1])
            case "control":
                return Control(int(text))
            case "json":
                return self._document(text)
            case "name":
                return Rule(text)
        if text == "~":
            body = self._item()
            if body is not None:
                return Not(body)
        if text == "(":
            self._depth += 1
            inside = self._choice()
            if self._next() == ("mark", ")"):
                self._depth -= 1
                return inside
        raise Unknown

    def _document(self, text: str) -> Item:
        if (known := self._documents.get(text)) is not None:
            options = json.loads(text)["x-guidance"]
            marks = options["item_separator"], options["key_separator"]
            return Document(int(known.least(known.source.root)), known.bounds, known, marks)
        if (schema := json.loads(text)).get("type") in ("number", "integer"):
            schema.pop("x-guidance", None)
            return Document(NUMBER, Bounds(NUMBER, 0, 0), Lowered(Schema(json.dumps(schema), Limits())))
        raise Unknown


def _unquoted(text: str) -> str:
    try:
        return str(json.loads(text))
    except ValueError:
        raise Unknown from None


def _regex(pattern: str) -> Item:
    if pattern == _ANYTHING:
        return regexes.ANYTHING
    for theirs, ours in _OURS:
        pattern = theirs.sub(ours, pattern)
    try:
        return regexes.parse(pattern, whole=True, python=True)
    except GrammarRefused:
        raise Unknown from None
