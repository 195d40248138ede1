"""A row's result is its own: whoever stands beside it, in whatever order; and what nobody uses is not run."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampling import acted, sequence, some_logits, steady, step

import quire.engine.sampling as sampling
from quire.engine.plan import Outcome
from quire.engine.sampling import CHAIN, Sampler
from quire.engine.sequence import Sequence

ids = st.integers(0, 9)
OPTIONS = {
    "temperature": st.sampled_from([0.0, 0.3, 0.9, 2.0]),
    "top_k": st.integers(1, 50),
    "top_p": st.floats(0, 1),
    "min_p": st.floats(0, 1),
    "typical_p": st.floats(0, 1),
    "top_n_sigma": st.floats(0.1, 3),
    "xtc_probability": st.floats(0, 1),
    "dry_multiplier": st.floats(0, 2),
    "mirostat": st.sampled_from([0, 1, 2]),
    "repetition_penalty": st.floats(0.5, 2),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "logit_bias": st.dictionaries(ids, st.floats(-5, 5)),
    "bad_words": st.lists(st.lists(ids, min_size=1, max_size=2).map(tuple), max_size=3).map(tuple),
    "allowed_token_ids": st.lists(st.integers(0, 96), min_size=1, max_size=60).map(tuple),
    "logprobs": st.integers(0, 3),
    "seed": st.integers(0, 2**64 - 1),
}
rows = st.tuples(st.lists(ids, min_size=1, max_size=8), st.fixed_dictionaries({}, optional=OPTIONS))

Result = tuple[list[int], list | None, str | None, bytes]


def result(outcome: Outcome, row: torch.Tensor) -> Result:
    return outcome.tokens, outcome.logprobs, outcome.error, row.numpy().tobytes()


def run(seqs: list[Sequence], logits: torch.Tensor, plan: list[list[list[int]]]) -> list[list[Result]]:
    """logits [steps, n, vocab]; plan: for each step, the batches in which the rows go -> results by sequence."""
    sampler = Sampler(logits.shape[-1])
    found: list[list[Result]] = [[] for _ in seqs]
    for number, batches in enumerate(plan):
        for batch in batches:
            outcomes, after = step(sampler, logits[number, batch], [seqs[i] for i in batch])
            for i, outcome, row in zip(batch, outcomes, after, strict=True):
                found[i].append(result(outcome, row))
                seqs[i].tokens += outcome.tokens
    return found


def shuffled(n: int, steps: int, rng: random.Random) -> list[list[list[int]]]:
    """Every row once a step, in batches of random sizes and order."""
    plan = []
    for _ in range(steps):
        order = rng.sample(range(n), n)
        cuts = sorted({0, n, *(rng.randrange(n + 1) for _ in range(rng.randrange(3)))})
        plan.append([order[a:b] for a, b in pairwise(cuts)])
    return plan


@steady
@given(given_rows=st.lists(rows, min_size=1, max_size=12), seed=st.integers(0, 2**32))
def test_a_row_is_bitwise_the_same_alone_and_in_any_crowd(given_rows, seed) -> None:
    n, steps = len(given_rows), 4
    logits = some_logits(n * steps, 97, seed).view(steps, n, 97)

    def fresh() -> list[Sequence]:
        return [sequence(prompt, name=str(i), **options) for i, (prompt, options) in enumerate(given_rows)]

    alone = run(fresh(), logits, [[[i] for i in range(n)]] * steps)
    assert run(fresh(), logits, [[list(range(n))]] * steps) == alone
    assert run(fresh(), logits, shuffled(n, steps, random.Random(seed))) == alone


MANY = [
    {},
    {"temperature": 0.6, "top_p": 0.95},
    {"typical_p": 0.9},
    {"top_n_sigma": 1.0, "temperature": 1.3},
    {"mirostat": 1},
    {"mirostat": 2, "temperature": 0.8},
    {"top_p": 0.9999},
    {"xtc_probability": 0.5, "xtc_threshold": 0.001, "logprobs": 4},
]


@pytest.fixture
def two_threads() -> Iterator[None]:
    """torch splits a long sum among threads where it has but one row."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_real_vocabulary_and_many_threads_change_no_bit(two_threads) -> None:
    n, vocab = len(MANY), 50_257
    logits = some_logits(n, vocab, 3, 2.0)[None]

    def fresh() -> list[Sequence]:
        return [sequence([1], name=str(i), seed=i, **options) for i, options in enumerate(MANY)]

    alone = run(fresh(), logits, [[[i] for i in range(n)]])
    assert run(fresh(), logits, [[list(range(n))]]) == alone
    assert run(fresh(), logits, [[[5, 2, 7], [0, 1, 6, 4, 3]]]) == alone


