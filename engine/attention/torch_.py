"""Paged attention in plain torch, any device; on the CPU a row's bits do not depend on its neighbours.

`plan` does once a step what all layers share: where keys and values are written, and which pages are read for which
query, in which order. Short slices become single queries, all in one call; longer ones are chunks, one call each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...kernels import attention as kernel
from ..batch import Batch
from ..cache import KVCache
from ..config import BLOCK_SIZE
from . import Attend, LayerSpec

SHORT = 4  # tokens of a slice up to which its queries go single, each with its own copy of the keys
DRAFTED, NEAR = 9, 1024  # the same of a slice with drafts, where there are no more keys than so many
PAGES = kernel.TILE // BLOCK_SIZE  # pages a tile
GATHER = 1 << 20  # elements of keys that are copied at once for single queries, about
CALL = 1 << 25  # elements of keys that one call for single queries reads, about


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """What layers of equal kv_heads and window share in one step."""

    write: torch.Tensor  # [T * kv_heads] row of the pages seen as [.., D], for each token and head
    clear: torch.Tensor | None  # the same, of the slots behind the last token of a freshly begun page
    rows: list[kernel.Rows]
    chunks: list[kernel.Chunk]


def plan(batch: Batch, layers: list[LayerSpec], cache: KVCache) -> Attend:
    """Plan one step: all that depends on the batch alone is done here, once, not in each layer."""
    shared: dict[tuple[int, int | None, int], LayerPlan] = {}
    plans = []
    for spec in layers:
        key = (spec.kv_heads, spec.window, spec.head_dim)
        if key not in shared:
            shared[key] = _plan(batch, spec, cache)
        plans.append(shared[key])

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return _run(plans[layer], layers[layer], cache, layer, q, k, v)

    return attend


def _run(
    plan: LayerPlan, spec: LayerSpec, cache: KVCache, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    for pages, new in ((cache.k[layer], k), (cache.v[layer], v)):
        flat = pages.view(-1, pages.shape[-1])
        if plan.clear is not None:
            flat.index_fill_(0, plan.clear, 0)
        flat.index_copy_(0, plan.write, new.reshape(-1, pages.shape[-1]).to(pages.dtype))
    out = q.new_empty((q.shape[0], spec.heads, v.shape[-1]))
    both = cache.k[layer], cache.v[layer]
    for rows in plan.rows:
        kernel.attend_rows(q, *both, rows, out, scale=spec.scale, softcap=spec.softcap, scratch=cache.scratch)
    for chunk in plan.chunks:
        kernel.attend_chunk(
            q, *both, chunk, out, scale=spec.scale, window=spec.window, softcap=spec.softcap, scratch=cache.scratch
        )
    return out


def _plan(batch: Batch, spec: LayerSpec, cache: KVCache) -> LayerPlan:
    device = batch.slots.device
    single: list[tuple[int, int, int]] = []  # row, its position, its sequence
    chunks: list[kernel.Chunk] = []
    behind: list[int] = []
    for r, blocks in enumerate(batch.blocks):
        begin, end = batch.query_start[r : r + 2]
        length = batch.seq_lens[r]
        start = length - (end - begin)
        page = (length - 1) // BLOCK_SIZE
        if start <= page * BLOCK_SIZE:
            # The page held others' tokens. Weight zero does not hide a NaN of theirs, so what is read must be clear.
            behind += range(blocks[page] * BLOCK_SIZE + (length - 1) % BLOCK_SIZE + 1, (blocks[page] + 1) * BLOCK_SIZE)
        if end - begin <= SHORT or (end - begin <= DRAFTED and length <= NEAR):
            single += [(begin + i, start + i, r) for i in range(end - begin)]
        else:
            chunks.append(_chunk(begin, start, length, blocks, spec, cache, device))
    return LayerPlan(
        write=_slot_rows(batch.slots, spec.kv_heads),
        clear=_slot_rows(torch.tensor(behind, device=device), spec.kv_heads) if behind else None,
        rows=_rows(single, batch.blocks, spec, cache, device) if single else [],
        chunks=chunks,
    )


def _slot_rows(slots: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """slots [n] -> [n * kv_heads]: each head's row of pages [pages, kv_heads, BLOCK_SIZE, D] seen as [.., D]."""
    heads = torch.arange(kv_heads, device=slots.device)
    page, offset = slots // BLOCK_SIZE, slots % BLOCK_SIZE
    return ((page[:, None] * kv_heads + heads) * BLOCK_SIZE + offset[:, None]).flatten()


