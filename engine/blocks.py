"""The pool of pages: who holds them, which tokens they are known to hold, which goes next.

A page is in one of three conditions:

    held      refs > 0                    by one or more sequences
    cached    refs = 0, carries a hash    free to take, found by its hash until taken; least recently used first
    empty     refs = 0, no hash           taken before any cached one
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence as Seq
from hashlib import blake2b


def chain_hash(previous: bytes, tokens: Seq[int]) -> bytes:
    """Name of a full page: its tokens and all before them. 128 bits of BLAKE2b, so a hit is the same text."""
    return blake2b(previous + array("q", tokens).tobytes(), digest_size=16).digest()


def root_hash(salt: str, adapter: str = "") -> bytes:
    """Where a chain begins: requests of different salt, or with different adapters (by key), share nothing."""
    return blake2b(f"{adapter}\0{salt}".encode(), digest_size=16).digest()


class BlockPool:
    """All pages by number. Every operation is O(1) a page."""

    __slots__ = ("block_of", "free", "hash_of", "refs", "size")

    def __init__(self, size: int):
        self.size = size
        self.refs = [0] * size
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(size))  # first: taken next
        self.hash_of: list[bytes | None] = [None] * size
        self.block_of: dict[bytes, int] = {}

    def take(self) -> int:
        """A page for one holder; what was cached in it is forgotten. Raises KeyError if none is free."""
        block, _ = self.free.popitem(last=False)
        if (name := self.hash_of[block]) is not None:
            del self.block_of[name]
            self.hash_of[block] = None
        self.refs[block] = 1
        return block

    def share(self, block: int) -> None:
        """One more holder of a page that is held or cached."""
        if self.refs[block] == 0:
            del self.free[block]
        self.refs[block] += 1

    def release(self, blocks: Seq[int]) -> None:
        """One holder less of each. The last pages of a sequence are evicted before its first."""
        for block in reversed(blocks):
            self.refs[block] -= 1
            if self.refs[block] == 0:
                self.free[block] = None
                if self.hash_of[block] is None:
                    self.free.move_to_end(block, last=False)

    def publish(self, block: int, name: bytes) -> None:
        """Let a held, full page be found. The first page of equal content keeps the name."""
        if name not in self.block_of and self.hash_of[block] is None:
            self.block_of[name] = block
            self.hash_of[block] = name

    def check(self, holders: list[list[int]]) -> None:
        """Assert the invariants, given the pages of every sequence that holds any."""
        counted = [0] * self.size
        for blocks in holders:
            assert len(set(blocks)) == len(blocks), "a sequence holds a page twice"
            for block in blocks:
                counted[block] += 1
        assert counted == self.refs, "reference counts are not the numbers of holders"
        assert set(self.free) == {b for b in range(self.size) if counted[b] == 0}, "free list is not what nobody holds"
        assert {n: b for b, n in enumerate(self.hash_of) if n is not None} == self.block_of, "names and pages disagree"
