"""Strings and numbers as expressions of a Lark terminal, however a dialect writes them (dialects.py)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from . import regexes
from .nodes import Number, Text
from .regexes import ALL, Chars, Concat, Either, Regex, Repeat

ANY = "/(?s:.*)/"
_SOME = "/(?s:.+)/"
_DIGITS = 18  # of a whole number without bounds, and of each part of another
_WHOLE = f"-?(?:0|[1-9][0-9]{{0,{_DIGITS - 1}}})"
_NUMBER = rf"{_WHOLE}(?:\.[0-9]{{1,{_DIGITS}}})?(?:[eE][+-]?[0-9]{{1,2}})?"
_CONTROLS = (0x00, 0x1F), (0x7F, 0x7F)
_ESCAPES = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r", 0x5C: "\\"}  # what is written with a backslash

# Text that a reader takes for a value of JSON, or of Python's literals, by the type of that; of these it may be only
# the beginning. What begins with white space is passed over too: a reader strips it to look.
_LOOKS = {
    "string": "[\"'](?s:.*)",
    "object": r"\{(?s:.*)",
    "array": r"[\[\(](?s:.*)",
    "boolean": r"(?:true|false|True|False)\s*",
    "null": r"(?:null|None)\s*",
    "number": r"[+-]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*",
}
ALL_TYPES = frozenset([*_LOOKS, "integer"])
_BLANK = r"[\s\x1c-\x1f](?s:.*)"


def quoted(text: str) -> str:
    """A text as an item of a Lark rule."""
    return json.dumps(text, ensure_ascii=False)


def spelled(regex: Regex) -> str:
    text = regexes.write(regex)
    return f"/{text}/" if text else '""'


def holding(texts: Iterable[str]) -> str:
    """What holds one of these texts."""
    return f"({ANY} ({' | '.join(map(quoted, texts))}) {ANY})"


# ---------------------------------------------------------------- strings


def encoded(regex: Regex, quote: str) -> Regex | None:
    """The same strings as they stand between quotes, with JSON's escapes and one more for the quote; "": as they are.
    None: there are none that can be written so."""
    if not quote:
        return regex
    if isinstance(regex, Chars):
        return _encoded_chars(regex, ord(quote))
    if isinstance(regex, Concat):
        parts = [encoded(part, quote) for part in regex.parts]
        return None if None in parts else Concat(tuple(part for part in parts if part is not None))
    if isinstance(regex, Either):
        options = [option for part in regex.options if (option := encoded(part, quote)) is not None]
        return Either(tuple(options)) if options else None
    body = encoded(regex.body, quote)
    if body is None:
        return Concat(()) if not regex.low else None
    return Repeat(body, regex.low, regex.high)


def _encoded_chars(regex: Chars, quote: int) -> Regex | None:
    escaped = {**_ESCAPES, quote: chr(quote)}
    found: list[Regex] = []
    plain: list[tuple[int, int]] = []
    for a, b in regex.ranges:
        found += [regexes.literal("\\" + text) for code, text in escaped.items() if a <= code <= b]
        at = a
        for low, high in sorted([*_CONTROLS, *((code, code) for code in escaped)]):
            if low <= b and high >= at:
                plain += [(at, low - 1)] if low > at else []
                at = max(at, high + 1)
        plain += [(at, b)] if at <= b else []
    if plain:
        found.insert(0, Chars(tuple(plain)))
    return None if not found else found[0] if len(found) == 1 else Either(tuple(found))


def encoded_text(text: str, quote: str) -> str:
    """One string as it stands between quotes."""
    if not quote:
        return text
    escaped = {**_ESCAPES, ord(quote): quote}
    return "".join(f"\\{escaped[ord(c)]}" if ord(c) in escaped else c for c in text)


def body(option: Text, quote: str, without: Iterable[str] = (), also: Iterable[str] = ()) -> str | None:
    """What stands between the quotes of a string. without: what it may not hold; also: more that binds it. None: no
    such string can be written."""
    patterns = [encoded(pattern, quote) for pattern in option.patterns]
    if None in patterns:
        return None
    parts = [spelled(pattern) for pattern in patterns if pattern is not None]
    if option.low or option.high is not None or not parts:
        unit = encoded(Chars((ALL,)), quote)
        assert unit is not None
        parts.append(spelled(Repeat(unit, option.low, option.high)))
    texts = [encoded_text(text, quote) for text in without]
    parts += [f"~{holding(texts)}"] if texts else []
    return f"({' & '.join([*parts, *also])})"


def ending(expression: str, piece: str, close: str) -> str:
    """An expression, then a piece in which `close` stands for the first time."""
    behind = len(piece) - piece.index(close) - len(close)
    more = f"/(?s:.){{{behind + 1},}}/" if behind else _SOME
    return f"({expression} {quoted(piece)}) & ~({ANY} {quoted(close)} {more})"


def unlike(kinds: frozenset[str] | None) -> list[str]:
    """What text must not be where a reader takes it for a value of one of these types (None: any) if it can."""
    if kinds == {"string"}:
        return []
    asked = [kind for kind in _LOOKS if (kind in kinds if kinds is not None else kind != "string")]
    if kinds is not None and "integer" in kinds and "number" not in kinds:
        asked.append("number")
    return [f"~(/{'|'.join([_BLANK, *(_LOOKS[kind] for kind in asked)])}/)"]


def is_read_as_text(text: str, kinds: frozenset[str] | None) -> bool:
    return not any(re.fullmatch(part[3:-2], text) for part in unlike(kinds))


# ---------------------------------------------------------------- numbers


def number(option: Number) -> str | None:
    """An expression of the numbers of an option; None where there is none of a fair size."""
    if option.multiple is not None:
        return None
    if option.low is None and option.high is None:
        return _WHOLE if option.integer else _NUMBER
    return whole_number(option, 10**_DIGITS - 1) if option.integer else None


def least_whole(option: Number) -> str:
    """The shortest of the whole numbers within the bounds of an option that has some."""
    low, high = whole_bounds(option)
    return str(high) if high is not None and high < 0 else str(max(0, low or 0))


def whole_bounds(option: Number) -> tuple[int | None, int | None]:
    """The least and the largest of them."""
    low, high = option.low, option.high
    least = None if low is None else _up(low) + (option.low_open and low == _up(low))
    most = None if high is None else _down(high) - (option.high_open and high == _down(high))
    return least, most


def whole_number(option: Number, most: int | None = None) -> str:
    """An expression of the whole numbers within the bounds of an option, and within `most` of 0."""
    least, high = whole_bounds(option)
    low = most if least is None else -least  # how far below 0 they go
    high = most if high is None else high
    parts = []
    if low is None or low > 0:
        parts.append(f"-(?:{_between(max(1, -(high or 0)), low)})")
    if high is None or high >= 0:
        parts.append(_between(max(0, -(low or 0)), high))
    return "|".join(parts)


def _up(bound: Decimal) -> int:
    return int(bound.to_integral_value(ROUND_CEILING))


def _down(bound: Decimal) -> int:
    return int(bound.to_integral_value(ROUND_FLOOR))


def _between(low: int, high: int | None) -> str:
    """The whole numbers from low to high, neither below 0; None: without end."""
    parts = []
    if high is None:
        size = len(str(low))
        parts, high = [f"[1-9][0-9]{{{size},}}"], 10**size - 1
    for size in range(len(str(low)), len(str(high)) + 1):
        a = max(low, 10 ** (size - 1) if size > 1 else 0)
        b = min(high, 10**size - 1)
        parts.append(_digits(str(a), str(b)))
    return "|".join(parts)


def _digits(a: str, b: str) -> str:
    """The texts of digits from a to b, all of one length."""
    if a == b:
        return a
    if set(a) == {"0"} and set(b) == {"9"}:
        return f"[0-9]{{{len(a)}}}"
    if a[0] == b[0]:
        return f"{a[0]}(?:{_digits(a[1:], b[1:])})"
    if len(a) == 1:
        return f"[{a}-{b}]"
    first, last, rest = int(a[0]), int(b[0]), len(a) - 1
    parts = []
    if set(a[1:]) != {"0"}:
        parts.append(f"{first}(?:{_digits(a[1:], '9' * rest)})")
        first += 1
    middle = last if set(b[1:]) != {"9"} else last + 1
    if first < middle:
        parts.append(f"[{first}-{middle - 1}][0-9]{{{rest}}}")
    if middle == last:
        parts.append(f"{last}(?:{_digits('0' * rest, b[1:])})")
    return "|".join(parts)
