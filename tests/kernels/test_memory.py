"""Memory for weights: pieces that do not overlap, and large pages where the system has them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from quire.kernels.memory import CHUNK, LARGE, Room, anonymous

ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def test_pieces_do_not_overlap_and_begin_at_lines():
    room = Room()
    sizes = [1, 64, 65, 1000, CHUNK // 4 - 1, CHUNK // 4, CHUNK // 4 - 1, CHUNK // 4 - 1, CHUNK // 4 - 1, 3, CHUNK + 5]
    pieces = [room.take(size) for size in sizes]
    assert [len(piece) for piece in pieces] == sizes
    spans = sorted((piece.data_ptr(), piece.data_ptr() + len(piece)) for piece in pieces)
    assert all(begin % 64 == 0 for begin, _ in spans)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    pieces[3].fill_(7)
    del room, pieces[0]
    assert pieces[2].eq(7).all()  # a piece holds its memory


def test_memory_is_zero_and_takes_none_until_it_is_written():
    held = anonymous(1 << 30)
    assert not held[:: 1 << 26].any()
    held[5] = 1
    assert held[5] == 1


@pytest.mark.skipif(
    not ENABLED.exists() or "never" in ENABLED.read_text().split("[")[1][:6], reason="the system has none"
)
def test_large_pages_are_large():
    held = anonymous(8 * LARGE)
    held.fill_(1)
    begin, found = held.data_ptr(), 0
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    inside = False
    for line in lines:
        head = line.split()[0]
        if "-" in head and ":" not in head:
            low, high = (int(x, 16) for x in head.split("-"))
            inside = low < begin + 8 * LARGE and begin < high
        elif inside and line.startswith("AnonHugePages:"):
            found += int(line.split()[1]) << 10
    assert found >= 4 * LARGE
    assert torch.equal(held, torch.ones(8 * LARGE, dtype=torch.uint8))
