"""What adapters change in a product, for many adapters in one batch.

A step's rows belong to slots (`Rows`), a product knows what each slot changes in it (`Deltas`), and one call applies
all of them: the C++ kernel on the CPU in float32 (with factors that may stay in 16 bits), the Triton kernels on a GPU,
and else torch, slot by slot. Nothing depends on how many slots there are, nor on their numbers, and ranks differ
freely. On the CPU in float32 a row's bits depend on the row and its adapter alone. LoRA: Hu et al. 2021; gathered
products: Chen et al. 2023 (Punica), Sheng et al. 2023 (S-LoRA); the gains: Liu et al. 2022 (IA3), Liu et al. 2024
(DoRA).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from . import native
from .linear import Linear
from .matrix import FORMATS
from .transfer import sent
from .triton import there

if TYPE_CHECKING:
    from .triton.lora import Table, Tiles

GATHERED = (torch.float32, torch.bfloat16, torch.float16)


def way_of(dtype: torch.dtype, device: torch.device) -> str:
    """Which code adds the adapters' parts: "native" (C++), "triton" or "torch"."""
    if native.serves(dtype, device):
        return "native"
    return "triton" if device.type == "cuda" and there.lack(dtype, device) is None else "torch"


def gathered() -> ModuleType:
    """The Triton kernels. Raises ImportError where there is no triton."""
    return importlib.import_module(".triton.lora", __package__)


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """y[:, start : start + rows] += (x @ a.T * scales) @ b.T

    a [rank, in] is kept contiguous. b [rows, rank] is kept so that b.T is contiguous, which is how the kernels read it:
    a b that lies otherwise is copied here, once, and so not when it is put into a slot. scales [rank], or None: 1. Its
    kind is what is computed in, and a and b may then be of 16 bits. Raises ValueError where the shapes or kinds do not
    fit each other.
    """

    a: Tensor
    b: Tensor
    start: int = 0
    scales: Tensor | None = None

    def __post_init__(self):
        a, b, scales = self.a, self.b, self.scales
        if a.dim() != 2 or b.dim() != 2 or a.shape[0] != b.shape[1] or a.shape[0] == 0:
            found = f"a is {list(a.shape)} and b {list(b.shape)}"
            raise ValueError(f"{found}, expected [rank, in] and [rows, rank], rank > 0")
        if a.dtype != b.dtype or a.device != b.device:
            raise ValueError(f"a is {a.dtype} on {a.device} and b {b.dtype} on {b.device}, expected the same")
        if scales is not None and (scales.shape != a.shape[:1] or scales.device != a.device):
            raise ValueError(
                f"scales is {list(scales.shape)} on {scales.device}, expected [{a.shape[0]}] on {a.device}"
            )
        if a.dtype not in GATHERED and scales is not None:
            raise ValueError(f"a is {a.dtype}, expected one of {', '.join(map(str, GATHERED))} where there are scales")
        object.__setattr__(self, "a", a.contiguous())
        object.__setattr__(self, "b", b.t().contiguous().t())
        if scales is not None:
            object.__setattr__(self, "scales", scales.contiguous())

    def plain(self) -> Piece:
        """The same without scales, a and b in the kind that is computed in."""
        if self.scales is None:
            return self
        kind = self.scales.dtype
        return Piece(self.a.to(kind), self.b.to(kind) * self.scales, self.start)

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def rows(self) -> int:
        """How many outputs it changes."""
        return self.b.shape[0]


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """What one adapter changes in one product, applied in this order.

    whole: takes the base product's place (modules_to_save).
    gain_in [in]: the product sees x * gain_in (IA3 of a feed-forward); the pieces see x.
    gain [out]: y * gain (IA3, DoRA).  offset [out]: y + offset (trained biases; bias * (1 - gain) of DoRA).
    pieces: added, one after the other.
    """

    whole: Linear | None = None
    gain_in: Tensor | None = None
    gain: Tensor | None = None
    offset: Tensor | None = None
    pieces: tuple[Piece, ...] = ()

    def __post_init__(self):
        for name in ("gain_in", "gain", "offset"):
            vector = getattr(self, name)
            if vector is not None:
                object.__setattr__(self, name, vector.contiguous())

    def kinds(self) -> Iterator[tuple[str, Tensor]]:
        """What tells the kind that is computed in, with names for messages; all but `whole`."""
        for field in fields(self)[1:4]:
            if (vector := getattr(self, field.name)) is not None:
                yield field.name, vector
        for i, piece in enumerate(self.pieces):
            if piece.scales is not None:
                yield f"pieces[{i}].scales", piece.scales
            else:
                yield f"pieces[{i}].a", piece.a
                yield f"pieces[{i}].b", piece.b


