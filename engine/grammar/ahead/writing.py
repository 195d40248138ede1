"""Texts as they are written, byte by byte, and the shortest way to the end of one.

Of ways of one length the first counts, letters and digits before other bytes. What is left of such a way, wherever one
stands on it, is such a way itself: whoever follows it never loses it.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .letters import LAST, Alphabet, Letters

_SURROGATES = (0xD800, 0xE000)
_EDGES = (0x80, 0x800, *_SURROGATES, 0x10000)  # characters from which on more bytes are needed
_NARROW = (b"\xe0", b"\xed", b"\xf0", b"\xf4")  # what may follow these is less than all that goes on a character
_ESCAPES = {0x08: "b", 0x09: "t", 0x0A: "n", 0x0C: "f", 0x0D: "r", 0x22: '"', 0x5C: "\\"}  # of JSON, by character
_ESCAPED = {ord(letter): code for code, letter in _ESCAPES.items()}


def order(symbol: int) -> int:
    """Of symbols in ways of one length."""
    return symbol if symbol < 0x80 and chr(symbol).isalnum() else symbol + 0x100


class Place(NamedTuple):
    """Within a text. begun: bytes of a character, or an escape, that is not whole; missing: so many bytes complete one
    of characters that are alike, and `left` is what is behind it."""

    left: Letters
    begun: bytes = b""
    missing: int = 0


class Writing:
    """json: as inside a JSON string, with its escapes. lazy: a text ends where it first can. uniform: all characters
    are alike."""

    def __init__(self, letters: Alphabet, *, json: bool = False, lazy: bool = False, uniform: bool = False):
        self.uniform = uniform
        self._letters, self._json, self._lazy = letters, json, lazy
        self._plain: dict[Letters, bytes | None] = {}  # the shortest text of what holds no `both` and no `not`
        self._ways: dict[Letters, tuple[bytes, Letters] | None] = {}  # the next character of others, if there is one

    def ends(self, place: Place) -> bool:
        return not place.begun and not place.missing and place.left.ends

    def step(self, place: Place, byte: int) -> Place | None:
        """The place behind a byte; None if it cannot come, or leads to no end. Raises TooFar."""
        left, begun, missing = place
        if self._lazy and self.ends(place):
            return None
        found: Place | None = None
        if missing:
            return Place(left, b"", missing - 1) if byte & 0xC0 == 0x80 else None
        if begun == b"\\":
            found = self._whole(left, _ESCAPED[byte]) if byte in _ESCAPED else None
        elif begun or byte >= 0x80:
            found = self._within(left, begun + bytes([byte]))
        elif self._json and byte == 0x5C:
            found = Place(left, b"\\")
        elif not self._json or (0x20 <= byte < 0x7F and byte != 0x22):
            found = self._whole(left, byte)
        return found if found is not None and self._may_end(found) else None

    def _within(self, left: Letters, written: bytes) -> Place | None:
        """Behind some bytes of a character."""
        codes = _codes(written)
        if codes is None or codes[0] == codes[1]:
            return None if codes is None else self._whole(left, codes[0])
        if written in _NARROW or any(codes[0] < cut <= codes[1] for cut in self._letters.cuts(left)):
            return Place(left, written)
        to = self._letters.after(left, codes[0])
        return None if to is self._letters.nothing else Place(to, b"", _size(written[0]) - len(written))

    def _may_end(self, place: Place) -> bool:
        if place.begun:
            return any(self._is_open(to) for _, to in self._completed(place.left, place.begun))
        return self._is_open(place.left)

    def rest(self, place: Place) -> bytes | None:
        """The shortest way from a place to an end; None if there is none. Raises TooFar."""
        if not place.begun:
            rest = self._rest(place.left)
            return None if rest is None else b"\x80" * place.missing + rest
        best: bytes | None = None
        for written, to in self._completed(place.left, place.begun):
            if (further := self._rest(to)) is not None:
                best = first(best, written[len(place.begun) :] + further)
        return best

    def _whole(self, left: Letters, code: int) -> Place | None:
        to = self._letters.after(left, code)
        return None if to is self._letters.nothing else Place(to)

    def _completed(self, left: Letters, begun: bytes) -> Iterator[tuple[bytes, Letters]]:
        """The characters that a beginning may become; of those that are alike, one."""
        if begun == b"\\":
            codes: Iterable[int] = _ESCAPES
        else:
            span = _codes(begun) or (1, 0)
            codes = [span[0], *(cut for cut in self._letters.cuts(left) if span[0] < cut <= span[1])]
        for code in codes:
            yield self._spelled(code), self._letters.after(left, code)

    def _spelled(self, code: int) -> bytes:
        return f"\\{_ESCAPES[code]}".encode() if self._json and code in _ESCAPES else chr(code).encode()

    # ------------------------------------------------------------ the shortest way

    def _is_open(self, left: Letters) -> bool:
        if left.plain:
            return self._shortest(left) is not None
        if left not in self._ways:
            self._search(left)
        return self._ways[left] is not None

    def _rest(self, left: Letters) -> bytes | None:
        if left.plain:
            return self._shortest(left)
        if not self._is_open(left):
            return None
        found: list[bytes] = []
        while not left.plain and (way := self._ways[left]) and way[0]:
            found.append(way[0])
            left = way[1]
        return b"".join(found) + ((self._shortest(left) or b"") if left.plain else b"")

    def _shortest(self, left: Letters) -> bytes | None:
        """Of what is made of its parts one behind or beside the other."""
        if left not in self._plain:
            best: bytes | None = b""
            match left.kind:
                case "nothing":
                    best = None
                case "one":
                    best = self._first_of(left)
                case "then":
                    parts = [self._shortest(part) for part in left.parts]
                    best = None if None in parts else b"".join(part or b"" for part in parts)
                case "either":
                    found = [way for part in left.parts if (way := self._shortest(part)) is not None]
                    best = min(found, key=lambda way: (len(way), _key(way)), default=None)
                case "times" if left.low:
                    part = self._shortest(left.parts[0])
                    best = None if part is None else part * left.low
            self._plain[left] = best
        return self._plain[left]

    def _first_of(self, one: Letters) -> bytes | None:
        best: bytes | None = None
        for low, high in one.ranges:
            for edge in (low, *(edge for edge in _EDGES if low < edge <= high)):
                code = self._cheapest(edge, min(high + 1, next((e for e in _EDGES if e > edge), LAST)))
                if code is not None:
                    best = first(best, self._spelled(code))
        return best

    def _search(self, begin: Letters) -> None:
        """Know `_ways` of an expression, and of all on its way: by Dijkstra's algorithm, then back from the ends."""
        far = {begin: 0}
        before: dict[Letters, list[tuple[Letters, bytes]]] = {}
        number = itertools.count()
        heap = [(0, next(number), begin)]
        ends: list[Letters] = []
        done: set[Letters] = set()
        while heap and (not ends or heap[0][0] <= far[ends[0]]):
            so_far, _, here = heapq.heappop(heap)
            if here in done:
                continue
            done.add(here)
            if here.ends:
                ends.append(here)
                continue
            for written, to in self._onward(here):
                before.setdefault(to, []).append((here, written))
                reached = so_far + len(written)
                if reached < far.get(to, reached + 1):
                    far[to] = reached
                    heapq.heappush(heap, (reached, next(number), to))
        if not ends:
            self._ways.update(dict.fromkeys(done))
            return
        found: dict[Letters, tuple[bytes, Letters] | None] = {end: (b"", end) for end in ends}
        for to in (todo := list(ends)):  # which grows
            for here, written in before.get(to, []):
                if far[here] + len(written) == far[to]:
                    if (known := found.get(here)) is None:
                        todo.append(here)
                    if known is None or _key(written) < _key(known[0]):
                        found[here] = (written, to)
        self._ways.update(found)

    def _onward(self, left: Letters) -> Iterator[tuple[bytes, Letters]]:
        """The characters to go on with; of those that are alike, the first of the shortest."""
        for low, high in itertools.pairwise(sorted({0, LAST, *_EDGES, *self._letters.cuts(left)})):
            code = self._cheapest(low, high)
            if code is not None and (to := self._letters.after(left, code)) is not self._letters.nothing:
                yield self._spelled(code), to

    def _cheapest(self, low: int, high: int) -> int | None:
        """Of the characters from low to before high, which lie between two of _EDGES; None if none can be written."""
        if low >= 0x80:
            return None if _SURROGATES[0] <= low < _SURROGATES[1] else low
        if not self._json:
            return min(range(low, high), key=order)
        codes = [code for code in range(low, high) if code in _ESCAPES or 0x20 <= code < 0x7F]
        return min(codes, key=lambda code: (code in _ESCAPES, order(ord(_ESCAPES.get(code, chr(code))))), default=None)


