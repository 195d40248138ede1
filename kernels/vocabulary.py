"""Rows over a vocabulary: the greatest, sums, a draw, packed masks. A row's results are its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from . import native
from .transfer import sent
from .triton import chosen

BLOCK = 1024  # weights summed as one


def _there(logits: Tensor) -> bool:
    return native.serves(logits.dtype, logits.device) and logits.stride(1) == 1


def _numbers(logits: Tensor) -> tuple[int, int, int, int]:
    return logits.data_ptr(), logits.stride(0), *logits.shape


def greatest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """logits [n, vocab] -> the greatest [n] and its token, int64 [n]. NaN where a row has one."""
    if not _there(logits):
        values, tokens = logits.max(-1)
        return values, tokens
    values, tokens = torch.empty(len(logits)), torch.empty(len(logits), dtype=torch.int64)
    native.kernels().greatest(*_numbers(logits), values.data_ptr(), tokens.data_ptr())
    return values, tokens


def log_sum_exp(logits: Tensor) -> Tensor:
    """logits [n, vocab] -> log of the sum of e^logit [n]; -inf where all are -inf."""
    if not _there(logits):
        return logits.logsumexp(-1)
    values = torch.empty(len(logits))
    native.kernels().log_sum_exp(*_numbers(logits), values.data_ptr())
    return values


def draw(logits: Tensor, u: Tensor) -> Tensor:
    """logits [n, vocab], u float64 [n] in [0, 1) -> int64 [n]: the first whose cumulated weight exceeds u * total.

    Weights are summed by blocks in float64, so only one block of each row is cumulated. A token of weight zero is never
    the first to exceed anything, so it is never drawn. Each row has a logit that is not -inf.
    """
    if _there(logits):
        tokens, u = torch.empty(len(logits), dtype=torch.int64), u.contiguous()
        native.kernels().draw(*_numbers(logits), u.data_ptr(), tokens.data_ptr())
        return tokens
    n, vocab = logits.shape
    weights = (logits - logits.amax(-1, keepdim=True)).exp_()
    weights = functional.pad(weights, (0, -vocab % BLOCK)).view(n, -1, BLOCK)
    blocks = weights.sum(-1, dtype=torch.float64)
    block, rest = _exceeding(blocks, u * blocks.sum(-1))
    inside, _ = _exceeding(weights[torch.arange(n, device=u.device), block].double(), rest)
    return block * BLOCK + inside


def _exceeding(weights: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """weights [n, m], target [n] -> the first index whose cumulated weight exceeds the target, and what of the target
    is left before it. Where rounding lets none exceed it, the last index that has a weight."""
    sums = weights.cumsum(-1)
    index = (sums <= target[:, None]).sum(-1)
    last = (weights > 0).long().cumsum(-1).argmax(-1)
    index = torch.minimum(index, last)
    before = (sums - weights).gather(-1, index[:, None])[:, 0]
    return index, (target - before).clamp_(min=0)


def constrain(logits: Tensor, masks: Tensor, which: Sequence[int]) -> Tensor:
    """-inf where a row's mask does not allow a token, in place. -> what share of its probability is left to each [n].

    logits [n, vocab]; masks int32 [m, ceil(vocab / 32)], contiguous: bit i of word w is token 32 w + i; which: of each
    row its mask, -1: it has none and stays as it is.
    """
    if _there(logits):
        kept, asked = torch.empty(len(logits)), torch.tensor(which)
        native.kernels().constrain(
            *_numbers(logits), masks.data_ptr(), masks.stride(0), asked.data_ptr(), kept.data_ptr()
        )
        return kept
    if (mask := chosen.kernel("mask", logits.dtype, logits.device)) is not None:
        before = log_sum_exp(logits)
        mask.apply_bitmask(logits, masks, sent(torch.tensor(which, dtype=torch.int64), logits.device))
        return (log_sum_exp(logits) - before).exp().clamp_(max=1)
    kept = torch.ones(len(logits), device=logits.device)
    rows = [row for row, mask in enumerate(which) if mask >= 0]
    part = logits[rows]
    before = log_sum_exp(part)
    apply_bitmask(part, masks[[which[row] for row in rows]])
    kept[rows] = (log_sum_exp(part) - before).exp().clamp_(max=1)
    logits[rows] = part
    return kept


def apply_bitmask(logits: Tensor, masks: Tensor) -> None:
    """logits [n, vocab], changed in place: -inf where the bit of masks int32 [n, ceil(vocab / 32)] is not set."""
    shifts = torch.arange(32, dtype=torch.int32, device=masks.device)
    bits = (masks[:, :, None] >> shifts).bitwise_and_(1).view(masks.shape[0], -1)[:, : logits.shape[1]]
    logits.masked_fill_(bits == 0, float("-inf"))
