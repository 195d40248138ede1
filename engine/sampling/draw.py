"""One token from each row, by one uniform number through the inverse of the cumulated weights."""

from __future__ import annotations

import torch

from ...kernels import vocabulary
from ...kernels.transfer import sent
from .random import SAMPLE, uniforms
from .rows import Row


def draw(logits: torch.Tensor, seqs: list[Row]) -> list[int]:
    """logits [n, vocab] -> n tokens, each by the number of its (seed, position)."""
    return drawn(logits, seqs).tolist()


def drawn(logits: torch.Tensor, seqs: list[Row]) -> torch.Tensor:
    """The same where the logits are, int64 [n]; a device is not waited for. Of a row of which nothing is left, any
    token."""
    u = uniforms([s.seed for s in seqs], [len(s.tokens) for s in seqs], SAMPLE)
    return vocabulary.draw(logits, sent(torch.from_numpy(u), logits.device))
