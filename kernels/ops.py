"""The facade: what the models compute with. Each operation works row by row: no row's bits depend on its neighbours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from . import elementwise
from .embedding import Embedding
from .linear import Linear
from .lora import Rows

__all__ = ["ACTIVATIONS", "Embedding", "Linear", "Rows", "gated", "layer_norm", "rms_norm", "rotary"]

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": elementwise.silu,
    "gelu": elementwise.gelu,
    "gelu_new": elementwise.gelu_tanh,
    "gelu_pytorch_tanh": elementwise.gelu_tanh,
    "relu": torch.relu,
}


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """x [..., width] / sqrt(mean(x^2) + eps) * weight, the mean in float32."""
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return weight * scaled.to(x.dtype)


def layer_norm(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    """x [rows, width] with mean 0 and variance 1, times weight, plus bias."""
    return functional.layer_norm(x, (x.shape[-1],), weight, bias, eps)


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


def gated(x: torch.Tensor, activation: str) -> torch.Tensor:
    """x [rows, 2 * width] holds gate and up side by side -> activation(gate) * up [rows, width]."""
    width = x.shape[-1] // 2
    return ACTIVATIONS[activation](x[..., :width]).mul_(x[..., width:])
