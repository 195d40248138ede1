"""One dialect of regular expressions, read here and written out for the engines underneath.

The dialect is what ECMA-262 (JSON Schema's) and Python share, and means what ECMA-262 says: \\d \\w are ASCII, \\s is
ECMA's white space, `.` is all but line ends. What an automaton cannot do (look-around, back references, \\b) or what
the two read differently is refused by name, so that no engine's own reading of a pattern ever counts.
"""

from __future__ import annotations

import re
import re._constants as op
import re._parser as parser
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .errors import GrammarRefused

END = chr(0x10FFFF)  # no character; nothing here matches it, so it can stand for the end of a text
ALL = (0, 0x10FFFE)
Ranges = list[tuple[int, int]]

_DIGIT: Ranges = [(0x30, 0x39)]
_WORD: Ranges = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACE: Ranges = [
    (0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F),
    (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
]  # fmt: skip
_LINE_ENDS: Ranges = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]
_SURROGATES = (0xD800, 0xDFFF)
_WRITABLE: Ranges = [(0x08, 0x0A), (0x0C, 0x0D), (0x20, ALL[1])]  # in JSON strings, without \uXXXX

_REFUSED = {
    op.ASSERT: "look-around (?= or (?<=",
    op.ASSERT_NOT: "negative look-around (?! or (?<!",
    op.GROUPREF: "a back reference",
    op.GROUPREF_EXISTS: "a conditional group (?(",
    op.ATOMIC_GROUP: "an atomic group (?>",
    op.POSSESSIVE_REPEAT: "a possessive repeat",
}


@dataclass(frozen=True)
class Chars:
    """One character out of sorted, disjoint ranges of code points."""

    ranges: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Concat:
    parts: tuple[Regex, ...]


@dataclass(frozen=True)
class Either:
    options: tuple[Regex, ...]


@dataclass(frozen=True)
class Repeat:
    body: Regex
    low: int
    high: int | None


Cost = Callable[[tuple[tuple[int, int], ...]], float]
Regex = Chars | Concat | Either | Repeat
ANYTHING = Repeat(Chars((ALL,)), 0, None)
_ONE = threading.Lock()  # what a warning does belongs to the process: two at once would leave it changed


def parse(pattern: str, *, whole: bool, path: str = "", repeat: int = 5_000, python: bool = False) -> Regex:
    """The strings that `pattern` matches: as a whole, or anywhere in them (JSON Schema's `pattern`).

    repeat: the largest count in braces. python: what only Python reads may stand in it. Raises GrammarRefused naming
    the feature.
    """
    if not python and (found := _pythons(pattern)) is not None:
        raise GrammarRefused(f"regex {_short(pattern)}: {found}, which ECMA-262 reads otherwise", path=path)
    try:
        with _ONE, warnings.catch_warnings():
            warnings.simplefilter("error")  # sets that Python may read otherwise some day
            tree = parser.parse(pattern.replace("(?<", "(?P<") if _named(pattern) else pattern)
    except (re_error, OverflowError, RecursionError, Warning) as error:
        raise GrammarRefused(
            f"regex {_short(pattern)}: {error}; see docs/grammar.md for the dialect", path=path
        ) from None
    if tree.state.flags & ~op.SRE_FLAG_UNICODE:
        raise GrammarRefused(f"regex {_short(pattern)}: flags such as (?i) are not supported", path=path)
    reader = _Reader(pattern, path, repeat)
    return reader.anchored(list(tree), not whole, not whole)


_SCAN = re.compile(r"\\(?P<escape>.)|(?P<set>\[\^?(?P<bare>\])?(?:\\.|[^\]\\])*)|(?P<count>\{,\d*\})|\(\?#", re.DOTALL)
_ESCAPES = re.compile(r"\\(.)", re.DOTALL)


def _pythons(pattern: str) -> str | None:
    """What is Python's alone in a pattern, by name."""
    for found in _SCAN.finditer(pattern):
        for letter in [found["escape"]] if found["escape"] else _ESCAPES.findall(found["set"] or ""):
            if letter in "NUa":
                return f"the escape \\{letter}"
        if found["bare"]:
            return f"a set that begins with ], {found['set'][:3]}"
        if found["count"]:
            return f"{found['count']}, a count without its least"
        if found[0] == "(?#":
            return "a comment (?#"
    return None


re_error = parser.error


