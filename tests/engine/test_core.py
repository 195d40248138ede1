"""The engine's loop with a runner that fails on command: who fails ends alone, and every request is answered."""

from __future__ import annotations

from guides import LocalLink

from quire.engine import messages as m
from quire.engine.core import Engine
from quire.engine.grammar.desk import Desk
from quire.engine.guides import Guides
from quire.engine.lora.library import Library
from quire.engine.lora.slots import Slots
from quire.engine.plan import Outcome, Plan, StepResult
from quire.engine.state import Limits, State


class Runner:
    """Says the length of the sequence. Raises for a whole step that holds one of `bad`, `times` times at most."""

    def __init__(self, bad: set[str] = frozenset(), times: int = 10**9):
        self.bad = set(bad)
        self.times = times
        self.plans: list[Plan] = []

    may_fly = False
    # nobody asks for a grammar or an adapter here
    guides, library, slots = Guides(LocalLink(Desk(None, 8))), Library(None, None, 0), Slots(1)

    def idle(self) -> bool:
        return False

    def counts(self) -> dict[str, int]:
        return {}

    def execute(self, plan: Plan) -> StepResult:
        self.plans.append(plan)
        if self.times and any(s.seq.request in self.bad for s in plan.slices):
            self.times -= 1
            raise RuntimeError("no such luck")
        return StepResult([Outcome([s.end] if s.sample else []) for s in plan.slices])


class Channel:
    """What comes in, batch by batch; what went out. Says Shutdown when there is no more."""

    def __init__(self, *batches: list[m.ToEngine]):
        self.batches = list(batches)
        self.sent: list[m.FromEngine] = []
        self.waited: list[bool] = []

    def receive(self, wait: int) -> list[m.ToEngine]:
        self.waited.append(bool(wait))
        if self.batches:
            return self.batches.pop(0)
        return [m.Shutdown()] if wait else []

    def send(self, out: list[m.FromEngine]) -> None:
        self.sent += out

    def tokens(self, request: str) -> list[int]:
        return [t for x in self.sent if isinstance(x, m.TokenDelta) and x.id == request for t in x.tokens]

    def failures(self) -> dict[str, str]:
        return {x.id: x.message for x in self.sent if isinstance(x, m.Failed)}


def generate(id_: str, prompt: int = 5, answer: int = 4) -> m.Generate:
    return m.Generate(id=id_, prompt=[1] * prompt, params=m.SamplingParams(max_tokens=answer, seed=0))


def run(runner: Runner, *batches: list[m.ToEngine]) -> tuple[Engine, Channel]:
    channel = Channel(*batches)
    engine = Engine(runner, State(Limits(64, 8, 32, 16), 40), channel)
    engine.run()
    return engine, channel


def test_requests_run_to_their_end():
    engine, channel = run(Runner(), [generate("a"), generate("b", prompt=9)], [generate("c")])
    assert channel.tokens("a") == [5, 6, 7, 8]
    assert channel.tokens("b") == [9, 10, 11, 12]
    assert channel.tokens("c") == [5, 6, 7, 8]
    assert not engine.state.requests
    assert engine.stats().generated_tokens == 12
    waited = [seconds for x in channel.sent if isinstance(x, m.StepStats) for seconds in x.waited]
    assert len(waited) == 3
    assert all(0 <= seconds < 10 for seconds in waited)
    assert not engine.arrived


def test_it_waits_only_where_there_is_nothing_to_do():
    _, channel = run(Runner(), [generate("a", answer=3)])
    assert channel.waited[0]
    assert channel.waited[-1]
    assert not any(channel.waited[1:-1])


def test_with_nothing_to_run_the_runner_does_what_it_has_to_before_the_engine_waits():
    class Idles(Runner):
        left = 3

        def idle(self) -> bool:
            self.left -= 1
            return self.left >= 0

    _, channel = run(runner := Idles(), [generate("a", answer=3)])
    assert runner.left == -1
    assert channel.waited[-1]
    assert not any(channel.waited[:-1])


def test_who_fails_ends_alone():
    runner = Runner(bad={"bad"})
    engine, channel = run(runner, [generate("a"), generate("bad"), generate("b")])
    assert channel.tokens("a") == channel.tokens("b") == [5, 6, 7, 8]
    assert channel.tokens("bad") == []
    assert "no such luck" in channel.failures()["bad"]
    assert set(channel.failures()) == {"bad"}
    assert len(engine.state.pool.free) == 40


def test_a_step_that_fails_once_costs_nobody_a_token():
    _, channel = run(Runner(bad={"a"}, times=1), [generate("a"), generate("b")])
    assert channel.tokens("a") == channel.tokens("b") == [5, 6, 7, 8]
    assert not channel.failures()


def test_a_request_that_cannot_run_is_answered():
    _, channel = run(Runner(), [generate("long", prompt=99), generate("a"), m.Abort(id="nobody")])
    assert "64" in channel.failures()["long"]
    assert channel.tokens("a") == [5, 6, 7, 8]


def test_the_runner_hears_of_an_aborted_sequence_even_when_nothing_runs():
    runner = Runner()
    engine, _ = run(runner, [generate("a", answer=50)], [m.Abort(id="a")])
    assert runner.plans[-1].slices == []
    assert runner.plans[-1].freed == ["a/0"]
    assert len(engine.state.pool.free) == 40


def test_prompt_logprobs_of_every_chunk_go_out_once():
    class Reader(Runner):
        def execute(self, plan: Plan) -> StepResult:
            result = super().execute(plan)
            for piece, outcome in zip(plan.slices, result.outcomes, strict=True):
                if piece.seq.params.prompt_logprobs is not None:
                    last = min(piece.end, piece.seq.prompt_len - 1)
                    outcome.prompt_logprobs = [m.TokenLogprob(at + 1, -1.0, 1, []) for at in range(piece.start, last)]
            return result

    params = m.SamplingParams(max_tokens=3, seed=0, prompt_logprobs=0)
    asked = m.Generate(id="a", prompt=[1] * 50, params=params)
    for times, batches in ((0, [[asked]]), (2, [[generate("b", answer=9)], [asked], [generate("c")]])):
        _, channel = run(Reader(bad={"b"}, times=times), *batches)
        deltas = [x for x in channel.sent if isinstance(x, m.TokenDelta) and x.id == "a"]
        found = [one.token for delta in deltas for one in delta.prompt_logprobs or ()]
        assert found == list(range(1, 50))
        assert len(channel.tokens("a")) == 3
