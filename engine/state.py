"""All that the scheduler knows, in one object. The scheduler changes it, and ahead.py for what is foreseen."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

from .blocks import BlockPool
from .config import BLOCK_SIZE
from .lanes import Lanes
from .sequence import Sequence, Status

REGAIN = 256  # steps that must go well before one may have twice as many tokens again


@dataclass(frozen=True, slots=True)
class Limits:
    max_model_len: int  # tokens of a sequence, prompt included
    max_num_seqs: int  # sequences that run
    max_num_batched_tokens: int  # tokens of a step
    max_waiting: int  # sequences that queue
    block_size: int = BLOCK_SIZE
    max_loras: int = 64  # adapters of a step
    prompt_chunk: int = 1 << 31  # tokens of prompts in a step in which others get their next token
    reach: int = 1 << 60  # tokens of context behind which a prompt's token takes twice as long as one at its beginning


def seniority(seq: Sequence) -> tuple[int, int, int]:
    """Who goes first: priority, then arrival, then the place among siblings. Smaller is more senior."""
    return (seq.priority, seq.arrival, seq.index)


class State:
    """Queues, pages and counters."""

    def __init__(self, limits: Limits, num_blocks: int, prefix_caching: bool = True):
        self.limits = limits
        self.pool = BlockPool(num_blocks)
        self.prefix_caching = prefix_caching
        self.lanes = Lanes(limits.max_loras)
        self.running: list[Sequence] = []  # most senior first
        self.waiting: list[Sequence] = []  # most senior first
        self.requests: dict[str, list[Sequence]] = {}  # sequences of a request that have not finished
        self.siblings: dict[str, list[Sequence]] = {}  # leader's id -> those that wait for its prompt
        self.left: list[str] = []  # ids that finished or were aborted since the last plan
        self.budget = limits.max_num_batched_tokens  # tokens of a step: fewer for a while after memory was short
        self._sound = 0  # steps since it changed
        self.arrivals = 0
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self.prefix_queries = 0
        self.prefix_hits = 0
        self.preemptions = 0

    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    def num_waiting(self) -> int:
        return len(self.waiting) + sum(map(len, self.siblings.values()))

    def enqueue(self, seq: Sequence) -> None:
        seq.status = Status.WAITING
        insort(self.waiting, seq, key=seniority)
        self.lanes.enqueued(seq)

    def dequeue(self, seq: Sequence) -> None:
        _remove(self.waiting, seq)
        self.lanes.dequeued(seq)

    def begin(self, seq: Sequence) -> None:
        seq.status = Status.RUNNING
        insort(self.running, seq, key=seniority)
        self.lanes.began(seq)

    def stop(self, seq: Sequence) -> None:
        _remove(self.running, seq)
        self.lanes.stopped(seq)

    def limit(self, budget: int) -> None:
        """A step may have so many tokens, or as few as before."""
        self.budget, self._sound = min(self.budget, budget), 0

    def regain(self) -> int:
        """The budget of a step while it is limited: twice as much after so many that went well."""
        self._sound += 1
        if self._sound > REGAIN:
            self.budget, self._sound = min(2 * self.budget, self.limits.max_num_batched_tokens), 0
        return self.budget

    def gauges(self) -> dict[str, int]:
        """The fields of StepStats that are the scheduler's."""
        return {
            "running": len(self.running),
            "waiting": self.num_waiting(),
            "blocks_used": self.pool.size - len(self.pool.free),
            "blocks_total": self.pool.size,
            "prompt_tokens": self.prompt_tokens,
            "generated_tokens": self.generated_tokens,
            "prefix_queries": self.prefix_queries,
            "prefix_hits": self.prefix_hits,
            "preemptions": self.preemptions,
        }

    def check(self) -> None:
        """Assert every invariant; tests call it after each step."""
        size, limits = self.limits.block_size, self.limits
        self.pool.check([s.blocks for s in self.running])
        self.lanes.check(self.running, self.waiting)
        assert len(self.running) <= limits.max_num_seqs
        assert 1 <= self.budget <= limits.max_num_batched_tokens
        assert self.running == sorted(self.running, key=seniority)
        assert self.waiting == sorted(self.waiting, key=seniority)
        for seq in self.running:
            assert seq.status is Status.RUNNING
            assert seq.computed <= len(seq.tokens) <= limits.max_model_len
            assert seq.computed <= len(seq.blocks) * size, "computed tokens without a page"
            assert len(seq.blocks) * size - seq.computed < 2 * size + len(seq.drafts), "pages without tokens"
            assert seq.published <= seq.computed // size
        for seq in [*self.waiting, *(s for group in self.siblings.values() for s in group)]:
            assert seq.status is Status.WAITING
            assert not seq.blocks
            assert seq.computed == 0
        known = {id(s) for group in self.requests.values() for s in group}
        queued = [*self.running, *self.waiting, *(s for group in self.siblings.values() for s in group)]
        assert len(queued) == len(known)
        assert {id(s) for s in queued} == known, "a sequence is lost or doubled"
        assert all(leader in {s.id for s in queued} for leader in self.siblings), "siblings wait for one who is gone"


def _remove(queue: list[Sequence], seq: Sequence) -> None:
    """Take `seq` out of a sorted queue."""
    place = bisect_left(queue, seniority(seq), key=seniority)
    assert queue[place] is seq
    del queue[place]
