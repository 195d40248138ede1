"""y = x W^T + b, with W packed once.

On the CPU the C++ products (matrix.py) compute in float32 with weights that are kept as they come: float32, bfloat16,
float16, or whole numbers of 8 or 4 bits. A row's bits do not depend on the rows beside it.

Where there is no C++, weights are float32 and go through oneDNN, reordered at load. There every row comes out bitwise
the same from two rows on, which is not so for torch's own linear (other kernels for 1, 2, 3 and 7 rows). One row alone
may go to another kernel (with AVX-512 and more than 1,024 inputs it does), so it is given company: two rows take the
time of one. Elsewhere it is torch's linear, whose order of sums depends on the number of rows; or, where that is not
wanted (`fixed`), Triton's (triton/dense.py). On a GPU whole numbers and e4m3 are Triton's as well (packed.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from . import native, packed
from .before import AS_IT_IS, Before
from .matrix import Matrix, known
from .memory import Room
from .quantized import Quantized
from .triton import chosen

if TYPE_CHECKING:
    from .lora import Delta, Deltas, Rows
    from .triton.matrix import Packed

Part = torch.Tensor | Quantized
BITS = {"int8": 8, "int4": 4}  # what the C++ products quantize to


class Linear:
    """One product; owns its weights. weight: [out, in], or several side by side; bias [out] or None.

    Packing makes a copy in another order, and what was given is the caller's to drop: load one matrix at a time and
    there is never a second copy of the model. pack=False: the weight stays as it is, for somebody else has it too (the
    embeddings of a model that is not ours); oneDNN then takes W as the left factor and x as the one to pack, W x^T,
    which rounds the same and, measured from 1 to 64 rows, is as fast.

    computed: the kind of x, where it is not that of the weights. form: what to quantize to, int8 or int4 where `keeps`,
    or one of packed.FORMS where `packs_few`. room: where packed weights are to lie that stay as long as the model.
    fixed: a row gets the same bits among any number of rows, also where that is not so by itself.
    deltas: what adapters change in it, None while none does.
    """

    __slots__ = ("_few", "_fixed", "_how", "_weight", "bias", "deltas", "in_features", "matrix", "out_features")

    def __init__(
        self,
        weight: Part | Sequence[Part] | Matrix | Packed,
        bias: torch.Tensor | None = None,
        *,
        pack: bool = True,
        computed: torch.dtype | None = None,
        form: str | None = None,
        room: Room | None = None,
        fixed: bool = False,
    ):
        self.bias = bias
        self._fixed = fixed
        self._few: Packed | None = None
        self.deltas: Deltas | None = None
        self.matrix: Matrix | None = None
        self._weight: torch.Tensor | None = None
        if isinstance(weight, Matrix):
            self.matrix = weight
        elif isinstance(weight, torch.Tensor | Quantized | Sequence):
            parts = [weight] if isinstance(weight, torch.Tensor | Quantized) else list(weight)
            if pack and keeps(parts, computed):
                self.matrix = Matrix.of(parts, bias, None if form is None else BITS[form], room)
            elif pack and packs_few(parts, computed, form):
                self._few = packed.pack(parts, bias, form)
            else:
                self._weight = _dense(parts, computed)
        else:
            self._few = weight
        if self.matrix is not None:
            self._how = "native"
            self.out_features, self.in_features = self.matrix.outputs, self.matrix.inputs
            return
        if self._few is not None:
            self._how = "few"
            self.out_features, self.in_features = self._few.outputs, self._few.inputs
            return
        assert self._weight is not None
        self.out_features, self.in_features = self._weight.shape
        self._how = "torch"
        if fixed:
            self.fix()
        elif packs(self._weight.dtype, self._weight.device):
            self._how = "packed" if pack else "left"
        if self._how == "packed":
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight.contiguous(), None)

    @property
    def bytes(self) -> int:
        """Of the weights."""
        if self.matrix is not None:
            return self.matrix.bytes
        if self._few is not None:
            return self._few.bytes
        assert self._weight is not None
        return self.out_features * self.in_features * self._weight.element_size()

    @property
    def adds(self) -> bool:
        """Whether it adds as it multiplies, and not in an operation of its own."""
        return self.matrix is not None or (self._few is not None and not self._fixed)

    @property
    def kind(self) -> str:
        """What the weights are held in: float32, bfloat16, float16, int8, int4 or fp8."""
        if self.matrix is not None:
            return f"int{self.matrix.kind}" if isinstance(self.matrix.kind, int) else name_of(self.matrix.kind)
        if self._few is not None:
            return self._few.form
        assert self._weight is not None
        return name_of(self._weight.dtype)

    @property
    def shared(self) -> int | None:
        """What tells whether two products or tables hold the same weights; None: a copy of its own."""
        if self.matrix is not None:
            return self.matrix.address
        if self._few is not None:
            return self._few.panels.data_ptr()
        assert self._weight is not None
        return None if self._how == "packed" else self._weight.data_ptr()

    def dense(self) -> torch.Tensor:
        """The weights, float32 [out, in], a new tensor."""
        if self.matrix is not None:
            return self.matrix.dense()
        if self._few is not None:
            return self._few.dense()
        return self._as_given().to(torch.float32, copy=True)

    def _as_given(self) -> torch.Tensor:
        """A weight in floating point [out, in], as it came."""
        assert self._weight is not None
        return self._weight.to_dense() if self._how == "packed" else self._weight

    @property
    def table(self) -> Matrix | Packed:
        """Packed weights, for a table that shares them."""
        found = self.matrix or self._few
        assert found is not None
        return found

    def fix(self) -> None:
        """From now on a row gets the same bits among any number of rows, adapters included, for a caller that asked
        `chosen.served`. Where the C++ kernels multiply that is so anyhow."""
        self._fixed = True
        if self._weight is not None:
            self._weight, self._how = self._as_given().contiguous(), "fixed"
        if self.deltas is not None:
            self.deltas.fix()

    def warm(self, dtype: torch.dtype) -> None:
        """Compile the kernels that steps of any number of rows of such a kind need, where they are Triton's."""
        if self._how in ("few", "fixed"):
            held = self._few.panels if self._few is not None else self._weight
            assert held is not None
            for rows in (1, 17, 33):
                x = torch.zeros((rows, self.in_features), dtype=dtype, device=held.device)
                self._multiplied(x)
                if not self._fixed:
                    self._multiplied(x, x.new_zeros((rows, self.out_features)))

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
        x = x if before is None else before(x)
        if self._few is not None and not self._fixed:
            return self._multiplied(x, add)
        # A step in which others have adapters adds apart, and in 16 bits that is rounded otherwise.
        y = self._base(x)
        return y if add is None else add + y

    def _multiplied(self, x: torch.Tensor, add: torch.Tensor | None = None) -> torch.Tensor:
        """By a kernel of Triton's, which can add as well."""
        if self._few is not None:
            return packed.product(self._few, x, add, fixed=self._fixed)
        found: torch.Tensor = chosen.module("dense").product(x, self._weight, self.bias, add)
        return found

    def _base(self, x: torch.Tensor) -> torch.Tensor:
        if self.matrix is not None:
            return self.matrix.product(x)
        if self._how in ("few", "fixed"):
            return self._multiplied(x)
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

        deltas = self.deltas or Deltas(self.in_features, self.out_features, fixed=self._fixed)
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


def packs_few(parts: Sequence[Part], computed: torch.dtype | None, form: str | None) -> bool:
    """Whether such weights are packed for Triton's products: whole numbers, and what shall become so."""
    if form is None and not any(isinstance(part, Quantized) for part in parts):
        return False
    kinds = {torch.float32 if isinstance(part, Quantized) else part.dtype for part in parts}
    devices = {part.device for part in parts}
    return all(chosen.served(computed or kind, device) for kind in kinds for device in devices)


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
