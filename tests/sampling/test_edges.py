"""Rows at the edge: nothing left, limits of zero and one, temperatures near zero, ties."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampling import NEVER, acted, kept, sequence, some_logits, steady, step, tokens_of

from quire.engine.sampling import NOTHING_LEFT, Sampler

VOCAB = 30
NOBODY = {"allowed_token_ids": (3,), "bad_words": ((3,),)}
SHAPES = {
    "greedy": {"temperature": 0.0},
    "plain": {},
    "temperature": {"temperature": 0.7},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.5},
    "min_p": {"min_p": 0.1},
    "typical_p": {"typical_p": 0.5},
    "top_n_sigma": {"top_n_sigma": 1.0},
    "xtc": {"xtc_probability": 1.0},
    "mirostat 1": {"mirostat": 1},
    "mirostat 2": {"mirostat": 2},
    "repetition_penalty": {"repetition_penalty": 1.5},
    "presence_penalty": {"presence_penalty": 1.5},
    "dry": {"dry_multiplier": 1.5},
    "logit_bias": {"logit_bias": {3: 100.0, 4: 100.0}},
    "most": {"temperature": 0.7, "top_k": 5, "top_p": 0.5, "typical_p": 0.5, "mirostat": 2, "xtc_probability": 1.0},
}


@pytest.mark.parametrize("name", SHAPES)
def test_where_nothing_is_left_that_row_alone_is_an_error(name) -> None:
    seqs = [
        sequence([3, 1, 3], name="before"),
        sequence([3, 1, 3], name="nobody", logprobs=1, **NOBODY, **SHAPES[name]),
        sequence([3, 1, 3], name="after", **SHAPES[name]),
    ]
    outcomes, _ = step(Sampler(VOCAB), some_logits(3, VOCAB, 1), seqs)
    assert [o.error for o in outcomes] == [None, NOTHING_LEFT, None]
    assert [len(o.tokens) for o in outcomes] == [1, 0, 1]


def test_min_tokens_and_allowed_stop_tokens_exclude_each_other_until_the_answer_is_long_enough() -> None:
    options = {"allowed_token_ids": (2,), "stop_token_ids": (2,), "min_tokens": 2}
    sampler = Sampler(VOCAB)
    for length, error in ((0, NOTHING_LEFT), (1, NOTHING_LEFT), (2, None)):
        outcomes, _ = step(sampler, some_logits(1, VOCAB, 1), [sequence([1], [5] * length, **options)])
        assert outcomes[0].error == error


@pytest.mark.parametrize("options", [{"top_p": 0.0}, {"min_p": 1.0}, {"top_k": 1}, {"top_n_sigma": 1e-6}])
def test_the_narrowest_limit_leaves_the_greatest(options) -> None:
    logits = some_logits(1, VOCAB, 1)
    assert kept(acted(logits, sequence(**options))[0]) == {int(logits[0].argmax())}


def test_typical_p_of_zero_leaves_the_most_typical() -> None:
    logits = some_logits(1, VOCAB, 1)
    logp = torch.log_softmax(logits[0].double(), -1)
    entropy = -(logp.exp() * logp).sum()
    assert kept(acted(logits, sequence(typical_p=0.0))[0]) == {int((-logp - entropy).abs().argmin())}


@pytest.mark.parametrize("temperature", [1e-6, 1e-20, 1e-40, 1e-46, 1e-300, 5e-324])
def test_a_temperature_near_zero_takes_the_greatest(temperature) -> None:
    logits = some_logits(4, VOCAB, 2) * 30
    seqs = [sequence(name=str(i), seed=i, temperature=temperature) for i in range(4)]
    assert tokens_of(logits, seqs) == logits.argmax(-1).tolist()


@pytest.mark.parametrize("options", [{"top_k": 2}, {"top_p": 0.3}, {"min_p": 1.0}, {"top_n_sigma": 0.01}])
def test_what_ties_with_the_last_one_kept_is_kept(options) -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0, 2.0, 2.0, -1.0, NEVER]])
    assert kept(acted(logits, sequence(**options))[0]) == {1, 3, 4}


@pytest.mark.parametrize("options", [{"typical_p": 0.3}, {"mirostat": 1}, {"mirostat": 2, "mirostat_tau": 0.0}])
def test_a_flat_row_stays_whole(options) -> None:
    assert kept(acted(torch.zeros(1, VOCAB), sequence(**options))[0]) == set(range(VOCAB))


@steady
@given(seed=st.integers(0, 2**32), vocab=st.sampled_from([5, 97, 1031]), step_=st.sampled_from([1.0, 4.0]))
def test_greedy_takes_the_first_of_equals(seed, vocab, step_) -> None:
    logits = (some_logits(3, vocab, seed) / step_).round()
    wanted = [row.index(max(row)) for row in logits.tolist()]
    assert tokens_of(logits, [sequence(name=str(i), temperature=0.0) for i in range(3)]) == wanted


@pytest.mark.parametrize("options", [SHAPES[name] for name in SHAPES])
def test_a_token_the_model_rules_out_is_never_sampled(options) -> None:
    logits = some_logits(1, VOCAB, 1).repeat(50, 1)
    logits[:, ::2] = NEVER
    seqs = [sequence([3, 1, 3], name=str(i), seed=i, **options) for i in range(50)]
    assert all(token % 2 for token in tokens_of(logits, seqs))
