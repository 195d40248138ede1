"""Attention over paged keys and values in plain torch: `reference` is the truth, `attend_*` are fast.

Pages are `[pages, kv_heads, PAGE, head_dim]`; query head h reads key/value head h // (heads / kv_heads).

Batch invariance. The bits of a row depend on its query and its keys alone: not on the rows beside it, on how its prompt
was cut, or on which pages it holds. So both fast paths do the same arithmetic for a row, whatever its company:

- keys lie in tiles of TILE, anchored at absolute positions, the last one filled up with masked keys;
- a score is one matrix product over head_dim; products of at least MIN_ROWS rows have rows that do not depend on each
  other (smaller ones take other kernels in MKL). `products_agree` checks that on the machine at hand, and where it does
  not hold, chunks are computed in products of the very shape that single rows use;
- the maximum of a row is exact in any order; weights exp(score - max) are elementwise;
- sums over keys are taken inside a tile by one fixed-shape operation, and over tiles one by one in order. A masked tile
  adds exact zeros.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

TILE = 64  # keys; a multiple of the page
MIN_ROWS = 4  # rows of a matrix product below which its kernel, so its rounding, may change
SCORE_FLOATS = 1 << 21  # scores of a chunk held at once, about
CHUNK_ROWS = 64  # queries of a chunk computed at once, at most


def reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
) -> torch.Tensor:
    """Causal attention of one sequence, dense and naive, in float64: the truth the paged paths are held to.

    q [n, heads, head_dim] are the last n of the L positions of k [L, kv_heads, head_dim] and v [L, kv_heads,
    v_head_dim] -> [n, heads, v_head_dim] in q's dtype.
    """
    n, heads, _ = q.shape
    length, kv_heads, _ = k.shape
    group = heads // kv_heads
    k64, v64 = (x.double().repeat_interleave(group, dim=1) for x in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.double(), k64) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    at = torch.arange(length - n, length, device=q.device)[:, None]
    key = torch.arange(length, device=q.device)[None, :]
    seen = key <= at
    if window is not None:
        seen &= key > at - window
    weights = torch.softmax(scores.masked_fill(~seen, float("-inf")), dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, v64).to(q.dtype)


class Scratch:
    """Working memory used again from layer to layer and step to step: fresh memory costs a fault a page."""

    KEEP = 1 << 26  # elements; larger buffers are not kept

    def __init__(self) -> None:
        self._flat: dict[tuple[str, torch.dtype, torch.device], torch.Tensor] = {}

    def get(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """A tensor of that shape, content undefined, valid until the same name is asked for again."""
        size = 1
        for n in shape:
            size *= n
        if size > self.KEEP:
            return torch.empty(shape, dtype=dtype, device=device)
        key = (name, dtype, device)
        flat = self._flat.get(key)
        if flat is None or flat.numel() < size:
            flat = self._flat[key] = torch.empty(min(self.KEEP, size + size // 4), dtype=dtype, device=device)
        return flat[:size].view(shape)


def gather(pages: torch.Tensor, index: torch.Tensor, scratch: Scratch, name: str) -> torch.Tensor:
    """pages [pages, kv_heads, PAGE, D], index [n] of (page * kv_heads + head) -> float32 [n, PAGE * D]."""
    flat = pages.view(pages.shape[0] * pages.shape[1], -1)
    out = scratch.get(name, (index.numel(), flat.shape[1]), pages.dtype, pages.device)
    torch.index_select(flat, 0, index, out=out)
    if pages.dtype == torch.float32:
        return out
    wide = scratch.get(name, tuple(out.shape), torch.float32, pages.device)
    return wide.copy_(out)


@dataclass(frozen=True, slots=True)
class Rows:
    """Single queries, each with its own keys, for one `attend_rows`. N queries, X tiles of keys.

    Queries stand in order of falling tile count, tiles in order of their rank in their query: the tiles of rank j are
    those of the first counts[j] queries.
    """

    rows: torch.Tensor  # [N] int64, row of each query in the batch
    owner: torch.Tensor  # [X] int64, query of each tile, 0 <= owner < N
    row_of_tile: torch.Tensor  # [X] int64, rows[owner]
    counts: list[int]  # tiles of each rank
    pages: list[torch.Tensor]  # of some tiles each: [tiles * kv_heads * pages a tile] int64, page * kv_heads + head
    mask: torch.Tensor  # [X, 1, 1, TILE] float32, added to scores: -inf where the key is not seen, else 0


def attend_rows(
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    plan: Rows,
    out: torch.Tensor,
    *,
    scale: float,
    softcap: float | None,
    scratch: Scratch,
) -> None:
    """Attention of single queries. q [T, heads, head_dim] -> out[plan.rows] of out [T, heads, v_head_dim]."""
    kv_heads, dim, v_dim = k_pages.shape[1], k_pages.shape[3], v_pages.shape[3]
    heads = q.shape[1]
    group = heads // kv_heads
    height = padded_rows(group)
    number, tiles = plan.rows.numel(), plan.owner.numel()
    spread = scratch.get("spread", (tiles * kv_heads, height, dim), torch.float32, q.device)
    if height > group:
        spread[:, group:].zero_()
    each = q.index_select(0, plan.row_of_tile).view(tiles * kv_heads, group, dim)
    torch.mul(each.float(), scale, out=spread[:, :group])
    scores = scratch.get("scores", (tiles * kv_heads, height, TILE), torch.float32, q.device)
    # Some tiles at a time, all copied to the same place, so that long contexts need no copy of all their keys.
    begin = 0
    for index in plan.pages:
        k = gather(k_pages, index, scratch, "tiles").view(-1, TILE, dim)
        items = slice(begin, begin + k.shape[0])
        torch.bmm(spread[items], k.transpose(1, 2), out=scores[items])
        begin = items.stop
    scores = cap(scores, softcap).view(tiles, kv_heads, height, TILE).add_(plan.mask)
    later = ranks(plan.counts)[1:]

    peaks = scores.amax(-1)
    top = peaks[:number].clone()
    for begin, n in later:
        torch.maximum(top[:n], peaks[begin : begin + n], out=top[:n])
    scores.sub_(top.index_select(0, plan.owner)[..., None]).exp_()

    sums = scores.sum(-1)
    parts = scratch.get("parts", (tiles * kv_heads, height, v_dim), torch.float32, q.device)
    weights = scores.view(tiles * kv_heads, height, TILE)
    begin = 0
    for index in plan.pages:
        v = gather(v_pages, index, scratch, "tiles").view(-1, TILE, v_dim)
        items = slice(begin, begin + v.shape[0])
        torch.bmm(weights[items], v, out=parts[items])
        begin = items.stop
    parts = parts.view(tiles, kv_heads, height, v_dim)
    total, acc = sums[:number], parts[:number]  # the first tile of each, and the place of the sum
    for begin, n in later:
        total[:n] += sums[begin : begin + n]
        acc[:n] += parts[begin : begin + n]
    acc /= total[..., None]
    out.index_copy_(0, plan.rows, acc[:, :, :group].reshape(number, heads, v_dim).to(out.dtype))


def ranks(counts: list[int]) -> list[tuple[int, int]]:
    """(first tile, number of tiles) of each rank."""
    begin, found = 0, []
    for n in counts:
        found.append((begin, n))
        begin += n
    return found


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive queries of one sequence, for one `attend_chunk`. Keys come from tile `first` on."""

    begin: int  # first row in the batch
    start: int  # its position
    count: int  # queries
    first: int  # first tile of keys, absolute
    tiles: int
    pages: torch.Tensor  # [kv_heads * tiles * pages a tile] int64, page * kv_heads + head, heads first