@pytest.mark.parametrize("seed", range(3))
def test_a_limit_that_falls_on_a_token_falls_alike_alone_and_in_a_crowd(seed, two_threads) -> None:
    """n is such that max - n * sigma is a token's own logit: the last bit of sigma decides whether it stays."""
    logits = some_logits(16, 50_257, seed, 2.0)
    sigma, top = logits.std(-1, correction=0), logits.amax(-1)
    seqs = [
        sequence(name=str(i), top_n_sigma=float((top[i] - logits[i, 100 + i]).double() / sigma[i].double()))
        for i in range(16)
    ]
    crowd = acted(logits, *seqs)
    alone = torch.cat([acted(logits[i : i + 1], seqs[i]) for i in range(16)])
    assert torch.equal(crowd, alone)


# ---------------------------------------------------------------- what is not used


@pytest.fixture
def calls(monkeypatch) -> list[tuple[str, list[str]]]:
    """The links that ran, each with the rows it was given."""
    found: list[tuple[str, list[str]]] = []

    def watched(link):
        def act(logits, seqs, memory):
            found.append((link.name, [row.seq.request for row in seqs]))
            link.act(logits, seqs, memory)

        return dataclasses.replace(link, act=act)

    monkeypatch.setattr(sampling, "CHAIN", tuple(watched(link) for link in CHAIN))
    return found


def test_a_plain_batch_runs_no_option_and_leaves_the_logits_as_they_are(calls) -> None:
    logits = some_logits(5, 30, 1)
    _, after = step(Sampler(30), logits, [sequence(name=str(i)) for i in range(5)])
    assert calls == []
    assert torch.equal(after, logits)


def test_an_option_sees_the_rows_that_use_it_and_no_other(calls) -> None:
    seqs = [
        sequence(name="plain"),
        sequence(name="a", top_k=3, temperature=0.5),
        sequence(name="greedy", temperature=0.0, top_p=0.5, dry_multiplier=1.0),
        sequence(name="b", top_k=2, min_p=0.1),
    ]
    logits = some_logits(4, 30, 1)
    _, after = step(Sampler(30), logits, seqs)
    assert calls == [("dry", ["greedy"]), ("temperature", ["a"]), ("top_k", ["a", "b"]), ("min_p", ["b"])]
    assert torch.equal(after[0], logits[0])


def test_a_greedy_batch_draws_nothing(monkeypatch) -> None:
    monkeypatch.setattr(sampling, "draw", None)
    logits = some_logits(3, 30, 1)
    outcomes, _ = step(Sampler(30), logits, [sequence(name=str(i), temperature=0.0) for i in range(3)])
    assert [o.tokens for o in outcomes] == [[i] for i in logits.argmax(-1).tolist()]


def test_a_sequence_forgotten_leaves_nothing_to_the_next_of_its_id() -> None:
    sampler, logits = Sampler(30), some_logits(1, 30, 1)
    first = {"logit_bias": {1: 5.0}, "allowed_token_ids": (1, 2, 3), "mirostat": 2, "presence_penalty": 1.0}
    second = {"logit_bias": {2: 9.0}, "allowed_token_ids": (2, 5, 9), "mirostat": 2, "frequency_penalty": 1.0}
    step(sampler, logits, [sequence([1], [2, 2], **first)])
    sampler.forget(["row/0"])
    _, after = step(sampler, logits, [sequence([1], [5, 5], **second)])
    assert torch.equal(after, step(Sampler(30), logits, [sequence([1], [5, 5], **second)])[1])
