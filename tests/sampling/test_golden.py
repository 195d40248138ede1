"""Options that transformers has too: our float32 rows against its logits processors, run in double precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sampling import NEVER, kept, sequence, some_logits, steady, step
from transformers.generation import logits_process as hf

from quire.engine.messages import SamplingParams
from quire.engine.sampling import Sampler
from quire.engine.sequence import Sequence

FEW = 6  # ids that texts and words are made of, so that words do stand in texts

ids = st.integers(0, FEW - 1)
BANS = {
    "allowed_token_ids": st.lists(st.integers(0, 39), min_size=1, max_size=30, unique=True).map(tuple),
    "min_tokens": st.integers(0, 6),
    "bad_words": st.lists(st.lists(ids, min_size=1, max_size=3).map(tuple), min_size=1, max_size=5).map(tuple),
}
SHAPES = {
    "repetition_penalty": st.floats(0.3, 3),
    "temperature": st.floats(0.05, 5),
    "top_k": st.integers(1, 400),
    "typical_p": st.floats(0.05, 0.99),
    "top_p": st.floats(0.01, 0.999),
    "min_p": st.floats(0.001, 0.99),
}
OPTIONS = BANS | SHAPES
STOPS = (2, 7)
texts = st.tuples(st.lists(ids, min_size=1, max_size=6), st.lists(ids, max_size=6))
vocabs = st.sampled_from([40, 300, 3000])  # the last is larger than the part that top_p looks at first
seeds = st.integers(0, 2**32)
spreads = st.sampled_from([0.3, 3.0])


def bans(p: SamplingParams, prompt_len: int) -> list[hf.LogitsProcessor]:
    found: list[hf.LogitsProcessor] = []
    if p.allowed_token_ids is not None:
        found.append(hf.PrefixConstrainedLogitsProcessor(lambda *_: list(p.allowed_token_ids), 1))
    if p.min_tokens:
        found.append(hf.MinNewTokensLengthLogitsProcessor(prompt_len, p.min_tokens, list(p.stop_token_ids)))
    if p.bad_words:
        found.append(hf.NoBadWordsLogitsProcessor([list(word) for word in p.bad_words]))
    return found


def shapes(p: SamplingParams, jitter: float) -> list[hf.LogitsProcessor]:
    """jitter: a factor near 1 on every limit, to learn whether a row stands on the edge of one."""
    found: list[hf.LogitsProcessor] = []
    if p.repetition_penalty != 1:
        found.append(hf.RepetitionPenaltyLogitsProcessor(p.repetition_penalty))
    if p.temperature != 1:
        found.append(hf.TemperatureLogitsWarper(p.temperature * jitter))
    if p.top_k:
        found.append(hf.TopKLogitsWarper(p.top_k))
    if p.typical_p < 1:
        found.append(hf.TypicalLogitsWarper(p.typical_p * jitter))
    if p.top_p < 1:
        found.append(hf.TopPLogitsWarper(p.top_p * jitter))
    if p.min_p:
        found.append(hf.MinPLogitsWarper(p.min_p * jitter))
    return found


def reference(row: torch.Tensor, seq: Sequence, jitter: float = 1.0) -> torch.Tensor:
    """row float32 [vocab] -> float64 [vocab]; all -inf where the bans leave nothing."""
    text = torch.tensor([seq.tokens])
    scores = row[None].double()
    for processor in bans(seq.params, seq.prompt_len):
        scores = processor(text, scores)
    if not bool((scores > NEVER).any()):
        return scores[0]
    for processor in shapes(seq.params, jitter):
        scores = processor(text, scores)
    return scores[0]


def check(batch: list[tuple[tuple[list[int], list[int]], dict]], vocab: int, seed: int, spread: float) -> None:
    """All rows at once against each row by transformers."""
    seqs = [
        sequence(prompt, answer, name=str(i), stop_token_ids=STOPS, **options)
        for i, ((prompt, answer), options) in enumerate(batch)
    ]
    logits = some_logits(len(seqs), vocab, seed, spread)
    outcomes, ours = step(Sampler(vocab), logits, seqs)
    for row, raw, seq, outcome in zip(ours, logits, seqs, outcomes, strict=True):
        theirs = reference(raw, seq)
        for jitter in (1 - 2e-5, 1 + 2e-5):
            assume(kept(reference(raw, seq, jitter)) == kept(theirs))  # else float32 rightly decides otherwise
        assert kept(row) == kept(theirs), seq.params
        if not kept(theirs):
            assert outcome.error is not None
            assert outcome.tokens == []
            continue
        torch.testing.assert_close(
            torch.log_softmax(row.double(), -1), torch.log_softmax(theirs, -1), rtol=1e-5, atol=2e-4
        )
        assert outcome.tokens[0] in kept(theirs)


@pytest.mark.parametrize("name", OPTIONS)
@steady
@given(data=st.data(), vocab=vocabs, seed=seeds, spread=spreads)
def test_each_option_equals_transformers(name, data, vocab, seed, spread) -> None:
    rows = st.lists(st.tuples(texts, st.fixed_dictionaries({name: OPTIONS[name]})), min_size=1, max_size=6)
    check(data.draw(rows), vocab, seed, spread)


@steady
@given(
    rows=st.lists(st.tuples(texts, st.fixed_dictionaries({}, optional=OPTIONS)), min_size=2, max_size=12),
    vocab=vocabs,
    seed=seeds,
    spread=spreads,
)
def test_rows_of_all_options_together_equal_transformers_row_by_row(rows, vocab, seed, spread) -> None:
    check(rows, vocab, seed, spread)


@steady
@given(
    rows=st.lists(st.tuples(texts, st.fixed_dictionaries(SHAPES)), min_size=1, max_size=4),
    vocab=vocabs,
    seed=seeds,
    spread=spreads,
)
def test_all_shaping_options_on_one_row_equal_transformers(rows, vocab, seed, spread) -> None:
    check(rows, vocab, seed, spread)


@steady
@given(text=texts, options=st.fixed_dictionaries({}, optional=BANS), seed=seeds, penalty=st.floats(0.3, 3))
def test_greedy_takes_the_greatest_that_transformers_leaves(text, options, seed, penalty) -> None:
    seq = sequence(*text, stop_token_ids=STOPS, temperature=0.0, repetition_penalty=penalty, **options)
    logits = some_logits(1, 40, seed)
    theirs = reference(logits[0], sequence(*text, stop_token_ids=STOPS, repetition_penalty=penalty, **options))
    outcome = step(Sampler(40), logits, [seq])[0][0]
    assert outcome.tokens == ([int(theirs.argmax())] if kept(theirs) else [])
