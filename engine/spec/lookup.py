"""Prompt lookup: what followed the last tokens where they stood before, in the prompt or in the answer.

Saxena 2023, "Prompt lookup decoding". The text is searched as it is, without an index: the vectorized comparison of
100,000 tokens takes less than a step of the smallest model, and a prompt costs nothing when it comes.
"""

from __future__ import annotations

from array import array

import numpy as np

WORD = 4  # bytes of a token
SHORT = 2000 * WORD  # a search through so many bytes takes no longer than numpy's calls


def repeated(text: bytearray, least: int, most: int, count: int) -> tuple[list[int], int]:
    """At most `count` tokens that followed the longest end of `text` (int32 each) that stands in it before: of at least
    `least`, and compared up to `most` tokens; and how long it is. Of several places the last counts. [] where there is
    none.

    Where what followed reaches the end of the text, the text repeats itself, and goes on to.
    """
    if len(text) <= least * WORD or (len(text) <= SHORT and not _stood(text, text[-least * WORD :])):
        return [], 0
    words = np.frombuffer(text, np.int32)
    last = len(words) - 1
    places = np.flatnonzero(words[:last] == words[last])
    length = 1
    while length < most and places.size:
        longer = places[places >= length]
        longer = longer[words[longer - length] == words[last - length]]
        if not longer.size:
            break
        places, length = longer, length + 1
    if length < least or not places.size:
        return [], 0
    after = int(places[-1]) + 1
    period = len(words) - after
    return [int(words[after + n % period]) for n in range(count)], length


def _stood(text: bytearray, end: bytearray) -> bool:
    """Whether the text's end stands in it before. Most texts do not repeat themselves at most places."""
    at = text.rfind(end, 0, len(text) - WORD)
    while at % WORD and at >= 0:  # across two tokens
        at = text.rfind(end, 0, at + len(end) - 1)
    return at >= 0


class Trail:
    """The tokens of a sequence, as an array that grows."""

    __slots__ = ("_size", "_text")

    def __init__(self) -> None:
        self._text = bytearray()
        self._size = 0  # bytes that are the sequence's own

    def follow(self, tokens: list[int], more: list[int]) -> bytearray:
        """`tokens` and `more`, int32 each; of the former only what is new is looked at, unless they became fewer. Good
        until the next call."""
        kept = min(self._size, len(tokens) * WORD)
        del self._text[kept:]
        self._text += array("i", tokens[kept // WORD :] + more).tobytes()
        self._size = len(tokens) * WORD  # what is more may not come to stay
        return self._text