def _named(pattern: str) -> bool:
    return "(?<" in pattern and "(?<=" not in pattern and "(?<!" not in pattern


def _short(pattern: str) -> str:
    return repr(pattern if len(pattern) <= 60 else pattern[:57] + "...")


class _Reader:
    """From Python's syntax tree to ours."""

    def __init__(self, pattern: str, path: str, repeat: int):
        self.pattern, self.path, self.repeat = pattern, path, repeat

    def refuse(self, what: str) -> GrammarRefused:
        return GrammarRefused(f"regex {_short(self.pattern)}: {what} is not supported", path=self.path)

    def anchored(self, items: list[Any], left: bool, right: bool) -> Regex:
        """The outermost level, where ^ and $ may stand: at the ends of each alternative.

        left, right: whether any text may stand before, after.
        """
        while items and items[0] == (op.AT, op.AT_BEGINNING):
            items, left = items[1:], False
        while items and items[-1] == (op.AT, op.AT_END):
            items, right = items[:-1], False
        if len(items) == 1 and items[0][0] is op.BRANCH:
            return Either(tuple(self.anchored(list(branch), left, right) for branch in items[0][1][1]))
        if len(items) == 1 and items[0][0] is op.SUBPATTERN and not items[0][1][1] and not items[0][1][2]:
            return self.anchored(list(items[0][1][3]), left, right)
        body = self.sequence(items)
        around = ((ANYTHING,) if left else ()), ((ANYTHING,) if right else ())
        return Concat((*around[0], body, *around[1])) if left or right else body

    def sequence(self, items: Any) -> Regex:
        parts = tuple(self.one(code, value) for code, value in items)
        return parts[0] if len(parts) == 1 else Concat(parts)

    def one(self, code: Any, value: Any) -> Regex:
        if code in _REFUSED:
            raise self.refuse(_REFUSED[code])
        if code is op.LITERAL:
            return charset([(value, value)])
        if code is op.NOT_LITERAL:
            return charset([(value, value)], negated=True)
        if code is op.ANY:
            return charset(_LINE_ENDS, negated=True)
        if code is op.IN:
            return charset(self.members(value))
        if code is op.BRANCH:
            return Either(tuple(self.sequence(branch) for branch in value[1]))
        if code is op.SUBPATTERN:
            _, add, remove, body = value
            if add or remove:
                raise self.refuse("a flag such as (?i:")
            return self.sequence(body)
        if code in (op.MAX_REPEAT, op.MIN_REPEAT):
            return self.repeated(*value)
        if code is op.AT:
            found = {
                op.AT_BOUNDARY: "\\b",
                op.AT_NON_BOUNDARY: "\\B",
                op.AT_BEGINNING_STRING: "\\A",
                op.AT_END_STRING: "\\Z",
            }
            raise self.refuse(found.get(value, "an anchor inside the expression"))
        raise self.refuse(str(code))

    def repeated(self, low: Any, high: Any, body: Any) -> Regex:
        top = None if high is op.MAXREPEAT else int(high)
        if max(int(low), top or 0) > self.repeat:
            raise self.refuse(f"a count above {self.repeat}")
        return Repeat(self.sequence(body), int(low), top)

    def members(self, items: Any) -> Ranges:
        negated = bool(items) and items[0][0] is op.NEGATE
        found: Ranges = []
        for code, value in items[1:] if negated else items:
            if code is op.LITERAL:
                found.append((value, value))
            elif code is op.RANGE:
                found.append(value)
            elif code is op.CATEGORY:
                found += _CATEGORIES[value]
            else:
                raise self.refuse(str(code))
        return _complement(found) if negated else _union(found)


def charset(ranges: Ranges, *, negated: bool = False) -> Chars:
    """One character in, or not in, these ranges; never half of a surrogate pair."""
    kept = _complement(ranges) if negated else ranges
    return Chars(tuple(_union([r for a, b in kept for r in _without(a, b, *_SURROGATES)])))


def _union(ranges: Ranges) -> Ranges:
    merged: Ranges = []
    for a, b in sorted(ranges):
        if merged and a <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(b, merged[-1][1]))
        else:
            merged.append((a, b))
    return merged


def _complement(ranges: Ranges) -> Ranges:
    found: Ranges = []
    at = 0
    for a, b in _union(ranges):
        if a > at:
            found.append((at, a - 1))
        at = b + 1
    return found + ([(at, ALL[1])] if at <= ALL[1] else [])