class Rows:
    """Which rows of a step belong to which slot: made once a step, used by all products.

    slots: the distinct slots, ascending; count: all rows, those of the base too.
    table, int64, which the C++ kernel reads at `address`: the number of groups G, their slots [G], where each begins in
    `order` [G + 1], order [grouped rows].
    """

    __slots__ = ("_groups", "_tiles", "address", "count", "device", "of_row", "slots", "table")

    def __init__(self, of_row: np.ndarray, device: torch.device):
        order = np.argsort(of_row, kind="stable")
        order = order[np.count_nonzero(of_row < 0) :]
        grouped = of_row[order]
        firsts = np.flatnonzero(np.diff(grouped, prepend=-1))
        slots = grouped[firsts]
        self.count = len(of_row)
        self.device = device
        self.of_row = of_row
        self.slots: tuple[int, ...] = tuple(slots.tolist())
        self.table = np.concatenate(([len(slots)], slots, firsts, [len(order)], order)).astype(np.int64)
        self.address = self.table.ctypes.data
        self._groups: dict[int, Tensor] | None = None
        self._tiles: Tiles | None = None

    @classmethod
    def of(cls, slots: Sequence[int] | np.ndarray, device: torch.device | str = "cpu") -> Rows | None:
        """slots: of each row its slot, -1 for the base alone. None where no row has one."""
        of_row = np.asarray(slots, dtype=np.int64)
        return cls(of_row, torch.device(device)) if (of_row >= 0).any() else None

    def select(self, rows: Tensor | Sequence[int]) -> Rows | None:
        """Of the rows with these indices [S], in this order (the ones whose logits are wanted).

        A tensor on a GPU is waited for: give a list where the host has one.
        """
        wanted = rows.cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows, dtype=np.int64)
        return Rows.of(self.of_row[wanted], self.device)

    @property
    def tiles(self) -> Tiles:
        """What the Triton kernels read."""
        if self._tiles is None:
            module = gathered()
            cut = [
                (slot, first, min(first + module.TILE_ROWS, end))
                for slot, begin, end in self._parts()
                for first in range(begin, end, module.TILE_ROWS)
            ]
            table = sent(torch.tensor(cut, dtype=torch.int64).t().contiguous(), self.device)
            of_row, order = (sent(torch.from_numpy(part), self.device) for part in (self.of_row, self._order()))
            self._tiles = module.Tiles(of_row, order, *table)
        return self._tiles

    def _order(self) -> np.ndarray:
        return self.table[2 + 2 * len(self.slots) :]

    def _parts(self) -> Iterator[tuple[int, int, int]]:
        """Of each slot the part [begin, end) of the order that is its rows."""
        g = len(self.slots)
        bounds = self.table[1 + g : 2 + 2 * g].tolist()
        return zip(self.slots, bounds, bounds[1:], strict=False)

    @property
    def groups(self) -> dict[int, Tensor]:
        """slot -> its rows [n], int64, ascending, on the device."""
        if self._groups is None:
            order = sent(torch.from_numpy(self._order()), self.device)
            self._groups = {slot: order[begin:end] for slot, begin, end in self._parts()}
        return self._groups


