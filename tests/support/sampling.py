"""Rows for the sampler: sequences with options, what a step leaves of their logits, and what it chose."""

from __future__ import annotations

import math
from collections.abc import Sequence as Series

import torch
from guides import guides_of
from hypothesis import settings

from quire.engine.messages import SamplingParams
from quire.engine.plan import Outcome, Slice
from quire.engine.sampling import Sampler
from quire.engine.sequence import Sequence

torch.set_num_threads(1)

NEVER = float("-inf")
steady = settings(derandomize=True, deadline=None, max_examples=50)  # the same examples in every run


def sequence(prompt: Series[int] = (1,), answer: Series[int] = (), *, name: str = "row", **options) -> Sequence:
    """A sequence whose prompt and answer so far are given; options are fields of SamplingParams."""
    params = SamplingParams(**{"max_tokens": 1000, "seed": 0, **options})
    seq = Sequence(name, 0, list(prompt), params)
    seq.tokens += answer
    return seq


def piece_of(seq: Sequence) -> Slice:
    """Its last token and its drafts, as far as its grammar lets them come."""
    piece = Slice(seq, len(seq.tokens) - 1, seq.tokens[-1:] + seq.drafts, len(seq.drafts))
    return piece if seq.guide is None else piece.cut(min(len(seq.drafts), len(seq.guide.masks) - 1))


def step(sampler: Sampler, logits: torch.Tensor, seqs: list[Sequence]) -> tuple[list[Outcome], torch.Tensor]:
    """One step. logits [n, vocab], a row for each sequence and each of its drafts, not changed -> an outcome for each
    sequence, and what the chain made of the logits."""
    acted = logits.clone()
    outcomes = sampler.sample(acted, [piece_of(s) for s in seqs])
    for i, seq in enumerate(seqs):
        if seq.guide is not None and outcomes[i].error is None:
            (outcomes[i],) = guides_of(seq).take([(seq, outcomes[i])], True)
    return outcomes, acted


def acted(logits: torch.Tensor, *seqs: Sequence) -> torch.Tensor:
    """What the chain makes of logits [n, vocab] where nothing is remembered of the sequences."""
    return step(Sampler(logits.shape[-1]), logits, list(seqs))[1]


def tokens_of(logits: torch.Tensor, seqs: list[Sequence]) -> list[int]:
    outcomes, _ = step(Sampler(logits.shape[-1]), logits, seqs)
    assert all(o.error is None for o in outcomes)
    return [o.tokens[0] for o in outcomes]


def kept(row: torch.Tensor) -> set[int]:
    return set((row > NEVER).nonzero()[:, 0].tolist())


def some_logits(n: int, vocab: int, seed: int, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(n, vocab, generator=torch.Generator().manual_seed(seed)) * spread


def softmax(row: torch.Tensor) -> list[float]:
    """In plain Python, double precision."""
    values = row.tolist()
    most = max(values)
    weights = [math.exp(x - most) for x in values]
    total = math.fsum(weights)
    return [w / total for w in weights]