def _key(way: bytes) -> tuple[int, ...]:
    return tuple(map(order, way))


def first(one: bytes | None, other: bytes) -> bytes:
    """The shorter, or the one that comes first."""
    if one is None or len(one) != len(other):
        return other if one is None or len(other) < len(one) else one
    return min(one, other, key=_key)


def _size(lead: int) -> int:
    """Bytes of a character that begins so; 0: none does."""
    return 2 if 0xC2 <= lead <= 0xDF else 3 if 0xE0 <= lead <= 0xEF else 4 if 0xF0 <= lead <= 0xF4 else 0


def _codes(begun: bytes) -> tuple[int, int] | None:
    """The first and the last character whose UTF-8 begins so; None if there is none."""
    lead, size = begun[0], _size(begun[0])
    if not size or len(begun) > size or any(byte & 0xC0 != 0x80 for byte in begun[1:]):
        return None
    low = lead & (0xFF >> (size + 1))
    for byte in begun[1:]:
        low = low << 6 | byte & 0x3F
    more = 6 * (size - len(begun))
    low, high = low << more, (low + 1 << more) - 1
    low, high = max(low, (0x80, 0x800, 0x10000)[size - 2]), min(high, LAST)
    if low > high or (_SURROGATES[0] <= low and high < _SURROGATES[1]):
        return None
    return low, _SURROGATES[0] - 1 if low < _SURROGATES[0] <= high else high
