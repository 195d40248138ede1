"""Rows of a table, by token: with what adapters change in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .linear import Linear
from .matrix import Matrix

if TYPE_CHECKING:
    from .lora import Rows
    from .triton.matrix import Packed


@dataclass(frozen=True, slots=True, eq=False)
class EmbeddingDelta:
    """What one adapter changes in a table: (whole or the base's row) * gain + a[token] @ b.T

    a [vocab, rank]: gathered by token, so it lies by token.  b [width, rank]: the scale (and a gain) is in it already.
    whole [vocab, width]: takes the table's place (modules_to_save).  gain [width]: of DoRA.
    Raises ValueError where a and b do not fit each other.
    """

    a: Tensor | None = None
    b: Tensor | None = None
    whole: Tensor | None = None
    gain: Tensor | None = None

    def __post_init__(self):
        a, b = self.a, self.b
        if (a is None) != (b is None):
            raise ValueError(f"{'a' if a is None else 'b'} is missing, expected both a and b or neither")
        if a is None or b is None:
            return
        if a.dim() != 2 or b.dim() != 2 or a.shape[1] != b.shape[1] or a.shape[1] == 0:
            found = f"a is {list(a.shape)} and b {list(b.shape)}"
            raise ValueError(f"{found}, expected [vocab, rank] and [width, rank], rank > 0")
        object.__setattr__(self, "a", a.contiguous())
        object.__setattr__(self, "b", b.contiguous())


class EmbeddingDeltas:
    """Of one table: what each slot changes in it."""

    __slots__ = ("_by_slot", "_fixed", "_width", "_vocab", "_kind")

    def __init__(self, vocab: int, width: int, dtype: torch.dtype, device: torch.device, *, fixed: bool = False):
        """fixed: as `Linear` has it."""
        self._vocab, self._width, self._fixed = vocab, width, fixed
        self._kind = dtype, device
        self._by_slot: dict[int, tuple[EmbeddingDelta, Linear | None]] = {}

    def __len__(self) -> int:
        return len(self._by_slot)

    def put(self, slot: int, delta: EmbeddingDelta) -> None:
        """Let the slot change this table so, in place of what it did before.

        Raises ValueError, and changes nothing, where a shape or kind does not fit the table.
        """
        if slot < 0:
            raise ValueError(f"slot is {slot}, expected 0 or more")
        wanted = (
            ("a", delta.a, (self._vocab, None)),
            ("b", delta.b, (self._width, None)),
            ("whole", delta.whole, (self._vocab, self._width)),
            ("gain", delta.gain, (self._width,)),
        )
        for name, tensor, shape in wanted:
            if tensor is None:
                continue
            if len(tensor.shape) != len(shape) or any(
                n not in (m, None) for m, n in zip(tensor.shape, shape, strict=True)
            ):
                expected = ", ".join("rank" if n is None else str(n) for n in shape)
                raise ValueError(f"{name} is {list(tensor.shape)}, expected [{expected}]")
            if (tensor.dtype, tensor.device) != self._kind:
                found, (dtype, device) = f"{tensor.dtype} on {tensor.device}", self._kind
                raise ValueError(f"{name} is {found}, expected {dtype} on {device}")
        self._by_slot[slot] = delta, None if delta.b is None else Linear(delta.b, fixed=self._fixed)

    def drop(self, slot: int) -> None:
        """Let the slot change nothing here; one that does not is left as it is."""
        self._by_slot.pop(slot, None)

    def apply(self, tokens: Tensor, y: Tensor, rows: Rows) -> Tensor:
        """y [rows, width], the base's rows for the tokens [rows]: changed in place."""
        for slot in rows.slots:
            if slot not in self._by_slot:
                continue
            if rows.count != y.shape[0]:
                raise ValueError(f"rows tells of {rows.count} rows, there are {y.shape[0]} tokens")
            delta, expand = self._by_slot[slot]
            at = rows.groups[slot]
            asked = tokens[at]
            found = y[at] if delta.whole is None else delta.whole[asked]
            if delta.gain is not None:
                found = found * delta.gain
            if delta.a is not None and expand is not None:
                found = found + expand(delta.a[asked])
            y[at] = found
        return y


class Embedding:
    """A table; owns its weights, unless a product that is the head as well holds them.

    weight [vocab, width], of any floating kind, or the packed matrix of a head. dtype: of the rows it gives. fixed: as
    `Linear` has it, of the head and of what adapters change.
    """

    __slots__ = ("_few", "_fixed", "_matrix", "_weight", "deltas", "device", "dtype", "vocab", "width")

    def __init__(self, weight: Tensor | Matrix | Packed, dtype: torch.dtype | None = None, *, fixed: bool = False):
        self._matrix: Matrix | None = None
        self._few: Packed | None = None  # on a GPU
        self._weight: Tensor | None = None
        self._fixed = fixed
        if isinstance(weight, Matrix):
            self._matrix = weight
            self.vocab, self.width = weight.outputs, weight.inputs
            self.dtype, self.device = torch.float32, torch.device("cpu")
        elif isinstance(weight, Tensor):
            self._weight = weight
            self.vocab, self.width = weight.shape
            self.dtype, self.device = dtype or weight.dtype, weight.device
        else:
            self._few = weight
            self.vocab, self.width = weight.outputs, weight.inputs
            self.dtype, self.device = dtype or torch.float32, weight.panels.device
        self.deltas: EmbeddingDeltas | None = None

    def product(self) -> Linear:
        """The same weights as a product: the head of a model whose embeddings are tied to it."""
        if self._matrix is not None:
            return Linear(self._matrix)
        if self._few is not None:
            return Linear(self._few, fixed=self._fixed)
        assert self._weight is not None
        return Linear(self._weight, pack=False, fixed=self._fixed)

    @property
    def shared(self) -> int | None:
        """What tells whether a product or a table holds the same weights."""
        if self._matrix is not None:
            return self._matrix.address
        if self._few is not None:
            return self._few.panels.data_ptr()
        assert self._weight is not None
        return self._weight.data_ptr()

    def dense(self) -> Tensor:
        """The table, [vocab, width]; not to be changed, for it may be the table itself."""
        if self._matrix is not None:
            return self._matrix.dense()
        if self._few is not None:
            return self._few.dense().to(self.dtype)
        assert self._weight is not None
        return self._weight.to(self.dtype)

    def rows(self, tokens: Tensor) -> Tensor:
        """tokens [rows], int64 -> [rows, width], a new tensor, without what adapters change."""
        if self._matrix is not None:
            return self._matrix.rows(tokens)
        if self._few is not None:
            return self._few.rows(tokens).to(self.dtype)
        assert self._weight is not None
        return self._weight[tokens].to(self.dtype)

    def __call__(self, tokens: Tensor, rows: Rows | None = None) -> Tensor:
        """tokens [rows], int64 -> [rows, width], a new tensor."""
        y = self.rows(tokens)
        return y if rows is None or self.deltas is None else self.deltas.apply(tokens, y, rows)

    def put(self, slot: int, delta: EmbeddingDelta) -> None:
        """Let an adapter's slot change this table. Raises ValueError where a shape or kind does not fit."""
        deltas = self.deltas or EmbeddingDeltas(self.vocab, self.width, self.dtype, self.device, fixed=self._fixed)
        deltas.put(slot, delta)
        self.deltas = deltas

    def drop(self, slot: int) -> None:
        """Let the slot change nothing here; one that does not is left as it is."""
        if self.deltas is not None:
            self.deltas.drop(slot)
            self.deltas = self.deltas if len(self.deltas) else None
