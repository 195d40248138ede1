"""The scheduler without a model: a next token that is a pure function of the text makes streams comparable."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass, field
from hashlib import blake2b

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engine import messages as m
from quire.engine import scheduler
from quire.engine.errors import ContextLengthExceeded, Overloaded, RequestError
from quire.engine.plan import Outcome, Plan, StepResult
from quire.engine.state import Limits, State

VOCAB = 50
STOP = 7


def next_token(tokens: list[int], seed: int) -> int:
    """What the "model" says after `tokens`."""
    digest = blake2b(bytes(tokens) + seed.to_bytes(8, "little"), digest_size=4).digest()
    return int.from_bytes(digest, "little") % VOCAB


@dataclass
class World:
    """A State, a pretended model that really keeps its pages, and what every request was sent."""

    state: State
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    drafting: bool = False
    forcing: bool = False  # several tokens at once follow the sampled one, as a grammar has it
    waiting: bool = False  # some sit a step out, as who has no mask yet
    pages: dict[int, int] = field(default_factory=dict)  # slot -> the token whose key is there
    streams: dict[tuple[str, int], list[int]] = field(default_factory=dict)
    finished: dict[tuple[str, int], str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    cached: dict[tuple[str, int], int] = field(default_factory=dict)
    plans: list[Plan] = field(default_factory=list)
    poisoned: str = ""
    steps: int = 0

    def execute(self, plan: Plan) -> StepResult:
        """Write each slice to its pages, read the whole context back from pages, and answer from what was read."""
        outcomes = []
        for piece in plan.slices:
            seq, size = piece.seq, self.state.limits.block_size
            slot = lambda p, blocks=seq.blocks, n=size: blocks[p // n] * n + p % n  # noqa: E731
            for i, token in enumerate(piece.tokens):
                self.pages[slot(piece.start + i)] = token
            context = [self.pages[slot(p)] for p in range(piece.end)]
            accepted_len = piece.end - piece.drafts
            assert context[:accepted_len] == seq.tokens[:accepted_len], "a page holds another text"
            if seq.request == self.poisoned:
                outcomes.append(Outcome(error="poisoned"))
                continue
            assert len(piece.tokens) > piece.drafts, "no row of its own to sample from"
            if not piece.sample or (self.waiting and self.rng.random() < 0.3):
                outcomes.append(Outcome())
                continue
            tokens, read = [], context[:accepted_len]
            for draft in [*context[accepted_len:], None]:
                tokens.append(next_token(read, seq.seed))
                if tokens[-1] != draft:
                    break
                read = [*read, draft]
            forced: list[int] = []
            for _ in range(self.rng.choice((0, 0, 1, 5, 12)) if self.forcing else 0):
                forced.append(next_token(seq.tokens + tokens + forced, seq.seed))
            drafts = self.propose(seq.tokens + tokens + forced, seq.seed)
            outcomes.append(Outcome(tokens=tokens, forced=forced, drafts=drafts))
        return StepResult(outcomes)

    def propose(self, tokens: list[int], seed: int) -> list[int]:
        """Guesses, right and wrong."""
        guesses: list[int] = []
        for _ in range(self.rng.randrange(5) if self.drafting else 0):
            right = next_token(tokens + guesses, seed)
            guesses.append(right if self.rng.random() < 0.7 else (right + 1) % VOCAB)
        return guesses

    def step(self) -> None:
        plan = scheduler.schedule(self.state)
        assert plan.num_tokens <= self.state.limits.max_num_batched_tokens
        assert plan.slices or not self.state.has_work(), "there is work and nothing runs"
        self.plans.append(plan)
        for message in scheduler.commit(self.state, plan, self.execute(plan)):
            if isinstance(message, m.Failed):
                self.failed[message.id] = message.message
                continue
            key = (message.id, message.index)
            assert key not in self.finished, "news after the end"
            assert (message.cached_tokens is not None) == (key not in self.streams), "cached_tokens comes first, once"
            self.streams.setdefault(key, []).extend(message.tokens)
            if message.cached_tokens is not None:
                self.cached[key] = message.cached_tokens
            if message.finish:
                self.finished[key] = message.finish
        self.state.check()
        self.steps += 1

    def drain(self, limit: int = 20000) -> None:
        while self.state.has_work():
            self.step()
            assert self.steps < limit, "it never ends"
        assert not self.state.requests
        assert len(self.state.pool.free) == self.state.pool.size


def world(
    pages: int = 400, *, seqs: int = 8, budget: int = 64, cache: bool = True, chunk: int = 1 << 31, **more
) -> World:
    limits = Limits(
        max_model_len=512, max_num_seqs=seqs, max_num_batched_tokens=budget, max_waiting=9000, prompt_chunk=chunk
    )
    return World(State(limits, pages, cache), **more)


def generate(name: str, prompt: list[int], max_tokens: int = 20, *, stop: bool = False, **more) -> m.Generate:
    params = m.SamplingParams(max_tokens=max_tokens, seed=more.pop("seed", 0), stop_token_ids=(STOP,) if stop else ())
    return m.Generate(id=name, prompt=prompt, params=params, **more)


def crowd(seed: int, count: int = 60) -> list[m.Generate]:
    """Requests with shared beginnings, several lengths, siblings, priorities and salts."""
    rng = random.Random(seed)
    stems = [[rng.randrange(VOCAB) for _ in range(rng.choice((5, 16, 40, 100)))] for _ in range(4)]
    return [
        generate(
            f"r{i}",
            rng.choice(stems) + [rng.randrange(VOCAB) for _ in range(rng.randrange(1, 40))],
            rng.choice((1, 3, 20, 60)),
            stop=rng.random() < 0.5,
            seed=rng.randrange(1000),
            n=rng.choice((1, 1, 1, 2, 4)),
            priority=rng.choice((0, 0, 0, 1, -1)),
            cache_salt=rng.choice(("", "", "mine")),
        )
        for i in range(count)
    ]


def expected(request: m.Generate, index: int) -> list[int]:
    tokens = list(request.prompt)
    for _ in range(request.params.max_tokens):
        tokens.append(next_token(tokens, (request.params.seed + index) % 2**64))
        if tokens[-1] in request.params.stop_token_ids:
            break
    return tokens[len(request.prompt) :]


def run(place: World, requests: list[m.Generate], arrivals: random.Random) -> World:
    """Let them arrive at random while others run."""
    left = list(requests)
    while left or place.state.has_work():
        for _ in range(arrivals.randrange(4)):
            if left:
                scheduler.add(place.state, left.pop(0))
        if place.state.has_work():
            place.step()
    place.drain()
    return place


ROOMS = {
    "roomy": {},
    "no cache": {"cache": False},
    "tiny chunks": {"budget": 16},
    "tiny chunks beside streams": {"chunk": 3},
    "tiny pool": {"pages": 14},
    "tiny pool, no cache": {"pages": 14, "cache": False},
    "drafts": {"drafting": True},
    "drafts in a tiny pool": {"drafting": True, "pages": 14},
    "drafts in tiny chunks": {"drafting": True, "budget": 16},
    "forced": {"forcing": True},
    "forced in a tiny pool": {"forcing": True, "pages": 14},
    "forced in tiny chunks": {"forcing": True, "budget": 16},
    "forced, with drafts": {"forcing": True, "drafting": True, "pages": 20, "budget": 32},
    "waiting": {"waiting": True},
    "all that, and tiny chunks beside streams": {"drafting": True, "forcing": True, "pages": 20, "chunk": 3},
    "waiting, with all else": {"waiting": True, "forcing": True, "drafting": True, "pages": 20, "budget": 32},
    "many at once": {"seqs": 64, "budget": 512},
}


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.parametrize("seed", range(3))
def test_streams_are_the_same_in_every_room(room, seed):
    requests = crowd(seed)
    place = run(world(**ROOMS[room]), requests, random.Random(seed))
    want = {(r.id, i): expected(r, i) for r in requests for i in range(r.n)}
    assert place.streams == want
    assert set(place.finished) == set(want)
    if "pool" in room:
        assert place.state.preemptions > 0
    if room == "roomy":
        assert place.state.prefix_hits > 0
    if room == "no cache":
        assert place.state.prefix_hits == 0


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6), pages=st.integers(14, 60), budget=st.integers(16, 90), seqs=st.integers(1, 12),
    drafting=st.booleans(), forcing=st.booleans(), waiting=st.booleans(), cache=st.booleans(),
)  # fmt: skip
def test_any_room_and_any_aborts_keep_the_invariants_and_the_streams(
    seed, pages, budget, seqs, drafting, forcing, waiting, cache
):
    rng = random.Random(seed)
    requests = crowd(seed, 25)
    modes = {"drafting": drafting, "forcing": forcing, "waiting": waiting, "cache": cache}
    place = world(pages, seqs=seqs, budget=budget, rng=random.Random(seed), **modes)
    aborted = set()
    left = list(requests)
    while left or place.state.has_work():
        if left and rng.random() < 0.5:
            scheduler.add(place.state, left.pop(0))
        if place.state.requests and rng.random() < 0.05:
            victim = rng.choice(list(place.state.requests))
            scheduler.abort(place.state, victim)
            aborted.add(victim)
            place.state.check()
            assert victim not in place.state.requests
        if place.state.has_work():
            place.step()
    for request in requests:
        for i in range(request.n):
            got = place.streams.get((request.id, i), [])
            whole = expected(request, i)
            assert got == (whole[: len(got)] if request.id in aborted else whole)


def test_thousands_of_steps_in_a_small_pool():
    place = run(world(40, seqs=16, budget=48, drafting=True, forcing=True), crowd(99, 1500), random.Random(5))
    assert place.steps > 2000
    assert len(place.finished) == sum(r.n for r in crowd(99, 1500))


def test_a_long_prompt_never_makes_a_stream_wait():
    place = world(budget=32)
    scheduler.add(place.state, generate("stream", [1, 2, 3], 60))
    place.step()
    scheduler.add(place.state, generate("long", [4] * 400, 5))
    for _ in range(10):
        before = len(place.streams["stream", 0])
        place.step()
        assert len(place.streams["stream", 0]) == before + 1
    assert ("long", 0) not in place.streams


def test_beside_streams_a_prompt_comes_in_by_small_chunks_and_by_large_ones_alone():
    place = world(budget=64, chunk=8)
    scheduler.add(place.state, generate("alone", [4] * 100, 1))
    place.step()
    assert place.plans[-1].num_tokens == 64
    place.step()
    for n in range(7):
        scheduler.add(place.state, generate(f"stream {n}", [n], 60))
    place.step()
    scheduler.add(place.state, generate("long", [4] * 300, 5))
    place.step()
    assert place.plans[-1].num_tokens == 7 + 8
    place.state.limits = dataclasses.replace(place.state.limits, prompt_chunk=2)
    place.step()
    assert place.plans[-1].num_tokens == 7 + 7, "as many tokens as there are streams, at least"


def test_the_more_context_a_prompt_has_the_less_of_it_comes_in_beside_streams():
    place = world(budget=64, chunk=8)
    place.state.limits = dataclasses.replace(place.state.limits, reach=100)
    for name, prompt, answer in (("stream", [1], 90), ("long", [4] * 300, 5), ("late", [5] * 30, 5)):
        scheduler.add(place.state, generate(name, prompt, answer))
        place.step()
    taken = [8, 8]
    while sum(taken) < 300:
        place.step()
        sizes = {s.seq.request: len(s.tokens) for s in place.plans[-1].slices}
        taken.append(sizes["long"])
        assert sizes["long"] == min(300 - sum(taken[:-1]), -(-8 * 100 // (100 + sum(taken[:-1]))))
    assert taken[-2] == 3
    cost = taken[-1] + taken[-1] * (300 - taken[-1]) // 100
    assert sizes.get("late", 0) == max(0, 8 - cost), "what is left of a step goes by the context too"


def test_first_come_first_served_within_a_priority():
    place = world(seqs=1)
    for name, priority in (("a", 0), ("b", 1), ("c", 0), ("urgent", -1)):
        scheduler.add(place.state, generate(name, [1, 2], 3, priority=priority))
    place.drain()
    assert [name for name, _ in place.finished] == ["urgent", "a", "c", "b"]


def test_a_request_that_does_not_fit_yet_is_not_overtaken_for_ever():
    place = world(14, seqs=8)
    for i in range(3):
        scheduler.add(place.state, generate(f"small{i}", [i] * 20, 30))
    place.step()
    scheduler.add(place.state, generate("large", [9] * 180, 10))
    for i in range(40):
        scheduler.add(place.state, generate(f"late{i}", [i] * 20, 30))
    place.drain()
    order = [name for name, _ in place.finished]
    assert order.index("large") < order.index("late5")


def test_siblings_share_the_pages_of_the_prompt():
    place = world()
    scheduler.add(place.state, generate("r", list(range(48)), 30, n=4))
    place.step()
    place.step()
    first = place.state.running[0].blocks[:2]
    assert all(s.blocks[:2] == first for s in place.state.running)
    assert len(place.state.running) == 4
    used = place.state.pool.size - len(place.state.pool.free)
    assert used <= 3 + 4 * 2
    place.drain()


def test_cached_tokens_are_exact():
    place = world()
    prompt = list(range(50))
    for name, want in (("cold", 0), ("warm", 48), ("salted", 0), ("half", 32)):
        text = prompt if name != "half" else prompt[:32] + [49] * 10
        scheduler.add(place.state, generate(name, text, 2, cache_salt="x" if name == "salted" else ""))
        place.drain()
        assert place.cached[name, 0] == want
    whole_pages = list(range(48))  # its last token must be computed for its logits, so its last page is
    scheduler.add(place.state, generate("pages", whole_pages, 2))
    place.drain()
    assert place.cached["pages", 0] == 32


def test_the_least_recently_used_pages_go_first():
    place = world(16, seqs=1)
    old, new = [1] * 64, [2] * 64
    for name, prompt in (("old", old), ("new", new), ("old again", old), ("large", [3] * 180)):
        scheduler.add(place.state, generate(name, prompt, 2))
        place.drain()
    scheduler.add(place.state, generate("probe", old, 2))
    place.drain()
    assert place.cached["probe", 0] == 48
    scheduler.add(place.state, generate("probe new", new, 2))
    place.drain()
    assert place.cached["probe new", 0] < 48


def test_a_failing_sequence_ends_alone():
    place = world(poisoned="bad")
    for name in ("good", "bad", "fine"):
        scheduler.add(place.state, generate(name, [1, 2, 3], 10, n=2))
    place.drain()
    assert place.failed == {"bad": "poisoned"}
    assert {name for name, _ in place.finished} == {"good", "fine"}


def test_an_abort_frees_everything_at_once():
    place = world()
    scheduler.add(place.state, generate("r", list(range(40)), 50, n=3))
    for _ in range(4):
        place.step()
    assert len(place.state.pool.free) < place.state.pool.size
    scheduler.abort(place.state, "r")
    scheduler.abort(place.state, "r")
    assert len(place.state.pool.free) == place.state.pool.size
    assert set(scheduler.schedule(place.state).freed) == {"r/0", "r/1", "r/2"}


@pytest.mark.parametrize("length", [1, 16, 33, 40])  # of 33 the last token comes alone
def test_no_new_tokens_wanted(length):
    place = world(budget=16)
    scheduler.add(place.state, generate("r", list(range(length)), 0))
    place.drain()
    assert place.streams == {("r", 0): []}
    assert place.finished == {("r", 0): "length"}
    assert not any(piece.sample for plan in place.plans for piece in plan.slices)


def test_what_can_never_run_is_refused_before_it_queues():
    place = world(4)
    with pytest.raises(ContextLengthExceeded, match="512"):
        scheduler.add(place.state, generate("long", [1] * 500, 20))
    with pytest.raises(ContextLengthExceeded, match="64"):
        scheduler.add(place.state, generate("pool", [1] * 60, 20))
    with pytest.raises(RequestError, match="no tokens"):
        scheduler.add(place.state, generate("empty", [], 20))
    scheduler.add(place.state, generate("r", [1], 20))
    with pytest.raises(RequestError, match="in use"):
        scheduler.add(place.state, generate("r", [1], 20))
    with pytest.raises(Overloaded):
        scheduler.add(place.state, generate("many", [1], 20, n=9001))
    assert place.state.num_waiting() == 1


def test_pages_are_not_wasted():
    """Under 4 % of the slots of held pages are empty, on lengths as people send them."""
    rng = random.Random(1)
    limits = Limits(max_model_len=4096, max_num_seqs=64, max_num_batched_tokens=1024, max_waiting=1000)
    place = World(State(limits, 4000))
    for i in range(100):
        prompt = [rng.randrange(VOCAB) for _ in range(int(rng.lognormvariate(6, 0.8)) % 2000 + 10)]
        scheduler.add(place.state, generate(f"r{i}", prompt, int(rng.lognormvariate(4, 0.8)) % 500 + 1))
    held = used = 0
    while place.state.has_work():
        plan = scheduler.schedule(place.state)
        outcomes = [Outcome(tokens=[1] if piece.sample else []) for piece in plan.slices]
        held += sum(len(s.blocks) for s in place.state.running) * limits.block_size
        used += sum(piece.end for piece in plan.slices)
        used += sum(s.computed for s in place.state.running if s not in [p.seq for p in plan.slices])
        scheduler.commit(place.state, plan, StepResult(outcomes))
    assert used / held > 0.96
