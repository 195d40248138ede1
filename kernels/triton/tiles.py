"""What the products here have in common: tiles of ROWS rows, and how a matrix is cut along its inputs.

A tile of ROWS rows by LANES outputs is always multiplied by the same product of the same shape. A program with more
rows makes several of them, one after the other, against the weights it has read once. Where the inputs are cut the
matrix's shape says, and pieces are added one after the other. So a row's sums have one order, whatever is beside it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LANES = 64  # outputs of a panel
ROWS = 16  # of one product of tiles
PROGRAMS = 512  # that a matrix is cut into where it has the inputs for it
SHORTEST = 512  # inputs of a piece, at least
OUT = 256  # outputs that a program of the last sum takes
DOTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def tile_product(a, b, acc, BY_ITSELF: tl.constexpr):
    """acc + a b in float32."""
    if BY_ITSELF:
        # The interpreter's product is numpy's, where a row's rounding depends on its place.
        return acc + tl.sum(a[:, :, None] * b[None, :, :], 1)
    else:  # noqa: RET505 - a constant condition: only one of the two is compiled
        return tl.dot(a, b, acc, input_precision="ieee")


@triton.jit
def rows_tile(x, row, taken, x_stride, at, inputs, order, EVEN: tl.constexpr, DOT: tl.constexpr, DEPTH: tl.constexpr):
    """x [ROWS, DEPTH], inputs from `at` on; order: of the inputs, None for their own. EVEN: rows begin at multiples of
    16 bytes and the inputs fill their tiles, so that they are read by as many."""
    if EVEN:
        start = tl.multiple_of(x + at, 16)
        where = row[:, None] * (x_stride // 8 * 8) + tl.arange(0, DEPTH)[None, :]
        return tl.load(start + where, mask=taken[:, None], other=0.0).to(DOT)
    i = at + tl.arange(0, DEPTH)
    column = i.to(tl.int64)
    if order is not None:
        column = tl.load(order + i, mask=i < inputs, other=0)
    inside = taken[:, None] & (i < inputs)[None, :]
    return tl.load(x + row[:, None] * x_stride + column[None, :], mask=inside, other=0.0).to(DOT)


@triton.jit
def put_tile(
    acc, y, row, rows, lane, outputs, bias, add, y_stride, add_stride, ALONE: tl.constexpr
):  # fmt: skip
    """acc [ROWS, LANES] to y. ALONE: it is the whole sum, so bias and add come to it first."""
    inside = (row < rows)[:, None] & (lane < outputs)[None, :]
    if ALONE:
        if bias is not None:
            acc += tl.load(bias + lane, mask=lane < outputs, other=0.0).to(tl.float32)[None, :]
        if add is not None:
            acc += tl.load(add + row[:, None] * add_stride + lane[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(y + row[:, None] * y_stride + lane[None, :], acc.to(y.dtype.element_ty), mask=inside)


@triton.jit(
    do_not_specialize=["y_stride", "add_stride", "piece_stride", "outputs", "pieces"],
    do_not_specialize_on_alignment=["partial", "y", "bias", "add"],
)
def pieces_together(
    partial, y, bias, add, y_stride, add_stride, piece_stride, outputs, pieces, OUT: tl.constexpr
):  # fmt: skip
    """Program (row, part of the outputs): the pieces' sums one after the other, bias, add."""
    row, lane = tl.program_id(0).to(tl.int64), tl.program_id(1) * OUT + tl.arange(0, OUT)
    acc = tl.zeros([OUT], tl.float32)
    mine = partial + row * outputs
    for _ in range(pieces):
        acc += tl.load(mine + lane, mask=lane < outputs, other=0.0)
        mine += piece_stride
    if bias is not None:
        acc += tl.load(bias + lane, mask=lane < outputs, other=0.0).to(tl.float32)
    if add is not None:
        acc += tl.load(add + row * add_stride + lane, mask=lane < outputs, other=0.0).to(tl.float32)
    tl.store(y + row * y_stride + lane, acc.to(y.dtype.element_ty), mask=lane < outputs)


def interpreted() -> bool:
    """Whether Triton interprets its kernels, which it settles when it is first imported."""
    return not isinstance(pieces_together, triton.JITFunction)


def several(rows: int) -> int:
    """How many tiles of rows a program takes: 1, 2 or 4, and more rows are further programs."""
    return 1 if rows <= ROWS else 2 if rows <= 2 * ROWS else 4


def piece_length(panels: int, tiles: int, inputs: int) -> int:
    """Tiles of a piece of the inputs: of nothing but the matrix's shape, so that no sum's order ever changes."""
    pieces = max(1, min(-(-PROGRAMS // panels), inputs // SHORTEST))
    return -(-tiles // pieces)


def join_pieces(partial: Tensor, y: Tensor, bias: Tensor | None, add: Tensor | None) -> None:
    """partial float32 [pieces, rows, outputs], contiguous: their sum, bias and add into y [rows, outputs]."""
    pieces, rows, outputs = partial.shape
    add_stride = 0 if add is None else add.stride(0)
    pieces_together[rows, triton.cdiv(outputs, OUT)](
        partial, y, bias, add, y.stride(0), add_stride, partial.stride(0), outputs, pieces, OUT=OUT
    )  # fmt: skip
