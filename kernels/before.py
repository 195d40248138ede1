"""What becomes of rows before they are multiplied: a norm, or the gate of a feed-forward. By themselves, or on the way
into a product, which is the same to the bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from . import elementwise, native
from .triton import chosen

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": elementwise.silu,
    "gelu": elementwise.gelu,
    "gelu_new": elementwise.gelu_tanh,
    "gelu_pytorch_tanh": elementwise.gelu_tanh,
    "relu": torch.relu,
}
# Gate of cpu/rows.h; 0 is none.
GATES = {"silu": 1, "gelu": 2, "gelu_new": 3, "gelu_pytorch_tanh": 3, "relu": 4}

Numbers = tuple[int, int, int]  # the address of a norm, the bits of its eps, the gate
AS_IT_IS: Numbers = (0, 0, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Norm:
    """x [rows, width] -> x / sqrt(mean(x^2) + eps) * weight, the mean in float32. weight [width].

    On a GPU all of it is float32 and rounded once; in torch what is multiplied by the weight is rounded before.
    """

    weight: torch.Tensor
    eps: float
    numbers: Numbers = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", (self.weight.data_ptr(), native.bits(self.eps), 0))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., width]"""
        if native.serves(x.dtype, x.device):
            return _native(x, x.shape[-1], self.numbers)
        if (rows := chosen.kernel("norm", x.dtype, x.device)) is not None:
            normed: torch.Tensor = rows.rms_norm(x, self.weight, self.eps)
            return normed
        wide = x.float()
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * scaled.to(x.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """x [rows, 2 * width] holds gate and up side by side -> activation(gate) * up [rows, width]."""

    activation: str  # a key of ACTIVATIONS
    numbers: Numbers = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "numbers", (0, 0, GATES[self.activation]))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        width = x.shape[-1] // 2
        if native.serves(x.dtype, x.device):
            return _native(x, width, self.numbers)
        if (rows := chosen.kernel("gate", x.dtype, x.device)) is not None:
            gated: torch.Tensor = rows.gate(x, self.activation)
            return gated
        return ACTIVATIONS[self.activation](x[..., :width]).mul_(x[..., width:])


Before = Norm | Gate


def _native(x: torch.Tensor, width: int, numbers: Numbers) -> torch.Tensor:
    flat = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    flat = flat if flat.stride(1) == 1 else flat.contiguous()
    y = torch.empty(flat.shape[0], width)
    native.kernels().prepare(flat.data_ptr(), flat.stride(0), flat.shape[0], width, *numbers, y.data_ptr(), width)
    return y if x.dim() == 2 else y.view(*x.shape[:-1], width)
