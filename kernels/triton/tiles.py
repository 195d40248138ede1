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
COUNTED = 1 << 16  # sums of a launch that counters are made for at once
DOTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}

_IEEE = tl.constexpr("ieee")  # as a default Triton 3.6 compiles no plain string


@triton.jit
def tile_product(a, b, acc, BY_ITSELF: tl.constexpr, PRECISION: tl.constexpr = _IEEE):
    """acc + a b in float32. PRECISION: of tl.dot, where a and b are float32 too."""
    if BY_ITSELF:
        # The interpreter's product is numpy's, where a row's rounding depends on its place.
        return acc + tl.sum(a[:, :, None] * b[None, :, :], 1)
    else:  # noqa: RET505 - a constant condition: only one of the two is compiled
        return tl.dot(a, b, acc, input_precision=PRECISION)


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


@triton.jit
def last_to_arrive(counters, which, pieces):
    """Whether all other pieces are there: of the programs of one sum it is so for exactly one, which finds what they
    stored. counters: 0 before, and behind it."""
    tl.debug_barrier()  # all threads have stored
    last = tl.atomic_add(counters + which, 1, sem="acq_rel") == pieces - 1
    if last:
        tl.store(counters + which, 0)
    return last


@triton.jit
def put_sum(
    partial, y, row, rows, lane, outputs, bias, add, y_stride, add_stride, piece_stride, pieces,
    ROWS: tl.constexpr, LANES: tl.constexpr, AHEAD: tl.constexpr = 8,
):  # fmt: skip
    """The pieces' sums [ROWS, LANES] one after the other, bias, add, to y. The order is that of the pieces, whoever was
    last."""
    inside = (row < rows)[:, None] & (lane < outputs)[None, :]
    mine = partial + row[:, None] * outputs + lane[None, :]
    acc = tl.zeros([ROWS, LANES], tl.float32)
    for first in range(0, pieces, AHEAD):
        for nth in tl.static_range(AHEAD):  # all of them are on their way before one is added
            there = inside & (tl.full([ROWS, LANES], first + nth, tl.int32) < pieces)
            # What others stored, so not from L1.
            acc += tl.load(mine + nth * piece_stride, mask=there, other=0.0, cache_modifier=".cg")
        mine += AHEAD * piece_stride
    put_tile(acc, y, row, rows, lane, outputs, bias, add, y_stride, add_stride, True)


@triton.jit
def put_sums(
    acc0, acc1, acc2, acc3, partial, y, counters, row, rows, lane, outputs, bias, add, y_stride, add_stride,
    piece_stride, pieces,
    TILES: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr, ALONE: tl.constexpr,
):  # fmt: skip
    """What program (chunk, panel, piece) summed up, of TILES tiles of rows: to y where there is one piece (ALONE). Else
    to partial [pieces, rows, outputs], and the last program of the chunk and the panel adds up what all have left."""
    r1, r2, r3 = row + ROWS, row + 2 * ROWS, row + 3 * ROWS
    if ALONE:
        put_tile(acc0, y, row, rows, lane, outputs, bias, add, y_stride, add_stride, True)
        if TILES > 1:
            put_tile(acc1, y, r1, rows, lane, outputs, bias, add, y_stride, add_stride, True)
        if TILES > 2:
            put_tile(acc2, y, r2, rows, lane, outputs, bias, add, y_stride, add_stride, True)
            put_tile(acc3, y, r3, rows, lane, outputs, bias, add, y_stride, add_stride, True)
    else:
        mine = partial + tl.program_id(2).to(tl.int64) * piece_stride
        put_tile(acc0, mine, row, rows, lane, outputs, None, None, outputs, 0, False)
        if TILES > 1:
            put_tile(acc1, mine, r1, rows, lane, outputs, None, None, outputs, 0, False)
        if TILES > 2:
            put_tile(acc2, mine, r2, rows, lane, outputs, None, None, outputs, 0, False)
            put_tile(acc3, mine, r3, rows, lane, outputs, None, None, outputs, 0, False)
        if last_to_arrive(counters, tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), pieces):
            for nth in tl.static_range(TILES):
                put_sum(
                    partial, y, row + nth * ROWS, rows, lane, outputs, bias, add, y_stride, add_stride, piece_stride,
                    pieces, ROWS, LANES,
                )  # fmt: skip


def interpreted() -> bool:
    """Whether Triton interprets its kernels, which it settles when it is first imported."""
    return not isinstance(put_tile, triton.JITFunction)


def several(rows: int) -> int:
    """How many tiles of rows a program takes: 1, 2 or 4, and more rows are further programs."""
    return 1 if rows <= ROWS else 2 if rows <= 2 * ROWS else 4


def piece_length(panels: int, tiles: int, inputs: int) -> int:
    """Tiles of a piece of the inputs: of nothing but the matrix's shape, so that no sum's order ever changes."""
    pieces = max(1, min(-(-PROGRAMS // panels), inputs // SHORTEST))
    return -(-tiles // pieces)


def room(x: Tensor, pieces: int, rows: int, outputs: int, sums: int) -> tuple[Tensor, Tensor]:
    """(partial float32 [pieces, rows, outputs], counters int32 [sums or more]) for a launch whose inputs are cut; both
    are x where they are not. Counters serve one launch after the other: all that uses them runs on one stream."""
    if pieces == 1:
        return x, x
    found = _COUNTERS.get(x.device)
    if found is None or found.numel() < sums:
        found = _COUNTERS[x.device] = torch.zeros(max(sums, COUNTED), dtype=torch.int32, device=x.device)
        _CAPTURED.append(found)
    return x.new_empty((pieces, rows, outputs), dtype=torch.float32), found


_COUNTERS: dict[torch.device, Tensor] = {}
_CAPTURED: list[Tensor] = []  # all there ever were: graphs count where they did when they were captured
