"""Causal attention over paged keys and values, for decode and ragged chunks of prompts alike.

Pages are [pages, kv_heads, PAGE, head_dim], values the same with v_head_dim; query head h reads head h // group.
The rows of a sequence times the group of heads that share a key/value head are its items, row by row; a tile is up to
`Tile.rows` of them, so that each read of a page serves a whole group, and as many rows as there are. Keys are cut into
segments of SEGMENT at fixed places. A program has a tile, a key/value head and some of the tile's segments, and goes
over their keys with a running maximum (online softmax, Milakov and Gimelshein 2018; its tiling, Dao 2023; softmax.py).
A tile is either whole, all its segments in one program, or split over several, which leave parts for a second launch to
join: one each, or (`Shape.each`) one of each segment.

Batch invariance, with `Shape.each`. A row's bits depend on its query and its keys alone:

- a program's products always have the same shape, whether one row of its tile is taken or all are, and in a product of
  matrices each row is summed by itself, in an order that its place in the tile does not change;
- tiles of keys and segments stand at absolute places. A key that a row does not see weighs exactly nothing, and a tile
  of keys or a segment of which it sees nothing leaves its sums as they are: all is multiplied by 1 and 0 is added;
- each segment is begun anew, all its keys go through the same instructions, and segments are folded in order by
  `softmax.fold`, which is the same code in both launches and leaves no choice to the compiler (a product and a sum in
  one are written as `fma`). So whole or split gives the same bits, and which of the two is chosen may depend on what
  else is in the step.

Without it a program's segments are one run of keys, those that all rows see take fewer instructions, and products and
sums are joined wherever the compiler likes: faster, and a row's last bits depend on the tiles of the step.

Pages of bytes (`BYTES`): each token's key of a head, and its value, is so many whole numbers of 8 bits or floats of
e4m3 (Micikevicius et al. 2022) times a unit of its own. A key's unit multiplies its score, a value's its weight, so a
byte is read into the dtype of the products, which holds it exactly. e4m3 is read by its bits: no card needs to know it.

What is compiled depends on the model alone: dtypes, head sizes, the group, whether there is a window or a soft cap, the
page. No number that changes from step to step is a constant of a kernel or looked at for being 1 or divisible by 16.

A captured step (CUDA graphs). What changes from step to step is in one buffer, `Tables.data`, beside the rows' slots
and positions. A graph is captured with tables laid out for a bucket (so many rows, works, splits, pages, parts): grids
are of that size, and lists begin at the same places in every step of it; for a step the buffers are filled anew and
copied into the captured ones. Programs beyond the count that heads a list return at once, as do all of the second
launch where no tile is split, and rows whose slot is below 0 are not written (cache.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import codes, softmax

SEGMENT = 512  # keys
JOINED = 4  # items of a tile that a program of the second launch joins

# Fields of an entry of `works`: a tile, some of its segments, and where what comes of them goes.
WORK = (
    "begin",  # first row of the sequence in the batch
    "start",  # the place of that row's own key in the sequence's pages
    "item",  # first item of the tile, counted from that row's first
    "items",  # all items of the sequence
    "pages",  # where the sequence's pages begin, in the tables
    "low",  # first place that a row of the tile sees
    "high",  # one behind the last
    "tree",  # the place of the first draft of a tree; NO_TREE
    "masks",  # where its masks begin, in the tables: of each draft `words` of 32 bits, one a draft that it sees
    "words",
    "first",  # segment
    "last",  # one behind the last segment
    "part",  # where among the parts the first segment's first item is; -1: it has all segments, and gives the result
)
# Fields of an entry of `splits`: a tile whose segments were computed by several programs.
SPLIT = ("begin", "item", "items", "part", "segments")
NO_TREE = 2**31 - 1

_BEGIN, _START, _ITEM, _ITEMS, _PAGES, _LOW, _HIGH, _TREE, _MASKS, _WORDS, _FIRST, _LAST, _PART = (
    tl.constexpr(i) for i in range(len(WORK))
)
_WORK, _SPLIT = tl.constexpr(len(WORK)), tl.constexpr(len(SPLIT))


@dataclass(frozen=True, slots=True)
class Tile:
    """rows: items of a tile; keys: of a step of the inner loop; stages: steps that are on their way; shared: KiB of
    shared memory that it takes, 0 where every card has them."""

    rows: int
    keys: int
    warps: int
    stages: int
    shared: int = 0


LOW = 16  # rows of a low tile
# Of the bytes of an element and the widest head, up to. `high`: what fits the registers, and more where a card has the
# shared memory for it; the last fits the 99 KiB of the smaller GPUs. `one_order`: two sums of rows times head are in
# registers. `low`: where all sequences of a step have few rows, what is read is what counts.
TILES: dict[tuple[int, int], dict[str, tuple[Tile, ...]]] = {
    (2, 64): {"high": (Tile(64, 64, 4, 3),), "one_order": (Tile(64, 64, 4, 2),), "low": (Tile(LOW, 128, 4, 2),)},
    (2, 128): {
        "high": (Tile(128, 64, 8, 3, 131), Tile(64, 64, 4, 2)),
        "one_order": (Tile(64, 64, 4, 2),),
        "low": (Tile(LOW, 128, 4, 2),),
    },
    (2, 256): {"high": (Tile(32, 32, 8, 2),), "one_order": (Tile(32, 32, 8, 2),), "low": (Tile(LOW, 32, 4, 3),)},
    (4, 32): {"high": (Tile(32, 32, 4, 2),), "one_order": (Tile(32, 32, 4, 2),), "low": (Tile(LOW, 32, 4, 2),)},
    (4, 256): {"high": (Tile(16, 16, 4, 2),), "one_order": (Tile(16, 16, 4, 2),), "low": (Tile(LOW, 16, 4, 2),)},
}

# Kinds of pages that hold bytes, and the largest number that one of their bytes is.
BYTES = {torch.int8: "int8", torch.float8_e4m3fn: "fp8"}
LARGEST = {"int8": 127.0, "fp8": 448.0}
# What `_numbers` gives is the number that a byte is, divided by so much: below 2, so that in float16 the weights of
# keys times the units of their values are about as large as the values are.
GAINS = {"": 1.0, "int8": 128.0, "fp8": codes.E4M3_GAIN}

# What a product is computed in. Triton's interpreter multiplies bfloat16 as the whole numbers that it keeps them as.
DOTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}

_STEP = ["works_at", "splits_at", "kv_heads", "window"]  # numbers
_TABLES = ["tables", "positions", "peaks"]  # pointers, read or written by whole words


@dataclass(frozen=True, slots=True)
class Shape:
    """What is compiled for: of a layer and a dtype. each: segments are begun anew, and all keys go through the same
    instructions, so that a row's sums have one order however they are shared out."""

    group: int
    head_dim: int
    v_dim: int
    tile: Tile
    each: bool

    @classmethod
    def of(
        cls, heads: int, kv_heads: int, head_dim: int, v_dim: int, dtype: torch.dtype, form: str, shared: int = 99
    ) -> Shape:
        """form: of TILES; shared: KiB of shared memory that a program may have."""
        widest = max(padded(head_dim), padded(v_dim))
        forms = next(found for (size, most), found in TILES.items() if size == dtype.itemsize and widest <= most)
        tile = next(one for one in forms[form] if one.shared <= shared)
        assert SEGMENT % tile.keys == 0, "a segment is made of whole tiles of keys"
        return cls(heads // kv_heads, head_dim, v_dim, tile, form == "one_order")


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """Of one step, int32 on its device: lists of entries, each headed by the number of its entries, and what those
    point to."""

    data: Tensor


@dataclass(frozen=True, slots=True)
class Lists:
    """Of the layers of one kind: where in the tables their lists are, how many programs are launched for each, and how
    many parts there are, [parts, kv_heads] rows of v_dim."""

    works_at: int
    works: int
    splits_at: int
    splits: int
    parts: int


def padded(dim: int) -> int:
    """A size that Triton has tiles of: a power of two, at least what a product needs."""
    return max(16, triton.next_power_of_2(dim))


@triton.jit
def _put_part(parts, peaks, part, m, l, o, taken, head, kv_heads, V_DIM: tl.constexpr):  # noqa: E741
    place = (part + tl.arange(0, o.shape[0])).to(tl.int64) * kv_heads + head
    e = tl.arange(0, o.shape[1])
    tl.store(parts + place[:, None] * V_DIM + e[None, :], o, mask=taken[:, None] & (e < V_DIM)[None, :])
    tl.store(peaks + place * 2, m, mask=taken)
    tl.store(peaks + place * 2 + 1, l, mask=taken)


@triton.jit
def _put_out(out, row, own, heads, weight, acc, taken, V_DIM: tl.constexpr):
    e = tl.arange(0, acc.shape[1])
    at = out + (row[:, None].to(tl.int64) * heads + own[:, None]) * V_DIM + e[None, :]
    found = (acc / weight[:, None]).to(out.dtype.element_ty)
    tl.store(at, found, mask=taken[:, None] & (e < V_DIM)[None, :])


@triton.jit(do_not_specialize=_STEP, do_not_specialize_on_alignment=_TABLES)
def attend_segments(
    q, keys, values, key_units, value_units, out, parts, peaks, tables, positions, works_at, q_stride, kv_heads, window,
    scale, cap, gain,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, V_DIM: tl.constexpr, D: tl.constexpr, DV: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, SEGMENT: tl.constexpr, PAGE: tl.constexpr, WINDOWED: tl.constexpr,
    CAPPED: tl.constexpr, EACH: tl.constexpr, KIND: tl.constexpr, DOT: tl.constexpr, BY_ITSELF: tl.constexpr,
):  # fmt: skip
    """Program (work, key/value head).

    q [rows, heads, HEAD_DIM], a row's heads side by side; out [rows, heads, V_DIM]; parts [.., V_DIM] and peaks
    [.., 2], float32. Scores are products times `scale`, then cap * tanh of that where CAPPED, both such that exp2 of
    them is wanted. Where pages hold bytes, units [pages, kv_heads, PAGE] times `gain` are what `_numbers` counts in.
    """
    work, head = tl.program_id(0), tl.program_id(1)
    if work >= tl.load(tables + works_at):
        return
    entry = tables + works_at + 1 + work * _WORK
    start, items, pages = tl.load(entry + _START), tl.load(entry + _ITEMS), tables + tl.load(entry + _PAGES)
    low, high, tree = tl.load(entry + _LOW), tl.load(entry + _HIGH), tl.load(entry + _TREE)
    masks, words = tables + tl.load(entry + _MASKS), tl.load(entry + _WORDS)
    part, first_item = tl.load(entry + _PART), tl.load(entry + _ITEM)

    item = first_item + tl.arange(0, ROWS)
    taken = item < items
    row = tl.load(entry + _BEGIN) + item // GROUP
    place = start + item // GROUP
    own = head * GROUP + item % GROUP
    d = tl.arange(0, D)
    mine = q + row[:, None].to(tl.int64) * q_stride + own[:, None] * HEAD_DIM + d[None, :]
    query = tl.load(mine, mask=taken[:, None] & (d < HEAD_DIM)[None, :], other=0.0).to(DOT)
    begins = place
    if WINDOWED:
        # A draft of a tree stands in the text nearer to its keys than its place says.
        begins = (tl.load(positions + row, mask=taken, other=0) - window + 1).to(tl.int32)

    # Keys in front of this all rows of the tile see: they lie before the first one's own, and before all drafts.
    clear = tl.minimum(start + first_item // GROUP + 1, tree) // KEYS * KEYS

    first, last = tl.load(entry + _FIRST), tl.load(entry + _LAST)
    if EACH:
        peak = tl.full([ROWS], float("-inf"), tl.float32)
        weight = tl.full([ROWS], 0.0, tl.float32)
        acc = tl.full([ROWS, DV], 0.0, tl.float32)
        for segment in range(first, last):
            m, l, o = softmax.run(  # noqa: E741
                tl.maximum(segment * SEGMENT, low // KEYS * KEYS), tl.minimum((segment + 1) * SEGMENT, high), clear,
                query, keys, values, key_units, value_units, pages, head, kv_heads, scale, cap, gain,
                place, begins, taken, low, high, tree, masks, words,
                HEAD_DIM, V_DIM, D, DV, KEYS, PAGE, WINDOWED, CAPPED, KIND, q.dtype.element_ty, DOT, BY_ITSELF, True,
            )  # fmt: skip
            if part < 0:
                peak, weight, acc = softmax.fold(peak, weight, acc, m, l, o)
            else:
                _put_part(parts, peaks, part, m, l, o, taken, head, kv_heads, V_DIM)
                part += tl.minimum(items - first_item, ROWS)
        if part < 0:
            _put_out(out, row, own, kv_heads * GROUP, weight, acc, taken, V_DIM)
    else:
        m, l, o = softmax.run(  # noqa: E741
            tl.maximum(first * SEGMENT, low // KEYS * KEYS), tl.minimum(last * SEGMENT, high), clear,
            query, keys, values, key_units, value_units, pages, head, kv_heads, scale, cap, gain,
            place, begins, taken, low, high, tree, masks, words,
            HEAD_DIM, V_DIM, D, DV, KEYS, PAGE, WINDOWED, CAPPED, KIND, q.dtype.element_ty, DOT, BY_ITSELF, WINDOWED,
        )  # fmt: skip
        if part < 0:
            _put_out(out, row, own, kv_heads * GROUP, l, o, taken, V_DIM)
        else:
            _put_part(parts, peaks, part, m, l, o, taken, head, kv_heads, V_DIM)


@triton.jit(do_not_specialize=_STEP, do_not_specialize_on_alignment=_TABLES)
def join_segments(
    out, parts, peaks, tables, splits_at, kv_heads,
    GROUP: tl.constexpr, V_DIM: tl.constexpr, DV: tl.constexpr, ROWS: tl.constexpr, JOINED: tl.constexpr,
):  # fmt: skip
    """Program (split, key/value head, JOINED items of its tile): folds their parts in order."""
    split, head = tl.program_id(0), tl.program_id(1)
    if split >= tl.load(tables + splits_at):
        return
    entry = tables + splits_at + 1 + split * _SPLIT
    begin, first, items = tl.load(entry), tl.load(entry + 1), tl.load(entry + 2)
    part, segments = tl.load(entry + 3), tl.load(entry + 4)
    count = tl.minimum(items - first, ROWS)
    if tl.program_id(2) * JOINED >= count:
        return
    nth = tl.program_id(2) * JOINED + tl.arange(0, JOINED)
    taken = nth < count
    e = tl.arange(0, DV)
    inside = taken[:, None] & (e < V_DIM)[None, :]
    peak = tl.full([JOINED], float("-inf"), tl.float32)
    weight = tl.full([JOINED], 0.0, tl.float32)
    acc = tl.full([JOINED, DV], 0.0, tl.float32)
    for segment in tl.range(segments, num_stages=4):  # read ahead: the steps themselves are short
        at = (part + segment * count + nth).to(tl.int64) * kv_heads + head
        m = tl.load(peaks + at * 2, mask=taken, other=0.0)
        l = tl.load(peaks + at * 2 + 1, mask=taken, other=1.0)  # noqa: E741
        o = tl.load(parts + at[:, None] * V_DIM + e[None, :], mask=inside, other=0.0)
        peak, weight, acc = softmax.fold(peak, weight, acc, m, l, o)
    item = first + nth
    own = head * GROUP + item % GROUP
    at = out + ((begin + item // GROUP)[:, None].to(tl.int64) * kv_heads * GROUP + own[:, None]) * V_DIM + e[None, :]
    tl.store(at, (acc / weight[:, None]).to(out.dtype.element_ty), mask=inside)


def shared_memory(device: int) -> int:
    """Bytes that a program may have on a CUDA device."""
    found: int = triton.runtime.driver.active.utils.get_device_properties(device)["max_shared_mem"]
    return found


def interpreted() -> bool:
    """Whether Triton interprets its kernels, which it settles when it is first imported."""
    return not isinstance(attend_segments, triton.JITFunction)


def attend(
    q: Tensor,
    out: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tables,
    lists: Lists,
    shape: Shape,
    positions: Tensor,
    parts: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    units: tuple[Tensor, Tensor] | None = None,
) -> None:
    """q [rows, heads, head_dim], a row's heads side by side, of any row stride; out [rows, heads, v_dim], contiguous:
    the lists' rows of it are written.

    keys, values: pages as above, contiguous, that hold the rows' own keys already. positions [rows] int64, where each
    row stands in the text. parts: float32, at least `lists.parts` * kv_heads * (v_dim + 2) of them. units: of keys and
    of values, float32 [pages, kv_heads, PAGE], where pages are of a kind of BYTES.
    """
    kv_heads, page = keys.shape[1], keys.shape[2]
    dv = padded(shape.v_dim)
    peaks = parts[lists.parts * kv_heads * shape.v_dim :]
    for_exp2 = math.log2(math.e)
    inner, outer = (scale * for_exp2, 1.0) if softcap is None else (scale / softcap, softcap * for_exp2)
    alone, kind = interpreted(), BYTES.get(keys.dtype, "")
    if kind:
        keys, values = keys.view(torch.uint8), values.view(torch.uint8)
    key_units, value_units = units or (None, None)
    attend_segments[lists.works, kv_heads](
        q, keys, values, key_units, value_units, out, parts, peaks, tables.data, positions, lists.works_at, q.stride(0),
        kv_heads, window or 0, inner, outer, GAINS[kind],
        GROUP=shape.group, HEAD_DIM=shape.head_dim, V_DIM=shape.v_dim, D=padded(shape.head_dim), DV=dv,
        ROWS=shape.tile.rows, KEYS=shape.tile.keys, SEGMENT=SEGMENT, PAGE=page, WINDOWED=window is not None,
        CAPPED=softcap is not None, EACH=shape.each, KIND=kind, DOT=tl.float32 if alone else DOTS[q.dtype],
        BY_ITSELF=alone,
        num_warps=shape.tile.warps, num_stages=shape.tile.stages, enable_fp_fusion=not shape.each,
    )  # fmt: skip
    if lists.splits:
        join_segments[lists.splits, kv_heads, triton.cdiv(shape.tile.rows, JOINED)](
            out, parts, peaks, tables.data, lists.splits_at, kv_heads,
            GROUP=shape.group, V_DIM=shape.v_dim, DV=dv, ROWS=shape.tile.rows, JOINED=JOINED, enable_fp_fusion=False,
        )  # fmt: skip
