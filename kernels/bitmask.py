"""Packed masks over a vocabulary: one bit a token, applied to logits."""

from __future__ import annotations

import torch


def apply_bitmask(logits: torch.Tensor, masks: torch.Tensor) -> None:
    """logits [n, vocab], changed in place: -inf where the bit of masks int32 [n, ceil(vocab / 32)] is not set."""
    shifts = torch.arange(32, dtype=torch.int32, device=masks.device)
    bits = (masks[:, :, None] >> shifts).bitwise_and_(1).view(masks.shape[0], -1)[:, : logits.shape[1]]
    logits.masked_fill_(bits == 0, float("-inf"))
