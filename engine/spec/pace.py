"""How many drafts are worth their rows: from what steps cost, and from how often drafts like these were right.

Pure: what is measured is told from outside.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SPEED, SHAPE = 0.2, 0.05  # shares that a new measurement has in what is known of the machine, and of a size
GREATEST = 1.5  # times of what is known that one is believed to be
GAIN = 1.03  # that drafts must promise: what is measured is not sure
SLOPE = 0.08  # of the cost of one token, that each further one is taken to cost where nothing is known
FADING = 0.9  # what a step leaves of what was known of a sequence,
SLOWLY = 0.99  # and of all together
PRIOR = (1.0, 2.0)  # drafts that were right, of so many
DOUBT = 0.01  # share of what is known of a sequence that a step without its drafts takes,
SLIGHT = 0.001  # and of what is known of all
WEIGHT = 4.0  # drafts of a sequence that count as much as what is known of others
STAKE = 10.0  # drafts that are taken to have given what was expected, before any did


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
    def _slope(self) -> float:
        """Of each token more than were ever measured: as between the largest size and about half of it. Beside prompts
        no size is measured, so to hope for better there would be to hope for ever."""
        largest = self._sizes[-1]
        half = self._sizes[bisect.bisect_right(self._sizes, largest // 2) - 1] if len(self._sizes) > 1 else largest
        if half == largest:
            return SLOPE * self._known[largest] / largest
        return max(0.0, self._known[largest] - self._known[half]) / (largest - half)

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
            return below + self._slope * (tokens - self._sizes[-1])
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
    """How often drafts were right, of one sequence or of many; old ones fade."""

    __slots__ = ("_fading", "right", "tried")

    def __init__(self, right: float = PRIOR[0], tried: float = PRIOR[1], fading: float = FADING):
        self.right, self.tried, self._fading = right, tried, fading

    def learn(self, drafts: int, right: int) -> None:
        """Of so many drafts the first `right` were."""
        self.right = self._fading * self.right + right
        self.tried = self._fading * self.tried + min(drafts, right + 1)

    def rest(self, doubt: float, towards: tuple[float, float]) -> None:
        """Nothing was tried, as it did not pay; what is known becomes old all the same, so that it is tried again."""
        self.right += doubt * (towards[0] - self.right)
        self.tried += doubt * (towards[1] - self.tried)

    def within(self, others: Record) -> float:
        """The chance that a draft of one sequence is right, where those before it are: from its own drafts, and from
        those of others as far as its own are few."""
        return min((self.right + WEIGHT * others.chance) / (self.tried + WEIGHT), 0.99)

    @property
    def chance(self) -> float:
        """That a draft is right, where those before it are."""
        return min(self.right / self.tried, 0.99) if self.tried else 0.0


class Trust:
    """What drafts gave, of what was expected of them. Those are taken that look best, and of these more look better
    than they are than worse."""

    def __init__(self) -> None:
        self._expected = self._right = STAKE

    def learn(self, expected: float, right: int) -> None:
        self._expected = SLOWLY * self._expected + expected
        self._right = SLOWLY * self._right + right

    def rest(self) -> None:
        """Drafts could have been had, and did not pay."""
        self._expected += SLIGHT * (STAKE - self._expected)
        self._right += SLIGHT * (STAKE - self._right)

    @property
    def share(self) -> float:
        return min((self._right + STAKE) / (self._expected + STAKE), 1.0)


@dataclass(frozen=True, slots=True)
class Offer:
    """Drafts that a sequence could have. chance: of each, where those before it are right, below 1; most: how many;
    made: they would have to be made; entry: what it costs to begin to, in the units of `Costs`."""

    chance: float
    most: int
    made: bool = False
    entry: float = 0.0

    def expected(self, count: int) -> float:
        """How many of the first `count` come to stay: chance + chance ** 2 + ..."""
        return self.chance * (1.0 - self.chance**count) / (1.0 - self.chance)


def shares(
    offers: Sequence[Offer],
    sequences: int,
    costs: Costs,
    row: float = 0.0,
    making: Callable[[int], float] = lambda sequences: 0.0,
    trust: float = 1.0,
) -> list[int]:
    """Of the drafts of some sequences, how many give the most tokens a second.

    sequences: that take part in the step, those with offers included; costs: of steps without prompts; row: what a row
    costs at least, making: what it costs to make one draft of so many sequences, in the same units. A step without
    drafts gives a token a sequence; the n-th draft of a sequence comes to stay with chance ** n, and what they give is
    believed to be `trust` of that. What else the step does, prompts, it does once: drafts make it longer, and what they
    give would be had at the price of steps without prompts.
    """
    counts = [0] * len(offers)
    alone = costs.of(sequences)
    if alone is None or not offers:
        return counts

    def cost(drafts: int) -> float:
        found = costs.of(sequences + drafts)
        assert found is not None
        return max(found, alone + row * drafts)

    best = sequences / alone
    hope, least = sequences + trust * sum(offer.expected(offer.most) for offer in offers), GAIN * best
    if hope / (cost(1) + (making(1) if all(offer.made for offer in offers) else 0.0)) < least:
        return counts  # as mostly: all drafts for the price of one would be too few
    order = sorted((-(offer.chance**n), n, i) for i, offer in enumerate(offers) for n in range(1, offer.most + 1))
    expected, taken, made = float(sequences), 0, 0.0
    makers = [0] * (1 + max(offer.most for offer in offers))  # sequences whose n-th draft has to be made
    prices = [0.0]  # of a draft of so many
    for number, (gain, n, i) in enumerate(order, 1):
        expected -= trust * gain
        if offers[i].made:
            makers[n] += 1
            if makers[n] == len(prices):
                prices.append(making(makers[n]))
            made += prices[makers[n]] - prices[makers[n] - 1]
            made += offers[i].entry if n == 1 else 0.0
        takes = cost(number) + made
        if expected / takes > best:
            best, taken = expected / takes, number
        if hope / takes <= max(best, least):
            break  # a larger step is never cheaper: what is left cannot make up for it
    if best < least:
        return counts
    for _, _, i in order[:taken]:
        counts[i] += 1
    return counts
