"""Weights in few bits as floating point again, in torch: rows of a table, or some outputs of a matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..quantized import MIDDLE, in_place
from .codes import E4M3_GAIN

if TYPE_CHECKING:
    from .matrix import Packed


def outputs(packed: Packed, part: slice) -> Tensor:
    """Outputs [part.start, part.stop) -> their weights, float32 [n, inputs], a new tensor. Reads whole panels."""
    lanes = packed.panels.shape[2]
    first, last = part.start // lanes, -(-part.stop // lanes)
    held = packed.panels[first:last]
    scale, low = (None if v is None else v[first:last] for v in (packed.scale, packed.low))
    assert scale is not None
    weight = _weights(packed, held.movedim(2, 1), scale.movedim(2, 1), None if low is None else low.movedim(2, 1))
    weight = weight.flatten(0, 1)[part.start - first * lanes : part.stop - first * lanes]
    return _in_order(packed, weight)


def some(packed: Packed, index: Tensor) -> Tensor:
    """index int64 [n] -> float32 [n, inputs]. Each row by itself."""
    panel, lane = index // packed.panels.shape[2], index % packed.panels.shape[2]
    low = None if packed.low is None else packed.low[panel, :, lane]
    weight = _weights(packed, packed.panels[panel, :, lane], packed.scale[panel, :, lane], low)
    return _in_order(packed, weight)


def _weights(packed: Packed, held: Tensor, scale: Tensor, low: Tensor | None) -> Tensor:
    """held uint8 [.., tiles, depth], scale and low [.., groups] -> float32 [.., inputs]."""
    if packed.form == "int4":
        codes = torch.cat([held & 15, held >> 4], -1).float() - MIDDLE[4]
    elif packed.form == "int8":
        codes = held.view(torch.int8).float()
    else:
        codes = held.view(torch.float8_e4m3fn).float() / E4M3_GAIN
    tiles = held.shape[-2]
    weight = codes * _spread(packed, scale, tiles)
    if low is not None:
        weight += _spread(packed, low, tiles)
    return weight.flatten(-2)[..., : packed.inputs]


def _spread(packed: Packed, values: Tensor, tiles: int) -> Tensor:
    """[.., groups] -> [.., tiles, 1]"""
    return values.float().repeat_interleave(packed.group // packed.tile, -1)[..., :tiles, None]


def _in_order(packed: Packed, weight: Tensor) -> Tensor:
    return weight.contiguous() if packed.order is None else in_place(weight, packed.order)
