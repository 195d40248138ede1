"""Gathered LoRA products over tables of addresses: by row for decode (bgmv), by tiles of rows for prefill (sgmv).

A slot's factors stay where they are: the kernels read their addresses from the tables of `kernels.lora.Deltas`, where
an entry is [pieces, gain, offset] and then of each piece [a, b, rank, start, rows, and two for others]. One launch
shrinks, h = x a^T, with h [rows, the ranks of the slot's pieces one after the other] in float32; one expands, y = y *
gain + offset + h b^T, and each program of it goes over all pieces that touch its outputs, in order, so that pieces may
overlap and no two programs write one place. Each sum has a fixed order; the order differs between the two ways, as the
tiles do.

No number that changes with rank, rows, slots or adapters is a constant of a kernel, nor is one looked at for being 1 or
divisible by 16 (`do_not_specialize`): what was compiled for a dtype serves everything. Grids change freely.
Punica: Chen et al. 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_ROWS = 16  # rows of one slot that a program of the prefill way takes
TILE_RANK = 16
TILE_IN = 64
TILE_OUT = 64
SMALL = 64  # up to as many rows the decode way is taken

# What the tiles of each kind are multiplied as.
DOTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}

# Every number of a launch: what Triton must not look at.
_NUMBERS = ["x_stride", "y_stride", "h_stride", "inputs", "outputs", "capacity"]
_POINTERS = ["entries", "of_row", "order", "tile_slot", "tile_first", "tile_last", "x", "y", "h"]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Of one product: entries [capacity], int64, on its device; of each slot the address of its entry, 0 for none.

    Over all slots: ranks, the largest sum of the ranks of one; pieces, the largest number; rank, a piece's largest.
    """

    entries: Tensor
    ranks: int
    pieces: int
    rank: int


@dataclass(frozen=True, slots=True, eq=False)
class Tiles:
    """Of one step, on its device, int64: of_row [rows], order [grouped rows], and of each tile its slot and the part
    [first, last) of order that it takes, TILE_ROWS at most."""

    of_row: Tensor
    order: Tensor
    slot: Tensor
    first: Tensor
    last: Tensor


@triton.jit
def _entry(entries, slot, capacity):
    """The address of a slot's entry, 0 where there is none."""
    return tl.load(entries + slot, mask=(slot >= 0) & (slot < capacity), other=0)


@triton.jit
def _piece(entry, nth):
    """Where the numbers of a piece are: a, b, rank, start, rows."""
    return entry + 3 + nth * 7


