"""What is asked of the base's weights: they may be packed or quantized, so it is asked through the product itself."""

from __future__ import annotations

import torch

from ...kernels.linear import Linear
from .adapter import Places

BLOCK = 256  # inputs at a time


def dense(product: Linear, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The weight [out, in] in float32, a new tensor: as it lies if it is plain, else what unit vectors give."""
    weight = product.weight
    if weight.is_mkldnn:
        weight = weight.to_dense()
    if weight.is_floating_point() and tuple(weight.shape) == (product.out_features, product.in_features):
        return weight.to(torch.float32, copy=True)
    found = torch.empty(product.out_features, product.in_features, device=device)
    for at in range(0, product.in_features, BLOCK):
        count = min(BLOCK, product.in_features - at)
        units = torch.zeros(count, product.in_features, dtype=dtype, device=device)
        units[torch.arange(count), torch.arange(at, at + count)] = 1
        found[:, at : at + count] = image(product, units).T
    return found


def image(product: Linear, x: torch.Tensor) -> torch.Tensor:
    """x [rows, in] times the weight, without the bias: [rows, out] in float32."""
    y = product(x).float()
    return y if product.bias is None else y - product.bias.float()


def squares(places: Places, product: Linear, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """The squared norms of the weight's rows [out], float32; computed once for a product."""
    found = places.squares.get(id(product))
    if found is None:
        found = places.squares[id(product)] = dense(product, dtype, device).square_().sum(1)
    return found


def same(weight: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two weights are equal in the kind of the first."""
    return weight.shape == other.shape and torch.equal(weight, other.to(weight))
