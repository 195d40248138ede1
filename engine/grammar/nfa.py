"""An expression as states and arrows: how a text that has begun is best brought to its end."""

from __future__ import annotations

import bisect
import functools
import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from .regexes import Chars, Concat, Either, Regex, positions

LARGEST = 50_000  # positions; a larger expression gives no hints

Ranges = tuple[tuple[int, int], ...]


@dataclass
class Nfa:
    """State 0 begins, state 1 ends. `free`: arrows without a character."""

    free: list[list[int]] = field(default_factory=lambda: [[], []])
    arrows: list[list[tuple[Ranges, int]]] = field(default_factory=lambda: [[], []])

    def state(self) -> int:
        self.free.append([])
        self.arrows.append([])
        return len(self.free) - 1

    def add(self, regex: Regex, begin: int, end: int) -> None:
        if isinstance(regex, Chars):
            self.arrows[begin].append((regex.ranges, end))
        elif isinstance(regex, Concat):
            for part in regex.parts:
                middle = self.state()
                self.add(part, begin, middle)
                begin = middle
            self.free[begin].append(end)
        elif isinstance(regex, Either):
            for option in regex.options:
                self.add(option, begin, end)
        else:
            self._repeat(regex.body, regex.low, regex.high, begin, end)

    def _repeat(self, body: Regex, low: int, high: int | None, begin: int, end: int) -> None:
        for _ in range(low):
            middle = self.state()
            self.add(body, begin, middle)
            begin = middle
        if high is None:
            loop = self.state()
            self.free[begin].append(loop)
            self.add(body, loop, loop)
            begin = loop
        for _ in range((high or low) - low):
            self.free[begin].append(end)
            middle = self.state()
            self.add(body, begin, middle)
            begin = middle
        self.free[begin].append(end)

    def closed(self, states: set[int]) -> set[int]:
        todo = list(states)
        while todo:
            for following in self.free[todo.pop()]:
                if following not in states:
                    states.add(following)
                    todo.append(following)
        return states

    def after(self, text: str) -> set[int]:
        """The states that a text may have led to; empty if it cannot begin a match."""
        states = self.closed({0})
        for character in text:
            code = ord(character)
            states = self.closed(
                {to for s in states for ranges, to in self.arrows[s] if any(a <= code <= b for a, b in ranges)}
            )
        return states

    def distances(self, cost: Callable[[Ranges], float]) -> list[float]:
        """[states] the cost of the cheapest way to the end."""
        back: list[list[tuple[int, float]]] = [[] for _ in self.free]
        for state, following in enumerate(self.free):
            for to in following:
                back[to].append((state, 0.0))
        for state, arrows in enumerate(self.arrows):
            for ranges, to in arrows:
                back[to].append((state, cost(ranges)))
        found = [math.inf] * len(self.free)
        found[1] = 0.0
        heap = [(0.0, 1)]
        while heap:
            distance, state = heapq.heappop(heap)
            if distance > found[state]:
                continue
            for before, more in back[state]:
                if distance + more < found[before]:
                    found[before] = distance + more
                    heapq.heappush(heap, (found[before], before))
        return found


def in_bytes(ranges: Ranges) -> tuple[float, int]:
    """(bytes, character) of the cheapest of a set."""
    low = ranges[0][0] if ranges else 0
    return (len(chr(low).encode()), low) if ranges else (math.inf, 0)


class Hint:
    """Cheapest completions of texts that an expression should match. `cheapest`: of a set, (its cost, a character)."""

    def __init__(self, regex: Regex, cheapest: Callable[[Ranges], tuple[float, int]]):
        self.cheapest = cheapest
        self.nfa = Nfa()
        self.nfa.add(regex, 0, 1)
        self.left = self.nfa.distances(lambda ranges: cheapest(ranges)[0])

    def complete(self, text: str) -> str | None:
        """What is best added to `text`; None if it cannot begin a match."""
        states = self.nfa.after(text)
        best = min(states, key=lambda s: self.left[s], default=None)
        if best is None or math.isinf(self.left[best]):
            return None
        found = []
        while best != 1:
            step = next((s for s in self.nfa.free[best] if self.left[s] == self.left[best] and s != best), None)
            ways = [(self.left[to] + self.cheapest(r)[0], to, r) for r, to in self.nfa.arrows[best]]
            costs, to, ranges = min(ways, default=(math.inf, 0, ()))
            if costs == self.left[best]:
                found.append(chr(self.cheapest(ranges)[1]))
                best = to
            elif step is not None:
                best = step
            else:
                return None
        return "".join(found)


@functools.lru_cache(maxsize=256)
def hint(regex: Regex, cheapest: Callable[[Ranges], tuple[float, int]]) -> Hint | None:
    return Hint(regex, cheapest) if positions(regex) <= LARGEST else None


class TooManyStates(Exception):
    """An automaton of more states or transitions than were allowed."""


def determined(nfa: Nfa, *, states: int, steps: int) -> list[list[tuple[int, int, int]]]:
    """[states of the deterministic automaton] (first, last, state) of the characters it goes on with. The first state
    begins. Raises TooManyStates."""
    bounds = sorted({edge for arrows in nfa.arrows for ranges, _ in arrows for a, b in ranges for edge in (a, b + 1)})
    begin = frozenset(nfa.closed({0}))
    numbers = {begin: 0}
    found: list[list[tuple[int, int, int]]] = []
    todo = [begin]
    for now in todo:
        here = [(a, b, to) for s in now for ranges, to in nfa.arrows[s] for a, b in ranges]
        into: dict[int, set[int]] = {}
        for a, b, to in here:
            for i in range(bisect.bisect_left(bounds, a), bisect.bisect_left(bounds, b + 1)):
                into.setdefault(i, set()).add(to)
                steps -= 1
        ways = []
        for i in sorted(into):
            following = frozenset(nfa.closed(into[i]))
            steps -= len(following)
            if following not in numbers:
                numbers[following] = len(numbers)
                todo.append(following)
            ways.append((bounds[i], bounds[i + 1] - 1, numbers[following]))
        found.append(ways)
        if steps < 0 or len(numbers) > states:
            raise TooManyStates
    return found
