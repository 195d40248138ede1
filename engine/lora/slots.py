"""Which adapter is in which slot of the model's products. The runner's; it changes between steps only."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch

from ...kernels.ops import Rows
from ..plan import Slice
from .adapter import Adapter


class Slots:
    """At most `count` adapters, the one that ran longest ago leaving first. No step has more: the scheduler's lanes see
    to that."""

    def __init__(self, count: int):
        self._free = list(range(count - 1, -1, -1))
        self._taken: OrderedDict[str, tuple[int, Adapter]] = OrderedDict()  # by key; last: used last
        self.changes = 0  # times that an adapter came or left

    def __contains__(self, key: str) -> bool:
        return key in self._taken

    def rows(self, slices: Sequence[Slice], device: torch.device) -> Rows | None:
        """Whose rows are whose in a step, once every adapter of it has its slot; None where all are the base's."""
        wanted = {s.seq.adapter.key: s.seq.adapter for s in slices if s.seq.adapter is not None}
        if not wanted:
            return None
        for key in wanted:
            if key in self._taken:
                self._taken.move_to_end(key)
        for key, adapter in wanted.items():
            if key not in self._taken:
                self._put(adapter)
        slots: list[int] = []
        for piece in slices:
            mine = piece.seq.adapter
            slots += [-1 if mine is None else self._taken[mine.key][0]] * len(piece.tokens)
        return Rows.of(slots, device)

    def _put(self, adapter: Adapter) -> None:
        if not self._free:
            _, (slot, old) = self._taken.popitem(last=False)
            for product, _ in old.changes:
                product.drop(slot)
            self._free.append(slot)
        slot = self._free.pop()
        for product, delta in adapter.changes:
            product.put(slot, delta)  # type: ignore[arg-type]  # a table has deltas of a table
        self._taken[adapter.key] = slot, adapter
        self.changes += 1
