"""Weights in few bits on a GPU: what products and tables pack, and how they multiply (kernels/triton/matrix.py).

Packing is done on the device, a matrix at a time and some outputs of it at once, so that beside the matrix as it came
and its codes there is never much more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from .matrix import ROWS, group_of
from .quantized import Quantized, alike, join, quantize
from .triton import chosen

if TYPE_CHECKING:
    from .triton.matrix import Packed

FORMS = {"int8": 8, "int4": 4, "fp8": 8}  # bits of a weight
GREATEST = 448.0  # of e4m3
OUTPUTS = 4096  # that are unpacked at once


def pack(parts: Sequence[Tensor | Quantized], bias: Tensor | None, form: str | None) -> Packed:
    """The parts [.., in], all on one device, side by side. form: a key of FORMS, which those in floating point get;
    beside parts that are quantized already it is int8. No weight of those changes: of 4 bits in groups that there is no
    form for they become 8.

    Raises ValueError where quantized parts have their inputs in different orders.
    """
    kind = chosen.module("matrix").Packed
    given = [part for part in parts if isinstance(part, Quantized)]
    if form == "fp8" and not given:
        weights, scales = zip(*(in_fp8(part) for part in parts if isinstance(part, Tensor)), strict=True)
        # torch.cat takes no e4m3 on some devices.
        whole = torch.cat([weight.view(torch.uint8) for weight in weights]).view(torch.float8_e4m3fn)
        return kind.of_fp8(whole, torch.cat(scales), None, bias)
    bits = 8 if given else FORMS[form or "int8"]
    if not alike(given) or (given and given[0].order is not None and len(given) < len(parts)):
        raise ValueError("the matrices of one product have their inputs in different orders, expected one (act-order)")
    one = join([part if isinstance(part, Quantized) else in_bits(part, bits) for part in parts])
    if chosen.module("matrix").refused(one):
        one = one.like(8, one.group, one.low is not None)
    return kind.of(one, bias)


def in_bits(weight: Tensor, bits: int) -> Quantized:
    """weight [out, in], floating point, as `quantize` has it with the groups that quire chooses."""
    group = group_of(weight.shape[1], bits)
    some = [quantize(weight[at : at + ROWS], bits, group) for at in range(0, len(weight), ROWS)]
    codes, scale = torch.cat([q.codes for q in some]), torch.cat([q.scale for q in some])
    return Quantized(codes, scale, bits, group)


def in_fp8(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [out, in], floating point -> (e4m3 [out, in], scale float32 [out]): the largest of an output is the
    largest that e4m3 has, 448 times its scale."""
    found = torch.empty(weight.shape, dtype=torch.float8_e4m3fn, device=weight.device)
    scales = []
    for at in range(0, len(weight), ROWS):
        some = weight[at : at + ROWS].float()
        scale = some.abs().amax(1) / GREATEST
        scale = torch.where(scale == 0, torch.ones_like(scale), scale)  # all weights are zero: any does
        found[at : at + ROWS] = (some / scale[:, None]).clamp_(-GREATEST, GREATEST).to(torch.float8_e4m3fn)
        scales.append(scale)
    return found, torch.cat(scales)


def product(packed: Packed, x: Tensor, add: Tensor | None = None, *, fixed: bool = False) -> Tensor:
    """x [rows, in] -> W x + bias + add [rows, out], a new tensor. fixed: by the kernel that gives a row the same bits
    among any number of rows."""
    if fixed or x.shape[0] <= chosen.PACKED_ROWS:
        return packed.product(x, add)
    unpack, y = chosen.module("unpack"), x.new_empty(x.shape[0], packed.outputs)
    for at in range(0, packed.outputs, OUTPUTS):
        part = slice(at, min(at + OUTPUTS, packed.outputs))
        bias = None if packed.bias is None else packed.bias[part].to(x.dtype)
        y[:, part] = functional.linear(x, unpack.outputs(packed, part).to(x.dtype), bias)
    return y if add is None else y.add_(add)
