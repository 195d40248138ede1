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
from . import AS_THEY_ARE, TRITON_WIDEST, LayerSpec, Turn, tiling, widest
from .tiling import Kind, cut

BEYOND = 4  # pages that a sequence may have beyond its tokens: for drafts


class Pages(KVCache):
    """The cache, with `move` in two launches for all layers instead of four each. computed: what the model computes in,
    where pages hold bytes."""

    def __init__(
        self,
        layers: list[LayerSpec],
        num_blocks: int,
        kept: torch.dtype,
        device: torch.device,
        *,
        computed: torch.dtype,
        one_order: bool,
    ):
        super().__init__(layers, num_blocks, kept, device, one_order=one_order)
        self.computed = computed
        self._found: pages.Places | None = None

    def move(self, sources: list[int], targets: list[int]) -> None:
        pages.move(self._places, sources, targets)

    @property
    def _places(self) -> pages.Places:
        if self._found is None:
            units = [x.unsqueeze(-1).view(torch.int8) for x in (*self.k_units, *self.v_units)]
            self._found = pages.Places.of([*self.k, *self.v, *units])
        return self._found


def cache(
    layers: list[LayerSpec],
    num_blocks: int,
    dtype: torch.dtype,
    device: torch.device,
    kept: torch.dtype | None = None,
    *,
    one_order: bool = False,
) -> KVCache:
    """The pages as this backend reads them. kept: a kind of bytes (kernel.BYTES); None: dtype, what the model computes
    in. Raises ConfigError where heads are wider than it has tiles for."""
    if (found := widest(layers)) > TRITON_WIDEST:
        raise ConfigError(
            "attention", f"is 'triton', and the model has heads of {found} dimensions", f"torch, above {TRITON_WIDEST}"
        )
    return Pages(layers, num_blocks, kept or dtype, device, computed=dtype, one_order=one_order)


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
    table, room = _lay(batch, _distinct(kinds), room, batch.slots.device)
    return Planned(layers, cache, kinds, room, table.to(batch.slots.device, non_blocking=True), batch)


class Planned:
    """The `Attend` of one step, or of a graph that many are replayed by. kinds: of each layer. table: on the device, as
    `_lay` laid it with that room. batch: has the slots and positions. parts: memory for them; None: the scratch's."""

    __slots__ = ("_cache", "_held", "_launches", "_layers", "_parts", "_positions", "_slots", "_tables")

    def __init__(
        self,
        layers: list[LayerSpec],
        cache: KVCache,
        kinds: list[Kinds],
        room: Room,
        table: torch.Tensor,
        batch: Rows,
        parts: torch.Tensor | None = None,
    ):
        self._layers, self._cache = layers, cache
        self._slots, self._positions = batch.slots, batch.positions
        self._tables = kernel.Tables(table)
        lists = _lists(_distinct(kinds), room)
        self._launches = [[(lists[kind], kind.shape, kind.floats(room.parts)) for kind in each] for each in kinds]
        self._parts = _floats(kinds, room)
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
        out = q.new_empty((q.shape[0], spec.heads, v.shape[2]))
        for lists, shape, floats in self._launches[layer]:
            if lists.works:
                kernel.attend(
                    q, out, keys, values, self._tables, lists, shape, self._positions, parts,
                    scale=spec.scale, window=spec.window, softcap=spec.softcap, units=units,
                )  # fmt: skip
            parts = parts[floats:]
        return out