def attend_chunk(
    q: torch.Tensor,
    k_pages: torch.Tensor,
    v_pages: torch.Tensor,
    plan: Chunk,
    out: torch.Tensor,
    *,
    scale: float,
    window: int | None,
    softcap: float | None,
    scratch: Scratch,
) -> None:
    """Attention of a chunk. Reads q [T, heads, head_dim] at the chunk's rows, writes the same rows of out."""
    kv_heads, dim, v_dim = k_pages.shape[1], k_pages.shape[3], v_pages.shape[3]
    heads = q.shape[1]
    group = heads // kv_heads
    k = gather(k_pages, plan.pages, scratch, "k").view(kv_heads, plan.tiles * TILE, dim)
    v = gather(v_pages, plan.pages, scratch, "v").view(kv_heads, plan.tiles * TILE, v_dim)
    multiply = product(padded_rows(group), dim, v_dim, q.device)
    most = max(8, min(CHUNK_ROWS, SCORE_FLOATS // (heads * plan.tiles * TILE) // 8 * 8))
    for at in range(0, plan.count, most):
        n = min(most, plan.count - at)
        start = plan.start + at  # position of this piece's first query
        low = 0 if window is None else max(0, start - window + 1) // TILE - plan.first  # tiles of this piece's keys
        low = max(low, 0)
        high = (start + n - 1) // TILE + 1 - plan.first
        rows = slice(plan.begin + at, plan.begin + at + n)
        height = (n * group + 7) // 8 * 8
        mine = q.new_zeros((kv_heads, height, dim), dtype=torch.float32)
        mine[:, : n * group].view(kv_heads, n, group, dim).copy_(q[rows].view(n, kv_heads, group, dim).transpose(0, 1))
        mine *= scale
        width = (high - low) * TILE
        scores = scratch.get("scores", (kv_heads, height, width), torch.float32, q.device)
        multiply(mine, k[:, low * TILE : high * TILE].transpose(1, 2), scores)
        cap(scores, softcap)
        hide(scores[:, : n * group].view(kv_heads, n, group, width), start, (plan.first + low) * TILE, window)
        scores.sub_(scores.amax(-1, keepdim=True)).exp_()
        sums = scores.view(kv_heads, height, high - low, TILE).sum(-1)
        acc = mine.new_zeros((kv_heads, height, v_dim))
        part = torch.empty_like(acc)
        total = mine.new_zeros((kv_heads, height))
        for tile in range(high - low):
            keys = slice(tile * TILE, (tile + 1) * TILE)
            multiply(scores[:, :, keys], v[:, (low + tile) * TILE : (low + tile + 1) * TILE], part)
            acc += part
            total += sums[:, :, tile]
        acc /= total[..., None]
        out[rows].view(n, kv_heads, group, v_dim).copy_(
            acc[:, : n * group].view(kv_heads, n, group, v_dim).transpose(0, 1)
        )


def hide(scores: torch.Tensor, start: int, first: int, window: int | None) -> None:
    """Set the scores of unseen keys to -inf, in place. scores [kv_heads, n, group, keys from position `first` on]."""
    n, keys = scores.shape[1], scores.shape[3]
    # Only the columns at the diagonal can be in the future, only those at the window's edge out of it.
    future = min(max(0, start + 1 - first), keys)
    edges = [(future, keys)]
    if window is not None:
        edges.append((0, min(keys, max(0, start + n - window - first))))
    at = torch.arange(start, start + n, device=scores.device)[:, None]
    for a, b in edges:
        if a < b:
            key = torch.arange(first + a, first + b, device=scores.device)[None, :]
            unseen = key > at
            if window is not None:
                unseen |= key <= at - window
            scores[..., a:b].masked_fill_(unseen[None, :, None, :], float("-inf"))


def cap(scores: torch.Tensor, softcap: float | None) -> torch.Tensor:
    """softcap * tanh(scores / softcap), in place."""
    return scores if softcap is None else scores.div_(softcap).tanh_().mul_(softcap)


def padded_rows(group: int) -> int:
    """Rows of the matrix product of one query: its `group` heads of one key/value head, filled up."""
    return max(MIN_ROWS, (group + 3) // 4 * 4)


Product = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], None]


def product(height: int, dim: int, v_dim: int, device: torch.device) -> Product:
    """How a chunk multiplies a [B, rows, K] by b [B, K, N] into out, so that its rows round as `attend_rows` does."""
    if device.type != "cpu" or products_agree(height, dim, v_dim, torch.get_num_threads()):
        return whole_product
    return functools.partial(product_by_pieces, height)


def whole_product(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    torch.bmm(a, b, out=out)


def product_by_pieces(height: int, a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
    """The same in products of `height` rows and at most TILE columns: the shape `attend_rows` multiplies in."""
    batch, rows, depth = a.shape
    pieces = -(-rows // height)
    padded = a.new_zeros((batch, pieces * height, depth))
    padded[:, :rows] = a
    # Scores are as wide as the keys, in tiles; outputs are v_head_dim wide, in one piece.
    step = TILE if b.stride(1) == 1 else b.shape[2]
    for i in range(batch):
        for left in range(0, b.shape[2], step):
            right = b[i, :, left : left + step]
            found = torch.bmm(padded[i].view(pieces, height, depth), right.expand(pieces, *right.shape))
            out[i, :, left : left + step] = found.view(pieces * height, -1)[:rows]


@functools.lru_cache(maxsize=64)
def products_agree(height: int, dim: int, v_dim: int, threads: int) -> bool:
    """Whether this machine's matrix product gives a row the same bits in every shape used here (a few milliseconds).

    `threads` is part of the question: libraries split work by it.
    """
    make = functools.partial(torch.randn, generator=torch.Generator().manual_seed(1))
    for batch in (1, 2, 8):
        for rows in (8, 24, 192):
            scores = make(batch, rows, dim), make(batch, 4 * TILE, dim).transpose(1, 2)
            values = make(batch, rows, TILE), make(batch, TILE, v_dim)
            for a, b in (scores, values):
                wide, pieces = (a.new_empty((batch, rows, b.shape[2])) for _ in range(2))
                whole_product(a, b, wide)
                product_by_pieces(height, a, b, pieces)
                if not torch.equal(wide, pieces):
                    return False
    return True
