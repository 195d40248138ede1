"""What an answer still has to write, as goals.

A goal is written symbol by symbol. What is left of it behind one is a sequence of goals again; or there are several
sequences, where it is not told yet which of them is being written. `best` is the shortest way through a goal.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence

from ..symbols import Way
from .letters import Alphabet, Work
from .writing import Place, Writing

Goals = tuple["Goal", ...]


class Goal(ABC):
    """done: nothing need be written. begun: something was, and what can go on does so."""

    __slots__ = ("_best", "_moves", "begun", "done")

    def __init__(self, *, done: bool = False, begun: bool = False):
        self.done, self.begun = done, begun
        self._best: Way | None = None
        self._moves: dict[int, tuple[Goals, ...]] = {}

    @property
    def best(self) -> Way:
        """The shortest way through. Raises TooFar."""
        if self._best is None:
            self._best = self._shortest()
        return self._best

    @abstractmethod
    def _shortest(self) -> Way: ...

    @property
    def uniform(self) -> bool:
        """Whether any printable character may come, and all lead to the same."""
        return False

    def moves(self, symbol: int) -> tuple[Goals, ...]:
        """What may be left behind a symbol; () if it cannot come. Raises TooFar."""
        found = self._moves.get(symbol)
        if found is None:
            found = self._moves[symbol] = tuple(dict.fromkeys(self._after(symbol)))
        return found

    @abstractmethod
    def _after(self, symbol: int) -> Sequence[Goals]: ...

    def forget(self) -> None:
        """What it leads to. It is not to be asked again."""
        self._moves.clear()


class Spelled(Goal):
    """Symbols as they are."""

    __slots__ = ("_kit", "way")

    def __init__(self, kit: Kit, way: Way):
        super().__init__(done=not way)
        self._kit, self.way = kit, way

    def _shortest(self) -> Way:
        return self.way

    def _after(self, symbol: int) -> Sequence[Goals]:
        if self.way[:1] != (symbol,):
            return ()
        return [(self._kit.spelled(self.way[1:]),) if self.way[1:] else ()]


class Written(Goal):
    """A text, from a place in it on."""

    __slots__ = ("_kit", "_place", "_writing")

    def __init__(self, kit: Kit, writing: Writing, place: Place, begun: bool):
        super().__init__(done=writing.ends(place), begun=begun)
        self._kit, self._writing, self._place = kit, writing, place

    def _shortest(self) -> Way:
        return tuple(self._writing.rest(self._place) or b"")

    @property
    def uniform(self) -> bool:
        return self._writing.uniform and not self._place.begun and not self._place.missing

    def _after(self, symbol: int) -> Sequence[Goals]:
        place = self._writing.step(self._place, symbol) if symbol < 0x100 else None
        return () if place is None else [(self._kit.written(self._writing, place, begun=True),)]


class Chosen(Goal):
    """One of several sequences."""

    __slots__ = ("_find", "_kit", "_make", "_options")

    def __init__(self, kit: Kit, best: Callable[[], Way], make: Callable[[], Sequence[Goals]], *, done: bool = False):
        """best, make (the sequences): asked once, when they are needed."""
        super().__init__(done=done)
        self._kit, self._find, self._make = kit, best, make
        self._options: Sequence[Goals] | None = None

    def _shortest(self) -> Way:
        return self._find()

    def _after(self, symbol: int) -> Sequence[Goals]:
        if self._options is None:
            self._options = self._make()
        self._kit.work.spend(3 * len(self._options))
        return [left for option in self._options for left in along(option, symbol)]

    def forget(self) -> None:
        super().forget()
        self._options = None


def along(goals: Goals, symbol: int) -> list[Goals]:
    """What may be left of a sequence behind a symbol."""
    found: list[Goals] = []
    for i, goal in enumerate(goals):
        moves = goal.moves(symbol)
        found += [(*left, *goals[i + 1 :]) for left in moves]
        if not goal.done or (goal.begun and moves):
            break
    return found


class Kit:
    """The maker of goals: equal ones are the same object."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self.letters = Alphabet(work)
        self._goals: dict[Hashable, Goal] = {}

    def goal(self, key: Hashable, make: Callable[[], Goal]) -> Goal:
        found = self._goals.get(key)
        if found is None:
            found = self._goals[key] = make()
        return found

    def spelled(self, way: Way | str) -> Goal:
        symbols = tuple(way.encode()) if isinstance(way, str) else way
        return self.goal(symbols, lambda: Spelled(self, symbols))

    def written(self, writing: Writing, place: Place, *, begun: bool = False) -> Goal:
        return self.goal((writing, place, begun), lambda: Written(self, writing, place, begun))

    def forget(self) -> None:
        """All that was made. No goal of it is to be asked again."""
        for goal in self._goals.values():
            goal.forget()
        self._goals.clear()
