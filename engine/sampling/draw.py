"""One token from each row: the greatest, or by one uniform number through the inverse of the cumulated weights."""

from __future__ import annotations

import torch
from torch.nn import functional

from .random import SAMPLE, uniforms
from .rows import Row
from .sums import BLOCK


def draw(logits: torch.Tensor, seqs: list[Row]) -> list[int]:
    """logits [n, vocab] -> n tokens, each by the number of its (seed, position)."""
    u = uniforms([s.seed for s in seqs], [len(s.tokens) for s in seqs], SAMPLE)
    return inverse(logits, torch.from_numpy(u).to(logits.device)).tolist()


def inverse(logits: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """logits [n, vocab], u float64 [n] in [0, 1) -> int64 [n]: the first whose cumulated weight exceeds u * total.

    Weights are summed by blocks in float64, so only one block of each row is cumulated. A token of weight zero is never
    the first to exceed anything, so it is never drawn.
    """
    n, vocab = logits.shape
    weights = (logits - logits.amax(-1, keepdim=True)).exp_()
    weights = functional.pad(weights, (0, -vocab % BLOCK)).view(n, -1, BLOCK)
    blocks = weights.sum(-1, dtype=torch.float64)
    block, rest = _exceeding(blocks, u * blocks.sum(-1))
    inside, _ = _exceeding(weights[torch.arange(n, device=u.device), block].double(), rest)
    return block * BLOCK + inside


def _exceeding(weights: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """weights [n, m], target [n] -> the first index whose cumulated weight exceeds the target, and what of the target
    is left before it. Where rounding lets none exceed it, the last index that has a weight."""
    sums = weights.cumsum(-1)
    index = (sums <= target[:, None]).sum(-1)
    last = (weights > 0).long().cumsum(-1).argmax(-1)
    index = torch.minimum(index, last)
    before = (sums - weights).gather(-1, index[:, None])[:, 0]
    return index, (target - before).clamp_(min=0)