def _without(a: int, b: int, low: int, high: int) -> Ranges:
    return [r for r in ((a, min(b, low - 1)), (max(a, high + 1), b)) if r[0] <= r[1]]


_CATEGORIES: dict[Any, Ranges] = {
    op.CATEGORY_DIGIT: _DIGIT,
    op.CATEGORY_NOT_DIGIT: _complement(_DIGIT),
    op.CATEGORY_WORD: _WORD,
    op.CATEGORY_NOT_WORD: _complement(_WORD),
    op.CATEGORY_SPACE: _SPACE,
    op.CATEGORY_NOT_SPACE: _complement(_SPACE),
}


def write(regex: Regex, json: bool = False) -> str:
    """For Rust's regex crates, with nothing left to their reading: no classes, no flags, no anchors. json: of what is
    written inside JSON strings, where no character needs \\uXXXX."""
    if isinstance(regex, Chars):
        ranges = _writable(regex.ranges) if json else regex.ranges
        if not ranges:
            raise GrammarRefused("regex: a set without characters matches nothing")
        if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
            return _char(ranges[0][0])
        return "[" + "".join(_char(a) if a == b else f"{_char(a)}-{_char(b)}" for a, b in ranges) + "]"
    if isinstance(regex, Concat):
        return "".join(f"(?:{write(p, json)})" if isinstance(p, Either) else write(p, json) for p in regex.parts)
    if isinstance(regex, Either):
        return "|".join(write(o, json) for o in regex.options)
    times = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((regex.low, regex.high))
    high = "" if regex.high is None else regex.high
    return f"(?:{write(regex.body, json)}){times or f'{{{regex.low},{high}}}'}"


def pattern(regex: Regex) -> str:
    """As the `pattern` of a plain JSON Schema."""
    return f"^(?:{write(regex, json=True)})$"


def _writable(ranges: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    """Without the control characters that have no short escape: of a set that holds all of them llguidance makes one
    that holds every escape, `\\"` and `\\\\` too. One by itself does no harm, and is what nothing matches."""
    kept = tuple(r for low, high in _WRITABLE for a, b in ranges if (r := (max(a, low), min(b, high)))[0] <= r[1])
    return kept or (ranges[:1] and ((ranges[0][0], ranges[0][0]),))


def _char(code: int) -> str:
    text = chr(code)
    return text if text.isascii() and text.isalnum() else f"\\x{{{code:X}}}"


def least(regex: Regex, cost: Cost) -> float:
    """The cheapest match; cost(ranges) is that of one character."""
    if isinstance(regex, Chars):
        return cost(regex.ranges)
    if isinstance(regex, Concat):
        return sum(least(p, cost) for p in regex.parts)
    if isinstance(regex, Either):
        return min(least(o, cost) for o in regex.options)
    return regex.low * least(regex.body, cost) if regex.low else 0


def worst(regex: Regex, cost: Cost) -> float:
    """At least what the cheapest way on to the end of a match costs, wherever in the expression one stands."""
    if isinstance(regex, Chars):
        return cost(regex.ranges)
    if isinstance(regex, Concat):
        total, most = 0.0, 0.0
        for part in reversed(regex.parts):
            most = max(most, worst(part, cost) + total)
            total += least(part, cost)
        return most
    if isinstance(regex, Either):
        return max(worst(o, cost) for o in regex.options)
    return max(regex.low, 1) * least(regex.body, cost) + worst(regex.body, cost)


def positions(regex: Regex) -> int:
    """Characters of the expression, repeats written out: no more states than this has its automaton, before subsets."""
    if isinstance(regex, Chars):
        return 1
    if isinstance(regex, Concat):
        return 1 + sum(map(positions, regex.parts))
    if isinstance(regex, Either):
        return 1 + sum(map(positions, regex.options))
    return 1 + positions(regex.body) * max(1, regex.low, regex.high or 0)


def literal(text: str) -> Regex:
    return Concat(tuple(Chars(((ord(c), ord(c)),)) for c in text))


def text_of(regex: Regex) -> str | None:
    """The one text that matches, of what is spelled out; None of others."""
    if isinstance(regex, Chars):
        return chr(regex.ranges[0][0]) if len(regex.ranges) == 1 and regex.ranges[0][0] == regex.ranges[0][1] else None
    if isinstance(regex, Concat):
        texts = [text_of(part) for part in regex.parts]
        return None if None in texts else "".join(text or "" for text in texts)
    return None
