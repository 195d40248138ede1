"""Prompt lookup: what followed the last tokens where they stood before, in the prompt or in the answer.

Saxena 2023, "Prompt lookup decoding". The text is searched as it is, without an index: the vectorized comparison of
100,000 tokens takes less than a step of the smallest model, and a prompt costs nothing when it comes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]


def repeated(text: Tokens, least: int, most: int, count: int) -> tuple[list[int], int]:
    """At most `count` tokens that followed the longest end of `text` that stands in it before: of at least `least`, and
    compared up to `most` tokens; and how long it is. Of several places the last counts. [] where there is none.

    Where what followed reaches the end of the text, the text repeats itself, and goes on to.
    """
    if len(text) <= least:
        return [], 0
    last = len(text) - 1
    places = np.flatnonzero(text[:last] == text[last])
    length = 1
    while length < most and places.size:
        longer = places[places >= length]
        longer = longer[text[longer - length] == text[last - length]]
        if not longer.size:
            break
        places, length = longer, length + 1
    if length < least or not places.size:
        return [], 0
    after = int(places[-1]) + 1
    period = len(text) - after
    return [int(text[after + n % period]) for n in range(count)], length


class Trail:
    """The tokens of a sequence, as an array that grows."""

    __slots__ = ("_room", "_size")

    def __init__(self) -> None:
        self._room = np.empty(256, dtype=np.int32)
        self._size = 0

    def follow(self, tokens: list[int], more: list[int]) -> Tokens:
        """`tokens` and `more`; of the former only what is new is looked at, unless they became fewer."""
        size = len(tokens) + len(more)
        if size > len(self._room):
            grown = np.empty(2 * size, dtype=np.int32)
            grown[: self._size] = self._room[: self._size]
            self._room = grown
        kept = min(self._size, len(tokens))
        self._room[kept : len(tokens)] = tokens[kept:]
        self._room[len(tokens) : size] = more
        self._size = len(tokens)  # what is more may not come to stay
        return self._room[:size]
