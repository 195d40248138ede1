"""Paged attention in Triton (kernels/triton/attention.py): on CUDA, in float32, bfloat16 and float16.

`plan` lays down once a step all that the kernels read on the device, in one buffer that is copied there once; of a
layer nothing is left but its launches: one that turns queries and keys and writes to the pages, one that attends, and
one more where tiles were split.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from typing import Protocol

import numpy as np
import torch

from ...kernels.triton import attention as kernel
from ...kernels.triton import cache as pages
from ..batch import Batch
from ..cache import KVCache
from ..config import BLOCK_SIZE, MOST_DRAFTS
from ..errors import ConfigError
from . import AS_THEY_ARE, TRITON_WIDEST, LayerSpec, Turn

BEYOND = 4  # pages that a sequence may have beyond its tokens: for drafts
FILL = 128  # programs of a launch that keep a GPU busy, about: one on each of an H100's 132 multiprocessors
PARTS = 1 << 25  # floats that the parts of split tiles may take, about
FEW = 2  # low tiles that a sequence's rows may fill for all to be computed by such


class Pages(KVCache):
    """The cache, with `move` in two launches for all layers instead of four each. computed: what the model computes in,
    where pages hold bytes."""

    computed: torch.dtype

    def move(self, sources: list[int], targets: list[int]) -> None:
        pages.move(self._places, sources, targets)

    @property
    def _places(self) -> pages.Places:
        if self._found is None:
            units = [x.unsqueeze(-1).view(torch.int8) for x in (*self.k_units, *self.v_units)]
            self._found = pages.Places.of([*self.k, *self.v, *units])
        return self._found

    _found: pages.Places | None = None


def cache(
    layers: list[LayerSpec],
    num_blocks: int,
    dtype: torch.dtype,
    device: torch.device,
    kept: torch.dtype | None = None,
) -> KVCache:
    """The pages as this backend reads them. kept: a kind of bytes (kernel.BYTES); None: dtype, what the model computes
    in. Raises ConfigError where heads are wider than it has tiles for."""
    widest = max(max(spec.head_dim, spec.v_head_dim or 0) for spec in layers)
    if widest > TRITON_WIDEST:
        raise ConfigError(
            "attention", f"is 'triton', and the model has heads of {widest} dimensions", f"torch, above {TRITON_WIDEST}"
        )
    found = Pages(layers, num_blocks, kept or dtype, device)
    found.computed = dtype
    return found


@dataclass(frozen=True, slots=True)
class Room:
    """How much the tables have room for: entries and words of masks of each kind of layers, pages, and parts of split
    tiles. A step that is captured in a graph has the room of its bucket, so that addresses and grids stay."""

    works: int
    splits: int
    pages: int
    masks: int
    parts: int


class NoRoom(ValueError):
    """A step does not fit the room that its tables should have."""


class Rows(Protocol):
    """Of a batch, what the kernels read on the device."""

    slots: torch.Tensor  # [T] int64; below 0: the row is none
    positions: torch.Tensor  # [T] int64


def plan(batch: Batch, layers: list[LayerSpec], cache: KVCache, room: Room | None = None) -> Planned:
    """Plan one step: all that depends on the batch alone is done here, once, not in each layer. room: None for what the
    step needs. Raises ValueError where it does not fit."""
    kinds = _kinds(layers, cache, _form(batch, layers, cache))
    table, room = _lay(batch, list(dict.fromkeys(kinds)), room, batch.slots.device)
    return Planned(layers, cache, kinds, room, table.to(batch.slots.device, non_blocking=True), batch)


class Planned:
    """The `Attend` of one step, or of a graph that many are replayed by. kinds: of each layer. table: on the device, as
    `_lay` laid it with that room. batch: has the slots and positions. parts: memory for them; None: the scratch's."""

    __slots__ = ("_cache", "_held", "_layers", "_lists", "_parts", "_positions", "_shapes", "_slots", "_tables")

    def __init__(
        self,
        layers: list[LayerSpec],
        cache: KVCache,
        kinds: list[_Kind],
        room: Room,
        table: torch.Tensor,
        batch: Rows,
        parts: torch.Tensor | None = None,
    ):
        self._layers, self._cache = layers, cache
        self._slots, self._positions = batch.slots, batch.positions
        self._tables = kernel.Tables(table)
        self._shapes = [kind.shape for kind in kinds]
        lists = _lists(list(dict.fromkeys(kinds)), room)
        self._lists = [lists[kind] for kind in kinds]
        self._parts = max(kind.floats(room.parts) for kind in kinds)
        self._held = parts

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, turn: Turn = AS_THEY_ARE
    ) -> torch.Tensor:
        spec, keys, values = self._layers[layer], self._cache.k[layer], self._cache.v[layer]
        q, k, v = (x if _side_by_side(x) else x.contiguous() for x in (q, k, v))
        units = (self._cache.k_units[layer], self._cache.v_units[layer]) if self._cache.k_units else None
        q = pages.store(q, k, v, keys, values, self._slots, turn, units)
        parts = self._held
        if parts is None:
            parts = self._cache.scratch.get("parts", (self._parts,), torch.float32, q.device)
        return kernel.attend(
            q, keys, values, self._tables, self._lists[layer], self._shapes[layer], self._positions, parts,
            scale=spec.scale, window=spec.window, softcap=spec.softcap, units=units,
        )  # fmt: skip


