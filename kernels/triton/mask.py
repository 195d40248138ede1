"""Packed masks over a vocabulary, applied in place.

Only what a mask forbids is written: nothing of the logits is read.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .there import DTYPES

TILE = 1024


@triton.jit(
    do_not_specialize=["stride", "masks_stride", "vocab"],
    do_not_specialize_on_alignment=["logits", "masks", "which"],
)
def forbid_unset(logits, masks, which, stride, masks_stride, vocab, TILE: tl.constexpr):
    """Program (row, tile): -inf where the bit of the row's mask is not set."""
    row = tl.program_id(0).to(tl.int64)
    mask = row
    if which is not None:
        mask = tl.load(which + row)
        if mask < 0:
            return
    i = tl.program_id(1) * TILE + tl.arange(0, TILE)
    words = tl.load(masks + mask * masks_stride + i // 32, mask=i < vocab, other=-1)
    never = tl.full([TILE], float("-inf"), tl.float32).to(logits.dtype.element_ty)
    tl.store(logits + row * stride + i, never, mask=(i < vocab) & (((words >> (i % 32)) & 1) == 0))


def apply_bitmask(logits: Tensor, masks: Tensor, which: Tensor | None = None) -> None:
    """logits [n, vocab], changed in place: -inf where the bit of its row's mask is not set. Bit i of word w is token
    32 w + i.

    masks int32 [m, at least ceil(vocab / 32)]. which int64 [n]: the mask of each row, -1 for none; None: row r has
    mask r. Nobody checks that the numbers in `which` are below m, for they may be on a GPU.
    Raises ValueError where kinds or shapes do not fit.
    """
    n, vocab = _two("logits", logits, DTYPES)
    m, words = _two("masks", masks, (torch.int32,))
    if words < -(-vocab // 32):
        raise ValueError(f"masks is {list(masks.shape)}, expected {-(-vocab // 32)} words for {vocab} tokens")
    if which is None and m != n:
        raise ValueError(f"masks is {list(masks.shape)} for {n} rows of logits, expected one a row, or `which`")
    if which is not None and (which.dtype != torch.int64 or which.shape != (n,) or not which.is_contiguous()):
        raise ValueError(f"which is {which.dtype} {list(which.shape)}, expected int64 [{n}], contiguous")
    if n and vocab:
        forbid_unset[n, triton.cdiv(vocab, TILE)](
            logits, masks, which, logits.stride(0), masks.stride(0), vocab, TILE=TILE
        )


def _two(name: str, found: Tensor, kinds: tuple[torch.dtype, ...]) -> tuple[int, int]:
    if found.dtype not in kinds or found.dim() != 2 or (found.shape[1] > 1 and found.stride(1) != 1):
        wanted = " or ".join(str(kind).removeprefix("torch.") for kind in kinds)
        strides = f"with strides {found.stride()}"
        raise ValueError(f"{name} is {found.dtype} {list(found.shape)} {strides}, expected {wanted}, rows contiguous")
    return found.shape[0], found.shape[1]
