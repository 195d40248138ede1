"""How a step is cut for the kernels of attention: into tiles of rows, and where those are few, or have much to read, by
segments of keys too. Numbers on the host, once a step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...kernels.triton import attention as kernel
from ..batch import Batch
from ..config import MOST_DRAFTS

FILL = 128  # programs of a launch that keep a GPU busy, about: one on each of an H100's 132 multiprocessors
PARTS = 1 << 25  # floats that the parts of split tiles may take, about
FEW = 2  # low tiles that a sequence's rows may fill for all to be computed by such


def most_few(group: int) -> int:
    """Rows that a sequence may have to be computed by low tiles, where so many heads share a key/value head."""
    return max(1, FEW * kernel.LOW // group)


@dataclass(frozen=True, slots=True)
class Kind:
    """What layers have in common that share their lists. few: of which sequences: of those of few rows, the others, or
    all (None)."""

    window: int | None
    kv_heads: int
    shape: kernel.Shape
    few: bool | None = None

    def floats(self, parts: int) -> int:
        """That so many parts take."""
        return parts * self.kv_heads * (self.shape.v_dim + 2)

    def segments(self, context: int) -> int:
        """Of a tile, at most, where sequences have up to so many tokens."""
        all_ = -(-context // kernel.SEGMENT)
        if self.window is None:
            return all_
        return min(all_, (self.window + self.shape.tile.rows + MOST_DRAFTS) // kernel.SEGMENT + 2)


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
class Cut:
    """works [n, WORK], splits [n, SPLIT], masks [words], and how many parts there are. `pages` of a work is its
    sequence for now, and `masks` counts from the first mask."""

    works: np.ndarray
    splits: np.ndarray
    masks: np.ndarray
    parts: int


def cut(batch: Batch, kind: Kind) -> Cut:
    """The tiles of a step, and their segments."""
    trees = _Trees(batch, kind.window)
    group, rows = kind.shape.group, kind.shape.tile.rows
    starts = np.asarray(batch.query_start)
    count = np.diff(starts)
    place = np.asarray(batch.seq_lens) - count  # of each one's first row
    tiles = -(-count * group // rows)
    if kind.few is not None:
        tiles = np.where((count <= most_few(group)) == kind.few, tiles, 0)
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
    return Cut(works, splits, trees.masks, int(parts.sum()))


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


def _split(segments: np.ndarray, items: np.ndarray, kind: Kind) -> np.ndarray:
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


def _programs(segments: np.ndarray, kind: Kind) -> int:
    """How many segments a program of a split tile takes: half of what each program had to do if all had the same. So
    there are fewer than 4 * FILL / kv_heads programs more than tiles, however long the sequences are."""
    return max(1, int(segments.sum()) * kind.kv_heads // max(1, 2 * FILL))
