"""Steps that are launched before the one in front of them was read: on a trained model, the tokens of no overlap.

On the CPU a launch is done when it returns; that steps overlap is then forced by the runner's attribute. What is tested
is that the host needs nothing of a step to begin the next, and that tokens are found where the step before left them.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quire.engine import messages as m
from quire.engine.batch import Batch
from quire.engine.config import EngineConfig, Speculation
from quire.engine.core import Engine
from quire.engine.flying import NOT_FINITE
from quire.engine.plan import Plan, Slice
from quire.engine.runner import Runner
from quire.engine.sequence import Sequence
from quire.engine.state import Limits, State
from quire.kernels.transfer import Fetched, sent

NONE = Speculation(method="none")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")


def start(folder: Path, **fields) -> Runner:
    config = EngineConfig(model=str(folder), kv_cache_memory=1 << 25, threads=1, **fields)
    return Runner(config, lambda done, total: None)


@pytest.fixture(scope="module")
def plain(stories):
    return start(stories, speculative_config=NONE)


@pytest.fixture(scope="module")
def guessing(stories):
    return start(stories)


OPTIONS = (
    {"temperature": 0.0}, {}, {"temperature": 0.8, "top_p": 0.9}, {"top_k": 20, "min_p": 0.02},
    {"logit_bias": {400: 5.0, 300: -3.0}}, {"allowed_token_ids": tuple(range(260, 500))},
)  # fmt: skip
GROUNDED = ({"logprobs": 2}, {"repetition_penalty": 1.3, "temperature": 0.0}, {"frequency_penalty": 0.5})


def requests(seed: int, count: int, grounded: float) -> list[m.Generate]:
    rng = random.Random(seed)
    stem = [1] + [rng.randrange(259, 512) for _ in range(40)]
    return [
        m.Generate(
            id=f"r{i}",
            prompt=stem[: rng.choice((1, 17, 41))] + [rng.randrange(259, 512) for _ in range(rng.randrange(1, 50))],
            params=m.SamplingParams(
                max_tokens=rng.choice((1, 2, 12, 30)),
                seed=rng.randrange(1 << 64),
                # Tokens that come about once in ten: with them answers end unforeseen.
                stop_token_ids=tuple(rng.sample(range(259, 512), 30)) if rng.random() < 0.5 else (),
                **rng.choice(GROUNDED if rng.random() < grounded else OPTIONS),
            ),
            n=rng.choice((1, 1, 1, 3)),
        )
        for i in range(count)
    ]


class Script:
    """A channel. Requests come some at each step; `aborts` maps how many tokens of an answer have come to the abort."""

    def __init__(self, asked: list[m.Generate], aborts: dict[str, int]):
        self.left, self.aborts = list(asked), dict(aborts)
        self.rng = random.Random(len(asked))
        self.streams: dict[tuple[str, int], list[int]] = {}
        self.ends: dict[tuple[str, int], str] = {}
        self.engine: Engine | None = None

    def receive(self, wait: int) -> list[m.ToEngine]:
        inbox: list[m.ToEngine] = [self.left.pop(0) for _ in range(self.rng.randrange(4)) if self.left]
        for name, count in list(self.aborts.items()):
            if len(self.streams.get((name, 0), ())) >= count:
                inbox.append(m.Abort(id=name))
                del self.aborts[name]
        return inbox or ([m.Shutdown()] if wait and not self.left else [])

    def send(self, out: list[m.FromEngine]) -> None:
        self.engine.state.check()
        for delta in out:
            if isinstance(delta, m.TokenDelta):
                self.streams.setdefault((delta.id, delta.index), []).extend(delta.tokens)
                if delta.finish:
                    self.ends[delta.id, delta.index] = delta.finish
            else:
                assert not isinstance(delta, m.Failed), delta


def serve(
    runner: Runner, asked: list[m.Generate], overlap: bool, aborts: dict[str, int], *, pages: int, budget: int = 64
) -> Script:
    script = Script(asked, aborts)
    engine = script.engine = Engine(runner, State(Limits(256, 8, budget, 999), pages), script)  # type: ignore[arg-type]
    launch, behind = runner.launch, 0

    def counted(plan, flying=None):
        nonlocal behind
        behind += flying is not None
        return launch(plan, flying)

    runner.overlap, runner.launch = overlap, counted  # type: ignore[method-assign]
    try:
        engine.run()
    finally:
        del runner.launch
        runner.overlap = False
    assert engine.flying is None
    assert len(engine.state.pool.free) == pages
    assert bool(behind) == overlap
    runner.execute(Plan([], freed=engine.state.left))
    return script


@pytest.mark.parametrize(
    ("which", "grounded", "pages"),
    [("plain", 0.0, 200), ("plain", 0.0, 14), ("plain", 0.1, 200), ("guessing", 0.0, 200), ("guessing", 0.05, 20)],
)
def test_answers_are_those_without_overlap(request, which, grounded, pages):
    runner = request.getfixturevalue(which)
    asked = requests(pages, 24, grounded)
    aborts = {"r3": 1, "r7": 5, "r11": 0}
    want = serve(runner, asked, False, aborts, pages=pages)
    found = serve(runner, asked, True, aborts, pages=pages)
    whole = {key for key in want.streams if key[0] not in aborts}
    assert len(whole) > 20
    assert {key: found.streams[key] for key in whole} == {key: want.streams[key] for key in whole}
    assert {key: found.ends[key] for key in whole} == {key: want.ends[key] for key in whole}
    assert {"length", "stop"} <= set(found.ends.values())
    for key in found.streams.keys() & want.streams.keys() - whole:
        both = min(len(found.streams[key]), len(want.streams[key]))
        assert found.streams[key][:both] == want.streams[key][:both]


def sequence(name: str, prompt: list[int], page: int, **params) -> Sequence:
    seq = Sequence(name, 0, prompt, m.SamplingParams(**{"max_tokens": 9, "seed": 5, **params}))
    seq.blocks = [page]
    return seq


def test_a_launch_gives_the_outcomes_of_the_step(plain):
    kinds = [*OPTIONS, {"allowed_token_ids": (3,), "logit_bias": {3: float("-inf")}}]
    seqs = [sequence(f"s{i}", [1, 300 + i, 400], i, **params) for i, params in enumerate(kinds)]
    slices = [Slice(seq, 0, seq.tokens) for seq in seqs]
    slices.insert(2, Slice(sequence("chunk", [1, 300, 400, 401], 20), 0, [1, 300], 0, False))
    want = plain.execute(Plan(slices)).outcomes
    found = plain.launch(Plan(slices)).result().outcomes
    plain.execute(Plan([], freed=[piece.seq.id for piece in slices]))
    assert [(one.tokens, one.error, one.code) for one in found] == [(one.tokens, one.error, one.code) for one in want]
    assert want[-1].error
    assert want[-1].code == "invalid_value"
    assert want[2].tokens == []


def test_a_step_reads_the_tokens_of_the_one_before_where_they_are(plain):
    seqs = [sequence(f"s{i}", [1, 300 + i], i, temperature=0.0) for i in range(3)]
    first = plain.launch(Plan([Slice(seq, 0, seq.tokens) for seq in seqs]))
    for row, seq in enumerate(seqs):
        seq.tokens.append(-1 - row)
    order = [seqs[2], seqs[0]]
    second = plain.launch(Plan([Slice(seq, 2, seq.tokens[2:]) for seq in order]), first)
    taken = [one.tokens for one in first.result().outcomes]
    found = [one.tokens for one in second.result().outcomes]
    for seq, tokens in zip(seqs, taken, strict=True):
        seq.tokens[-1:] = tokens
    assert [
        one.tokens for one in plain.execute(Plan([Slice(seq, 2, seq.tokens[2:]) for seq in order])).outcomes
    ] == found
    plain.execute(Plan([], freed=[seq.id for seq in seqs]))


def test_what_is_not_finite_in_flight_ends_its_sequence_alone(stories, tmp_path):
    # A token whose embedding is not a number; the head is untied, so only who reads that token is hurt.
    folder = tmp_path / "m"
    shutil.copytree(stories, folder)
    file = next(folder.glob("*.safetensors"))
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"]).clone()
    tensors["model.embed_tokens.weight"][99] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config.replace('"tie_word_embeddings": true', '"tie_word_embeddings": false'))
    runner = start(folder, speculative_config=NONE)
    bad, good = sequence("bad", [1, 99], 0, temperature=0.0), sequence("good", [1, 300], 1, temperature=0.0)
    plan = Plan([Slice(bad, 0, bad.tokens), Slice(good, 0, good.tokens)])
    flying = runner.launch(plan)
    bad.tokens.append(-1)
    good.tokens.append(-2)
    # What comes behind it is computed of some token, for nothing.
    behind = runner.launch(Plan([Slice(bad, 2, [-1]), Slice(good, 2, [-2])]), flying)
    one, other = flying.result().outcomes
    assert one.error == NOT_FINITE
    assert other.tokens
    assert other.error is None
    assert behind.result().outcomes[1].tokens


def test_tokens_that_are_known_are_not_looked_up():
    seq = sequence("s", [5, 6, 7], 3)
    other = sequence("t", [8, 9], 4)
    plan = Plan([Slice(seq, 0, [5, 6, 7]), Slice(other, 2, [-2]), Slice(seq, 0, [-1])])
    flying = torch.tensor([70, -2])  # the second has failed
    assert Batch.of(plan, torch.device("cpu"), flying).tokens.tolist() == [5, 6, 7, 0, 70]
    known = Plan(plan.slices[:1])
    assert Batch.of(known, torch.device("cpu"), torch.empty(0, dtype=torch.int64)).tokens.tolist() == [5, 6, 7]


def test_a_runner_on_the_cpu_does_not_overlap(plain):
    assert plain.overlap is False


def test_what_is_on_the_host_stays_where_it_is():
    tensor = torch.arange(5)
    assert sent(tensor, torch.device("cpu")) is tensor
    assert Fetched(tensor).read() is tensor


@CUDA
def test_what_is_sent_and_fetched_is_what_it_was():
    tensor = torch.arange(1 << 20)
    there = sent(tensor, torch.device("cuda"))
    assert sent(tensor[:0], torch.device("cuda")).shape == (0,)
    assert there.device.type == "cuda"
    fetched = Fetched(there)
    there.zero_()  # launched later: what was fetched is what it was before
    assert torch.equal(fetched.read(), tensor)
