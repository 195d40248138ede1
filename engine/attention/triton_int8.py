"""Paged attention in Triton as in triton_.py, with keys and values of 8 bits, each in a unit of its own."""

from __future__ import annotations

import torch

from ..cache import KVCache
from . import LayerSpec, triton_
from .triton_ import Ground, plan

__all__ = ["Ground", "cache", "plan"]


def cache(
    layers: list[LayerSpec], num_blocks: int, dtype: torch.dtype, device: torch.device, *, one_order: bool = False
) -> KVCache:
    """dtype: what the model computes in."""
    return triton_.cache(layers, num_blocks, dtype, device, torch.int8, one_order=one_order)
