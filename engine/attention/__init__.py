"""Attention over the paged cache: one module a backend, each with `plan` once a step and `run` once a layer.

What a layer is (heads, window, scale) is data, `LayerSpec`; what a model asks of attention is one call, `Attend`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

BACKENDS = {
    "torch": "quire.engine.attention.torch_",  # any device, torch's own kernels
}


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What one attention layer needs of the cache and of the backend."""

    heads: int  # query heads
    kv_heads: int
    head_dim: int
    scale: float  # multiplies q . k
    window: int | None = None  # a token sees itself and the window - 1 tokens before it; None: all
    softcap: float | None = None  # scores become softcap * tanh(scores / softcap)
    v_head_dim: int | None = None  # None: head_dim


# attend(layer, q [T, heads, head_dim], k [T, kv_heads, head_dim], v [T, kv_heads, v_head_dim])
#   -> [T, heads, v_head_dim]:
# writes k and v to their pages, then attends causally over all pages of each row's sequence.
Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
