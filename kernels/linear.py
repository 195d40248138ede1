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
    never a second copy of the model.
    """

    __slots__ = ("bias", "in_features", "out_features", "packed", "weight")

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None):
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        self.weight: torch.Tensor | None = None
        self.packed: torch.Tensor | None = None
        if packs(weight.dtype, weight.device):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        else:
            self.weight = weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [rows, in] -> [rows, out]."""
        if self.packed is not None:
            return torch.ops.mkldnn._linear_pointwise(x.contiguous(), self.packed, self.bias, "none", [], "")
        assert self.weight is not None
        return torch.nn.functional.linear(x, self.weight, self.bias)
