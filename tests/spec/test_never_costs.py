"""Speculation never costs: all of it, on machines that are made up, with guesses that are right as often as said."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from quire.engine.attention import LayerSpec
from quire.engine.config import Speculation
from quire.engine.messages import SamplingParams
from quire.engine.plan import Outcome, Slice
from quire.engine.sequence import Sequence
from quire.engine.spec.maker import Drafts, States
from quire.engine.spec.speculator import Speculator

NOTHING = States(None, [0], None)
MACHINES: dict[str, Callable[[int], float]] = {  # tokens in a step -> seconds
    "a GPU: rows are all but free": lambda n: 0.02 + 0.00002 * n,
    "a CPU: rows beyond four cost": lambda n: 0.03 + 0.001 * min(n, 4) + 0.02 * max(0, n - 4),
    "every row costs a token": lambda n: 0.02 * n,
    "a GPU that is full at 64 rows": lambda n: 0.02 + 0.0003 * max(0, n - 64),
}
STEPS, LENGTH, CHUNK = 600, 150, 64


class Priced:
    """A maker of which a guess costs so much, and the first one of a sequence more."""

    name = "priced"
    taps = ()
    layers: list[LayerSpec] = []

    def __init__(self, price: float, entry: float):
        self.each, self.first = price, entry
        self.known: set[str] = set()
        self.spent = 0.0

    def open(self, pages, backend) -> None:
        pass

    def read(self, slices, outcomes, states) -> None:
        pass

    def room(self, seq, new, count) -> int:
        return count

    def price(self, sequences: int) -> float:
        return self.each * sequences

    def entry(self, seq) -> float:
        return 0.0 if seq.id in self.known else self.first

    def draft(self, wanted) -> list[Drafts]:
        for want in wanted:
            self.spent += self.each * want.count + self.entry(want.seq)
            self.known.add(want.seq.id)
        return [Drafts([1] * want.count) for want in wanted]

    def forget(self, ids) -> None:
        self.known -= set(ids)


def rate(
    machine: Callable[[int], float], at_once: int, right: float, maker: Priced | None, free: bool, prompt: int = 0,
    steps: int = STEPS,
) -> float:  # fmt: skip
    """Tokens a second of answers that follow each other. right: the chance of a guess; free: guesses cost nothing;
    prompt: tokens that are read before an answer, some in each step."""
    random, noise = Random(1), Random(2)
    speculator = Speculator(Speculation())
    speculator.maker = maker
    speculator.proposers = [("free", lambda seq, new, known, count: ([1] * count, 2))] if free else []
    count, seconds, tokens = 0, 0.0, 0
    running: list[Sequence] = []
    waiting: list[Sequence] = []
    for _ in range(steps):
        while len(running) + len(waiting) < at_once:
            count += 1
            seq = Sequence(f"r{count}", 0, [0] * (prompt or 50), SamplingParams(max_tokens=LENGTH, seed=0))
            (waiting if prompt else running).append(seq)
        chunk = min(CHUNK, prompt - waiting[0].computed) if waiting else 0
        slices = [Slice(seq, len(seq.tokens) - 1, [seq.tokens[-1], *seq.drafts], len(seq.drafts)) for seq in running]
        if waiting:
            slices.append(Slice(waiting[0], waiting[0].computed, [0] * chunk, sample=False))
            waiting[0].computed += chunk
        took = machine(sum(len(piece.tokens) for piece in slices)) * noise.uniform(0.9, 1.1)
        outcomes = []
        for piece in slices:
            if not piece.sample:
                outcomes.append(Outcome())
                continue
            stay = 0
            while stay < piece.drafts and random.random() < right:
                stay += 1
            outcomes.append(Outcome(tokens=[1] * (stay + 1)))
            speculator.learn(piece, outcomes[-1])
        speculator.learn_cost(slices, took)
        spent = maker.spent if maker is not None else 0.0
        speculator.propose(slices, outcomes, NOTHING)
        seconds += took + (maker.spent - spent if maker is not None else 0.0)
        for piece, outcome in zip(slices[: len(running)], outcomes, strict=False):
            room = piece.seq.end - len(piece.seq.tokens)
            piece.seq.tokens += outcome.tokens[:room]
            tokens += len(outcome.tokens[:room])
            piece.seq.drafts = outcome.drafts
        done = [seq for seq in running if len(seq.tokens) == seq.end]
        running = [seq for seq in running if len(seq.tokens) < seq.end]
        running += [seq for seq in waiting if seq.computed == prompt]
        waiting = [seq for seq in waiting if seq.computed < prompt]
        speculator.forget([seq.id for seq in done])
    return tokens / seconds


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("at_once", [1, 8, pytest.param(32, marks=pytest.mark.slow)])
@pytest.mark.parametrize("right", [0.0, 0.2, 0.6, 0.9])
@pytest.mark.parametrize("price", [None, 0.0005, 0.02])
def test_it_is_never_slower_than_nothing(machine, at_once, right, price):
    maker = None if price is None else Priced(price, 10 * price)
    assert rate(machine, at_once, right, maker, maker is None) >= 0.98 * at_once / machine(at_once)


@pytest.mark.parametrize("at_once", [1, 4, 16])
def test_where_rows_are_free_right_guesses_pay(at_once):
    machine = MACHINES["a GPU: rows are all but free"]
    off = at_once / machine(at_once)
    assert rate(machine, at_once, 0.8, None, True) > 2.8 * off
    assert rate(machine, at_once, 0.8, Priced(0.001 / at_once, 0.0), False) > 2.2 * off


@pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES)
@pytest.mark.parametrize("at_once", [4, 32])
@pytest.mark.parametrize("right", [0.0, 0.4, 0.7])
def test_nor_where_prompts_come_in_all_the_time(machine, at_once, right):
    """What is given to a prompt's step by guesses is not won: the prompt has to be read all the same."""
    on, off = (rate(machine, at_once, right, None, free, prompt=500, steps=2000) for free in (True, False))
    assert on >= 0.98 * off
