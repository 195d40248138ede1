"""Products of few rows with weights in 8 or 4 bits: whole numbers, or floating point e4m3, with scales.

A matrix is packed once. Its stream of bytes is [panels of LANES outputs, tiles of inputs, LANES, depth], so a program
reads one piece of it from end to end, and an output's inputs lie side by side, as the registers of a product hold them.
A tile's inputs share one scale (`tile` inputs: the group, at most DEEPEST of
them):

- int8: byte [lane, k] is the code of input k of the tile, -128 to 127.
- fp8: byte [lane, k] is the bits of that weight: sign, 4 bits of exponent with bias 7, 3 bits of fraction; no infinity.
- int4: byte [lane, k] of tile / 2 has input k in its low four bits and input k + tile / 2 in the high ones, so that
  each half is a tile of a product and nothing is interleaved. Code c stands for c - 8.

scale [panels, groups, LANES], low the same: weight = scale * code + low, as `Quantized` has it. Both are kept in 16
bits where that changes none of them. Where all groups of each output share a scale, one is kept.

The codes are multiplied as they are, exactly, in x's kind; sums are float32, and a tile's sum is scaled as it is added.
Every program multiplies tiles of ROWS rows, one after the other against the weights it has read once, and the inputs
are cut into pieces where the matrix's shape says, whatever the number of rows: a row's sums have one order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..quantized import Quantized, join
from . import codes, unpack
from . import tiles as shared
from .checks import out_like, rows_of
from .tiles import DOTS, LANES, ROWS, put_sums, rows_tile, tile_product

DEEPEST = 128  # inputs of a tile, at most
SHALLOWEST = {"int8": 16, "fp8": 16, "int4": 32}  # at least: a product of tiles takes 16 inputs or more
PANELS = 64  # packed at once
FORMS = {"int8": 0, "int4": 1, "fp8": 2}
WAYS = {"int8": (4, 3), "int4": (2, 3), "fp8": (4, 3)}  # warps, and tiles that are on their way from memory
FEWER = 2  # of these where rows are float32: with three a program takes more than the 99 KiB of the smaller cards

_NUMBERS = [
    "x_stride", "add_stride", "y_stride", "piece_stride", "rows", "inputs", "outputs", "tiles", "length", "pieces",
    "groups", "group_tiles",
]  # fmt: skip
_POINTERS = ["x", "y", "partial", "counters", "panels", "scale", "low", "order", "bias", "add", "sums"]


@triton.jit
def _codes(panels, FORM: tl.constexpr, DOT: tl.constexpr, DEPTH: tl.constexpr, LANES: tl.constexpr):
    """One tile of codes, [DEPTH, LANES] twice: of int4 the halves of its inputs, else the same."""
    where = tl.arange(0, LANES)[:, None] * DEPTH + tl.arange(0, DEPTH)[None, :]
    held = tl.load(panels + where)
    if FORM == 0:
        first = codes.whole(held, DOT)
        second = first
    elif FORM == 1:
        first, second = codes.halves(held, DOT)
    else:
        first = codes.e4m3(held, DOT)
        second = first
    return tl.trans(first), tl.trans(second)


@triton.jit
def _added(
    acc, x, row, rows, x_stride, at, inputs, order, low, high, scale, lows, sums, tile, tiles,
    FORM: tl.constexpr, EVEN: tl.constexpr, DOT: tl.constexpr, DEPTH: tl.constexpr, BY_ITSELF: tl.constexpr,
):  # fmt: skip
    """acc [ROWS, LANES] and what a tile of inputs adds to it."""
    taken = row < rows
    some = tl.zeros(acc.shape, tl.float32)
    own = rows_tile(x, row, taken, x_stride, at, inputs, order, EVEN, DOT, DEPTH)
    some = tile_product(own, low, some, BY_ITSELF)
    if FORM == 1:
        more = rows_tile(x, row, taken, x_stride, at + DEPTH, inputs, order, EVEN, DOT, DEPTH)
        some = tile_product(more, high, some, BY_ITSELF)
    acc = tl.fma(some, tl.broadcast_to(scale[None, :], some.shape), acc)
    if lows is not None:
        total = tl.load(sums + row * tiles + tile, mask=taken, other=0.0)
        acc = tl.fma(tl.broadcast_to(total[:, None], some.shape), tl.broadcast_to(lows[None, :], some.shape), acc)
    return acc


@triton.jit
def _group(tile, group_tiles, SHARED: tl.constexpr):
    """Whose scales a tile has."""
    if SHARED == 0:
        return 0
    if SHARED == 1:
        return tile
    return tile // group_tiles


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_POINTERS)
def products(
    x, y, partial, counters, panels, scale, low, order, bias, add, sums,
    x_stride, add_stride, y_stride, piece_stride, rows, inputs, outputs, tiles, length, pieces, groups, group_tiles,
    FORM: tl.constexpr, SHARED: tl.constexpr, TILES: tl.constexpr, TILE: tl.constexpr, ROWS: tl.constexpr,
    LANES: tl.constexpr, EVEN: tl.constexpr, DOT: tl.constexpr, ALONE: tl.constexpr, BY_ITSELF: tl.constexpr,
):  # fmt: skip
    """Program (chunk of TILES * ROWS rows, panel, piece): their sums over the piece's inputs. ALONE: there is no other.
    Else sums go to partial [pieces, rows, outputs], and the last program of a sum adds them up. EVEN: the inputs fill
    their tiles, and rows of x begin at multiples of 16 bytes, so that they are read by as many."""
    DEPTH: tl.constexpr = TILE // 2 if FORM == 1 else TILE
    panel, piece = tl.program_id(1).to(tl.int64), tl.program_id(2)
    lanes = tl.arange(0, LANES)
    r0 = tl.program_id(0).to(tl.int64) * TILES * ROWS + tl.arange(0, ROWS)
    r1, r2, r3 = r0 + ROWS, r0 + 2 * ROWS, r0 + 3 * ROWS
    acc0 = tl.zeros([ROWS, LANES], tl.float32)
    acc1 = acc0
    acc2 = acc0
    acc3 = acc0
    begin, end = piece * length, tl.minimum((piece + 1) * length, tiles)
    # Scales are read a tile ahead: too few bytes for Triton to do so by itself.
    own_groups = scale + panel * groups * LANES + lanes
    gain = tl.load(own_groups + _group(begin, group_tiles, SHARED) * LANES)
    for tile in range(begin, end):
        # The buffer is ours, and a tile is 1,024 bytes or more of it.
        stream = tl.multiple_of(panels + (panel * tiles + tile) * DEPTH * LANES, 16)
        first, second = _codes(stream, FORM, DOT, DEPTH, LANES)
        wide = gain.to(tl.float32)
        if SHARED > 0:
            gain = tl.load(own_groups + _group(tl.minimum(tile + 1, end - 1), group_tiles, SHARED) * LANES)
        lows = None
        if low is not None:
            group = panel * groups + _group(tile, group_tiles, SHARED)
            lows = tl.load(low + group * LANES + lanes).to(tl.float32)
        at = tile * TILE
        # Each of these is the same product of the same shape, so that a row's bits do not depend on TILES.
        acc0 = _added(
            acc0, x, r0, rows, x_stride, at, inputs, order, first, second, wide, lows, sums, tile, tiles,
            FORM, EVEN, DOT, DEPTH, BY_ITSELF,
        )  # fmt: skip
        if TILES > 1:
            acc1 = _added(
                acc1, x, r1, rows, x_stride, at, inputs, order, first, second, wide, lows, sums, tile, tiles,
                FORM, EVEN, DOT, DEPTH, BY_ITSELF,
            )  # fmt: skip
        if TILES > 2:
            acc2 = _added(
                acc2, x, r2, rows, x_stride, at, inputs, order, first, second, wide, lows, sums, tile, tiles,
                FORM, EVEN, DOT, DEPTH, BY_ITSELF,
            )  # fmt: skip
            acc3 = _added(
                acc3, x, r3, rows, x_stride, at, inputs, order, first, second, wide, lows, sums, tile, tiles,
                FORM, EVEN, DOT, DEPTH, BY_ITSELF,
            )  # fmt: skip
    lane = panel * LANES + lanes
    put_sums(
        acc0, acc1, acc2, acc3, partial, y, counters, r0, rows, lane, outputs, bias, add, y_stride, add_stride,
        piece_stride, pieces, TILES, ROWS, LANES, ALONE,
    )  # fmt: skip


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_POINTERS)
def tile_sums(x, sums, order, x_stride, inputs, tiles, TILE: tl.constexpr):
    """Program (row, tile): sums[row, tile] = the sum of the tile's inputs, which `low` is multiplied by."""
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    i = tile * TILE + tl.arange(0, TILE)
    column = i.to(tl.int64)
    if order is not None:
        column = tl.load(order + i, mask=i < inputs, other=0)
    some = tl.load(x + row * x_stride + column, mask=i < inputs, other=0.0).to(tl.float32)
    tl.store(sums + row * tiles + tile, tl.sum(some, 0))


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """A matrix [outputs, inputs] as the kernels read it, with its bias [outputs] or None. See the head of the file."""

    form: str  # a key of FORMS
    outputs: int
    inputs: int
    tile: int  # inputs
    group: int  # inputs that share a scale, a multiple of tile
    panels: Tensor  # uint8 [panels, tiles, LANES, depth]
    scale: Tensor  # [panels, groups, LANES]
    low: Tensor | None
    order: Tensor | None  # int64 [inputs], as `Quantized` has it
    bias: Tensor | None  # float32

    @classmethod
    def of(cls, parts: Quantized | Sequence[Quantized], bias: Tensor | None = None) -> Packed:
        """The parts side by side, on their device. Raises ValueError where `refused` says why."""
        whole = parts if isinstance(parts, Quantized) else join(parts)
        if why := refused(whole):
            raise ValueError(why)
        form = f"int{whole.bits}"
        scale, low, group = whole.scale, whole.low, whole.group
        if _one_an_output(scale) and (low is None or _one_an_output(low)):
            scale, low, group = scale[:, :1], None if low is None else low[:, :1], 0
        return cls._packed(form, whole.codes.view(torch.uint8), scale, low, group, whole.order, bias)

    @classmethod
    def of_fp8(
        cls, weight: Tensor, scale: Tensor, block: tuple[int, int] | None = None, bias: Tensor | None = None
    ) -> Packed:
        """weight float8_e4m3fn [out, in]; a weight is what it says times its scale.

        scale: without block [], [1], [out] or [out, 1]: of all or of each output; with block (outputs, inputs) of which
        weights share one, [ceil(out / outputs), ceil(in / inputs)]. Inputs of a block: 16, 32, 64 or a multiple of 128.
        Raises ValueError where these do not fit, or a weight is no number.
        """
        if weight.dtype != torch.float8_e4m3fn or weight.dim() != 2:
            raise ValueError(f"weight is {weight.dtype} {list(weight.shape)}, expected float8_e4m3fn [out, in]")
        outputs, inputs = weight.shape
        wide, group = scale.float(), 0
        if block is None:
            if scale.shape not in [(), (1,), (outputs,), (outputs, 1)]:
                raise ValueError(f"scale is {list(scale.shape)}, expected [], [1], [{outputs}] or [{outputs}, 1]")
            wide = wide.reshape(-1, 1).expand(outputs, 1)
        else:
            tall, group = block
            if tall < 1 or not _depth_of("fp8", group):
                raise ValueError(f"block is {block}, expected inputs of 16, 32, 64 or a multiple of {DEEPEST}")
            wanted = -(-outputs // tall), -(-inputs // group)
            if scale.shape != wanted:
                raise ValueError(f"scale is {list(scale.shape)}, expected {list(wanted)} for blocks of {block}")
            wide = wide.repeat_interleave(tall, 0)[:outputs]
        bits = weight.view(torch.uint8)
        if odd := int(((bits & 127) == 127).sum()):
            raise ValueError(f"weight has {odd} that are no number, expected none")
        return cls._packed("fp8", bits, wide * codes.E4M3_GAIN, None, group, None, bias)

    @classmethod
    def _packed(
        cls,
        form: str,
        held: Tensor,
        scale: Tensor,
        low: Tensor | None,
        group: int,
        order: Tensor | None,
        bias: Tensor | None,
    ) -> Packed:
        """held uint8 [out, in]; group 0: one scale an output."""
        outputs, inputs = held.shape
        tile = _depth_of(form, group) if group else DEEPEST
        tiles = -(-inputs // tile)
        panels, half = -(-outputs // LANES), tile // 2
        stream = held.new_empty((panels, tiles, LANES, half if form == "int4" else tile))
        for at in range(0, panels, PANELS):
            some = held[at * LANES : (at + PANELS) * LANES]
            count = -(-some.shape[0] // LANES)
            some = torch.nn.functional.pad(some, (0, tiles * tile - inputs, 0, count * LANES - some.shape[0]))
            some = some.view(count, LANES, tiles, tile).transpose(1, 2)
            if form == "int4":
                some = some[..., :half] | some[..., half:] << 4
            stream[at : at + count] = some
        return cls(
            form, outputs, inputs, tile, group or tiles * tile, stream,
            _laid(scale), None if low is None else _laid(low),
            None if order is None else order.contiguous(), None if bias is None else bias.float().contiguous(),
        )  # fmt: skip

    @property
    def bytes(self) -> int:
        held = (self.panels, self.scale, self.low, self.order, self.bias)
        return sum(one.nbytes for one in held if one is not None)

    @property
    def length(self) -> int:
        """Tiles of a piece of the inputs."""
        panels, tiles = self.panels.shape[:2]
        return shared.piece_length(panels, tiles, self.inputs)

    @property
    def pieces(self) -> int:
        return -(-self.panels.shape[1] // self.length)

    def dense(self) -> Tensor:
        """The weights, float32 [outputs, inputs], a new tensor."""
        return unpack.outputs(self, slice(0, self.outputs))

    def rows(self, index: Tensor) -> Tensor:
        """index int64 [n] -> those outputs' weights, float32 [n, inputs]."""
        return unpack.some(self, index)

    def product(self, x: Tensor, add: Tensor | None = None, *, out: Tensor | None = None) -> Tensor:
        """x [.., inputs] -> W x + bias + add [.., outputs], of x's kind, rounded once.

        add: of that shape and kind. Made for up to 64 rows, which read the weights once; more of them read the weights
        once for each 64, and get the same bits. Raises ValueError where shapes or kinds do not fit.
        """
        if x.shape[-1] != self.inputs:
            raise ValueError(f"x is {list(x.shape)}, expected [.., {self.inputs}]")
        flat = rows_of("x", x)
        shape = torch.Size([*x.shape[:-1], self.outputs])
        if add is not None and (add.shape != shape or add.dtype != x.dtype):
            raise ValueError(f"add is {add.dtype} {list(add.shape)}, expected {x.dtype} {list(shape)}")
        out, y = out_like(out, shape, x)
        more = None if add is None else rows_of("add", add)
        if y.numel():
            self._launch(flat, y, more)
        return out

    @property
    def _shared(self) -> int:
        """How tiles come by their scales: all have the same, each its own, or so many neighbours share them."""
        return 0 if self.scale.shape[1] == 1 else 1 if self.group == self.tile else 2

    def _even(self, x: Tensor) -> bool:
        aligned = x.data_ptr() % 16 == 0 and (x.stride(0) % 8 == 0 or x.shape[0] == 1)
        return aligned and self.inputs % self.tile == 0 and self.order is None

    def _launch(self, x: Tensor, y: Tensor, add: Tensor | None) -> None:
        rows = x.shape[0]
        panels, tiles = self.panels.shape[:2]
        pieces = self.pieces
        several = shared.several(rows)
        add_stride = 0 if add is None else add.stride(0)
        sums = None
        if self.low is not None:
            sums = x.new_empty((rows, tiles), dtype=torch.float32)
            tile_sums[rows, tiles](x, sums, self.order, x.stride(0), self.inputs, tiles, TILE=self.tile, num_warps=1)
        # Triton's interpreter multiplies bfloat16 as the whole numbers that it keeps them as.
        alone = shared.interpreted()
        dot = tl.float32 if alone else DOTS[x.dtype]
        chunks = triton.cdiv(rows, several * ROWS)
        partial, counters = shared.room(x, pieces, rows, self.outputs, chunks * panels)
        warps, stages = way(self.form, x.element_size())
        products[chunks, panels, pieces](
            x, y, partial, counters, self.panels, self.scale, self.low, self.order, self.bias, add, sums,
            x.stride(0), add_stride, y.stride(0), rows * self.outputs, rows, self.inputs, self.outputs,
            tiles, self.length, pieces, self.scale.shape[1], self.group // self.tile,
            FORM=FORMS[self.form], SHARED=self._shared, TILES=several, TILE=self.tile, ROWS=ROWS, LANES=LANES,
            EVEN=self._even(x), DOT=dot, ALONE=pieces == 1, BY_ITSELF=alone, num_warps=warps, num_stages=stages,
        )  # fmt: skip


def way(form: str, size: int) -> tuple[int, int]:
    """Warps, and tiles that are on their way, for rows whose elements have `size` bytes."""
    warps, stages = WAYS[form]
    return warps, min(stages, FEWER) if size == 4 else stages


def refused(whole: Quantized) -> str | None:
    """Why a matrix is not packed; None where it is."""
    form = f"int{whole.bits}"
    if _depth_of(form, whole.group) or all(v is None or _one_an_output(v) for v in (whole.scale, whole.low)):
        return None
    return f"group is {whole.group} with {whole.bits} bits, expected {SHALLOWEST[form]} or more"


def _depth_of(form: str, group: int) -> int:
    """Inputs of a tile for such a group; 0 where there is none."""
    tile = min(group, DEEPEST)
    return tile if tile >= SHALLOWEST[form] and tile & (tile - 1) == 0 and group % tile == 0 else 0


def _one_an_output(values: Tensor) -> bool:
    return bool((values == values[:, :1]).all())


def _laid(values: Tensor) -> Tensor:
    """values float32 [out, groups] -> [panels, groups, LANES], in 16 bits where that changes none."""
    panels = -(-values.shape[0] // LANES)
    values = torch.nn.functional.pad(values, (0, 0, 0, panels * LANES - values.shape[0]))
    values = values.view(panels, LANES, -1).transpose(1, 2).contiguous()
    for kind in (torch.float16, torch.bfloat16):
        if torch.equal(values.to(kind).float(), values):
            return values.to(kind)
    return values
