"""How many drafts are worth their rows: from what steps cost, and from how often a sequence's drafts were right.

Pure: what is measured is told from outside.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence

SPEED, SHAPE = 0.2, 0.05  # shares that a new measurement has in what is known of the machine, and of a size
GREATEST = 1.5  # times of what is known that one is believed to be
GAIN = 1.03  # that drafts must promise: what is measured is not sure
SLOPE = 0.08  # of the cost of one token, that each further one is taken to cost where nothing is known
FADING = 0.9  # what a step leaves of what was known of a sequence
PRIOR = (1.0, 2.0)  # drafts that were right, of so many


class Costs:
    """Tokens in a step -> what it costs beside other steps.

    Machines are slow for a second and then fast again, so sizes that were measured at different times cannot be
    compared. A measurement is taken for the product of a speed, which follows quickly, and of what the size costs.
    """

    def __init__(self) -> None:
        self._speed = 1.0
        self._known: dict[int, float] = {}
        self._counts: dict[int, int] = {}
        self._sizes: list[int] = []  # in order

    def learn(self, tokens: int, seconds: float) -> None:
        size = _rounded(tokens)
        known = self._known.get(size)
        if known is None:
            bisect.insort(self._sizes, size)
            self._known[size], self._counts[size] = seconds / self._speed, 1
            return
        ratio = max(self._speed / GREATEST, min(seconds / known, GREATEST * self._speed))
        self._speed += SPEED * (ratio - self._speed)
        self._counts[size] += 1
        share = max(SHAPE, 1 / self._counts[size])
        self._known[size] += share * (min(seconds / self._speed, GREATEST * known) - known)

    @property
    def speed(self) -> float:
        """Seconds of a unit, at present."""
        return self._speed

    def of(self, tokens: int) -> float | None:
        """In units of its own: measured, or between two that were, or behind the largest. A larger step is never
        cheaper than a smaller one. None: nothing is known."""
        if not self._sizes:
            return None
        at = bisect.bisect_left(self._sizes, tokens)
        below = max((self._known[size] for size in self._sizes[max(0, at - 8) : at]), default=0.0)
        if at == len(self._sizes):
            largest = self._sizes[-1]
            one = self._known[self._sizes[0]]
            return below + SLOPE * one * (tokens - largest)
        size = self._sizes[at]
        above = max(below, self._known[size])
        if size == tokens or not at:
            return above
        smaller = self._sizes[at - 1]
        return below + (above - below) * (tokens - smaller) / (size - smaller)


def _rounded(tokens: int) -> int:
    """Sizes that are told apart: eight to each doubling."""
    step = 1 << max(0, tokens.bit_length() - 4)
    return tokens // step * step


class Record:
    """How often drafts of one sequence were right; old steps fade."""

    __slots__ = ("right", "tried")

    def __init__(self) -> None:
        self.right, self.tried = PRIOR

    def learn(self, drafts: int, right: int) -> None:
        """Of so many drafts the first `right` were."""
        self.right = FADING * self.right + right
        self.tried = FADING * self.tried + min(drafts, right + 1)

    @property
    def chance(self) -> float:
        """That a draft is right, where those before it are."""
        return min(self.right / self.tried, 0.99) if self.tried else 0.0


def shares(offered: Sequence[tuple[float, int]], sequences: int, costs: Costs, beside: float = 0.0) -> list[int]:
    """Of the drafts of some sequences, how many give the most tokens a second.

    offered: of each sequence the chance of a draft, and the number of its drafts. sequences: that take part in the
    step, those included; costs: of steps without prompts; beside: what prompts cost in the step, in the same units. A
    step without drafts gives a token a sequence; the n-th draft of a sequence comes to stay with chance ** n.
    """
    counts = [0] * len(offered)
    alone = costs.of(sequences)
    if alone is None or not offered:
        return counts
    before = alone + beside
    offers = sorted((-(chance**n), n, i) for i, (chance, most) in enumerate(offered) for n in range(1, most + 1))
    expected, best, taken = float(sequences), sequences / before, 0
    for number, (gain, _, _) in enumerate(offers, 1):
        expected -= gain
        cost = costs.of(sequences + number)
        assert cost is not None
        cost += beside
        if expected / cost > best:
            best, taken = expected / cost, number
    if best < GAIN * sequences / before:
        return counts
    for _, _, i in offers[:taken]:
        counts[i] += 1
    return counts
