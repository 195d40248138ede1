"""Logprobs: the model's own, before any option; ranks and alternatives in one order, ties by id."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampling import NEVER, sequence, some_logits, steady, step, tokens_of

import quire.engine.sampling as sampling
from quire.engine.messages import TokenLogprob
from quire.engine.sampling import Sampler


def order(row: torch.Tensor) -> list[int]:
    values = row.tolist()
    return sorted(range(len(values)), key=lambda i: (-values[i], i))


def assert_right(found: TokenLogprob, row: torch.Tensor, top: int) -> None:
    logp, ranked = torch.log_softmax(row, -1), order(row)
    assert found.logprob == float(logp[found.token])
    assert found.rank == ranked.index(found.token) + 1
    assert found.top == [(i, float(logp[i])) for i in ranked[:top]]


values = st.one_of(st.integers(-3, 3).map(float), st.floats(-20, 20, width=32), st.just(NEVER))
rows = st.lists(values, min_size=2, max_size=40).filter(lambda row: max(row) > NEVER)


@steady
@given(row=rows, top=st.integers(0, 45), data=st.data())
def test_prompt_logprobs_equal_log_softmax_with_ties_by_id(row, top, data) -> None:
    logits = torch.tensor([row, row[::-1]])
    targets = [data.draw(st.integers(0, len(row) - 1)) for _ in logits]
    found = Sampler(len(row)).prompt_logprobs(logits, targets, top)
    assert [one.token for one in found] == targets
    for one, own in zip(found, logits, strict=True):
        assert_right(one, own, top)


def test_ranks_are_each_taken_once_and_the_first_are_the_alternatives() -> None:
    row = torch.tensor([0.5, 2.0, NEVER, 2.0, 0.5, 2.0, NEVER])
    found = Sampler(7).prompt_logprobs(row.repeat(7, 1), list(range(7)), 4)
    assert [one.rank for one in found] == [4, 1, 6, 2, 5, 3, 7]
    assert [i for i, _ in found[0].top] == [1, 3, 5, 0]
    assert found[2].logprob == NEVER


@pytest.mark.parametrize("vocab", [500, 5000])
def test_a_large_flat_vocabulary_ranks_by_id(vocab) -> None:
    (found,) = Sampler(vocab).prompt_logprobs(torch.zeros(1, vocab), [vocab - 1], 20)
    assert found.rank == vocab
    assert [i for i, _ in found.top] == list(range(20))


def test_logits_that_differ_rank_apart_even_where_their_logprobs_round_to_the_same() -> None:
    row = torch.zeros(3000)
    row[7] = 1e-7
    (found,) = Sampler(3000).prompt_logprobs(row[None], [7], 2)
    assert found.rank == 1
    assert [i for i, _ in found.top] == [7, 0]


OPTIONS = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.3, "top_k": 3},
    {"logit_bias": {1: 50.0}},
    {"allowed_token_ids": (4, 9), "repetition_penalty": 2.0},
    {"mirostat": 2, "frequency_penalty": 1.0},
]


def test_options_do_not_change_the_logprobs_and_each_row_gets_what_it_asked_for() -> None:
    wanted = [None, 0, 1, 5, 20, 50]
    logits = some_logits(len(OPTIONS) * len(wanted), 30, 1)
    seqs = [
        sequence([1, 2, 3], [4], name=f"{i} {top}", seed=i, logprobs=top, **options)
        for i, options in enumerate(OPTIONS)
        for top in wanted
    ]
    outcomes, _ = step(Sampler(30), logits, seqs)
    for outcome, seq, row in zip(outcomes, seqs, logits, strict=True):
        if seq.params.logprobs is None:
            assert outcome.logprobs is None
            continue
        assert outcome.logprobs is not None
        (found,) = outcome.logprobs
        assert [found.token] == outcome.tokens
        assert_right(found, row, seq.params.logprobs)


@steady
@given(row=rows)
def test_the_greedy_token_has_rank_one_and_leads_the_alternatives(row) -> None:
    outcomes, _ = step(Sampler(len(row)), torch.tensor([row]), [sequence(temperature=0.0, logprobs=1)])
    assert outcomes[0].logprobs is not None
    (found,) = outcomes[0].logprobs
    assert found.rank == 1
    assert [i for i, _ in found.top] == [found.token] == outcomes[0].tokens


def test_asking_for_logprobs_changes_no_token() -> None:
    logits, tokens = some_logits(20, 50, 1), []
    for top in (None, 3):
        seqs = [sequence(name=str(i), seed=i, logprobs=top) for i in range(20)]
        tokens.append(tokens_of(logits, seqs))
    assert tokens[0] == tokens[1]


def test_logprobs_that_nobody_asks_for_are_not_computed(monkeypatch) -> None:
    monkeypatch.setattr(sampling, "token_logprobs", None)
    outcomes, _ = step(Sampler(50), some_logits(2, 50, 1), [sequence(), sequence(name="other", temperature=0.0)])
    assert [o.logprobs for o in outcomes] == [None, None]
