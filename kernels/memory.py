"""Memory that is read from end to end in every step: in large pages, where the system gives them to who asks.

With pages of 4 KB a core looks up a table every 64 lines, and what it reads ahead ends at each page's end.
"""

from __future__ import annotations

import mmap

import torch
from torch import Tensor

LARGE, SMALL = 1 << 21, 1 << 12  # bytes of a large page, and of one where there are none
CHUNK = 1 << 26


def anonymous(size: int) -> Tensor:
    """uint8 [size], content zero, not resident until it is written. size > 0."""
    room = -(-size // LARGE) * LARGE
    try:
        # Private: large pages of what could be shared are another setting of the system, mostly off.
        held = mmap.mmap(-1, room, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        held.madvise(mmap.MADV_HUGEPAGE)
    except (AttributeError, OSError):  # a system without them
        held = mmap.mmap(-1, room)
    return torch.frombuffer(held, dtype=torch.uint8, count=size)


def made_resident(room: Tensor, begin: int) -> int:
    """Have the memory from `begin` on, a large page of it, found and cleared before somebody waits for that (4 ms were
    measured, on a virtual machine). What is written is what is there. Returns the end of what is resident."""
    end = min(begin + LARGE, len(room))
    room[begin:end:SMALL].add_(0)
    return end


class Room:
    """Hands out pieces for what stays as long as all the rest: the weights of a model."""

    def __init__(self) -> None:
        self._chunk = torch.empty(0, dtype=torch.uint8)

    def take(self, size: int) -> Tensor:
        """uint8 [size], at a multiple of 64 bytes, content undefined."""
        if size >= CHUNK // 4:
            return anonymous(size)
        if size > len(self._chunk):
            self._chunk = anonymous(CHUNK)
        piece, self._chunk = self._chunk[:size], self._chunk[-(-size // 64) * 64 :]
        return piece