class Deltas:
    """Of one product: what each slot changes in it. One kind of tensor (dtype, device) for all.

    entries, int64, on that device, for the kernels: of each slot the address of its entry, 0 where there is none. An
    entry, int64: the number of pieces, the addresses of gain and offset (0: none), and of each piece the addresses of a
    and b, rank, start and rows, the address of scales (0: none) and the place of a's kind in `FORMATS`. Only the C++
    kernel knows of scales: for the others a piece is made `plain`. Changed by put and drop, one slot at a time: a step
    only reads.
    """

    __slots__ = (
        "_by_slot",
        "_entries",
        "_fixed",
        "_inputs",
        "_kept",
        "_kind",
        "_outputs",
        "_plain",
        "_special",
        "_table",
        "_way",
    )

    def __init__(self, inputs: int, outputs: int, *, fixed: bool = False):
        """fixed: as `Linear` has it."""
        self._inputs, self._outputs, self._fixed = inputs, outputs, fixed
        self._by_slot: dict[int, Delta] = {}
        self._kind: tuple[torch.dtype, torch.device] | None = None
        self._way = "torch"
        self._entries = torch.zeros(0, dtype=torch.int64)
        self._kept: dict[int, Tensor] = {}
        self._table: Table | None = None  # what the Triton kernels want to know besides, made when they next ask
        self._plain: dict[int, list[tuple[Linear, Linear, slice]]] = {}
        self._special: set[int] = set()  # the slots with more than what is added after the base product

    def __len__(self) -> int:
        return len(self._by_slot)

    def put(self, slot: int, delta: Delta) -> None:
        """Let the slot change this product so, in place of what it did before.

        Raises ValueError, and changes nothing, where a shape does not fit the product, or a kind the other slots.
        """
        kind = self._checked(slot, delta)
        self.drop(slot)
        if kind is not None:
            if kind != self._kind:
                self._kind, self._way = kind, way_of(*kind)
                self._entries = torch.zeros(8, dtype=torch.int64, device=kind[1])
            if self._way != "native":
                delta = replace(delta, pieces=tuple(piece.plain() for piece in delta.pieces))
            if self._way != "torch":
                self._enter(slot, delta)
        if self._fixed and delta.whole is not None:
            delta.whole.fix()
        self._by_slot[slot] = delta
        self._table = None
        if delta.whole is not None or delta.gain_in is not None:
            self._special.add(slot)

    def fix(self) -> None:
        """From now on as `Linear.fix` has it."""
        self._fixed = True
        for delta in self._by_slot.values():
            if delta.whole is not None:
                delta.whole.fix()

    def drop(self, slot: int) -> None:
        """Let the slot change nothing here; one that does not is left as it is."""
        if self._by_slot.pop(slot, None) is None:
            return
        if self._kept.pop(slot, None) is not None:
            self._entries[slot] = 0
        self._table = None
        self._plain.pop(slot, None)
        self._special.discard(slot)
        if not self._by_slot:
            self._kind = None

    def added(self, rows: Rows) -> tuple[int, int] | None:
        """For a caller in C++: the address of the entries and how many there are. None where a slot of these rows does
        more than what the C++ kernel adds after the base product."""
        if self._kind is None:
            return (0, 0) if self._special.isdisjoint(rows.slots) else None
        fits = self._way == "native" and self._special.isdisjoint(rows.slots)
        return (self._entries.data_ptr(), len(self._entries)) if fits else None

    def apply(self, base: Callable[[Tensor], Tensor], x: Tensor, rows: Rows) -> Tensor:
        """x [rows, in] -> [rows, out]: the base product, with what each row's slot changes.

        base is called with x alone and makes a new tensor, which is changed in place.
        """
        slots = [slot for slot in rows.slots if slot in self._by_slot]
        if not slots:
            return base(x)
        if rows.count != x.shape[0]:
            raise ValueError(f"rows tells of {rows.count} rows, x has {x.shape[0]}")
        if self._kind is not None and self._kind != (x.dtype, x.device):
            raise ValueError(f"x is {x.dtype} on {x.device}, the adapters are {self._kind[0]} on {self._kind[1]}")
        y = base(x) if self._special.isdisjoint(slots) else self._special_product(base, x, rows, slots)
        if self._kind is None:
            return y
        if self._way == "torch":
            return self._added(x, y, rows, slots)
        x = x if x.stride(1) == 1 else x.contiguous()
        if self._way == "triton":
            return gathered().apply(x, y, self._known(), rows.tiles, fixed=self._fixed)
        native.kernels().lora(
            self._entries.data_ptr(), len(self._entries), rows.address, x.data_ptr(), x.stride(0), self._inputs,
            y.data_ptr(), y.stride(0), self._outputs,
        )  # fmt: skip
        return y

    def _special_product(self, base: Callable[[Tensor], Tensor], x: Tensor, rows: Rows, slots: list[int]) -> Tensor:
        """The product before gain, offset and pieces, where some slots have an input gain or a product of their own."""
        gains = [(slot, gain) for slot in slots if (gain := self._by_slot[slot].gain_in) is not None]
        if gains:
            x = x.clone()
            for slot, gain in gains:
                x[rows.groups[slot]] *= gain
        own = [(slot, whole) for slot in slots if (whole := self._by_slot[slot].whole) is not None]
        if sum(len(rows.groups[slot]) for slot, _ in own) == x.shape[0]:
            y = x.new_empty(x.shape[0], self._outputs)
        else:
            y = base(x)
        for slot, whole in own:
            at = rows.groups[slot]
            y[at] = whole(x[at])
        return y

    def _added(self, x: Tensor, y: Tensor, rows: Rows, slots: list[int]) -> Tensor:
        """Gain, offset and pieces in torch, slot by slot."""
        for slot in slots:
            delta = self._by_slot[slot]
            at = rows.groups[slot]
            if delta.gain is not None:
                y[at] *= delta.gain
            if delta.offset is not None:
                y[at] += delta.offset
            if delta.pieces:
                seen = x[at]
                for a, b, part in self._products(slot, delta):
                    y[:, part].index_add_(0, at, b(a(seen)))
        return y

    def _products(self, slot: int, delta: Delta) -> list[tuple[Linear, Linear, slice]]:
        """The pieces as products, which round alike whatever the number of rows where `Linear` does."""
        if slot not in self._plain:
            self._plain[slot] = [
                (Linear(p.a), Linear(p.b), slice(p.start, p.start + p.rows)) for p in delta.pieces
            ]  # fmt: skip
        return self._plain[slot]

    def _enter(self, slot: int, delta: Delta) -> None:
        entry = [len(delta.pieces), *(0 if v is None else v.data_ptr() for v in (delta.gain, delta.offset))]
        for piece in delta.pieces:
            entry += piece.a.data_ptr(), piece.b.data_ptr(), piece.rank, piece.start, piece.rows
            entry += 0 if piece.scales is None else piece.scales.data_ptr(), FORMATS.index(piece.a.dtype)
        self._kept[slot] = kept = torch.tensor(entry, dtype=torch.int64, device=self._entries.device)
        if slot >= len(self._entries):
            self._entries = torch.nn.functional.pad(self._entries, (0, slot + 1))
        self._entries[slot] = kept.data_ptr()

    def _known(self) -> Table:
        if self._table is None:
            ranks = [[piece.rank for piece in delta.pieces] for delta in self._by_slot.values()]
            self._table = gathered().Table(
                self._entries, max(map(sum, ranks)), max(map(len, ranks)), max((max(r) for r in ranks if r), default=0)
            )
        return self._table

    def _checked(self, slot: int, delta: Delta) -> tuple[torch.dtype, torch.device] | None:
        if slot < 0:
            raise ValueError(f"slot is {slot}, expected 0 or more")
        kind = self._kind if self._by_slot.keys() - {slot} else None
        for name, tensor in delta.kinds():
            kind = kind or (tensor.dtype, tensor.device)
            if (tensor.dtype, tensor.device) != kind:
                raise ValueError(f"{name} is {tensor.dtype} on {tensor.device}, expected {kind[0]} on {kind[1]}")
        for name, width in (("gain_in", self._inputs), ("gain", self._outputs), ("offset", self._outputs)):
            vector = getattr(delta, name)
            if vector is not None and vector.shape != (width,):
                raise ValueError(f"{name} is {list(vector.shape)}, expected [{width}]")
        for i, piece in enumerate(delta.pieces):
            if piece.a.shape[1] != self._inputs:
                raise ValueError(f"pieces[{i}].a is {list(piece.a.shape)}, expected [rank, {self._inputs}]")
            if piece.start < 0 or piece.start + piece.rows > self._outputs:
                found = f"[{piece.start}, {piece.start + piece.rows})"
                raise ValueError(f"pieces[{i}] changes the outputs {found}, the product has {self._outputs}")
        whole = delta.whole
        if whole is not None and (whole.in_features, whole.out_features) != (self._inputs, self._outputs):
            found = f"[{whole.out_features}, {whole.in_features}]"
            raise ValueError(f"whole is {found}, expected [{self._outputs}, {self._inputs}]")
        return kind