@triton.jit
def _ranks_before(entry, nth):
    """Where the ranks of a piece begin among those of its slot."""
    before = tl.full((), 0, tl.int64)
    for i in range(nth):
        before += tl.load(_piece(entry, i) + 2)
    return before


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_POINTERS)
def bgmv_shrink(
    x, h, entries, of_row, x_stride, h_stride, inputs, capacity, TILE_RANK: tl.constexpr, TILE_IN: tl.constexpr
):  # fmt: skip
    """Program (row, piece, part of its ranks): h[row, those] = x[row] a^T"""
    row, nth, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    address = _entry(entries, tl.load(of_row + row), capacity)
    if address == 0:
        return
    entry = address.to(tl.pointer_type(tl.int64))
    if nth >= tl.load(entry):
        return
    rank = tl.load(_piece(entry, nth) + 2)
    if part * TILE_RANK >= rank:
        return
    a = tl.load(_piece(entry, nth)).to(tl.pointer_type(x.dtype.element_ty))
    k = part * TILE_RANK + tl.arange(0, TILE_RANK)
    acc = tl.zeros([TILE_RANK, TILE_IN], tl.float32)
    for at in range(0, inputs, TILE_IN):
        i = at + tl.arange(0, TILE_IN)
        xs = tl.load(x + row * x_stride + i, mask=i < inputs, other=0.0).to(tl.float32)
        inside = (k < rank)[:, None] & (i < inputs)[None, :]
        factors = tl.load(a + k[:, None].to(tl.int64) * inputs + i[None, :], mask=inside, other=0.0).to(tl.float32)
        acc += factors * xs[None, :]
    tl.store(h + row * h_stride + _ranks_before(entry, nth) + k, tl.sum(acc, 1), mask=k < rank)


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_POINTERS)
def bgmv_expand(
    y, h, entries, of_row, y_stride, h_stride, outputs, capacity, TILE_RANK: tl.constexpr, TILE_OUT: tl.constexpr
):  # fmt: skip
    """Program (row, part of the outputs): y[row, those] = y * gain + offset + h b^T, over the pieces of its slot."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    address = _entry(entries, tl.load(of_row + row), capacity)
    if address == 0:
        return
    entry = address.to(tl.pointer_type(tl.int64))
    gain, offset = tl.load(entry + 1), tl.load(entry + 2)
    j = part * TILE_OUT + tl.arange(0, TILE_OUT)
    at = y + row * y_stride + j
    acc = tl.load(at, mask=j < outputs, other=0.0).to(tl.float32)
    if gain != 0:
        vector = gain.to(tl.pointer_type(y.dtype.element_ty))
        acc *= tl.load(vector + j, mask=j < outputs, other=0.0).to(tl.float32)
    if offset != 0:
        vector = offset.to(tl.pointer_type(y.dtype.element_ty))
        acc += tl.load(vector + j, mask=j < outputs, other=0.0).to(tl.float32)
    mine = h + row * h_stride
    for nth in range(tl.load(entry)):
        piece = _piece(entry, nth)
        b = tl.load(piece + 1).to(tl.pointer_type(y.dtype.element_ty))
        rank, start, rows = tl.load(piece + 2), tl.load(piece + 3), tl.load(piece + 4)
        if (part * TILE_OUT < start + rows) & ((part + 1) * TILE_OUT > start):
            inside = (j >= start) & (j < start + rows)
            more = tl.zeros([TILE_RANK, TILE_OUT], tl.float32)
            for done in range(0, rank, TILE_RANK):
                k = done + tl.arange(0, TILE_RANK)
                shrunk = tl.load(mine + k, mask=k < rank, other=0.0)
                both = (k < rank)[:, None] & inside[None, :]
                factors = tl.load(b + k[:, None] * rows + (j - start)[None, :], mask=both, other=0.0).to(tl.float32)
                more += shrunk[:, None] * factors
            acc += tl.sum(more, 0)
        mine += rank
    tl.store(at, acc.to(y.dtype.element_ty), mask=j < outputs)


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_POINTERS)
def sgmv_shrink(
    x, h, entries, order, tile_slot, tile_first, tile_last, x_stride, h_stride, inputs, capacity,
    TILE_ROWS: tl.constexpr, TILE_RANK: tl.constexpr, TILE_IN: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Program (tile, piece, part of its ranks): h of the tile's rows."""
    tile, nth, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    address = _entry(entries, tl.load(tile_slot + tile), capacity)
    if address == 0:
        return
    entry = address.to(tl.pointer_type(tl.int64))
    if nth >= tl.load(entry):
        return
    rank = tl.load(_piece(entry, nth) + 2)
    if part * TILE_RANK >= rank:
        return
    a = tl.load(_piece(entry, nth)).to(tl.pointer_type(x.dtype.element_ty))
    t = tl.load(tile_first + tile) + tl.arange(0, TILE_ROWS)
    taken = t < tl.load(tile_last + tile)
    row = tl.load(order + t, mask=taken, other=0)
    k = part * TILE_RANK + tl.arange(0, TILE_RANK)
    acc = tl.zeros([TILE_ROWS, TILE_RANK], tl.float32)
    for at in range(0, inputs, TILE_IN):
        i = at + tl.arange(0, TILE_IN)
        inside = taken[:, None] & (i < inputs)[None, :]
        xs = tl.load(x + row[:, None] * x_stride + i[None, :], mask=inside, other=0.0)
        inside = (i < inputs)[:, None] & (k < rank)[None, :]
        factors = tl.load(a + k[None, :].to(tl.int64) * inputs + i[:, None], mask=inside, other=0.0)
        acc = tl.dot(xs.to(DOT), factors.to(DOT), acc, input_precision="ieee")
    out = h + row[:, None] * h_stride + _ranks_before(entry, nth) + k[None, :]
    tl.store(out, acc, mask=taken[:, None] & (k < rank)[None, :])


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_POINTERS)
def sgmv_expand(
    y, h, entries, order, tile_slot, tile_first, tile_last, y_stride, h_stride, outputs, capacity,
    TILE_ROWS: tl.constexpr, TILE_RANK: tl.constexpr, TILE_OUT: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Program (tile, part of the outputs): y of the tile's rows, over the pieces of their slot."""
    tile, part = tl.program_id(0), tl.program_id(1)
    address = _entry(entries, tl.load(tile_slot + tile), capacity)
    if address == 0:
        return
    entry = address.to(tl.pointer_type(tl.int64))
    gain, offset = tl.load(entry + 1), tl.load(entry + 2)
    t = tl.load(tile_first + tile) + tl.arange(0, TILE_ROWS)
    taken = t < tl.load(tile_last + tile)
    row = tl.load(order + t, mask=taken, other=0)
    j = part * TILE_OUT + tl.arange(0, TILE_OUT)
    at = y + row[:, None] * y_stride + j[None, :]
    written = taken[:, None] & (j < outputs)[None, :]
    acc = tl.load(at, mask=written, other=0.0).to(tl.float32)
    if gain != 0:
        vector = gain.to(tl.pointer_type(y.dtype.element_ty))
        acc *= tl.load(vector + j, mask=j < outputs, other=0.0).to(tl.float32)[None, :]
    if offset != 0:
        vector = offset.to(tl.pointer_type(y.dtype.element_ty))
        acc += tl.load(vector + j, mask=j < outputs, other=0.0).to(tl.float32)[None, :]
    mine = h + row[:, None] * h_stride
    for nth in range(tl.load(entry)):
        piece = _piece(entry, nth)
        b = tl.load(piece + 1).to(tl.pointer_type(y.dtype.element_ty))
        rank, start, rows = tl.load(piece + 2), tl.load(piece + 3), tl.load(piece + 4)
        if (part * TILE_OUT < start + rows) & ((part + 1) * TILE_OUT > start):
            more = tl.zeros([TILE_ROWS, TILE_OUT], tl.float32)
            for done in range(0, rank, TILE_RANK):
                k = done + tl.arange(0, TILE_RANK)
                shrunk = tl.load(mine + k[None, :], mask=taken[:, None] & (k < rank)[None, :], other=0.0)
                inside = (k < rank)[:, None] & ((j >= start) & (j < start + rows))[None, :]
                factors = tl.load(b + k[:, None] * rows + (j - start)[None, :], mask=inside, other=0.0)
                more = tl.dot(shrunk.to(DOT), factors.to(DOT), more, input_precision="ieee")
            acc += more
        mine += rank
    tl.store(at, acc.to(y.dtype.element_ty), mask=written)


def apply(x: Tensor, y: Tensor, table: Table, tiles: Tiles, *, fixed: bool = False) -> Tensor:
    """y [rows, out] with gain, offset and pieces of each row's slot, in place; x [rows, in], its rows contiguous.
    fixed: one way for any number of rows, as a row's bits are not the same in both."""
    way = by_row if x.shape[0] <= SMALL and not fixed else by_tile
    way(x, y, table, tiles)
    return y


def by_row(x: Tensor, y: Tensor, table: Table, tiles: Tiles) -> None:
    """The decode way: a program has one row."""
    rows, inputs = x.shape
    capacity = table.entries.shape[0]
    h = x.new_empty((rows, max(table.ranks, 1)), dtype=torch.float32)
    if table.pieces:
        bgmv_shrink[rows, table.pieces, triton.cdiv(table.rank, TILE_RANK)](
            x, h, table.entries, tiles.of_row, x.stride(0), h.stride(0), inputs, capacity,
            TILE_RANK=TILE_RANK, TILE_IN=TILE_IN,
        )  # fmt: skip
    bgmv_expand[rows, triton.cdiv(y.shape[1], TILE_OUT)](
        y, h, table.entries, tiles.of_row, y.stride(0), h.stride(0), y.shape[1], capacity,
        TILE_RANK=TILE_RANK, TILE_OUT=TILE_OUT,
    )  # fmt: skip


def by_tile(x: Tensor, y: Tensor, table: Table, tiles: Tiles) -> None:
    """The prefill way: a program has up to TILE_ROWS rows of one slot, which share the reads of its factors."""
    rows, inputs = x.shape
    capacity = table.entries.shape[0]
    count = tiles.slot.shape[0]
    # Triton's interpreter multiplies bfloat16 as the whole numbers that it keeps them as.
    dot = DOTS[x.dtype] if isinstance(sgmv_shrink, triton.JITFunction) else tl.float32
    h = x.new_empty((rows, max(table.ranks, 1)), dtype=torch.float32)
    where = tiles.order, tiles.slot, tiles.first, tiles.last
    if table.pieces:
        sgmv_shrink[count, table.pieces, triton.cdiv(table.rank, TILE_RANK)](
            x, h, table.entries, *where, x.stride(0), h.stride(0), inputs, capacity,
            TILE_ROWS=TILE_ROWS, TILE_RANK=TILE_RANK, TILE_IN=TILE_IN, DOT=dot,
        )  # fmt: skip
    sgmv_expand[count, triton.cdiv(y.shape[1], TILE_OUT)](
        y, h, table.entries, *where, y.stride(0), h.stride(0), y.shape[1], capacity,
        TILE_ROWS=TILE_ROWS, TILE_RANK=TILE_RANK, TILE_OUT=TILE_OUT, DOT=dot,
    )  # fmt: skip