class Ground:
    """What captured steps of up to `rows` rows read, at addresses that stay: one table, whose lists and pages lie where
    the room of a bucket says, and the memory for parts. context: tokens that a sequence may reach; sequences: that a
    step may have. forms: of tiles, which steps are captured for apart; of each the rows that buckets are apart, at
    least."""

    def __init__(self, rows: int, layers: list[LayerSpec], cache: KVCache, context: int, sequences: int):
        self._layers, self._cache, self._context, self._sequences = layers, cache, context, sequences
        self.forms = {"one_order": 1} if cache.one_order else {"low": 1, "mixed": 32}
        self._kinds = {form: _kinds(layers, cache, form) for form in self.forms}
        self._distinct = {form: _distinct(kinds) for form, kinds in self._kinds.items()}
        self._device = cache.k[0].device
        self._rooms: dict[tuple[int, str], Room] = {}
        size = parts = 0
        for form, distinct in self._distinct.items():
            room = self.room(rows, form)
            size = max(size, _pages_at(distinct, room) + room.pages)
            parts = max(parts, _floats(self._kinds[form], room))
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

    def _most(self, rows: int, kind: Kind) -> tuple[int, int, int]:
        """Works, splits and parts of a kind, by the rules of `tiling.cut`."""
        segments, (group, tile) = kind.segments(self._context), (kind.shape.group, kind.shape.tile.rows)
        sequences = min(rows if kind.few is not False else rows // (tiling.most_few(group) + 1), self._sequences)
        tiles = min(rows * -(-group // tile), rows * group // tile + sequences)
        split = min(tiles, max(0, -(-tiling.FILL // kind.kv_heads) - 1)) if segments > 1 else 0
        more = min(tiles * (segments - 1), -(-4 * tiling.FILL // kind.kv_heads))
        items = min(rows * group, split * tile)
        return tiles + more, split, min(items * segments, tiling.PARTS // kind.floats(1))

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


@functools.cache
def _shared(device: torch.device) -> int:
    """KiB of shared memory that a program may have; where there is no such device, what the smaller ones have."""
    if device.type != "cuda":
        return 99
    found: int = kernel.shared_memory(device.index or 0)
    return found >> 10


def _form(batch: Batch, layers: list[LayerSpec], cache: KVCache) -> str:
    """Of a step: a key of `Ground.forms`. Sequences of few rows are computed by low tiles (kernel.TILES), which read as
    fast as memory gives; a step is mixed where others stand beside them."""
    if cache.one_order:
        return "one_order"
    group = max(spec.heads // spec.kv_heads for spec in layers)
    most = max(end - begin for begin, end in pairwise(batch.query_start))
    return "low" if most <= tiling.most_few(group) else "mixed"


Kinds = tuple[Kind, ...]  # of one layer, a launch each


def _kinds(layers: list[LayerSpec], cache: KVCache, form: str) -> list[Kinds]:
    assert isinstance(cache, Pages)
    shared = _shared(cache.k[0].device)

    def kind(spec: LayerSpec, tiles: str, few: bool | None = None) -> Kind:
        dims = spec.head_dim, spec.v_head_dim or spec.head_dim
        shape = kernel.Shape.of(spec.heads, spec.kv_heads, *dims, cache.computed, tiles, shared)
        return Kind(spec.window, spec.kv_heads, shape, few)

    found = {
        spec: (kind(spec, "low", True), kind(spec, "high", False)) if form == "mixed" else (kind(spec, form),)
        for spec in dict.fromkeys(layers)
    }
    return [found[spec] for spec in layers]


def _distinct(kinds: list[Kinds]) -> list[Kind]:
    return list(dict.fromkeys(chain.from_iterable(kinds)))


def _floats(kinds: list[Kinds], room: Room) -> int:
    """That the parts of a layer take."""
    return max(sum(kind.floats(room.parts) for kind in each) for each in kinds)


def _sizes(room: Room) -> tuple[int, int, int]:
    """Of a kind's works, its splits, each headed by its length, and its masks."""
    return 1 + room.works * len(kernel.WORK), 1 + room.splits * len(kernel.SPLIT), room.masks


def _pages_at(kinds: list[Kind], room: Room) -> int:
    return len(kinds) * sum(_sizes(room))


def _lists(kinds: list[Kind], room: Room) -> dict[Kind, kernel.Lists]:
    works, splits, masks = _sizes(room)
    each = works + splits + masks
    return {
        kind: kernel.Lists(n * each, room.works, n * each + works, room.splits, room.parts)
        for n, kind in enumerate(kinds)
    }


_PAGES, _MASKS = kernel.WORK.index("pages"), kernel.WORK.index("masks")


def _lay(batch: Batch, kinds: list[Kind], room: Room | None, device: torch.device) -> tuple[torch.Tensor, Room]:
    """The table on the host: of each kind its works, its splits and its masks, and then pages, as many as there are.
    Raises NoRoom."""
    held = list(map(len, batch.blocks))
    found = [cut(batch, kind) for kind in kinds]
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
