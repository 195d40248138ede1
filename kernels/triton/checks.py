"""What the kernels here take: rows that are contiguous, of a kind that they compute with."""

from __future__ import annotations

import torch
from torch import Tensor

from .there import DTYPES


def rows_of(name: str, x: Tensor) -> Tensor:
    """x [.., width] as [rows, width] whose rows are contiguous; a copy where they are not. Raises ValueError for a kind
    that is not of DTYPES."""
    if x.dtype not in DTYPES or x.dim() == 0:
        raise ValueError(f"{name} is {x.dtype} {list(x.shape)}, expected float32, bfloat16 or float16 [.., width]")
    flat = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    return flat if flat.stride(1) == 1 or flat.shape[1] == 1 else flat.contiguous()


def out_like(out: Tensor | None, shape: torch.Size, x: Tensor) -> tuple[Tensor, Tensor]:
    """-> (`out` or a new tensor of that shape, of x's kind; it as [rows, width], never a copy)."""
    if out is None:
        out = torch.empty(shape, dtype=x.dtype, device=x.device)
    if out.shape != shape or out.dtype != x.dtype or out.device != x.device or (shape[-1] > 1 and out.stride(-1) != 1):
        found = f"{out.dtype} {list(out.shape)} with strides {out.stride()} on {out.device}"
        raise ValueError(f"out is {found}, expected {x.dtype} {list(shape)} on {x.device}, rows contiguous")
    return out, out if out.dim() == 2 else out.view(-1, shape[-1])
