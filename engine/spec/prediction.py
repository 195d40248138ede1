"""Predicted outputs (OpenAI's `prediction`): the text that a person expects, as guesses for as long as it comes.

Where the answer leaves it, the last tokens are looked for in it again: behind the place that was left first, since an
edited text goes on behind the edit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

TAIL = 4  # tokens of the answer that are looked for
LEAST = 2  # of them, that must be found


class Prediction:
    """Follows one answer along the text that was predicted for it."""

    def __init__(self, tokens: list[int]):
        self._text: NDArray[np.int32] = np.array(tokens, dtype=np.int32)
        self._seen = 0  # tokens of the answer
        self._at = 0  # in the text: of what should come next
        self._lost = False
        self._followed = 0  # tokens that came as they stand in it, on end

    def guesses(self, answer: list[int], count: int) -> tuple[list[int], int]:
        """At most `count` tokens behind the answer, and how many before them came as they stand in the text. The answer
        only grows from call to call, or is taken back to where it stood."""
        for n in range(self._seen, len(answer)):
            if not self._lost and self._at < len(self._text) and self._text[self._at] == answer[n]:
                self._at += 1
                self._followed += 1
            else:
                self._lost = not self._find(answer[max(0, n + 1 - TAIL) : n + 1])
        self._seen = len(answer)
        return ([] if self._lost else self._text[self._at : self._at + count].tolist()), self._followed

    def _find(self, tail: list[int]) -> bool:
        """Stand behind the place in the text that ends as the answer does; that whose match is longest, and of these
        the next one behind where the text was left."""
        text = self._text
        ends = np.flatnonzero(text == tail[-1]) if len(text) else np.empty(0, np.int64)
        length = 1
        while ends.size and length < len(tail):
            longer = ends[ends >= length]
            longer = longer[text[longer - length] == tail[-1 - length]]
            if not longer.size:
                break
            ends, length = longer, length + 1
        if length < LEAST or not ends.size:
            return False
        behind = ends[ends >= self._at]
        self._at = int(behind[0] if behind.size else ends[0]) + 1
        self._followed = length
        return True
