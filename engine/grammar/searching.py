"""One answer whose grammar is not followed by goals (ahead/): near the end of its budget endings are searched for."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .endings import Endings
from .lower import Bounds
from .symbols import Way
from .vocabulary import Row, Vocabulary

NEAR = 256  # tokens before its end from which a grammar without Bounds is watched
JUMP = 64  # tokens by which one token is taken to put off the ending of such a grammar at most


class _Place(NamedTuple):
    """Where in JSON one stands, as far as that can be told: the objects and arrays that are open if one is outside of a
    string, inside of one, or behind a backslash in one; -1: one is not. opened: `Bounds.openers` so far; tail: the last
    bytes, in which the next may have begun."""

    outside: int = 0
    inside: int = -1
    escaped: int = -1
    opened: int = 0
    tail: bytes = b""

    @property
    def depth(self) -> int:
        return max(self.outside, self.inside, self.escaped)

    def after(self, text: bytes) -> _Place:
        """JSON may begin anywhere in the text."""
        outside, inside, escaped = self.outside, self.inside, self.escaped
        for byte in text:
            if byte == 0x22:
                outside, inside, escaped = max(inside, 0), max(outside, escaped), -1
            elif byte == 0x5C:
                inside, escaped = escaped, inside
            else:
                inside, escaped = max(inside, escaped), -1
                if outside >= 0 and byte in b"{[":
                    outside += 1
                elif outside >= 0 and byte in b"}]":
                    outside = max(outside - 1, 0)
        return self._replace(outside=outside, inside=inside, escaped=escaped)

    def counted(self, token: int, text: bytes, openers: tuple[bytes | int, ...]) -> _Place:
        """With the openers in a token."""
        if not openers:
            return self
        both, opened, longest = self.tail + text, self.opened, 1
        for opener in openers:
            if isinstance(opener, int):
                opened += opener == token
            else:
                opened += _count(both, opener) - _count(self.tail, opener)
                longest = max(longest, len(opener))
        return self._replace(opened=opened, tail=both[-(longest - 1) :] if longest > 1 else b"")


def _count(text: bytes, opener: bytes) -> int:
    """How often an opener ends in a text, overlapping ones too."""
    return sum(text.startswith(opener, at) for at in range(len(text) - len(opener) + 1))


@functools.lru_cache(maxsize=64)
def most_openers(vocabulary: Vocabulary, openers: tuple[bytes | int, ...]) -> int:
    """That one token may hold, or end."""
    if not openers:
        return 0
    texts = [opener for opener in openers if isinstance(opener, bytes)]
    return max(1, *(sum(piece.count(opener) for opener in texts) for piece in vocabulary.pieces)) + len(texts)


class Watch:
    """Follows the places of an answer where `bounds` need them."""

    def __init__(self, endings: Endings, bounds: Bounds | None, shortest: int | None):
        self._endings, self._state, self._bounds, self._shortest = endings, endings.state, bounds, shortest
        vocabulary = self._state.vocabulary
        self._opens = endings.plain.opens
        self._jump = most_openers(vocabulary, bounds.openers) if bounds is not None else 0
        self._places = [_Place()]  # behind each token

    @property
    def is_lost(self) -> bool:
        return False

    def moved(self, token: int) -> None:
        self._endings.moved(token)

    def back(self) -> None:
        """The answer is shorter now."""
        del self._places[len(self._state.taken) + 1 :]
        self._endings.forget()

    def is_near(self, left: int) -> bool:
        """Whether the next token may lead to where `left` are not enough."""
        bounds = self._bounds
        if bounds is None:
            return left <= NEAR and self._shortest is not None and self._is_close(left)
        if bounds.flat is not None:
            return left - 1 < bounds.flat
        place = self._place(bounds)
        depth = self._opens + place.depth + 1
        return left - 1 < depth * bounds.frame + bounds.leaf + (place.opened + self._jump) * bounds.nest

    def _is_close(self, left: int) -> bool:
        self._state.follow()
        ending = self._endings.ending(left)
        return ending is not None and left - 1 < len(ending) + JUMP

    def _place(self, bounds: Bounds) -> _Place:
        for token in self._state.taken[len(self._places) - 1 :]:
            text, place = self._state.vocabulary.pieces[token], self._places[-1]
            place = place.after(text) if bounds.frame else place
            self._places.append(place.counted(token, text, bounds.openers))
        return self._places[-1]

    def narrow(self, row: Row, left: int, ends: Sequence[int]) -> None:
        """Leave of a mask what is known to come to an end within left - 1 tokens. ends: tokens that end the answer
        here."""
        self._state.follow()
        self._endings.narrow(row, left, ends)

    def only_way(self, search: Callable[[], tuple[Way, bool]]) -> tuple[Way, bool]:
        return search()

    def in_time(self, tokens: Sequence[int], left: int) -> list[int]:
        """The first of some tokens that come next, as far as an ending that fits begins with them."""
        self._state.follow()
        ending = self._endings.ending(left) or []
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(tokens, ending, strict=False))
        return [token for token, _ in same] if len(ending) <= left else []
