"""Norms and gates of rows: RMSNorm, the sum with a residual before it, LayerNorm, and activation(gate) * up.

Everything is computed in float32 and rounded once, when it is stored. A row's sum of squares is added up in tiles whose
size depends on its width alone, so its bits do not depend on the rows beside it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .checks import rows_of

NARROW, WIDE = 128, 1024  # the tiles: heads are narrow
ACTIVATIONS = {"silu": 1, "gelu": 2, "gelu_new": 3, "gelu_pytorch_tanh": 3, "relu": 4}

_NUMBERS = ["x_stride", "y_stride", "residual_stride", "width"]
_POINTERS = ["x", "y", "weight", "residual", "bias"]


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_POINTERS)
def rms_norm_rows(
    x, y, weight, residual, x_stride, y_stride, residual_stride, width, eps, TILE: tl.constexpr
):  # fmt: skip
    """Program row: y = x / sqrt(mean(x^2) + eps) * weight. With a residual, residual += x comes first, and what is
    normed is that sum as it was stored."""
    row = tl.program_id(0).to(tl.int64)
    x += row * x_stride
    y += row * y_stride
    if residual is not None:
        residual += row * residual_stride
    squares = tl.zeros([TILE], tl.float32)
    for at in range(0, width, TILE):
        i = at + tl.arange(0, TILE)
        v = tl.load(x + i, mask=i < width, other=0.0).to(tl.float32)
        if residual is not None:
            more = tl.load(residual + i, mask=i < width, other=0.0)
            rounded = (v + more.to(tl.float32)).to(residual.dtype.element_ty)
            tl.store(residual + i, rounded, mask=i < width)
            v = rounded.to(tl.float32)
        squares += v * v
    scale = tl.rsqrt(tl.sum(squares, 0) / width + eps)
    for at in range(0, width, TILE):
        i = at + tl.arange(0, TILE)
        # Each thread reads what it wrote itself: both loops share their tiles.
        if residual is not None:
            v = tl.load(residual + i, mask=i < width, other=0.0).to(tl.float32)
        else:
            v = tl.load(x + i, mask=i < width, other=0.0).to(tl.float32)
        w = tl.load(weight + i, mask=i < width, other=0.0).to(tl.float32)
        tl.store(y + i, (v * scale * w).to(y.dtype.element_ty), mask=i < width)


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_POINTERS)
def layer_norm_rows(x, y, weight, bias, x_stride, y_stride, width, eps, TILE: tl.constexpr):
    """Program row: y = (x - mean) / sqrt(variance + eps) * weight + bias, the variance by a pass of its own."""
    row = tl.program_id(0).to(tl.int64)
    x += row * x_stride
    y += row * y_stride
    total = tl.zeros([TILE], tl.float32)
    for at in range(0, width, TILE):
        i = at + tl.arange(0, TILE)
        total += tl.load(x + i, mask=i < width, other=0.0).to(tl.float32)
    mean = tl.sum(total, 0) / width
    squares = tl.zeros([TILE], tl.float32)
    for at in range(0, width, TILE):
        i = at + tl.arange(0, TILE)
        v = tl.where(i < width, tl.load(x + i, mask=i < width, other=0.0).to(tl.float32) - mean, 0.0)
        squares += v * v
    scale = tl.rsqrt(tl.sum(squares, 0) / width + eps)
    for at in range(0, width, TILE):
        i = at + tl.arange(0, TILE)
        v = tl.load(x + i, mask=i < width, other=0.0).to(tl.float32) - mean
        w = tl.load(weight + i, mask=i < width, other=0.0).to(tl.float32)
        b = tl.load(bias + i, mask=i < width, other=0.0).to(tl.float32)
        tl.store(y + i, (v * scale * w + b).to(y.dtype.element_ty), mask=i < width)


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_POINTERS)
def gate_rows(x, y, x_stride, y_stride, width, ACTIVATION: tl.constexpr, TILE: tl.constexpr):
    """Program (row, tile): y = activation(x[:width]) * x[width:]."""
    row, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * TILE + tl.arange(0, TILE)
    gate = tl.load(x + row * x_stride + i, mask=i < width, other=0.0).to(tl.float32)
    up = tl.load(x + row * x_stride + width + i, mask=i < width, other=0.0).to(tl.float32)
    if ACTIVATION == 1:
        active = gate / (1 + tl.exp(-gate))
    elif ACTIVATION == 2:
        active = gate * 0.5 * (1 + tl.erf(gate * 0.7071067811865476))  # 1 / sqrt(2)
    elif ACTIVATION == 3:
        # x / 2 * (1 + tanh(u)) = x / (1 + e^(-2u)), and 1.59... is 2 * sqrt(2 / pi).
        active = gate / (1 + tl.exp(-1.5957691216057308 * (gate + 0.044715 * gate * gate * gate)))
    else:
        active = tl.where(gate > 0, gate, 0.0)
    tl.store(y + row * y_stride + i, (active * up).to(y.dtype.element_ty), mask=i < width)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [.., width] -> x / sqrt(mean(x^2) + eps) * weight, of x's shape and kind.

    weight [width], of any floating kind. Raises ValueError where shapes do not fit. (Zhang and Sennrich 2019.)
    """
    flat = rows_of("x", x)
    _fits("weight", weight, x.shape[-1:])
    return _normed(flat, weight, None, eps).view(x.shape)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
    """residual += x, in place, and `rms_norm` of that: to the bit what the sum and the norm are one after the other.

    x and residual [rows, width], of one kind; the rows of residual do not overlap.
    """
    flat = rows_of("x", x)
    if residual.shape != x.shape or residual.dtype != x.dtype or residual.dim() != 2 or residual.stride(1) != 1:
        found = f"{residual.dtype} {list(residual.shape)} with strides {residual.stride()}"
        raise ValueError(f"residual is {found}, expected {x.dtype} {list(x.shape)}, of two dimensions, rows contiguous")
    _fits("weight", weight, x.shape[-1:])
    return _normed(flat, weight, residual, eps)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """x [.., width] -> (x - mean) / sqrt(variance + eps) * weight + bias, of x's shape and kind.

    weight and bias [width], of any floating kind. Raises ValueError where shapes do not fit. (Ba et al. 2016.)
    """
    flat, width = rows_of("x", x), x.shape[-1]
    _fits("weight", weight, x.shape[-1:])
    _fits("bias", bias, x.shape[-1:])
    y = x.new_empty(flat.shape)
    if y.numel():
        tile = NARROW if width <= NARROW else WIDE
        layer_norm_rows[(flat.shape[0],)](
            flat, y, weight, bias, flat.stride(0), y.stride(0), width, eps, TILE=tile
        )  # fmt: skip
    return y.view(x.shape)


