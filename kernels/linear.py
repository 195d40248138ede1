"""y = x W^T + b, with W packed once.

On the CPU the C++ products (matrix.py) compute in float32 with weights that are kept as they come: float32, bfloat16,
float16, or whole numbers of 8 or 4 bits. A row's bits do not depend on the rows beside it.

Where there is no C++, weights are float32 and go through oneDNN, reordered at load. There every row comes out bitwise
the same from two rows on, which is not so for torch's own linear (other kernels for 1, 2, 3 and 7 rows). One row alone
may go to another kernel (with AVX-512 and more than 1,024 inputs it does), so it is given company: two rows take the
time of one. Elsewhere it is torch's linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from . import native
from .before import AS_IT_IS, Before
from .matrix import Matrix, known
from .memory import Room
from .quantized import Quantized

if TYPE_CHECKING:
    from .lora import Delta, Deltas, Rows

Part = torch.Tensor | Quantized


class Linear:
    """One product; owns its weights. weight: [out, in], or several side by side; bias [out] or None.

    Packing makes a copy in another order, and what was given is the caller's to drop: load one matrix at a time and
    there is never a second copy of the model. pack=False: the weight stays as it is, for somebody else has it too (the
    embeddings of a model that is not ours); oneDNN then takes W as the left factor and x as the one to pack, W x^T,
    which rounds the same and, measured from 1 to 64 rows, is as fast.

    computed: the kind of x, where it is not that of the weights. bits: 8 or 4, to quantize; only where `keeps`.
    room: where packed weights are to lie that stay as long as the model.
    deltas: what adapters change in it, None while none does.
    """

    __slots__ = ("_how", "_weight", "bias", "deltas", "in_features", "matrix", "out_features")

    def __init__(
        self,
        weight: Part | Sequence[Part] | Matrix,
        bias: torch.Tensor | None = None,
        *,
        pack: bool = True,
        computed: torch.dtype | None = None,
        bits: int | None = None,
        room: Room | None = None,
    ):
        self.bias = bias
        self.deltas: Deltas | None = None
        self.matrix: Matrix | None = None
        self._weight: torch.Tensor | None = None
        if isinstance(weight, Matrix):
            self.matrix = weight
        else:
            parts = [weight] if isinstance(weight, torch.Tensor | Quantized) else list(weight)
            if pack and keeps(parts, computed):
                self.matrix = Matrix.of(parts, bias, bits, room)
            else:
                self._weight = _dense(parts, computed)
        if self.matrix is not None:
            self._how = "native"
            self.out_features, self.in_features = self.matrix.outputs, self.matrix.inputs
            return
        assert self._weight is not None
        self.out_features, self.in_features = self._weight.shape
        self._how = "torch"
        if packs(self._weight.dtype, self._weight.device):
            self._how = "packed" if pack else "left"
        if self._how == "packed":
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight.contiguous(), None)

    @property
    def bytes(self) -> int:
        """Of the weights."""
        if self.matrix is not None:
            return self.matrix.bytes
        assert self._weight is not None
        return self.out_features * self.in_features * self._weight.element_size()

    @property
    def kind(self) -> str:
        """What the weights are held in: float32, bfloat16, float16, int8 or int4."""
        if self.matrix is not None:
            return f"int{self.matrix.kind}" if isinstance(self.matrix.kind, int) else name_of(self.matrix.kind)
        assert self._weight is not None
        return name_of(self._weight.dtype)

    @property
    def shared(self) -> int | None:
        """What tells whether two products or tables hold the same weights; None: a copy of its own."""
        if self.matrix is not None:
            return self.matrix.address
        assert self._weight is not None
        return None if self._how == "packed" else self._weight.data_ptr()

    def dense(self) -> torch.Tensor:
        """The weights, float32 [out, in], a new tensor."""
        if self.matrix is not None:
            return self.matrix.dense()
        assert self._weight is not None
        weight = self._weight.to_dense() if self._how == "packed" else self._weight
        return weight.to(torch.float32, copy=True)

    def __call__(
        self,
        x: torch.Tensor,
        rows: Rows | None = None,
        *,
        before: Before | None = None,
        add: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x [rows, in] -> [rows, out], a new tensor. rows: which of them belong to which adapter's slot. before: what
        becomes of x first. add [rows, out]: is added last.
        """
        if rows is not None and self.deltas is not None:
            y = self.deltas.apply(self._base, x if before is None else before(x), rows)
            return y if add is None else add + y
        if self.matrix is not None and self.matrix.order is None:
            return self.matrix.product(x, AS_IT_IS if before is None else before.numbers, add)
        y = self._base(x if before is None else before(x))
        return y if add is None else add + y

    def _base(self, x: torch.Tensor) -> torch.Tensor:
        if self.matrix is not None:
            return self.matrix.product(x)
        weight = self._weight
        assert weight is not None
        if self._how == "torch":
            return torch.nn.functional.linear(x, weight, self.bias)
        count = x.shape[0]
        x = x.expand(2, -1).contiguous() if count == 1 else x.contiguous()
        if self._how == "packed":
            return _product(x, weight, self.bias)[:count]
        y = _product(weight, x, None)[:, :count].t().contiguous()
        return y if self.bias is None else y.add_(self.bias)

    def put(self, slot: int, delta: Delta) -> None:
        """Let an adapter's slot change this product. Raises ValueError where a shape or kind does not fit."""
        from .lora import Deltas  # which makes products of its own

        deltas = self.deltas or Deltas(self.in_features, self.out_features)
        deltas.put(slot, delta)
        self.deltas = deltas

    def drop(self, slot: int) -> None:
        """Let the slot change nothing here; one that does not is left as it is."""
        if self.deltas is not None:
            self.deltas.drop(slot)
            self.deltas = self.deltas if len(self.deltas) else None


def keeps(parts: Sequence[Part], computed: torch.dtype | None = None) -> bool:
    """Whether such weights are packed for the C++ products."""
    kinds = {torch.float32 if isinstance(part, Quantized) else part.dtype for part in parts}
    return all(native.serves(computed or kind, part.device) and known(kind) for part in parts for kind in kinds)


def name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def packs(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether weights of this kind are packed by oneDNN."""
    return device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available()


def _dense(parts: Sequence[Part], computed: torch.dtype | None) -> torch.Tensor:
    whole = [part.dense() if isinstance(part, Quantized) else part for part in parts]
    weight = whole[0] if len(whole) == 1 else torch.cat(whole)
    return weight if computed is None else weight.to(computed)


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """oneDNN's x [rows, in] times weight [out, in], packed or not, transposed."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