def _first_tile(position: int, window: int | None) -> int:
    return 0 if window is None else max(0, position - window + 1) // kernel.TILE


def _chunk(
    begin: int,
    start: int,
    length: int,
    blocks: list[int],
    spec: LayerSpec,
    cache: KVCache,
    device: torch.device,
) -> kernel.Chunk:
    first = _first_tile(start, spec.window)
    tiles = (length - 1) // kernel.TILE + 1 - first
    held = blocks[first * PAGES : (length - 1) // BLOCK_SIZE + 1]
    pages = torch.tensor(held + [cache.zero_page] * (tiles * PAGES - len(held)))
    heads = torch.arange(spec.kv_heads)
    index = (pages * spec.kv_heads + heads[:, None]).flatten().to(device)
    return kernel.Chunk(begin, start, length - start, first, tiles, index)


def _rows(
    single: list[tuple[int, int, int]], blocks: list[list[int]], spec: LayerSpec, cache: KVCache, device: torch.device
) -> list[kernel.Rows]:
    """Single queries in calls that each read a bounded number of keys, those with most tiles first."""

    def tiles(query: tuple[int, int, int]) -> int:
        return query[1] // kernel.TILE + 1 - _first_tile(query[1], spec.window)

    room = max(1, CALL // (kernel.TILE * spec.kv_heads * spec.head_dim))
    calls: list[list[tuple[int, int, int]]] = []
    filled = room
    for query in sorted(single, key=tiles, reverse=True):
        if filled + tiles(query) > room:
            calls.append([])
            filled = 0
        calls[-1].append(query)
        filled += tiles(query)
    return [_one_call(queries, blocks, spec, cache, device) for queries in calls]


def _one_call(
    queries: list[tuple[int, int, int]],
    blocks: list[list[int]],
    spec: LayerSpec,
    cache: KVCache,
    device: torch.device,
) -> kernel.Rows:
    rows, positions, _ = torch.tensor(queries).T
    begins = [_first_tile(p, spec.window) for _, p, _ in queries]
    first = torch.tensor(begins)
    many = positions // kernel.TILE + 1 - first
    most = int(many.max())
    rank, owner = (torch.arange(most)[:, None] < many).nonzero(as_tuple=True)  # rank by rank
    tile = first[owner] + rank

    table = torch.full((len(queries), most * PAGES), cache.zero_page)
    for i, (_, p, r) in enumerate(queries):
        held = blocks[r][begins[i] * PAGES : p // BLOCK_SIZE + 1]
        table[i, : len(held)] = torch.tensor(held)
    pages = table.view(len(queries), most, PAGES)[owner, rank]  # [X, PAGES]
    index = pages[:, None, :] * spec.kv_heads + torch.arange(spec.kv_heads)[:, None]

    together = max(1, GATHER // (kernel.TILE * spec.kv_heads * spec.head_dim))  # tiles

    key = tile[:, None] * kernel.TILE + torch.arange(kernel.TILE)
    at = positions[owner][:, None]
    hidden = key > at
    if spec.window is not None:
        hidden |= key <= at - spec.window
    return kernel.Rows(
        rows=rows.contiguous().to(device),
        owner=owner.to(device),
        row_of_tile=rows[owner].to(device),
        counts=(torch.arange(most)[:, None] < many).sum(1).tolist(),
        pages=[part.flatten() for part in index.to(device).split(together)],
        mask=torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))[:, None, None, :].to(device),
    )
