"""Paged attention in C++ as in native_.py, with keys and values of 8 bits: a quarter of the memory, and of the reading.

Each token's key of a head counts in a unit of its own, so does its value (kernels/cpu/attention.h).
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
    return KVCache(layers, num_blocks, torch.int8, device, by_page=True, one_order=one_order)
