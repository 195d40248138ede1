"""One answer on its course: near the end of its budget, only what still leads to an end in time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from ..errors import GrammarFailed
from ..symbols import Way
from ..vocabulary import Row, pack, unpack
from .course import FAR, NOWHERE, Course
from .letters import TooFar

Found = TypeVar("Found")
CATCHING_UP = 4  # tokens that are followed with one mask, where that may soon be needed


class Watch:
    """Follows the answer only where something is asked; that raises GrammarFailed where the grammar is too much to be
    followed."""

    def __init__(self, renew: Callable[[], Course], course: Course, taken: Sequence[int], flat: int | None, rise: int):
        """renew: gives another course of the same grammar. taken: the tokens of the answer, which others add to. flat:
        tokens that no place is further from its end than, None where there is no such number; rise: by how much one
        token can put off the end."""
        self._renew, self._course, self._taken = renew, course, taken
        self._flat, self._rise = flat, rise
        self._places = [course.start]  # behind each token, as far as they were asked for

    def moved(self, token: int) -> None:
        """A token was taken."""

    def back(self) -> None:
        """The answer is shorter now."""
        del self._places[len(self._taken) + 1 :]

    @property
    def is_lost(self) -> bool:
        """Whether the engine underneath let something come that the goals do not know."""
        return self._asked(self._place) == NOWHERE

    def is_near(self, left: int) -> bool:
        """Whether the next token may lead to where `left` are not enough."""
        if self._flat is not None:
            return left - 1 < self._flat
        return self._asked(lambda: self._is_near(left - 1))

    def _is_near(self, left: int) -> bool:
        """While what is left is enough even if each token since the last place put off the end by the most, nothing is
        followed; where it begins to be little, some tokens at a time, so that no mask has to follow them all."""
        while left < (most := self._course.length(self._places[-1]) + self._rise * (self._behind + 1)):
            if not self._behind:
                return True
            self._follow(self._behind)
        if left < 2 * most:
            self._follow(CATCHING_UP)
        return False

    def narrow(self, row: Row, left: int, ends: Sequence[int]) -> None:
        """Leave of a mask what at most left - 1 tokens can bring to an end; where nothing can any more (a thought may
        have taken them), what is nearest to one. ends: tokens that end the answer here."""
        size = self._course.size
        behind = self._asked(lambda: self._course.behind(self._place(), lambda: unpack(row)[:size]))
        if behind.most <= left - 1:
            return
        most = max(left - 1, int(behind.left.min(initial=FAR)) if not len(ends) else 0)
        allowed = np.zeros(size, dtype=np.bool_)
        allowed[behind.tokens[behind.left <= most]] = True
        allowed[list(ends)] = True
        row &= pack(allowed)

    def only_way(self, search: Callable[[], tuple[Way, bool]]) -> tuple[Way, bool]:
        """What `search` finds here, or found where another answer stood at the same place."""
        place = self._asked(self._place)
        if place not in self._course.only:
            self._course.only[place] = search()
        return self._course.only[place]

    def in_time(self, tokens: Sequence[int], left: int) -> list[int]:
        """The first of some tokens that come next, as far as the answer can end in time behind them."""
        return self._asked(lambda: self._in_time(tokens, left))

    def _in_time(self, tokens: Sequence[int], left: int) -> list[int]:
        place = self._place()
        for count, token in enumerate(tokens, 1):
            place = self._course.take(place, token)
            if self._course.left(place) > left - count:
                return list(tokens[: count - 1])
        return list(tokens)

    @property
    def _behind(self) -> int:
        """Tokens that were taken and not followed."""
        return len(self._taken) + 1 - len(self._places)

    def _place(self) -> int:
        self._follow(self._behind)
        return self._places[-1]

    def _follow(self, count: int) -> None:
        since = len(self._places) - 1
        for token in self._taken[since : since + count]:
            self._places.append(self._course.go_on(self._places[-1], token))

    def _asked(self, question: Callable[[], Found]) -> Found:
        """Once more on a new course where the work on this one, which many answers share, is done."""
        try:
            return question()
        except TooFar:
            self._course = self._renew()
            self._places = [self._course.start]
        try:
            return question()
        except TooFar:
            raise GrammarFailed("the grammar is too much to be followed to an end within the budget") from None
