"""The steps that a runner begins with: the largest that there can be, so that what they take is known."""

from __future__ import annotations

from .config import BLOCK_SIZE
from .messages import SamplingParams
from .plan import Slice
from .sequence import Sequence


def first_steps(limit: int, tokens: int, sequences: int) -> tuple[list[Slice], list[Slice]]:
    """One of so many tokens of prompts, and one of the last token of each of so many sequences.

    limit: tokens that a sequence may have. All have the same text and the same pages, those from 0 on, so that what
    they write there is the same too.
    """
    length = min(limit, tokens)
    params = SamplingParams(max_tokens=1, seed=0, temperature=0.0)
    seqs = [Sequence("warm-up", n, [0] * length, params) for n in range(min(sequences, tokens))]
    pages = list(range(-(-length // BLOCK_SIZE)))
    for seq in seqs:
        seq.blocks = pages
    counts = [min(length, tokens - n * length) for n in range(len(seqs))]
    prompts = [Slice(seq, 0, seq.tokens[:count]) for seq, count in zip(seqs, counts, strict=True) if count > 0]
    return prompts, [Slice(seq, length - 1, seq.tokens[-1:]) for seq in seqs]
