"""One token from each row, by one uniform number through the inverse of the cumulated weights."""

from __future__ import annotations

import torch

from ...kernels import vocabulary
from .random import SAMPLE, uniforms
from .rows import Row


def draw(logits: torch.Tensor, seqs: list[Row]) -> list[int]:
    """logits [n, vocab] -> n tokens, each by the number of its (seed, position)."""
    u = uniforms([s.seed for s in seqs], [len(s.tokens) for s in seqs], SAMPLE)
    return vocabulary.draw(logits, torch.from_numpy(u).to(logits.device)).tolist()
