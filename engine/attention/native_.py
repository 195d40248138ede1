"""Paged attention in C++ (kernels/cpu/attention.h), on the CPU in float32.

`plan` lays down once a step what all layers share, as tables of int64 that the kernel reads; what it gives is
called once a layer, or handed to the call that runs all of them.
"""

from __future__ import annotations

from array import array
from itertools import accumulate

import numpy as np
import torch

from ...kernels import native
from ..batch import Batch
from ..cache import KVCache
from . import AS_THEY_ARE, LayerSpec, Turn

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.int8: 2}  # Kept of kernels/cpu/attention.h


def cache(
    layers: list[LayerSpec], num_blocks: int, dtype: torch.dtype, device: torch.device, *, one_order: bool = False
) -> KVCache:
    """Keys by dimension: a query meets a page as a row meets a panel of a matrix. All layers of a page together."""
    return KVCache(layers, num_blocks, dtype, device, by_page=True, one_order=one_order)


def plan(batch: Batch, layers: list[LayerSpec], cache: KVCache) -> Planned:
    """Plan one step: all that depends on the batch alone is done here, once, not in each layer."""
    return Planned(batch, layers, cache)


class Planned:
    """The `Attend` of one step. attentions, steps: of int64, of each layer the address of its AttentionLayer and of its
    AttentionStep, for a caller in C++ (`decoder`)."""

    __slots__ = ("_held", "_layers", "_places", "attentions", "steps")

    def __init__(self, batch: Batch, layers: list[LayerSpec], cache: KVCache):
        cache.reached(max(blocks[-1] for blocks in batch.blocks))
        by_window = {window: _Step(batch, window) for window in {spec.window for spec in layers}}
        self._layers = layers
        self._held = by_window
        self._places = [by_window[spec.window].places for spec in layers]
        self.attentions = _tables(layers, cache)
        self.steps = array("q", [by_window[spec.window].address for spec in layers])

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, turn: Turn = AS_THEY_ARE
    ) -> torch.Tensor:
        spec = self._layers[layer]
        q, k, v = (x if _side_by_side(x) else x.contiguous() for x in (q, k, v))
        out = torch.empty(q.shape[0], spec.heads, spec.v_head_dim or spec.head_dim)
        native.kernels().attention(
            self.attentions[layer], self.steps[layer], *turn.numbers, q.data_ptr(), q.stride(0), k.data_ptr(),
            k.stride(0), v.data_ptr(), v.stride(0), out.data_ptr(), self._places[layer],
        )  # fmt: skip
        return out


def _side_by_side(x: torch.Tensor) -> bool:
    """Whether the heads of a row lie side by side."""
    return x.stride(2) == 1 and x.stride(1) == x.shape[2]


def _tables(layers: list[LayerSpec], cache: KVCache) -> array[int]:
    """int64 [layers], the address of each one's AttentionLayer."""
    if cache.tables is None:
        parts = cache.k, cache.v, cache.k_units, cache.v_units
        addresses = [[x.data_ptr() for x in part] or [0] * len(layers) for part in parts]
        tables = [
            array("q", [
                spec.heads, spec.kv_heads, spec.head_dim, spec.v_head_dim or spec.head_dim,
                native.bits(spec.scale), native.bits(spec.softcap or 0.0), KINDS[cache.k[n].dtype], *pages,
                cache.k[n].stride(0) * cache.k[n].itemsize,
            ])
            for n, (spec, *pages) in enumerate(zip(layers, *addresses, strict=True))
        ]  # fmt: skip
        cache.tables = array("q", map(native.address, tables)), tables
    return cache.tables[0]


class _Step:
    """AttentionStep, of the layers with one window. places: that all rows look at together."""

    def __init__(self, batch: Batch, window: int | None):
        starts, lengths = batch.query_start, batch.seq_lens
        rows = starts[-1]
        tables = [0, *accumulate(map(len, batch.blocks))]
        pages = [page for blocks in batch.blocks for page in blocks]
        last: list[int] = []
        for begin, end, length in zip(starts, starts[1:], lengths, strict=False):
            last += range(length - (end - begin), length)
        first = [0] * rows
        if window is not None:
            # A draft of a tree stands in the text nearer to its keys than its place says.
            first = [max(0, position - window + 1) for position in batch.positions.tolist()]
        lists = array("q", [*starts, *tables, *pages, *first, *last])
        sizes = map(len, (starts, tables, pages, first))
        starts_at, tables_at, pages_at, first_at, last_at = (
            native.address(lists) + 8 * n for n in accumulate(sizes, initial=0)
        )
        unseen = _unseen(batch, window) if batch.trees else ()
        self._held = lists, batch.slots, unseen
        self._table = array("q", [
            len(lengths), rows, starts_at, tables_at, pages_at, batch.slots.data_ptr(), first_at, last_at,
            *(x.ctypes.data for x in unseen), *[0] * (2 - len(unseen)),
        ])  # fmt: skip
        self.address = native.address(self._table)
        self.places = sum(last) + rows - sum(first)


def _unseen(batch: Batch, window: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Of each row where its own begin, and the places before it that it does not see: in a tree of drafts those that do
    not lead to it, or are behind the window in the text."""
    begins = np.zeros(batch.query_start[-1] + 1, dtype=np.int64)
    places: list[int] = []
    counts = np.zeros(batch.query_start[-1], dtype=np.int64)
    for r, behind in batch.trees.items():
        end = batch.query_start[r + 1]
        drafts = len(behind) - 1
        place = batch.seq_lens[r] - drafts  # of the first draft
        for n, path in enumerate(behind[1:]):
            seen = path if window is None else path[-window:]
            others = [place + i for i in range(n) if i not in seen]
            counts[end - drafts + n] = len(others)
            places += others
    np.cumsum(counts, out=begins[1:])
    return begins, np.asarray(places, dtype=np.int64)
