"""A matrix of small whole numbers, before a product packs it: what quantizing makes and quantized files hold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GROUPS = (16, 32, 64, 128, 256, 512)  # inputs that may share a scale
MIDDLE = {8: 0, 4: 8}  # the code of weight zero where there is no `low`, by bits


@dataclass(frozen=True, slots=True, eq=False)
class Quantized:
    """weight[o, i] = scale[o, i // group] * (codes[o, i] - MIDDLE[bits]) + low[o, i // group]

    codes [out, in]: int8 of all values for 8 bits, uint8 of 0 to 15 for 4. scale float32 [out, ceil(in / group)].
    low: the same or None, which is 0. (A zero point z of a file is low = scale * (MIDDLE - z).)
    order int64 [in]: column i of the codes is that of input order[i], so that inputs far apart may share a scale
    (act-order of GPTQ); None: they are in their own order.
    Raises ValueError where these do not fit each other.
    """

    codes: Tensor
    scale: Tensor
    bits: int
    group: int
    low: Tensor | None = None
    order: Tensor | None = None

    def __post_init__(self) -> None:
        if self.bits not in MIDDLE or self.group not in GROUPS:
            known = ", ".join(map(str, GROUPS))
            raise ValueError(f"bits is {self.bits} and group {self.group}, expected 4 or 8, and one of {known}")
        kind = torch.int8 if self.bits == 8 else torch.uint8
        if self.codes.dim() != 2 or self.codes.dtype != kind:
            raise ValueError(f"codes is {self.codes.dtype} {list(self.codes.shape)}, expected {kind} [out, in]")
        outputs, inputs = self.codes.shape
        wanted = outputs, -(-inputs // self.group)
        for name, found in (("scale", self.scale), ("low", self.low)):
            if found is not None and (found.shape != wanted or found.dtype != torch.float32):
                expected = f"float32 {list(wanted)}"
                raise ValueError(f"{name} is {found.dtype} {list(found.shape)}, expected {expected}")

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    @property
    def device(self) -> torch.device:
        return self.codes.device

    def to(self, device: torch.device) -> Quantized:
        """The same there; itself where it is there already."""
        if self.codes.device == device:
            return self
        low, order = (None if held is None else held.to(device) for held in (self.low, self.order))
        return Quantized(self.codes.to(device), self.scale.to(device), self.bits, self.group, low, order)

    def dense(self) -> Tensor:
        """float32 [out, in]."""
        inputs = self.shape[1]
        weight = (self.codes.float() - MIDDLE[self.bits]) * _spread(self.scale, self.group, inputs)
        if self.low is not None:
            weight += _spread(self.low, self.group, inputs)
        return weight if self.order is None else in_place(weight, self.order)

    def rows(self, index: Tensor | slice) -> Quantized:
        """Some of the outputs, in another order perhaps."""
        low = None if self.low is None else self.low[index]
        return Quantized(self.codes[index], self.scale[index], self.bits, self.group, low, self.order)

    def like(self, bits: int, group: int, lows: bool) -> Quantized:
        """The same weights with more bits, a smaller group, or a `low`. No weight changes."""
        codes, scale, low = self.codes, self.scale, self.low
        if bits != self.bits:
            codes = codes.to(torch.int8) - MIDDLE[self.bits]
        if group != self.group:
            groups = -(-self.shape[1] // group)
            scale = _spread(scale, self.group // group, groups)
            low = None if low is None else _spread(low, self.group // group, groups)
        if lows and low is None:
            low = torch.zeros_like(scale)
        return Quantized(codes, scale.contiguous(), bits, group, low, self.order)


def _spread(values: Tensor, times: int, count: int) -> Tensor:
    return values.repeat_interleave(times, 1)[:, :count]


def quantize(weight: Tensor, bits: int, group: int = 128) -> Quantized:
    """weight [out, in], floating point -> the nearest codes, with scales that let the largest of a group be met.

    8 bits: -127 to 127. 4 bits: the largest of a group, with its sign, is the code 0 (so -8), as the codes below the
    middle are one more than those above.
    """
    outputs, inputs = weight.shape
    groups = -(-inputs // group)
    padded = torch.nn.functional.pad(weight.float(), (0, groups * group - inputs)).view(outputs, groups, group)
    if bits == 8:
        scale = padded.abs().amax(-1) / 127
        codes = torch.round(padded / _safe(scale)[..., None]).to(torch.int8)
    else:
        extreme = padded.gather(-1, padded.abs().argmax(-1, keepdim=True))[..., 0]
        scale = extreme / -8
        codes = (torch.round(padded / _safe(scale)[..., None]) + 8).clamp_(0, 15).to(torch.uint8)
    return Quantized(codes.view(outputs, -1)[:, :inputs].contiguous(), scale, bits, group)


def _safe(scale: Tensor) -> Tensor:
    """Where all weights are zero, any scale does."""
    return torch.where(scale == 0, torch.ones_like(scale), scale)


def in_place(columns: Tensor, order: Tensor) -> Tensor:
    """columns [n, in] of inputs in that order -> where the inputs are, a new tensor."""
    found = torch.empty_like(columns)
    found[:, order] = columns
    return found


def alike(parts: Sequence[Quantized]) -> bool:
    """Whether they have one order of inputs, so that `join` takes them."""
    orders = [part.order for part in parts if part.order is not None]
    return not orders or (len(orders) == len(parts) and all(torch.equal(order, orders[0]) for order in orders))


def join(parts: Sequence[Quantized]) -> Quantized:
    """Matrices of equal inputs side by side, [sum of outputs, in]; none of their weights changes. They are `alike`."""
    if not alike(parts):
        raise ValueError("the matrices have their inputs in different orders, expected one")
    bits, group = max(p.bits for p in parts), math.gcd(*(p.group for p in parts))
    lows = any(p.low is not None for p in parts)
    parts = [p.like(bits, group, lows) for p in parts]
    low = torch.cat([p.low for p in parts if p.low is not None]) if lows else None
    codes, scale = torch.cat([p.codes for p in parts]), torch.cat([p.scale for p in parts])
    return Quantized(codes, scale, bits, group, low, parts[0].order)
