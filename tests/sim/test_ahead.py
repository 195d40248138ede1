"""Steps that overlap, without a model: a pretended device that is late, and answers that are those of no overlap."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from late_device import crowd, expected, serve

from quire.engine import ahead, scheduler
from quire.engine import messages as m
from quire.engine.config import Speculation
from quire.engine.lanes import PATIENCE, QUANTUM
from quire.engine.plan import Outcome, Plan, Slice, StepResult
from quire.engine.sequence import Sequence
from quire.engine.spec.speculator import QUIET, Speculator
from quire.engine.state import Limits, State

ROOMS = {
    "roomy": {},
    "no cache": {"cache": False},
    "tiny chunks": {"budget": 16},
    "tiny pool": {"pages": 14},
    "tiny pool, no cache": {"pages": 14, "cache": False},
    "one at a time": {"seqs": 1},
    "many at once": {"seqs": 64, "budget": 512},
    "bad luck": {"luck": 0.1},
    "bad luck in a tiny pool": {"luck": 0.1, "pages": 20},
    "drafts now and then": {"drafting": True},
    "drafts and bad luck in a tiny pool": {"drafting": True, "pages": 20, "luck": 0.1},
}


@pytest.mark.parametrize("room", ROOMS)
def test_streams_and_ends_are_those_without_overlap(room):
    requests = crowd(len(room), 60)
    place, traffic, engine = serve(requests, 1, **ROOMS[room])
    want = {(r.id, i): expected(r, i) for r in requests for i in range(r.n)}
    assert traffic.streams == {key: tokens for key, (tokens, _) in want.items()}
    assert traffic.finished == {key: finish for key, (_, finish) in want.items()}
    assert place.overlapped > 20
    if room == "roomy":
        assert place.overlapped > 0.9 * place.launched
        assert not place.executed
        assert engine.state.prefix_hits > 0
        assert place.wasted > 0, "nobody ended by a stop token"
    if "tiny pool" in room:
        assert engine.state.preemptions > 0


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6), pages=st.integers(14, 60), budget=st.integers(16, 90), seqs=st.integers(1, 12),
    cache=st.booleans(), drafting=st.booleans(), luck=st.sampled_from((0.0, 0.0, 0.2)),
    grounded=st.sampled_from((0.0, 0.0, 0.1, 1.0)), bad=st.integers(0, 3),
)  # fmt: skip
def test_any_traffic_gives_the_answers_of_no_overlap(seed, pages, budget, seqs, cache, drafting, luck, grounded, bad):
    requests = crowd(seed, 25, grounded)
    poisoned = frozenset(f"r{i}" for i in random.Random(seed).sample(range(25), bad))
    place, traffic, _ = serve(
        requests, seed, pages=pages, budget=budget, seqs=seqs, cache=cache, drafting=drafting, luck=luck,
        aborting=0.05, poisoned=poisoned,
    )  # fmt: skip
    if grounded == 1.0:
        assert not place.launched
    for request in requests:
        gone = request.id in traffic.aborted or request.id in traffic.failed
        # A poisoned one fails with its first token, if one is sampled.
        assert (request.id in traffic.failed) <= (request.id in poisoned)
        if request.id in poisoned and request.params.max_tokens and request.id not in traffic.aborted:
            assert traffic.failed[request.id] == "poisoned"
        for i in range(request.n):
            tokens, finish = expected(request, i)
            got = traffic.streams.get((request.id, i), [])
            assert got == (tokens[: len(got)] if gone else tokens)
            if not gone:
                assert traffic.finished[request.id, i] == finish


def test_who_fails_in_flight_ends_alone():
    requests = [m.Generate(id=name, prompt=[1, 2, 3], params=m.SamplingParams(max_tokens=9, seed=3)) for name in "abc"]
    place, traffic, _ = serve(requests, 0, poisoned=frozenset("b"))
    assert traffic.failed == {"b": "poisoned"}
    assert {name for name, _ in traffic.finished} == {"a", "c"}
    assert not place.executed


def test_the_device_hears_of_everyone_who_left():
    requests = crowd(5, 40)
    # What left with the last step is told with the next one, as ever; so there is one more.
    requests.append(m.Generate(id="last", prompt=[1], params=m.SamplingParams(max_tokens=1, seed=0)))
    place, _, engine = serve(requests, 5, luck=0.1, aborting=0.05)
    left = {seq for r in requests for seq in (f"{r.id}/{i}" for i in range(r.n))}
    assert set(place.told) | set(engine.state.left) == left


def sequence(**params) -> Sequence:
    return Sequence("r", 0, [1, 2, 3], m.SamplingParams(**{"max_tokens": 9, "seed": 0, **params}))


@pytest.mark.parametrize(
    ("params", "plain"),
    [
        ({}, True), ({"temperature": 0.0}, True), ({"top_k": 5, "top_p": 0.5, "min_p": 0.1, "temperature": 2.0}, True),
        ({"logit_bias": {1: 2.0}, "allowed_token_ids": (1, 2), "stop_token_ids": (1,)}, True),
        ({"logprobs": 0}, False), ({"prompt_logprobs": 0}, False), ({"mirostat": 2}, False),
        ({"frequency_penalty": 0.1}, False), ({"presence_penalty": 0.1}, False), ({"repetition_penalty": 1.1}, False),
        ({"dry_multiplier": 1.0}, False), ({"bad_words": ((1,),)}, False), ({"min_tokens": 3}, False),
        ({"typical_p": 0.5}, False), ({"top_n_sigma": 1.0}, False), ({"xtc_probability": 0.5}, False),
    ],
)  # fmt: skip
def test_which_options_let_a_step_fly(params, plain):
    free, seq = sequence(), sequence(**params)
    assert ahead.flies(Plan([Slice(free, 0, [1])]))
    for _ in range(2):  # the answer is kept
        assert ahead.flies(Plan([Slice(free, 0, [1]), Slice(seq, 0, [1])])) == plain


def test_every_option_either_flies_or_is_known_not_to():
    """One that is added must be thought of: whether it looks at the last token."""
    flying = {
        "max_tokens", "seed", "stop_token_ids", "temperature", "top_k", "top_p", "min_p", "logit_bias",
        "allowed_token_ids", "num_speculative_tokens",
    }  # fmt: skip
    of_others = {  # fields that do nothing without one that is grounded, or without a guide
        "xtc_threshold", "dry_base", "dry_allowed_length", "dry_penalty_last_n", "dry_sequence_breakers",
        "mirostat_tau", "mirostat_eta", "grammar", "grammar_after", "thought",
    }  # fmt: skip
    assert {*flying, *of_others, *ahead.GROUNDED} == set(m.SamplingParams.__struct_fields__)


def test_drafts_guides_and_predictions_stay_on_the_ground():
    free = sequence()
    assert not ahead.flies(Plan([]))
    assert not ahead.flies(Plan([Slice(free, 2, [3, 4], 1)]))
    guided, guessed = sequence(), sequence()
    guided.guide, guessed.prediction = object(), (1, 2)
    assert not ahead.flies(Plan([Slice(guided, 0, [1])]))
    assert not ahead.flies(Plan([Slice(guessed, 0, [1])]))


def flown(pages: int = 40) -> State:
    """Two sequences, the prompt of one computed, in a step that flies."""
    state = State(Limits(512, 8, 64, 99), pages)
    for name, length in (("a", 16), ("b", 90)):
        params = m.SamplingParams(max_tokens=20, seed=0)
        scheduler.add(state, m.Generate(id=name, prompt=[1] * length, params=params))
    plan = scheduler.schedule(state)
    assert [(s.seq.request, len(s.tokens), s.sample) for s in plan.slices] == [("a", 16, True), ("b", 48, False)]
    ahead.foresee(plan)
    return state


def test_the_next_step_goes_on_from_what_is_foreseen():
    state = flown()
    state.check()
    plan = ahead.schedule(state)
    assert [(s.seq.request, s.start, s.tokens, s.sample) for s in plan.slices] == [
        ("a", 16, [-1], True), ("b", 48, [1] * 42, True),
    ]  # fmt: skip


def test_where_pages_might_have_to_change_hands_the_state_stays_as_it_is():
    state = flown(pages=9)
    held = [state.pool.take(), state.pool.take()]  # one more than can be spared
    free, blocks = list(state.pool.free), [list(seq.blocks) for seq in state.running]
    assert ahead.schedule(state).slices == []
    assert (list(state.pool.free), [seq.blocks for seq in state.running]) == (free, blocks)
    state.pool.release(held[:1])
    assert len(ahead.schedule(state).slices) == 2


def test_what_is_foreseen_is_taken_back_whole():
    state = State(Limits(512, 8, 64, 99), 40)
    scheduler.add(state, m.Generate(id="a", prompt=[1] * 10, params=m.SamplingParams(max_tokens=2, seed=0)))
    for known, foreseen in (([], [-1]), ([5], [5])):  # the last token is not waited for: nothing comes behind it
        plan = scheduler.schedule(state)
        (seq,) = state.running
        before = seq.computed
        assert seq.tokens == [1] * 10 + known
        ahead.foresee(plan)
        assert seq.tokens == [1] * 10 + foreseen
        assert seq.computed == plan.slices[0].end
        ahead.settle(plan)
        assert (seq.computed, seq.tokens) == (before, [1] * 10 + known)
        scheduler.commit(state, plan, StepResult([Outcome([5])]))
    assert not state.running
    assert ahead.schedule(state).slices == []


def test_an_abort_leaves_no_token_that_nobody_knows():
    state = flown()
    seq = state.running[0]
    assert seq.tokens[-1] == -1
    scheduler.abort(state, "a")
    assert seq.tokens == [1] * 16
    state.check()


@dataclass(frozen=True)
class Named:
    """What the scheduler knows of an adapter."""

    key: str


def test_an_adapter_that_must_yield_is_not_preempted_in_flight():
    """Turns between adapters take pages away: at such a time the step lands first."""
    state = State(Limits(512, 8, 64, 99, max_loras=1), 99)
    for name, tokens in (("a", 500), ("b", 2)):
        params = m.SamplingParams(max_tokens=tokens, seed=0)
        scheduler.add(state, m.Generate(id=name, prompt=[1], params=params), (), Named(name))  # type: ignore[arg-type]
    last, landed = scheduler.schedule(state), 0
    state.lanes.served["a"] += QUANTUM
    ahead.foresee(last)
    for _ in range(PATIENCE + 3):
        plan = ahead.schedule(state)
        ahead.settle(last)
        scheduler.commit(state, last, StepResult([Outcome([9]) for _ in last.slices]))
        if not plan.slices:
            landed += 1
            plan = scheduler.schedule(state)
        last = plan
        ahead.foresee(last)
        state.check()
        if state.preemptions:
            break
    assert landed == 1
    assert [seq.request for seq in last.preempted] == ["a"]


def test_a_speculator_lets_steps_go_by_only_while_nobody_has_a_draft():
    off, on = Speculator(Speculation(method="none")), Speculator(Speculation())
    assert off.rests
    assert not on.rests
    runs = []
    for _ in range(6):
        on.look_back([Outcome([1]), Outcome()])
        runs.append(0)
        while on.rests:
            on.passed()
            runs[-1] += 1
    assert runs == [2, 4, 8, 8, 8, 8]
    assert QUIET == 8
    on.look_back([Outcome([1]), Outcome([1], drafts=[3])])
    assert not on.rests
    on.look_back([Outcome([1])])
    assert on.rests
    on.maker = object()  # must see each step
    on.look_back([Outcome([1])])
    assert not on.rests
