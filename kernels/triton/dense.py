"""Products with weights as they come, float32, bfloat16 or float16, in one order of sums whatever the number of rows.

For where the same answer under any load is wanted: a library chooses its kernel, and with it the order of sums, by the
number of rows. weight [outputs, inputs] is read as it lies; see tiles.py for why a row's bits are its own. Sums are
float32 and rounded once, when they are stored.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import tiles
from .checks import out_like, rows_of
from .tiles import DOTS, LANES, ROWS, put_sums, rows_tile, tile_product

DEPTHS = {4: 32, 2: 64}  # inputs of a tile, by bytes of a weight

_NUMBERS = [
    "x_stride", "w_stride", "add_stride", "y_stride", "piece_stride", "rows", "inputs", "outputs", "tiles", "length",
    "pieces",
]  # fmt: skip
_POINTERS = ["x", "weight", "y", "partial", "counters", "bias", "add"]


@triton.jit
def _weights(weight, lane, w_stride, outputs, at, inputs, EVEN: tl.constexpr, DOT: tl.constexpr, DEPTH: tl.constexpr):
    """[DEPTH, LANES]: inputs from `at` on of the panel's outputs."""
    k = tl.arange(0, DEPTH)
    if EVEN:
        start = tl.multiple_of(weight + at, 16)
        where = lane[:, None] * (w_stride // 8 * 8) + k[None, :]
        found = tl.load(start + where, mask=(lane < outputs)[:, None], other=0.0)
    else:
        inside = (lane < outputs)[:, None] & (at + k < inputs)[None, :]
        found = tl.load(weight + lane[:, None] * w_stride + (at + k)[None, :], mask=inside, other=0.0)
    return tl.trans(found.to(DOT))


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_POINTERS)
def dense_products(
    x, weight, y, partial, counters, bias, add, x_stride, w_stride, add_stride, y_stride, piece_stride,
    rows, inputs, outputs, tiles, length, pieces,
    TILES: tl.constexpr, DEPTH: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, EVEN: tl.constexpr,
    DOT: tl.constexpr, ALONE: tl.constexpr, BY_ITSELF: tl.constexpr,
):  # fmt: skip
    """Program (chunk of TILES * ROWS rows, panel, piece), as `matrix.products` has it. Chunks of one panel are
    neighbours, so that all but the first find its weights in the cache."""
    panel, piece = tl.program_id(1).to(tl.int64), tl.program_id(2)
    lane = panel * LANES + tl.arange(0, LANES)
    r0 = tl.program_id(0).to(tl.int64) * TILES * ROWS + tl.arange(0, ROWS)
    r1, r2, r3 = r0 + ROWS, r0 + 2 * ROWS, r0 + 3 * ROWS
    acc0 = tl.zeros([ROWS, LANES], tl.float32)
    acc1 = acc0
    acc2 = acc0
    acc3 = acc0
    for tile in range(piece * length, tl.minimum((piece + 1) * length, tiles)):
        at = tile * DEPTH
        w = _weights(weight, lane, w_stride, outputs, at, inputs, EVEN, DOT, DEPTH)
        # Each of these is the same product of the same shape, so that a row's bits do not depend on TILES.
        x0 = rows_tile(x, r0, r0 < rows, x_stride, at, inputs, None, EVEN, DOT, DEPTH)
        acc0 = tile_product(x0, w, acc0, BY_ITSELF)
        if TILES > 1:
            x1 = rows_tile(x, r1, r1 < rows, x_stride, at, inputs, None, EVEN, DOT, DEPTH)
            acc1 = tile_product(x1, w, acc1, BY_ITSELF)
        if TILES > 2:
            x2 = rows_tile(x, r2, r2 < rows, x_stride, at, inputs, None, EVEN, DOT, DEPTH)
            acc2 = tile_product(x2, w, acc2, BY_ITSELF)
            x3 = rows_tile(x, r3, r3 < rows, x_stride, at, inputs, None, EVEN, DOT, DEPTH)
            acc3 = tile_product(x3, w, acc3, BY_ITSELF)
    put_sums(
        acc0, acc1, acc2, acc3, partial, y, counters, r0, rows, lane, outputs, bias, add, y_stride, add_stride,
        piece_stride, pieces, TILES, ROWS, LANES, ALONE,
    )  # fmt: skip


def product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, add: Tensor | None = None, *, out: Tensor | None = None
) -> Tensor:
    """x [.., inputs] -> W x + bias + add [.., outputs], of x's kind, rounded once.

    weight [outputs, inputs] of x's kind, its rows contiguous; bias [outputs], floating and contiguous; add: of the
    result's shape and kind. A row's bits depend on it and the weights alone. Raises ValueError where shapes or kinds do
    not fit.
    """
    outputs, inputs = weight.shape
    if weight.dtype != x.dtype or (inputs > 1 and weight.stride(1) != 1):
        found = f"{weight.dtype} with strides {weight.stride()}"
        raise ValueError(f"weight is {found}, expected {x.dtype}, rows contiguous")
    if x.shape[-1] != inputs:
        raise ValueError(f"x is {list(x.shape)}, expected [.., {inputs}]")
    if bias is not None and (bias.shape != (outputs,) or not bias.is_contiguous() or not bias.is_floating_point()):
        raise ValueError(f"bias is {bias.dtype} {list(bias.shape)}, expected [{outputs}], floating and contiguous")
    flat = rows_of("x", x)
    shape = torch.Size([*x.shape[:-1], outputs])
    if add is not None and (add.shape != shape or add.dtype != x.dtype):
        raise ValueError(f"add is {add.dtype} {list(add.shape)}, expected {x.dtype} {list(shape)}")
    out, y = out_like(out, shape, x)
    if y.numel():
        _launch(flat, weight, y, bias, None if add is None else rows_of("add", add))
    return out


def _launch(x: Tensor, weight: Tensor, y: Tensor, bias: Tensor | None, add: Tensor | None) -> None:
    rows, (outputs, inputs) = x.shape[0], weight.shape
    depth, panels = DEPTHS[x.element_size()], triton.cdiv(outputs, LANES)
    count = triton.cdiv(inputs, depth)
    length = tiles.piece_length(panels, count, inputs)
    pieces = max(1, triton.cdiv(count, length) if length else 1)
    chunk = tiles.several(rows)
    alone = tiles.interpreted()
    chunks = triton.cdiv(rows, chunk * ROWS)
    partial, counters = tiles.room(x, pieces, rows, outputs, chunks * panels)
    dense_products[chunks, panels, pieces](
        x, weight, y, partial, counters, bias, add,
        x.stride(0), weight.stride(0), 0 if add is None else add.stride(0), y.stride(0), rows * outputs,
        rows, inputs, outputs, count, length, pieces,
        TILES=chunk, DEPTH=depth, ROWS=ROWS, LANES=LANES, EVEN=_even(x, depth) and _even(weight, depth),
        DOT=tl.float32 if alone else DOTS[x.dtype], ALONE=pieces == 1, BY_ITSELF=alone,
        num_warps=2, num_stages=4,
    )  # fmt: skip


def _even(held: Tensor, depth: int) -> bool:
    aligned = held.data_ptr() % 16 == 0 and (held.stride(0) % 8 == 0 or held.shape[0] == 1)
    return aligned and held.shape[1] % depth == 0
