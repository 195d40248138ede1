"""Paged attention in plain torch, any device; on the CPU a row's bits do not depend on its neighbours.

`plan` does once a step what all layers share: where keys and values are written, and which pages are read for which
query, in which order. Short slices become single queries, all in one call; longer ones are chunks, one call each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...kernels import attention as kernel
from ..batch import Batch
from ..cache import KVCache
from ..config import BLOCK_SIZE
from . import AS_THEY_ARE, Attend, LayerSpec, Turn

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


@dataclass(frozen=True, slots=True)
class _Query:
    """A row of the batch that attends by itself. place: where its own key is in the sequence's pages; position: where
    the token stands in the text, which is another one in a tree of drafts; unseen: places before it that it does not
    see."""

    row: int
    place: int
    position: int
    owner: int  # its sequence
    unseen: Sequence[int] = ()


def cache(
    layers: list[LayerSpec], num_blocks: int, dtype: torch.dtype, device: torch.device, *, one_order: bool = False
) -> KVCache:
    """The pages as this backend reads them."""
    return KVCache(layers, num_blocks, dtype, device, one_order=one_order)


def plan(batch: Batch, layers: list[LayerSpec], cache: KVCache) -> Attend:
    """Plan one step: all that depends on the batch alone is done here, once, not in each layer."""
    shared: dict[tuple[int, int | None, int], LayerPlan] = {}
    plans = []
    for spec in layers:
        key = (spec.kv_heads, spec.window, spec.head_dim)
        if key not in shared:
            shared[key] = _plan(batch, spec, cache)
        plans.append(shared[key])

    def attend(layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, turn: Turn = AS_THEY_ARE) -> torch.Tensor:
        return _run(plans[layer], layers[layer], cache, layer, turn(q, turn.q_norm), turn(k, turn.k_norm), v)

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
    single: list[_Query] = []
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
        if r in batch.trees:
            single += _tree(batch.trees[r], begin, start, end - begin, r, spec.window)
        elif end - begin <= SHORT or (end - begin <= DRAFTED and length <= NEAR):
            single += [_Query(begin + i, start + i, start + i, r) for i in range(end - begin)]
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


def _tree(behind: list[list[int]], begin: int, start: int, count: int, owner: int, window: int | None) -> list[_Query]:
    """A slice with a tree of drafts: each draft sees those that lead to it, and none of the others before it."""
    plain = count - len(behind) + 1  # its tokens without the drafts
    found = [_Query(begin + i, start + i, start + i, owner) for i in range(plain)]
    for n, path in enumerate(behind[1:]):
        seen = path if window is None else path[-window:]
        others = [start + plain + i for i in range(n) if i not in seen]
        found.append(_Query(begin + plain + n, start + plain + n, start + plain + len(path) - 1, owner, others))
    return found


def _rows(
    single: list[_Query], blocks: list[list[int]], spec: LayerSpec, cache: KVCache, device: torch.device
) -> list[kernel.Rows]:
    """Single queries in calls that each read a bounded number of keys, those with most tiles first."""

    def tiles(query: _Query) -> int:
        return query.place // kernel.TILE + 1 - _first_tile(query.position, spec.window)

    room = max(1, CALL // (kernel.TILE * spec.kv_heads * spec.head_dim))
    calls: list[list[_Query]] = []
    filled = room
    for query in sorted(single, key=tiles, reverse=True):
        if filled + tiles(query) > room:
            calls.append([])
            filled = 0
        calls[-1].append(query)
        filled += tiles(query)
    return [_one_call(queries, blocks, spec, cache, device) for queries in calls]


def _one_call(
    queries: list[_Query],
    blocks: list[list[int]],
    spec: LayerSpec,
    cache: KVCache,
    device: torch.device,
) -> kernel.Rows:
    rows, places, positions = torch.tensor([(q.row, q.place, q.position) for q in queries]).T
    begins = [_first_tile(q.position, spec.window) for q in queries]
    first = torch.tensor(begins)
    many = places // kernel.TILE + 1 - first
    most = int(many.max())
    rank, owner = (torch.arange(most)[:, None] < many).nonzero(as_tuple=True)  # rank by rank
    tile = first[owner] + rank

    table = torch.full((len(queries), most * PAGES), cache.zero_page)
    for i, query in enumerate(queries):
        held = blocks[query.owner][begins[i] * PAGES : query.place // BLOCK_SIZE + 1]
        table[i, : len(held)] = torch.tensor(held)
    pages = table.view(len(queries), most, PAGES)[owner, rank]  # [X, PAGES]
    index = pages[:, None, :] * spec.kv_heads + torch.arange(spec.kv_heads)[:, None]

    together = max(1, GATHER // (kernel.TILE * spec.kv_heads * spec.head_dim))  # tiles

    key = tile[:, None] * kernel.TILE + torch.arange(kernel.TILE)
    hidden = key > places[owner][:, None]
    if spec.window is not None:
        hidden |= key <= positions[owner][:, None] - spec.window
    if widest := max(len(query.unseen) for query in queries):
        unseen = torch.tensor([[*q.unseen, *[-1] * (widest - len(q.unseen))] for q in queries])
        hidden |= (key[:, :, None] == unseen[owner][:, None, :]).any(-1)
    return kernel.Rows(
        rows=rows.contiguous().to(device),
        owner=owner.to(device),
        row_of_tile=rows[owner].to(device),
        counts=(torch.arange(most)[:, None] < many).sum(1).tolist(),
        pages=[part.flatten() for part in index.to(device).split(together)],
        mask=torch.zeros(hidden.shape).masked_fill_(hidden, float("-inf"))[:, None, None, :].to(device),
    )
