"""The facade: what the models compute with. Each operation works row by row: no row's bits depend on its neighbours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from . import native
from .before import ACTIVATIONS, Gate, Norm
from .embedding import Embedding
from .linear import Linear
from .lora import Rows
from .triton import chosen

__all__ = ["ACTIVATIONS", "Embedding", "Gate", "Linear", "Norm", "Rows", "layer_norm", "layer_norm_on", "rotary"]


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """x [rows, width] with mean 0 and variance 1, times weight, plus bias."""
    return functional.layer_norm(x, (x.shape[-1],), weight, bias, eps)


LayerNorm = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]


def layer_norm_on(dtype: torch.dtype, device: torch.device) -> LayerNorm:
    """What does `layer_norm` with such tensors; chosen once, when a model is made."""
    rows = None if native.serves(dtype, device) else chosen.kernel("layer_norm", dtype, device)
    return layer_norm if rows is None else rows.layer_norm


def rotary(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn the first 2 * cos.shape[-1] of each head's dimensions; the rest stays.

    x [rows, heads, head_dim], cos and sin [rows, 1, angles]: dimension i turns with dimension i + angles (the "half"
    layout of Hugging Face checkpoints; Su et al. 2021).
    """
    angles = cos.shape[-1]
    a, b = x[..., :angles], x[..., angles : 2 * angles]
    turned = torch.empty_like(x)
    torch.mul(a, cos, out=turned[..., :angles]).sub_(b * sin)
    torch.mul(b, cos, out=turned[..., angles : 2 * angles]).add_(a * sin)
    if 2 * angles < x.shape[-1]:
        turned[..., 2 * angles :] = x[..., 2 * angles :]
    return turned
