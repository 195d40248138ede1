"""Expressions over characters, followed by derivatives.

What an expression leaves after a character is an expression again (Brzozowski, "Derivatives of regular expressions",
1964), so `&` and `~` cost no more than `|`. Equal expressions are one object, and there are finitely many.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from .. import regexes

_FEW, _ANY = 16, -1
KEPT = 100_000  # derivatives remembered
LAST = 0x10FFFF
_ALL = (regexes.ALL,)


class TooFar(Exception):
    """More would have to be done for a grammar than is allowed."""


class Work:
    """What may still be done for a grammar, in steps of well under a microsecond."""

    def __init__(self, steps: int):
        self.left = steps

    def spend(self, steps: int) -> None:
        """Raises TooFar."""
        self.left -= steps
        if self.left < 0:
            raise TooFar


class Letters:
    """What texts an expression leaves. kind: how `parts` and `ranges` are read.

    "nothing"                   no text
    "empty"                     the empty text
    "one"                       a character of `ranges`
    "then", "either", "both"    the parts
    "not"                       what the part does not leave
    "times"                     the part, `low` to `high` times
    """

    __slots__ = ("ends", "high", "kind", "low", "parts", "plain", "ranges")

    def __init__(
        self,
        kind: str,
        parts: tuple[Letters, ...] = (),
        ranges: tuple[tuple[int, int], ...] = (),
        low: int = 0,
        high: int | None = 0,
    ):
        self.kind, self.parts, self.ranges, self.low, self.high = kind, parts, ranges, low, high
        self.ends = _ends(self)  # whether the empty text is among them
        self.plain: bool = kind not in ("both", "not") and all(part.plain for part in parts)


def _ends(of: Letters) -> bool:
    match of.kind:
        case "empty":
            return True
        case "then" | "both":
            return all(part.ends for part in of.parts)
        case "either":
            return any(part.ends for part in of.parts)
        case "not":
            return not of.parts[0].ends
        case "times":
            return not of.low or of.parts[0].ends
    return False


class Alphabet:
    """The maker of Letters: equal ones are the same object. What it does raises TooFar where it is too much work."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._known: dict[tuple[object, ...], Letters] = {}
        self._after: dict[tuple[Letters, int], Letters] = {}
        self._cuts: dict[Letters, frozenset[int]] = {}
        self._by_first: dict[Letters, dict[int, list[Letters]]] = {}
        self.nothing = self._made("nothing")
        self.empty = self._made("empty")
        self.anything = self._made("times", (self.one(_ALL),), low=0, high=None)

    def _made(
        self,
        kind: str,
        parts: tuple[Letters, ...] = (),
        ranges: tuple[tuple[int, int], ...] = (),
        low: int = 0,
        high: int | None = 0,
    ) -> Letters:
        self._work.spend(1 + len(parts))
        key = (kind, frozenset(parts) if kind in ("either", "both") else parts, ranges, low, high)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Letters(kind, parts, ranges, low, high)
        return found

    def one(self, ranges: tuple[tuple[int, int], ...]) -> Letters:
        return self._made("one", ranges=ranges) if ranges else self.nothing

    def text(self, text: str) -> Letters:
        return self.then([self.one(((ord(c), ord(c)),)) for c in text])

    def words(self, texts: Iterable[str]) -> Letters:
        """One of some texts, as a tree, so that what they begin with is read once."""
        by_first: dict[str, list[str]] = {}
        for text in texts:
            by_first.setdefault(text[:1], []).append(text[1:])
        found = [] if by_first.pop("", None) is None else [self.empty]
        for first, rests in by_first.items():
            if len(rests) == 1:
                found.append(self.text(first + rests[0]))
                continue
            pairs = zip(min(rests), max(rests), strict=False)
            shared = "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
            rest = self.words(text[len(shared) :] for text in rests)
            found.append(self.then([self.text(first + shared), rest]))
        return self.either(found)

    def then(self, parts: Iterable[Letters]) -> Letters:
        flat: list[Letters] = []
        for part in parts:
            flat += part.parts if part.kind == "then" else [] if part is self.empty else [part]
        if self.nothing in flat:
            return self.nothing
        return self.empty if not flat else flat[0] if len(flat) == 1 else self._made("then", tuple(flat))

    def either(self, parts: Iterable[Letters]) -> Letters:
        return self._merged("either", parts, nothing=self.nothing, all=self.anything)

    def both(self, parts: Iterable[Letters]) -> Letters:
        return self._merged("both", parts, nothing=self.anything, all=self.nothing)

    def _merged(self, kind: str, parts: Iterable[Letters], *, nothing: Letters, all: Letters) -> Letters:
        """nothing: what adds nothing to the others; all: what leaves nothing of them."""
        flat: dict[Letters, None] = {}
        for part in parts:
            flat.update(dict.fromkeys(part.parts if part.kind == kind else (part,)))
        flat.pop(nothing, None)
        if all in flat:
            return all
        return nothing if not flat else next(iter(flat)) if len(flat) == 1 else self._made(kind, tuple(flat))

    def other(self, part: Letters) -> Letters:
        if part.kind == "not":
            return part.parts[0]
        swapped = {self.nothing: self.anything, self.anything: self.nothing}
        return swapped[part] if part in swapped else self._made("not", (part,))

    def times(self, part: Letters, low: int, high: int | None) -> Letters:
        if high == 0 or part is self.empty:
            return self.empty
        if part is self.nothing:
            return self.nothing if low else self.empty
        return part if (low, high) == (1, 1) else self._made("times", (part,), low=low, high=high)

    def of(self, regex: regexes.Regex) -> Letters:
        match regex:
            case regexes.Chars(ranges):
                return self.one(ranges)
            case regexes.Concat(parts):
                return self.then(map(self.of, parts))
            case regexes.Either(options):
                texts = [regexes.text_of(option) for option in options]
                if None not in texts:
                    return self.words(dict.fromkeys(text or "" for text in texts))
                return self.either(map(self.of, options))
        return self.times(self.of(regex.body), regex.low, regex.high)

    def after(self, of: Letters, code: int) -> Letters:
        """What is left behind a character."""
        key = (of, code)
        found = self._after.get(key)
        if found is None:
            if len(self._after) >= KEPT:
                self._after.clear()
            found = self._after[key] = self._derived(of, code)
        return found

    def _beginning(self, of: Letters, code: int) -> Sequence[Letters]:
        """Those of several expressions that may begin with a character, and no more of the others than need be."""
        if len(of.parts) <= _FEW:
            return of.parts
        by_first = self._by_first.get(of)
        if by_first is None:
            by_first = self._by_first[of] = {}
            for part in of.parts:
                first = part.parts[0] if part.kind == "then" else part
                single = first.kind == "one" and len(first.ranges) == 1 and first.ranges[0][0] == first.ranges[0][1]
                by_first.setdefault(first.ranges[0][0] if single else _ANY, []).append(part)
            self._work.spend(len(of.parts))
        return [*by_first.get(code, ()), *by_first.get(_ANY, ())]

    def _derived(self, of: Letters, code: int) -> Letters:
        self._work.spend(4 + 2 * (len(of.parts) if of.kind == "both" else 1))
        match of.kind:
            case "one":
                at = bisect_right(of.ranges, (code, LAST))
                return self.empty if at and code <= of.ranges[at - 1][1] else self.nothing
            case "then":
                ways = []
                for i, part in enumerate(of.parts):
                    ways.append(self.then([self.after(part, code), *of.parts[i + 1 :]]))
                    if not part.ends:
                        break
                return self.either(ways)
            case "either":
                return self.either(self.after(part, code) for part in self._beginning(of, code))
            case "both":
                return self.both(self.after(part, code) for part in of.parts)
            case "not":
                return self.other(self.after(of.parts[0], code))
            case "times":
                again = self.times(of.parts[0], max(0, of.low - 1), None if of.high is None else of.high - 1)
                return self.then([self.after(of.parts[0], code), again])
        return self.nothing

    def cuts(self, of: Letters) -> frozenset[int]:
        """Code points at which what may follow changes: between two of them all characters are alike."""
        found = self._cuts.get(of)
        if found is None:
            self._work.spend(1 + len(of.parts) + len(of.ranges))
            found = self._cuts[of] = frozenset(self._found_cuts(of))
        return found

    def _found_cuts(self, of: Letters) -> Iterator[int]:
        if of.kind == "one":
            for low, high in of.ranges:
                yield from (low, high + 1)
        for part in of.parts:
            yield from self.cuts(part)
            if of.kind == "then" and not part.ends:
                break
