"""What earlier answers said: a suffix automaton over them (Blumer et al. 1985), of bounded size.

Where an answer comes to words that stood in another one, what followed there may follow here. The longest end of a
text that stands in any of the answers is found in as many steps as it has tokens, however much was said before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

BETWEEN = -1  # stands between two answers; no token
LATER = 16  # of the ends of the text, how many are told that they stand here too


class Automaton:
    """All substrings of a text that grows by a token: at most two states and three arrows a token, O(1) amortized.

    A state stands for substrings that end at the same places. `_end` is one such place, for short substrings the last.
    """

    __slots__ = ("_end", "_last", "_length", "_link", "_next", "text")

    def __init__(self) -> None:
        self.text: list[int] = []
        self._next: list[dict[int, int]] = [{}]
        self._link = [-1]  # the state of the longest end that stands elsewhere too
        self._length = [0]  # of the longest substring of a state
        self._end = [-1]
        self._last = 0  # the state of the whole text

    def extend(self, token: int) -> None:
        follow, link, length = self._next, self._link, self._length
        here = len(self.text)
        self.text.append(token)
        new, at = self._state({}, length[self._last] + 1, here), self._last
        while at >= 0 and token not in follow[at]:
            follow[at][token] = new
            at = link[at]
        if at < 0:
            link[new] = 0
        else:
            there = follow[at][token]
            if length[at] + 1 < length[there]:  # only its shorter substrings end here too: they become a state
                short = self._state(dict(follow[there]), length[at] + 1, here)
                link[short], link[there] = link[there], short
                while at >= 0 and follow[at].get(token) == there:
                    follow[at][token] = short
                    at = link[at]
                there = short
            link[new] = there
        self._last, at = new, link[new]
        for _ in range(LATER):
            if at <= 0:
                break
            self._end[at] = here
            at = link[at]

    def _state(self, follow: dict[int, int], length: int, end: int) -> int:
        self._next.append(follow)
        self._link.append(-1)
        self._length.append(length)
        self._end.append(end)
        return len(self._link) - 1

    def longest(self, tail: Sequence[int]) -> tuple[int, int]:
        """How many tokens of the end of `tail` stand in the text, and where in it the last of them does."""
        at, found = 0, 0
        for token in tail:
            while at and token not in self._next[at]:
                at = self._link[at]
                found = self._length[at]
            if token in self._next[at]:
                at, found = self._next[at][token], found + 1
        return found, self._end[at]


class Answers:
    """Of one server: about the last `capacity` tokens of answers. The older half goes when the younger one is full."""

    def __init__(self, capacity: int):
        self._half = max(1, capacity // 2)
        self._young, self._old = Automaton(), Automaton()
        self._told: deque[Sequence[int]] = deque()
        self._read = 0  # tokens of the first of them
        self._waiting = 0  # tokens of all of them

    def tell(self, answer: Sequence[int]) -> None:
        """An answer is complete. Where answers come faster than they are read, the older ones are left out."""
        answer = answer[-self._half :]
        self._told.append(answer)
        self._waiting += len(answer)
        while self._waiting > self._half and len(self._told) > 1:
            self._waiting -= len(self._told.popleft())
            self._read = 0

    def read(self, tokens: int) -> None:
        """Take in so many of what was told: a step does not wait for a long answer."""
        while tokens > 0 and self._told:
            answer = self._told[0]
            some = answer[self._read : self._read + tokens]
            for token in some:
                self._young.extend(token)
            self._read += len(some)
            tokens -= len(some)
            if self._read == len(answer):
                self._young.extend(BETWEEN)
                self._told.popleft()
                self._waiting -= len(answer)
                self._read = 0
                if len(self._young.text) >= self._half:
                    self._old, self._young = self._young, Automaton()

    def guesses(self, tail: Sequence[int], least: int, count: int) -> tuple[list[int], int]:
        """At most `count` tokens that followed the longest end of `tail` that an answer has, of at least `least`; and
        how long it is."""
        best: tuple[list[int], int] = [], 0
        for automaton in (self._young, self._old):
            found, end = automaton.longest(tail)
            if found >= least:
                after = automaton.text[end + 1 : end + 1 + count]
                after = after[: after.index(BETWEEN)] if BETWEEN in after else after
                if after:
                    best, least = (after, found), found + 1
        return best
