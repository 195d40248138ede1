"""Sums along the vocabulary that give each row the same bits alone and in a batch."""

from __future__ import annotations

import torch

BLOCK = 1024  # numbers summed as one


def row_sums(rows: torch.Tensor) -> torch.Tensor:
    """[n, vocab] -> float64 [n, 1].

    By blocks: torch splits one long sum among its threads, but several by rows, so a plain sum of a row alone would
    add up in another order than the same row's in a batch.
    """
    whole = rows.shape[-1] // BLOCK * BLOCK
    blocks = rows[:, :whole].unflatten(-1, (-1, BLOCK)) if whole else rows[:, None, :0]
    rest = rows[:, whole:]
    return blocks.sum(-1).sum(-1, keepdim=True, dtype=torch.float64) + rest.sum(-1, keepdim=True, dtype=torch.float64)