def gate(x: Tensor, activation: str) -> Tensor:
    """x [.., 2 * width] holds gate and up side by side -> activation(gate) * up [.., width].

    activation: a key of ACTIVATIONS. Raises ValueError where there is no such one, or where 2 * width is odd.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}, expected one of {', '.join(ACTIVATIONS)}")
    if x.shape[-1] % 2:
        raise ValueError(f"x is {list(x.shape)}, expected gate and up side by side: an even last dimension")
    flat, width = rows_of("x", x), x.shape[-1] // 2
    y = x.new_empty(flat.shape[0], width)
    if y.numel():
        gate_rows[flat.shape[0], triton.cdiv(width, WIDE)](
            flat, y, flat.stride(0), y.stride(0), width, ACTIVATION=ACTIVATIONS[activation], TILE=WIDE
        )
    return y.view(*x.shape[:-1], width)


def _normed(x: Tensor, weight: Tensor, residual: Tensor | None, eps: float) -> Tensor:
    """[rows, width] of such rows."""
    rows, width = x.shape
    y = x.new_empty(rows, width)
    if rows and width:
        step = 0 if residual is None else residual.stride(0)
        tile = NARROW if width <= NARROW else WIDE
        rms_norm_rows[(rows,)](
            x, y, weight, residual, x.stride(0), y.stride(0), step, width, eps, TILE=tile
        )  # fmt: skip
    return y


def _fits(name: str, found: Tensor, shape: torch.Size) -> None:
    if found.shape != shape or not found.is_contiguous() or not found.is_floating_point():
        raise ValueError(
            f"{name} is {found.dtype} {list(found.shape)}, expected {list(shape)}, floating and contiguous"
        )