class Ground:
    """What captured steps of up to `rows` rows read, at addresses that stay: one table, whose lists and pages lie where
    the room of a bucket says, and the memory for parts. context: tokens that a sequence may reach; sequences: that a
    step may have. forms: of tiles, which steps are captured for apart; of each the rows that buckets are apart, at
    least."""

    def __init__(self, rows: int, layers: list[LayerSpec], cache: KVCache, context: int, sequences: int):
        self._layers, self._cache, self._context, self._sequences = layers, cache, context, sequences
        self.forms = {"one_order": 1} if cache.one_order else {"low": 1, "high": 32}
        self._kinds = {form: _kinds(layers, cache, form) for form in self.forms}
        self._distinct = {form: list(dict.fromkeys(kinds)) for form, kinds in self._kinds.items()}
        self._device = cache.k[0].device
        self._rooms: dict[tuple[int, str], Room] = {}
        size = parts = 0
        for form, distinct in self._distinct.items():
            room = self.room(rows, form)
            size = max(size, _pages_at(distinct, room) + room.pages)
            parts = max(parts, *(kind.floats(room.parts) for kind in distinct))
        self._table = torch.zeros(size, dtype=torch.int32, device=self._device)
        self._parts = cache.scratch.get("parts", (parts,), torch.float32, self._device)

    def room(self, rows: int, form: str) -> Room:
        """For any step of so many rows, however they are spread over sequences, and with trees of drafts."""
        if (rows, form) not in self._rooms:
            most = [self._most(rows, kind) for kind in self._distinct[form]]
            works, splits, parts = (max(each) for each in zip(*most, strict=True))
            pages = min(rows, self._sequences) * (-(-self._context // BLOCK_SIZE) + BEYOND)
            self._rooms[rows, form] = Room(works, splits, pages, rows * -(-MOST_DRAFTS // 32), parts)
        return self._rooms[rows, form]

    def _most(self, rows: int, kind: _Kind) -> tuple[int, int, int]:
        """Works, splits and parts of a kind, by the rules of `_split` and `_programs`."""
        segments, (group, tile) = kind.segments(self._context), (kind.shape.group, kind.shape.tile.rows)
        tiles = min(rows * -(-group // tile), rows * group // tile + min(rows, self._sequences))
        split = min(tiles, max(0, -(-FILL // kind.kv_heads) - 1)) if segments > 1 else 0
        more = min(tiles * (segments - 1), -(-4 * FILL // kind.kv_heads))
        items = min(rows * group, split * tile)
        return tiles + more, split, min(items * segments, PARTS // kind.floats(1))

    def form(self, batch: Batch) -> str:
        """Of the tiles that compute a step: a key of `forms`."""
        return _form(batch, self._layers, self._cache)

    def attend(self, rows: int, form: str, batch: Rows) -> Planned:
        """Of a step of `rows` rows whose slots and positions stay in these tensors."""
        room = self.room(rows, form)
        return Planned(self._layers, self._cache, self._kinds[form], room, self._table, batch, self._parts)

    def lay(self, rows: int, form: str, batch: Batch) -> bool:
        """What the next replay of the graph of so many rows and that form computes. False where there is no room."""
        try:
            table, _ = _lay(batch, self._distinct[form], self.room(rows, form), self._device)
        except NoRoom:
            return False
        self._table[: len(table)].copy_(table, non_blocking=True)
        return True

    def clear(self) -> None:
        """Nothing is to be computed, by whatever graph."""
        self._table.zero_()


def _side_by_side(x: torch.Tensor) -> bool:
    """Whether the heads of a row lie side by side."""
    return x.stride(2) == 1 and x.stride(1) == x.shape[2]


def _shape(spec: LayerSpec, cache: Pages, form: str) -> kernel.Shape:
    dims = spec.head_dim, spec.v_head_dim or spec.head_dim
    return kernel.Shape.of(spec.heads, spec.kv_heads, *dims, cache.computed, form, _shared(cache.k[0].device))


@functools.cache
def _shared(device: torch.device) -> int:
    """KiB of shared memory that a program may have; where there is no such device, what the smaller ones have."""
    if device.type != "cuda":
        return 99
    found: int = kernel.shared_memory(device.index or 0)
    return found >> 10


def _form(batch: Batch, layers: list[LayerSpec], cache: KVCache) -> str:
    """Of a step's tiles (kernel.TILES). Low ones where all sequences have few rows: they read what there is as fast as
    it comes."""
    if cache.one_order:
        return "one_order"
    group = max(spec.heads // spec.kv_heads for spec in layers)
    most = max(end - begin for begin, end in pairwise(batch.query_start))
    return "low" if most == 1 or most * group <= FEW * kernel.LOW else "high"


@dataclass(frozen=True, slots=True)
class _Kind:
    """What layers have in common that share their lists."""

    window: int | None
    kv_heads: int
    shape: kernel.Shape

    def floats(self, parts: int) -> int:
        """That so many parts take."""
        return parts * self.kv_heads * (self.shape.v_dim + 2)

    def segments(self, context: int) -> int:
        """Of a tile, at most, where sequences have up to so many tokens."""
        all_ = -(-context // kernel.SEGMENT)
        if self.window is None:
            return all_
        return min(all_, (self.window + self.shape.tile.rows + MOST_DRAFTS) // kernel.SEGMENT + 2)


def _kinds(layers: list[LayerSpec], cache: KVCache, form: str) -> list[_Kind]:
    assert isinstance(cache, Pages)
    found = {s: _Kind(s.window, s.kv_heads, _shape(s, cache, form)) for s in dict.fromkeys(layers)}
    return [found[spec] for spec in layers]


def _sizes(room: Room) -> tuple[int, int, int]:
    """Of a kind's works, its splits, each headed by its length, and its masks."""
    return 1 + room.works * len(kernel.WORK), 1 + room.splits * len(kernel.SPLIT), room.masks


def _pages_at(kinds: list[_Kind], room: Room) -> int:
    return len(kinds) * sum(_sizes(room))


def _lists(kinds: list[_Kind], room: Room) -> dict[_Kind, kernel.Lists]:
    works, splits, masks = _sizes(room)
    each = works + splits + masks
    return {
        kind: kernel.Lists(n * each, room.works, n * each + works, room.splits, room.parts)
        for n, kind in enumerate(kinds)
    }


def _lay(batch: Batch, kinds: list[_Kind], room: Room | None, device: torch.device) -> tuple[torch.Tensor, Room]:
    """The table on the host: of each kind its works, its splits and its masks, and then pages, as many as there are.
    Raises NoRoom."""
    held = list(map(len, batch.blocks))
    found = [_cut(batch, kind) for kind in kinds]
    need = Room(
        max(len(each.works) for each in found), max(len(each.splits) for each in found),
        sum(held), max(len(each.masks) for each in found), max(each.parts for each in found),
    )  # fmt: skip
    room = need if room is None else room
    for field in ("works", "splits", "pages", "masks", "parts"):
        if (wanted := getattr(need, field)) > (there := getattr(room, field)):
            raise NoRoom(f"the step needs {wanted} {field}, and there is room for {there}")
    sizes, pages = _sizes(room), _pages_at(kinds, room)
    # Pinned, so that nobody waits for the copy; torch gives such memory out again only once the copy is done.
    buffer = torch.empty(pages + need.pages, dtype=torch.int32, pin_memory=device.type == "cuda")
    table = buffer.numpy()
    table[pages:] = np.fromiter(chain.from_iterable(batch.blocks), dtype=np.int32, count=need.pages)
    begins = np.fromiter(accumulate(held, initial=pages), dtype=np.int64, count=len(held) + 1)
    at = 0
    for each in found:
        works, splits, masks, at = accumulate(sizes, initial=at)
        each.works[:, _PAGES] = begins[each.works[:, _PAGES]]
        each.works[:, _MASKS] += masks
        for start, entries in ((works, each.works), (splits, each.splits)):
            table[start] = len(entries)
            table[start + 1 : start + 1 + entries.size] = entries.ravel()
        table[masks : masks + len(each.masks)] = each.masks
    return buffer, room


_PAGES, _MASKS = kernel.WORK.index("pages"), kernel.WORK.index("masks")


class _Trees:
    """masks: int32, of all drafts of trees, bits of the drafts that each sees. Of each sequence the place of its first
    draft, where its masks begin, and the words of each of them."""

    def __init__(self, batch: Batch, window: int | None):
        count = len(batch.blocks)
        self.first = np.full(count, kernel.NO_TREE, dtype=np.int64)
        self.begin = np.zeros(count, dtype=np.int64)
        self.words = np.zeros(count, dtype=np.int64)
        found: list[np.ndarray] = []
        size = 0
        for r, behind in batch.trees.items():
            drafts = len(behind) - 1
            words = -(-drafts // 32)
            bits = np.zeros((drafts, 32 * words), dtype=np.uint8)
            for n, path in enumerate(behind[1:]):
                bits[n, path if window is None else path[-window:]] = 1
            self.first[r], self.begin[r], self.words[r] = batch.seq_lens[r] - drafts, size, words
            found.append(np.packbits(bits, axis=1, bitorder="little").view("<i4").ravel())
            size += found[-1].size
        self.masks = np.concatenate(found) if found else np.zeros(0, dtype=np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    """works [n, WORK], splits [n, SPLIT], masks [words], and how many parts there are. `pages` of a work is its
    sequence for now, and `masks` counts from the first mask."""

    works: np.ndarray
    splits: np.ndarray
    masks: np.ndarray
    parts: int


def _cut(batch: Batch, kind: _Kind) -> _Cut:
    """The tiles of a step, and their segments."""
    trees = _Trees(batch, kind.window)
    group, rows = kind.shape.group, kind.shape.tile.rows
    starts = np.asarray(batch.query_start)
    count = np.diff(starts)
    place = np.asarray(batch.seq_lens) - count  # of each one's first row
    tiles = -(-count * group // rows)
    owner = np.repeat(np.arange(len(count)), tiles)
    item = (np.arange(len(owner)) - np.repeat(np.cumsum(tiles) - tiles, tiles)) * rows
    items = count[owner] * group
    high = place[owner] + (np.minimum(item + rows, items) - 1) // group + 1
    low = np.zeros(len(owner), dtype=np.int64)
    if kind.window is not None:
        near = _nearest(place[owner] + item // group, high, owner, trees, batch.trees)
        low = np.maximum(near - kind.window + 1, 0)
    first, last = low // kernel.SEGMENT, (high - 1) // kernel.SEGMENT + 1
    segments = last - first
    mine = np.minimum(items - item, rows)  # items of each tile
    split = _split(segments, mine, kind)
    each = np.where(split, _programs(segments, kind), segments)  # segments of a program
    pieces = -(-segments // each)
    left = segments if kind.shape.each else pieces  # parts of each row of a split tile
    parts = np.where(split, left * mine, 0)
    part = np.cumsum(parts) - parts
    tile = np.repeat(np.arange(len(owner)), pieces)
    done = (np.arange(len(tile)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * each[tile]
    begin, who = starts[owner], owner[tile]
    end = np.minimum(done + each[tile], segments[tile])
    before = done if kind.shape.each else done // each[tile]  # parts of the tile's programs before this one
    works = np.stack([
        begin[tile], place[who], item[tile], items[tile], who, low[tile], high[tile],
        trees.first[who], trees.begin[who], trees.words[who],
        first[tile] + done, first[tile] + end, np.where(split[tile], part[tile] + before * mine[tile], -1),
    ], axis=1)  # fmt: skip
    # Those with most to do first, so that none is left over at the end.
    works = works[np.argsort(done - end, kind="stable")]
    splits = np.stack([begin, item, items, part, left], axis=1)[split]
    return _Cut(works, splits, trees.masks, int(parts.sum()))


def _nearest(
    near: np.ndarray, high: np.ndarray, owner: np.ndarray, trees: _Trees, behind: dict[int, list[list[int]]]
) -> np.ndarray:
    """Where in the text the first row of each tile stands, of all its rows, given that row's place and one behind the
    last's. A draft of a tree is nearer to its keys than its place says."""
    for r, paths in behind.items():
        first = int(trees.first[r])
        text = [first + len(path) - 1 for path in paths[1:]]
        for tile in np.flatnonzero(owner == r):
            drafts = text[max(int(near[tile]) - first, 0) : max(int(high[tile]) - first, 0)]
            near[tile] = min([int(near[tile]), *drafts])
    return near


def _split(segments: np.ndarray, items: np.ndarray, kind: _Kind) -> np.ndarray:
    """Which tiles are split. That is for speed alone: it may depend on all that is in the step.

    A tile is whole where its segments are no more than what each program had to do if all had the same and there were
    FILL of them. Of the others those with few items come first, as their parts are small.
    """
    several = (segments > 1) & (segments * FILL > segments.sum() * kind.kv_heads)
    order = np.argsort(np.where(several, items, kind.shape.tile.rows + 1), kind="stable")
    floats = np.where(several, segments * items, 0)[order].cumsum() * kind.kv_heads * (kind.shape.v_dim + 2)
    found = np.zeros(len(segments), dtype=bool)
    found[order] = several[order] & (floats <= PARTS)
    return found


def _programs(segments: np.ndarray, kind: _Kind) -> int:
    """How many segments a program of a split tile takes: half of what each program had to do if all had the same. So
    there are fewer than 4 * FILL / kv_heads programs more than tiles, however long the sequences are."""
    return max(1, int(segments.sum()) * kind.kv_heads // max(1, 2 * FILL))
