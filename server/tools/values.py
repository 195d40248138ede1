"""Values as models write them, to JSON, piece by piece: JSON itself, Python literals, Gemma's own notation.

JSON goes through as it is written. What models get wrong most often is put right on the way, so that what comes out is
always JSON: line breaks inside of strings, escapes that JSON lacks, `True` and `None`, a comma before a bracket closes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from .source import Broken, Ended, Source, Step, escaped, stops

Emit = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Notation:
    """How values are written. quotes: what begins and ends a string."""

    quotes: tuple[str, ...]
    brackets: str = "{}[]"  # in pairs
    escapes: bool = True
    bare_keys: bool = False
    spaces: bool = False  # white space between tokens goes out as it is written


JSON = Notation(quotes=('"',), spaces=True)
PYTHON = Notation(quotes=('"', "'", '"""', "'''"), brackets="{}[]()")
GEMMA = Notation(quotes=('<|"|>',), escapes=False, bare_keys=True)

_WORDS = {"true": "true", "false": "false", "null": "null", "True": "true", "False": "false", "None": "null"}
_WORD = re.compile(r"[A-Za-z0-9_.+-]*")
_KEY = re.compile(r"[^\s:,{}\[\]]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LOOSE_NUMBER = re.compile(r"[+-]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_LONGEST_SCALAR = 400  # characters
_LONGEST_KEY = 1000

_ESCAPES = {c: "\\" + c for c in '"\\/bfnrt'} | {"'": "'", "a": "\\u0007", "v": "\\u000b", "0": "\\u0000"}
_HEX = {"u": 4, "x": 2, "U": 8}
_DIGITS = re.compile(r"[0-9a-fA-F]*")


def value(source: Source, notation: Notation, emit: Emit) -> Step[None]:
    """Read one value and give it out as JSON. Raises Broken where it is none, having given out what was sure."""
    closers: list[str] = []
    yield from source.space()
    while True:
        if (yield from _opened(source, notation, closers, emit)):
            continue
        while closers:
            gap = yield from source.space()
            if (yield from source.next()) == closers[-1]:
                source.take(1)
                emit(gap * notation.spaces + _json_bracket(closers.pop()))
                continue
            if (yield from source.next()) != ",":
                raise Broken
            source.take(1)
            after = yield from source.space()
            if (yield from source.next()) == closers[-1]:
                continue
            emit(f"{gap},{after}" if notation.spaces else ", ")
            if closers[-1] == "}":
                yield from _key(source, notation, emit)
            break
        else:
            return


def _opened(source: Source, notation: Notation, closers: list[str], emit: Emit) -> Step[bool]:
    """Read a scalar, or the beginning of what is none. True: inside of that a value follows."""
    first = yield from source.next()
    place = notation.brackets.find(first)
    if place < 0 or place % 2:
        yield from scalar(source, notation, emit)
        return False
    source.take(1)
    closers.append(notation.brackets[place + 1])
    gap = yield from source.space()
    emit(("{" if first == "{" else "[") + gap * notation.spaces)
    if (yield from source.next()) == closers[-1]:
        return False
    if first == "{":
        yield from _key(source, notation, emit)
    return True


def _json_bracket(closer: str) -> str:
    return "}" if closer == "}" else "]"


def _key(source: Source, notation: Notation, emit: Emit) -> Step[None]:
    """Read a key and its colon."""
    quote = yield from source.literal(*notation.quotes)
    if quote:
        yield from _string(source, quote, notation, emit)
    elif notation.bare_keys and (bare := (yield from source.run(_KEY, _LONGEST_KEY))):
        emit(json.dumps(bare, ensure_ascii=False))
    else:
        raise Broken
    before = yield from source.space()
    if not (yield from source.literal(":")):
        raise Broken
    after = yield from source.space()
    emit(f"{before}:{after}" if notation.spaces else ": ")


def scalar(source: Source, notation: Notation, emit: Emit, limit: int | None = None) -> Step[None]:
    """Read a string, number, boolean or null. Raises Broken beyond the limit, in characters of a string."""
    quote = yield from source.literal(*notation.quotes)
    if quote:
        yield from _string(source, quote, notation, emit, limit)
        return
    word = yield from source.run(_WORD, _LONGEST_SCALAR)
    emit(_WORDS.get(word) or _number(word))


def _number(text: str) -> str:
    if _NUMBER.fullmatch(text):
        return text
    if not _LOOSE_NUMBER.fullmatch(text):
        raise Broken
    plain = text.replace("_", "").removeprefix("+")
    if plain.removeprefix("-").isdigit():
        return str(int(plain))
    number = float(plain)
    if not math.isfinite(number):
        raise Broken
    return repr(number)


def _string(source: Source, quote: str, notation: Notation, emit: Emit, limit: int | None = None) -> Step[None]:
    """Read the rest of a string whose beginning was taken."""
    ends = (quote, "\\") if notation.escapes else (quote,)
    emit('"')
    while True:
        while piece := (yield from source.upto(stops(*ends), limit=limit)):
            limit = limit and limit - len(piece)
            emit(_inside(piece, notation))
        if (yield from source.literal(*ends)) == quote:
            emit('"')
            return
        if limit == 0:
            raise Broken
        limit = limit and limit - 1
        emit((yield from _escape(source)))


def _inside(text: str, notation: Notation) -> str:
    """Text of a string that has no escapes of its own, as it stands in JSON."""
    if not notation.escapes:
        text = text.replace("\\", "\\\\")
    return escaped(text.replace('"', '\\"'))


def _escape(source: Source) -> Step[str]:
    """What stands behind a backslash; a backslash that escapes nothing is one."""
    c = source.take(len((yield from source.next())))
    if c not in _HEX:
        return _ESCAPES.get(c) or ("" if c == "\n" else "\\\\" + escaped(c))
    digits = ""
    while len(digits) < _HEX[c] and _DIGITS.fullmatch((yield from source.next())):
        digits += source.take(1)
    code = int(digits, 16) if len(digits) == _HEX[c] else 0x110000
    if code > 0x10FFFF:
        return f"\\\\{c}{digits}"
    return f"\\u{digits}" if c == "u" else json.dumps(chr(code))[1:-1]


def as_json(text: str, notation: Notation = PYTHON) -> str | None:
    """JSON of a text that is one whole value; None if it is none."""
    source = Source()
    source.feed(text + "\n")
    source.over = True
    found: list[str] = []

    def whole() -> Step[None]:
        yield from value(source, notation, found.append)
        yield from source.space()

    try:
        list(whole())
    except (Broken, Ended):
        return None
    return "".join(found) if source.empty else None
