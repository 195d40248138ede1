"""Activations whose bits do not depend on where an element stands.

torch computes silu, gelu and sigmoid by vector, and what is left over at the end of a row or of a thread's share by
another, scalar, routine that rounds otherwise (measured: differences in the last bit). Which elements are left over
changes with the number of rows. exp, tanh and erf have one routine for all elements, and the rest here is exact IEEE.
"""

from __future__ import annotations

import math

import torch


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    """1 / (1 + exp(-x))"""
    return x.neg().exp_().add_(1).reciprocal_()


def silu(x: torch.Tensor) -> torch.Tensor:
    """x / (1 + exp(-x))"""
    return x / x.neg().exp_().add_(1)


def gelu(x: torch.Tensor) -> torch.Tensor:
    """x / 2 * (1 + erf(x / sqrt(2))) (Hendrycks and Gimpel 2016)"""
    return (x * math.sqrt(0.5)).erf_().add_(1).mul_(x).mul_(0.5)


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) (the same paper's approximation)"""
    inner = (x * x).mul_(x).mul_(0.044715).add_(x).mul_(math.sqrt(2 / math.pi))
    return inner.tanh_().add_(1).mul_(x).mul_(0.5)
