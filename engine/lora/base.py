"""What is asked of the base's weights: they may be packed or quantized, so it is asked through the product itself."""

from __future__ import annotations

import torch

from ...kernels.linear import Linear
from .adapter import Places


def image(product: Linear, x: torch.Tensor) -> torch.Tensor:
    """x [rows, in] times the weight, without the bias: [rows, out] in float32.

    On a GPU by torch alone: this runs in a thread, and Triton launches on a thread's own current device, and has
    counters (kernels/triton/tiles.py) that the loop's launches need for themselves."""
    if x.device.type != "cpu":
        return x.float() @ product.dense().T
    y = product(x).float()
    return y if product.bias is None else y - product.bias.float()


def squares(places: Places, product: Linear) -> torch.Tensor:
    """The squared norms of the weight's rows [out], float32; computed once for a product."""
    found = places.squares.get(id(product))
    if found is None:
        found = places.squares[id(product)] = product.dense().square_().sum(1)
    return found


def same(weight: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two weights are equal in the kind of the first."""
    return weight.shape == other.shape and torch.equal(weight, other.to(weight))
