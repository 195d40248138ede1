"""y = x W^T + b, with W packed once.

On the CPU in float32 the weights are reordered for oneDNN at load. Measured on two AVX2 cores, that is 2 to 3 times
torch's own linear from 1 to 64 rows, and every row comes out bitwise the same whatever the number of rows, which is
not so for torch's (other kernels for 1, 2, 3 and 7 rows). Elsewhere it is torch's linear.
"""

from __future__ import annotations

import torch


def packs(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether weights of this kind are packed."""
    return device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available()


class Linear:
    """One product; owns its weights. weight [out, in], bias [out] or None.

    Packing makes a copy in another order, and `weight` is the caller's to drop: load one matrix at a time and there is
    never a second copy of the model. A matrix that must stay as it is (embeddings that are the head as well) is not
    packed: oneDNN then takes W as the left factor and x as the one to pack, W x^T, which rounds the same and, measured
    from 1 to 64 rows, is as fast.
    """

    __slots__ = ("bias", "in_features", "left", "out_features", "packed", "weight")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None, *, pack: bool = True):
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        self.weight: torch.Tensor | None = None
        self.packed: torch.Tensor | None = None
        self.left = packs(weight.dtype, weight.device) and not pack
        if packs(weight.dtype, weight.device) and pack:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        else:
            self.weight = weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [rows, in] -> [rows, out]."""
        if self.packed is not None:
            return product(x.contiguous(), self.packed, self.bias)
        assert self.weight is not None
        if self.left:
            # One row alone would go to another kernel, which rounds otherwise.
            rows = x.shape[0]
            y = product(self.weight, x.expand(max(2, rows), -1).contiguous(), None)[:, :rows].t().contiguous()
            return y if self.bias is None else y.add_(self.bias)
        return torch.nn.functional.linear(x, self.weight, self.bias)


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """oneDNN's x [rows, in] times weight [out, in], packed or not, transposed."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
