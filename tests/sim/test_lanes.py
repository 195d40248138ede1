"""Adapters that are more than the slots: who runs, that nobody waits for ever, and that no answer changes by it."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engine import lanes, scheduler
from quire.engine.messages import Generate, SamplingParams
from quire.engine.plan import Outcome, Plan, StepResult
from quire.engine.state import Limits, State


@dataclass(frozen=True)
class Named:
    """What the scheduler knows of an adapter."""

    key: str


class Place:
    """A State whose "model" says a token that depends on the text and the adapter."""

    def __init__(self, slots: int, blocks: int = 400, seqs: int = 32):
        self.state = State(Limits(512, seqs, 64, 4096, 4, max_loras=slots), blocks)
        self.said: dict[str, list[int]] = {}
        self.done: list[str] = []
        self.steps = 0

    def add(
        self, name: str, adapter: str | None, prompt: list[int], tokens: int, priority: int = 0, weight: float = 1.0
    ) -> None:
        params = SamplingParams(max_tokens=tokens, seed=0)
        request = Generate(id=name, prompt=prompt, params=params, priority=priority, weight=weight)
        scheduler.add(self.state, request, (), Named(adapter) if adapter else None)  # type: ignore[arg-type]

    def step(self) -> Plan:
        plan = scheduler.schedule(self.state)
        active = {s.seq.adapter.key for s in plan.slices if s.seq.adapter}
        assert len(active) <= self.state.limits.max_loras
        outcomes = []
        for piece in plan.slices:
            seq = piece.seq
            key = seq.adapter.key if seq.adapter else ""
            outcomes.append(Outcome([hash((key, tuple(seq.tokens))) % 50]) if piece.sample else Outcome())
        for news in scheduler.commit(self.state, plan, StepResult(outcomes)):
            self.said.setdefault(news.id, []).extend(news.tokens)  # type: ignore[union-attr]
            if news.finish:  # type: ignore[union-attr]
                self.done.append(news.id)
        if len(self.state.waiting) < 100 or self.steps % 100 == 0:
            self.state.check()
        self.steps += 1
        return plan

    def run(self, limit: int = 20_000) -> None:
        while self.state.has_work():
            self.step()
            assert self.steps < limit, "somebody waits for ever"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(20, 120))
def test_every_answer_is_the_one_it_would_be_alone(seed: int, slots: int, blocks: int) -> None:
    rng = random.Random(seed)
    asked = []
    for i in range(rng.randrange(2, 30)):
        adapter = rng.choice([None, *"abcdefgh"])
        prompt = [rng.randrange(50) for _ in range(rng.randrange(1, 30))]
        asked.append((f"r{i}", adapter, prompt, rng.randrange(1, 25)))
    together = Place(slots, blocks)
    for one in asked:
        together.add(*one)
        if rng.random() < 0.3:
            together.step()
        if rng.random() < 0.1:
            scheduler.abort(together.state, one[0])
    together.run()
    for name, adapter, prompt, tokens in asked:
        if name in together.done:
            alone = Place(1)
            alone.add(name, adapter, prompt, tokens)
            alone.run()
            assert together.said[name] == alone.said[name]


def test_turns_go_by_weight() -> None:
    place = Place(slots=1)
    for i in range(400):
        for name, weight in (("a", 3.0), ("b", 1.0)):
            place.add(f"{name}{i}", name, [i % 50] * 4, 60, weight=weight)
    for _ in range(700):
        place.step()
    had = {name: sum(len(said) for id_, said in place.said.items() if id_[0] == name) for name in "ab"}
    assert min(had.values()) > 1_000
    assert 2.4 < had["a"] / had["b"] < 3.6


def test_one_that_floods_does_not_keep_another_out() -> None:
    place = Place(slots=1)
    for i in range(200):
        place.add(f"a{i}", "a", [i % 50] * 4, 40)
    for _ in range(20):
        place.step()
    place.add("b", "b", [1], 5)
    begun = place.steps
    while "b" not in place.done:
        place.step()
        assert place.steps - begun < 400, "b still waits"
    assert len(place.done) < 150, "b waited for the flood"
    place.run()


def test_turns_are_fair_by_tokens() -> None:
    place = Place(slots=2, seqs=8)
    had = dict.fromkeys("abcd", 0)
    names = {}
    for i in range(1600):
        key = "abcd"[i % 4]
        names[f"r{i}"] = key
        place.add(f"r{i}", key, [i % 50, 3], 30 if key != "a" else 60)
    while min(had.values()) < 4000:
        for piece in place.step().slices:
            had[names[piece.seq.request]] += len(piece.tokens)
        assert place.steps < 20_000
    assert max(had.values()) - min(had.values()) <= 2 * (lanes.QUANTUM + lanes.PATIENCE * 8)


def test_a_long_one_that_must_yield_is_preempted_and_ends_the_same() -> None:
    place = Place(slots=1)
    place.add("long", "a", [1, 2, 3], 500)
    place.step()
    for i in range(3):
        place.add(f"b{i}", "b", [9], 3)
    place.run()
    alone = Place(slots=1)
    alone.add("long", "a", [1, 2, 3], 500)
    alone.run()
    assert place.said["long"] == alone.said["long"]


def test_the_base_and_active_adapters_pass_one_that_waits_for_a_slot() -> None:
    place = Place(slots=1)
    place.add("a0", "a", [1], 100)
    place.step()
    place.add("b0", "b", [1], 5)
    place.add("base", None, [1], 5)
    place.add("a1", "a", [2], 5)
    for _ in range(8):
        place.step()
    assert {"base", "a1"} <= set(place.done)
    assert "b0" not in place.said
    place.run()


def test_priority_goes_before_turns() -> None:
    place = Place(slots=1)
    place.add("late", "b", [1], 3, priority=1)
    place.add("first", "a", [1], 3, priority=0)
    plan = place.step()
    assert [s.seq.request for s in plan.slices] == ["first"]


def test_pages_are_not_shared_between_adapters() -> None:
    place = Place(slots=4)
    text = list(range(40))
    for name, adapter in (("base", None), ("a", "a"), ("b", "b")):
        place.add(name, adapter, text, 2)
        place.run()
    assert place.state.prefix_hits == 0
    place.add("again", "a", text, 2)
    place.run()
    assert place.state.prefix_hits > 0
