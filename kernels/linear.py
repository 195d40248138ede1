"""y = x W^T + b, with W packed once.

On the CPU in float32 the weights are reordered for oneDNN at load. Measured on two AVX2 cores, that is 2 to 3 times
torch's own linear from 1 to 64 rows, and from two rows on every row comes out bitwise the same whatever the number of
rows, which is not so for torch's (other kernels for 1, 2, 3 and 7 rows). One row alone may go to another kernel (with
AVX-512 and more than 1,024 inputs it does), so it is given company: two rows take the time of one, since the time is
that of reading the weights. Elsewhere it is torch's linear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from .lora import Delta, Deltas, Rows


def packs(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether weights of this kind are packed."""
    return device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available()


class Linear:
    """One product; owns its weights. weight [out, in], bias [out] or None.

    Packing makes a copy in another order, and `weight` is the caller's to drop: load one matrix at a time and there is
    never a second copy of the model. A matrix that must stay as it is (embeddings that are the head as well) is not
    packed: oneDNN then takes W as the left factor and x as the one to pack, W x^T, which rounds the same and, measured
    from 1 to 64 rows, is as fast.

    deltas: what adapters change in it, None while none does.
    """

    __slots__ = ("_how", "bias", "deltas", "in_features", "out_features", "weight")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, pack: bool = True):
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        self._how = "torch"
        if packs(weight.dtype, weight.device):
            self._how = "packed" if pack else "left"
        if self._how == "packed":
            weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self.weight = weight
        self.deltas: Deltas | None = None

    def __call__(self, x: torch.Tensor, rows: Rows | None = None) -> torch.Tensor:
        """x [rows, in] -> [rows, out], a new tensor. rows: which of them belong to which adapter's slot."""
        if rows is not None and self.deltas is not None:
            return self.deltas.apply(self, x, rows)
        if self._how == "torch":
            return torch.nn.functional.linear(x, self.weight, self.bias)
        count = x.shape[0]
        x = x.expand(2, -1).contiguous() if count == 1 else x.contiguous()
        if self._how == "packed":
            return product(x, self.weight, self.bias)[:count]
        y = product(self.weight, x, None)[:, :count].t().contiguous()
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


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """oneDNN's x [rows, in] times weight [out, in], packed or not, transposed."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
