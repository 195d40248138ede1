"""Whose turn it is where more adapters are wanted than a step can hold.

An adapter is active while sequences of it run, and at most `slots` are. Adapters that wait for a slot are hungry. What
each has had is counted in tokens, divided by the weight of who asks, beginning where the active ones stand (start-time
fair queueing, Goyal et al. 1996), so that to have been away earns no credit. When an active one is a quantum ahead of a
hungry one it must yield: nothing of it begins any more, and what still runs after a while is preempted. A free slot
goes to the hungry one that had the least.

Sequences of the base, and of adapters that are active already, go in the order of the queue.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq
from typing import TYPE_CHECKING

from .sequence import Sequence

if TYPE_CHECKING:
    from .plan import Slice

QUANTUM = 512  # tokens that an active adapter may be ahead of a hungry one
PATIENCE = 64  # steps in which one that must yield may still finish


class Lanes:
    """Counts, by the key of an adapter. The scheduler tells who queues, begins and stops."""

    __slots__ = ("active", "clock", "served", "slots", "waiting", "yielding")

    def __init__(self, slots: int):
        self.slots = slots
        self.waiting: dict[str, int] = {}  # sequences in the queue
        self.active: dict[str, int] = {}  # sequences that run
        self.served: dict[str, float] = {}  # tokens by weight, counted from `clock` where one comes anew
        self.clock = 0.0  # what the active one with the least has had, at its highest
        self.yielding: dict[str, int] = {}  # steps since it was asked to

    def enqueued(self, seq: Sequence) -> None:
        if seq.adapter is None:
            return
        key = seq.adapter.key
        if key not in self.active and key not in self.waiting:
            self.served[key] = max(self.served.get(key, 0), self.clock)
        self.waiting[key] = self.waiting.get(key, 0) + 1

    def dequeued(self, seq: Sequence) -> None:
        if seq.adapter is not None:
            _less(self.waiting, seq.adapter.key)

    def began(self, seq: Sequence) -> None:
        if seq.adapter is not None:
            self.active[seq.adapter.key] = self.active.get(seq.adapter.key, 0) + 1

    def stopped(self, seq: Sequence) -> None:
        if seq.adapter is not None and _less(self.active, seq.adapter.key):
            self.yielding.pop(seq.adapter.key, None)
            known = self.active.keys() | self.waiting.keys()
            self.served = {key: had for key, had in self.served.items() if key in known or had > self.clock}

    def turn(self, running: Seq[Sequence]) -> list[Sequence]:
        """Once a step, before it is planned: who must yield. Returns the sequences that had their time: caught up (they
        get at least a token for what it cost to begin), of adapters asked to yield `PATIENCE` steps ago."""
        hungry = self._hungry()
        wanted = len(hungry) - (self.slots - len(self.active))  # slots, beyond those that are free
        if wanted <= 0:
            self.yielding.clear()
            return []
        for key in self.yielding:
            self.yielding[key] += 1
        least = sorted(self.served[key] for key in hungry)[len(hungry) - wanted :]
        most = sorted((key for key in self.active if key not in self.yielding), key=lambda key: -self.served[key])
        for had, key in zip(least[len(self.yielding) :], most, strict=False):
            if self.served[key] - had < QUANTUM:
                break
            self.yielding[key] = 0
        if all(steps < PATIENCE for steps in self.yielding.values()):
            return []
        late = {key for key, steps in self.yielding.items() if steps >= PATIENCE}
        return [
            s for s in running if s.adapter is not None and s.adapter.key in late and s.computed >= len(s.tokens) - 1
        ]

    @property
    def calm(self) -> bool:
        """Whether the next turn will ask nobody to give up its pages."""
        return all(steps + 1 < PATIENCE for steps in self.yielding.values())

    def next(self, waiting: Seq[Sequence]) -> Sequence | None:
        """Of a queue that is not empty, who may begin now; None: nobody, for want of a slot."""
        if not self.waiting:
            return waiting[0]
        ready = next((seq for seq in waiting if self._may_join(seq)), None)
        if len(self.active) < self.slots and (hungry := self._hungry()):
            firsts: dict[str, Sequence] = {}
            for seq in waiting:
                if seq.adapter is not None and seq.adapter.key in hungry:
                    firsts.setdefault(seq.adapter.key, seq)
            first = min(firsts.values(), key=lambda seq: (seq.priority, self.served[_key(seq)], seq.arrival))
            if ready is None or first.priority <= ready.priority:
                return first
        return ready

    def charge(self, slices: Iterable[Slice]) -> None:
        """What a step computes for each."""
        if self.active:
            for piece in slices:
                if (adapter := piece.seq.adapter) is not None:
                    self.served[adapter.key] += len(piece.tokens) / piece.seq.weight
            self.clock = max(self.clock, min(self.served[key] for key in self.active))

    def check(self, running: Iterable[Sequence], waiting: Iterable[Sequence]) -> None:
        """Assert that the counts are those of the queues."""
        for counted, queue in ((self.active, running), (self.waiting, waiting)):
            found: dict[str, int] = {}
            for seq in queue:
                if seq.adapter is not None:
                    found[seq.adapter.key] = found.get(seq.adapter.key, 0) + 1
            assert counted == found, "an adapter's count is not that of its sequences"
        assert len(self.active) <= self.slots
        assert set(self.yielding) <= set(self.active)
        assert self.active.keys() | self.waiting.keys() <= self.served.keys()

    def _may_join(self, seq: Sequence) -> bool:
        adapter = seq.adapter
        return adapter is None or (adapter.key in self.active and adapter.key not in self.yielding)

    def _hungry(self) -> set[str]:
        return {key for key in self.waiting if key not in self.active}


def _less(counts: dict[str, int], key: str) -> bool:
    """One less; True where none is left."""
    counts[key] -= 1
    if counts[key]:
        return False
    del counts[key]
    return True


def _key(seq: Sequence) -> str:
    assert seq.adapter is not None
    return seq.adapter.key
