"""Steps for which memory is short: they are cut, nobody's tokens change, and only what does not fit alone ends."""

from __future__ import annotations

import random
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engine import again, scheduler
from quire.engine import messages as m
from quire.engine.plan import Outcome, Plan, StepResult
from quire.engine.state import REGAIN, Limits, State

VOCAB = 50


def next_token(tokens: list[int], seed: int) -> int:
    return random.Random(str((tokens, seed))).randrange(VOCAB)


class Device:
    """Has memory for steps of so many tokens, perhaps fewer at times; keeps pages, and reads the text from them."""

    def __init__(self, state: State, room: int, *, moods: random.Random | None = None):
        self.state, self.room, self.moods = state, room, moods
        self.pages: dict[int, int] = {}
        self.steps: list[int] = []
        self.short = 0
        self.answers: dict[str, list[int]] = {}
        self.failed: dict[str, str] = {}

    def execute(self, plan: Plan) -> StepResult:
        room = self.room if self.moods is None or self.moods.random() < 0.8 else max(1, self.room // 4)
        if plan.num_tokens > room:
            self.short += 1
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {plan.num_tokens} MiB.\nAnd so on.")
        self.steps.append(plan.num_tokens)
        outcomes = []
        for piece in plan.slices:
            seq, size = piece.seq, self.state.limits.block_size
            slot = lambda p, blocks=seq.blocks, n=size: blocks[p // n] * n + p % n  # noqa: E731
            for i, token in enumerate(piece.tokens):
                self.pages[slot(piece.start + i)] = token
            text = [self.pages[slot(p)] for p in range(piece.end)]
            assert text == seq.tokens[: piece.end], "a page holds another text"
            outcomes.append(Outcome([next_token(text, seq.seed)]) if piece.sample else Outcome())
        return StepResult(outcomes)

    def step(self) -> None:
        plan = scheduler.schedule(self.state)
        assert plan.slices, "there is work and nothing runs"
        try:
            result = self.execute(plan)
        except torch.OutOfMemoryError as error:
            result = again.run(self.execute, self.state, plan, error)
        for news in scheduler.commit(self.state, plan, result):
            if isinstance(news, m.Failed):
                self.failed[news.id] = news.message
            else:
                self.answers.setdefault(f"{news.id}/{news.index}", []).extend(news.tokens)
        self.state.check()

    def drain(self) -> None:
        for _ in range(5000):
            if not self.state.has_work():
                break
            self.step()
        assert not self.state.requests
        assert len(self.state.pool.free) == self.state.pool.size


def device(room: int, *, pages: int = 200, budget: int = 64, **more) -> Device:
    return Device(State(Limits(512, 16, budget, 999), pages), room, **more)


def ask(place: Device, count: int, seed: int = 0) -> dict[str, list[int]]:
    """Ask, and say what must come."""
    rng, wanted = random.Random(seed), {}
    stems = [[rng.randrange(VOCAB) for _ in range(n)] for n in (3, 40, 90)]
    for i in range(count):
        prompt = rng.choice(stems) + [rng.randrange(VOCAB) for _ in range(rng.randrange(1, 20))]
        params = m.SamplingParams(max_tokens=rng.choice((1, 5, 30)), seed=rng.randrange(9))
        request = m.Generate(id=str(i), prompt=prompt, params=params, n=rng.choice((1, 1, 2)))
        scheduler.add(place.state, request)
        for index in range(request.n):
            text = list(prompt)
            for _ in range(params.max_tokens):
                text.append(next_token(text, (params.seed + index) % 2**64))
            wanted[f"{i}/{index}"] = text[len(prompt) :]
    return wanted


@given(
    seed=st.integers(0, 99),
    room=st.integers(1, 64),
    pages=st.sampled_from([14, 40, 200]),
    moods=st.booleans(),
    count=st.integers(1, 12),
)
@settings(max_examples=40, deadline=None)
def test_everybody_gets_the_same_tokens_however_little_fits(seed, room, pages, moods, count):
    place = device(room, pages=pages, moods=random.Random(seed) if moods else None)
    wanted = ask(place, count, seed)
    place.drain()
    assert place.answers == wanted
    assert not place.failed


def test_a_crowd_too_large_goes_on_in_parts_and_the_oldest_never_stop():
    place = device(5)
    for i in range(12):
        params = m.SamplingParams(max_tokens=40, seed=i)
        scheduler.add(place.state, m.Generate(id=str(i), prompt=[1, 2], params=params))
    place.step()
    assert place.short == 3, "24 tokens, 12 and 6"
    assert place.steps == [2]
    assert place.state.budget == 3
    place.drain()
    assert max(place.steps) <= 5
    assert place.short < 9, "once the budget is found it is kept, but for a try now and then"
    assert {len(answer) for answer in place.answers.values()} == {40}


def test_the_senior_keep_their_pages_and_the_youngest_come_back():
    place = device(64)
    for i in range(8):
        params = m.SamplingParams(max_tokens=40, seed=i)
        scheduler.add(place.state, m.Generate(id=str(i), prompt=[i] * 3, params=params))
    place.step()
    place.room = 4
    place.step()
    assert [seq.request for seq in place.state.running] == ["0", "1", "2", "3"]
    assert place.state.preemptions == 4
    assert place.steps[-1] == 4
    assert place.state.gauges()["waiting"] == 4


def test_larger_steps_come_back_when_memory_does():
    place = device(8)
    params = m.SamplingParams(max_tokens=400, seed=0)
    scheduler.add(place.state, m.Generate(id="a", prompt=[1] * 60, params=params))
    place.step()
    while place.state.budget > 8:
        place.step()
    least = place.state.budget
    place.room = 999
    for _ in range(REGAIN + 1):
        place.step()
    assert place.state.budget == 2 * least
    scheduler.abort(place.state, "a")
    for n in range(20):
        scheduler.add(place.state, m.Generate(id=str(n), prompt=[n] * 9, params=params))
        for _ in range(REGAIN):
            place.step()
        scheduler.abort(place.state, str(n))
    assert place.state.budget == place.state.limits.max_num_batched_tokens


def test_a_token_that_does_not_fit_alone_ends_its_request_and_no_other():
    place = device(64)

    def execute(plan: Plan) -> StepResult:
        if any(piece.seq.request == "huge" for piece in plan.slices):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 TiB.\nAnd so on.")
        return Device.execute(place, plan)

    place.execute = execute
    wanted = ask(place, 4)
    params = m.SamplingParams(max_tokens=5, seed=0)
    scheduler.add(place.state, m.Generate(id="huge", prompt=[1] * 40, params=params))
    place.drain()
    assert place.answers == wanted
    assert set(place.failed) == {"huge"}
    text = "the engine failed on this request: OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 TiB."
    assert place.failed["huge"] == text


def test_what_a_step_had_computed_when_memory_ran_out_is_let_go_before_it_runs_again():
    """An error keeps the frames that it came through, and they what they had in hand."""
    place = device(64)
    held: list[weakref.ref[torch.Tensor]] = []
    let_go: list[bool] = []

    def layers(plan: Plan) -> None:
        rows = torch.zeros(plan.num_tokens)
        held.append(weakref.ref(rows))
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")

    def execute(plan: Plan) -> StepResult:
        let_go.append(all(one() is None for one in held))
        if plan.num_tokens > 5:
            layers(plan)
        return Device.execute(place, plan)

    place.execute = execute
    for i in range(12):
        params = m.SamplingParams(max_tokens=4, seed=i)
        scheduler.add(place.state, m.Generate(id=str(i), prompt=[1, 2], params=params))
    place.step()
    assert len(held) == 3, "24 tokens, 12 and 6"
    assert let_go == [True] * 4


def test_a_lost_device_is_no_matter_of_single_requests():
    place = device(64)
    for i in range(3):
        params = m.SamplingParams(max_tokens=5, seed=0)
        scheduler.add(place.state, m.Generate(id=str(i), prompt=[1, 2], params=params))
    plan = scheduler.schedule(place.state)
    runs: list[Plan] = []

    def execute(plan: Plan) -> StepResult:
        runs.append(plan)
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(torch.AcceleratorError):
        again.run(execute, place.state, plan, torch.AcceleratorError("CUDA error: unspecified launch failure"))
    assert not runs, "nothing was tried again"
    for first in (RuntimeError("no such luck"), torch.OutOfMemoryError("CUDA out of memory.")):
        with pytest.raises(torch.AcceleratorError):
            again.run(execute, place.state, plan, first)
        assert len(runs) == 1, "and nothing after it was seen"
        runs.clear()
