"""Paged attention in C++ as in native_.py, with keys and values in bfloat16: half of the memory, and of the reading.

They lie in pairs (kernels/cpu/attention.h), which machines with AVX-512 BF16 multiply at twice the rate of floats.
"""

from __future__ import annotations

import torch

from ..cache import KVCache
from . import LayerSpec
from .native_ import plan

__all__ = ["cache", "plan"]


def cache(
    layers: list[LayerSpec], num_blocks: int, dtype: torch.dtype, device: torch.device, *, one_order: bool = False
) -> KVCache:
    """Keys by dimension. dtype: what the model computes in, float32."""
    return KVCache(layers, num_blocks, torch.bfloat16, device, by_page=True, one_order=one_order)
