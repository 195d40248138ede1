"""Attention over the paged cache: one module a backend, each with `plan` once a step and `run` once a layer.

What a layer is (heads, window, scale) is data, `LayerSpec`; what a model asks of attention is one call, `Attend`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import torch

from ...kernels import native, ops
from ...kernels.ops import Norm
from ...kernels.triton import there
from ..errors import ConfigError

TRITON_WIDEST = 256  # dimensions of a head that its kernels have tiles for
BACKENDS = {
    "native": "quire.engine.attention.native_",  # the CPU in float32, C++
    "torch": "quire.engine.attention.torch_",  # any device, torch's own kernels
    "triton": "quire.engine.attention.triton_",  # CUDA, Triton
}
FLOATS = {"float32", "bfloat16", "float16"}  # kinds of weights that nothing was taken from
KEPT = {  # the same with pages of fewer bits than the model computes in: kv_cache_dtype -> backend -> module
    "bfloat16": {"native": "quire.engine.attention.native_bf16"},
    "int8": {"native": "quire.engine.attention.native_int8", "triton": "quire.engine.attention.triton_int8"},
    "fp8": {"triton": "quire.engine.attention.triton_fp8"},
}


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What one attention layer needs of the cache and of the backend."""

    heads: int  # query heads
    kv_heads: int
    head_dim: int
    scale: float  # multiplies q . k
    window: int | None = None  # a token sees itself and the window - 1 tokens before it; None: all
    softcap: float | None = None  # scores become softcap * tanh(scores / softcap)
    v_head_dim: int | None = None  # None: head_dim


@dataclass(frozen=True, slots=True, eq=False)
class Turn:
    """What becomes of queries and keys before they meet: a norm of each head, then the rotary embedding.

    cos, sin [T, 1, angles] of the step, contiguous, as `ops.rotary` takes them; None: nothing turns.
    """

    cos: torch.Tensor | None = None
    sin: torch.Tensor | None = None
    q_norm: Norm | None = None
    k_norm: Norm | None = None

    def __call__(self, x: torch.Tensor, norm: Norm | None) -> torch.Tensor:
        x = x if norm is None else norm(x)
        return x if self.cos is None or self.sin is None else ops.rotary(x, self.cos, self.sin)

    @property
    def numbers(self) -> tuple[int, ...]:
        """As the C++ kernels take it: addresses, angles, the bits of eps."""
        turns = (0, 0, 0)
        if self.cos is not None and self.sin is not None:
            turns = self.cos.data_ptr(), self.sin.data_ptr(), self.cos.shape[-1]
        q, k = ((0, 0) if norm is None else norm.numbers[:2] for norm in (self.q_norm, self.k_norm))
        return *turns, *q, *k


AS_THEY_ARE = Turn()


def widest(layers: Iterable[LayerSpec]) -> int:
    """Dimensions of the widest head, of keys or of values."""
    return max(max(spec.head_dim, spec.v_head_dim or 0) for spec in layers)


class Attend(Protocol):
    """q [T, heads, head_dim], k [T, kv_heads, head_dim], v [T, kv_heads, v_head_dim] -> [T, heads, v_head_dim].

    Turns q and k, writes k and v to their pages, then attends causally over all pages of each row's sequence.
    """

    def __call__(
        self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, turn: Turn = ...
    ) -> torch.Tensor: ...


def choose_backend(
    name: str, dtype: torch.dtype, device: torch.device, kept: str = "auto", widest: int = 0, weights: str = "float32"
) -> ModuleType:
    """The module of a key of BACKENDS, or of "auto". kept: what its pages are of, what the model computes in, a key of
    KEPT, or auto: what the model computes in, but on a CPU bfloat16 beside `weights` (`CausalLM.kinds`) that are
    quantized, and so off by far more. widest: dimensions of the widest head. Raises ConfigError where it cannot serve
    such a model."""
    by_cpu = native.serves(dtype, device)
    if name == "auto":
        served = there.lack(dtype, device) is None and widest <= TRITON_WIDEST
        name = "native" if by_cpu else "triton" if served else "torch"
    if name not in BACKENDS:
        raise ConfigError("attention", f"is {name!r}", f"auto or one of {', '.join(BACKENDS)}")
    if name == "native" and not by_cpu:
        found = f"is 'native', and the model runs in {dtype} on {device} ({native.described()})"
        raise ConfigError(
            "attention", found, "torch: the C++ kernels compute in float32 on the CPU, where they were built"
        )
    if name == "triton" and (lack := there.lack(dtype, device)) is not None:
        raise ConfigError("attention", f"is 'triton', and {lack}", "auto or torch")
    computed = str(dtype).removeprefix("torch.")
    if kept == "auto":
        quantized = not set(weights.split(" and ")) <= FLOATS
        kept = "bfloat16" if name == "native" and quantized else computed
    if kept == computed:
        return importlib.import_module(BACKENDS[name])
    if name not in KEPT.get(kept, {}):
        found = f"is {kept!r}, and attention is the backend {name}, for {dtype} on {device}"
        where = {"native": "native (C++, the CPU in float32)", "triton": "triton (CUDA)"}
        able = " or ".join(where[each] for each in KEPT.get(kept, {}))
        raise ConfigError("kv_cache_dtype", found, f"auto, {computed}" + (f", or the backend {able}" if able else ""))
    return importlib.import_module(KEPT[kept][name])
