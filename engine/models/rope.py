"""Rotary position embeddings: every kind that a config.json of a supported family can name.

Kinds whose frequencies depend on the length of the text (dynamic, longrope) take the served context for that length,
once, at load: if they followed each text as it grows, keys already in pages would have been turned by other
frequencies than new ones, and the same text would get other numbers in other company. A text that fills the served
context gets the very numbers of transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..errors import ModelError
from .config import positive

FIELDS = {  # kind -> (needed, optional) fields of its description
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ("original_max_position_embeddings",)),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), ()),
    "yarn": (
        ("factor",),
        ("original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
         "truncate", "finetuned"),
    ),
    "longrope": (
        ("short_factor", "long_factor"), ("factor", "attention_factor", "original_max_position_embeddings"),
    ),
}  # fmt: skip
COMMON = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
NUMBERS = {  # fields that are above 0
    "rope_theta", "factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor", "beta_fast",
    "beta_slow", "attention_factor",
}  # fmt: skip
LISTS = ("short_factor", "long_factor")  # of such numbers


TABLE = 1 << 24  # bytes that angles of all positions may take; beyond, each step makes its own


class Rope:
    """Angles of positions. `scaling`: the attention factor that multiplies cos and sin. positions: how many are served,
    whose angles are made once, on a CPU, where making those of one token takes as long as a small model's layer.
    """

    def __init__(self, inv_freq: torch.Tensor, scaling: float, positions: int):
        self.inv_freq = inv_freq  # [angles] float32
        self.scaling = scaling
        few = inv_freq.device.type == "cpu" and 2 * positions * inv_freq.nbytes <= TABLE
        self._table = self._made(torch.arange(positions)) if few else None

    def _made(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        turns = positions.float()[:, None] * self.inv_freq
        cos, sin = turns.cos(), turns.sin()
        return (cos, sin) if self.scaling == 1 else (cos * self.scaling, sin * self.scaling)

    def angles(self, positions: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """positions [T] -> cos, sin [T, 1, angles], for `ops.rotary`."""
        cos, sin = self._made(positions) if self._table is None else (x.index_select(0, positions) for x in self._table)
        return cos.to(dtype)[:, None], sin.to(dtype)[:, None]


def make_rope(
    described: Mapping[str, Any], *, theta: float, head_dim: int, max_position: int, context: int, device: torch.device
) -> Rope:
    """From `rope_parameters` (or the older `rope_scaling`) of a config.json.

    max_position: max_position_embeddings of the config; context: tokens that will be served. Raises ModelError for a
    kind or a field that is not known.
    """
    kind = described.get("rope_type", described.get("type", "default"))
    if kind not in (*FIELDS,):  # what cannot be hashed, too
        raise ModelError(f"config.json: rope_type is {kind!r}; expected one of {', '.join(FIELDS)}")
    needed, optional = FIELDS[kind]
    for field in needed:
        if described.get(field) is None:
            raise ModelError(f"config.json: rope of type {kind} lacks {field}")
    if unknown := set(described) - COMMON - set(needed) - set(optional):
        raise ModelError(f"config.json: rope of type {kind} has {', '.join(sorted(unknown))}, which is not known")
    for field in sorted(NUMBERS & described.keys()):
        if described[field] is not None:
            positive(f"{field} of the rope", described[field])
    for field in (name for name in LISTS if name in needed):
        if not isinstance(described[field], list):
            raise ModelError(f"config.json: {field} of the rope is {described[field]!r:.200}; expected a list")
        for value in described[field]:
            positive(f"an item of {field} of the rope", value)
    if (share := described.get("partial_rotary_factor")) not in (None, 1):
        raise ModelError(
            f"config.json: partial_rotary_factor is {share!r}; expected 1, as this family turns whole heads"
        )
    theta = float(described.get("rope_theta") or theta)
    original = int(described.get("original_max_position_embeddings") or max_position)
    inv_freq, scaling = _KINDS[kind](described, theta, head_dim, max_position, original, context)
    return Rope(inv_freq.to(device), scaling, context)


def _base(theta: float, dim: int) -> torch.Tensor:
    return 1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))


def _default(d: Mapping[str, Any], theta: float, dim: int, *_: int) -> tuple[torch.Tensor, float]:
    return _base(theta, dim), 1.0


def _linear(d: Mapping[str, Any], theta: float, dim: int, *_: int) -> tuple[torch.Tensor, float]:
    """Positions divided by a factor (Chen et al. 2023)."""
    return _base(theta, dim) / d["factor"], 1.0


def _dynamic(
    d: Mapping[str, Any], theta: float, dim: int, trained: int, original: int, context: int
) -> tuple[torch.Tensor, float]:
    """NTK-aware: the base grows with the length, here the served context."""
    grown = d["factor"] * max(context, trained) / trained - (d["factor"] - 1)
    return _base(theta * grown ** (dim / (dim - 2)), dim), 1.0


def _llama3(
    d: Mapping[str, Any], theta: float, dim: int, trained: int, original: int, context: int
) -> tuple[torch.Tensor, float]:
    """Llama 3.1: long wavelengths are slowed by the factor, short ones kept, those between blended."""
    freq = _base(theta, dim)
    wavelength = 2 * math.pi / freq
    low, high = d["low_freq_factor"], d["high_freq_factor"]
    blend = ((original / wavelength - low) / (high - low)).clamp(0, 1)
    return freq * blend + freq / d["factor"] * (1 - blend), 1.0


def _yarn(
    d: Mapping[str, Any], theta: float, dim: int, trained: int, original: int, context: int
) -> tuple[torch.Tensor, float]:
    """YaRN (Peng et al. 2023): a ramp between interpolated and kept frequencies, and a temperature."""
    factor = d["factor"]

    def dimension(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(d.get("beta_fast") or 32), dimension(d.get("beta_slow") or 1)
    if d.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    steep = max(high - low, 0.001)
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / steep).clamp(0, 1)
    freq = _base(theta, dim)

    def temperature(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    scaling = d.get("attention_factor")
    if scaling is None:
        both = d.get("mscale") and d.get("mscale_all_dim")
        scaling = temperature(d["mscale"]) / temperature(d["mscale_all_dim"]) if both else temperature(1)
    return freq / factor * ramp + freq * (1 - ramp), float(scaling)


def _longrope(
    d: Mapping[str, Any], theta: float, dim: int, trained: int, original: int, context: int
) -> tuple[torch.Tensor, float]:
    """LongRoPE (Ding et al. 2024): a factor for each frequency, from one of two lists."""
    factors = torch.tensor(d["long_factor" if context > original else "short_factor"], dtype=torch.float32)
    if factors.shape != (dim // 2,):
        raise ModelError(f"config.json: rope of type longrope has {factors.numel()} factors; expected {dim // 2}")
    scaling = d.get("attention_factor")
    if scaling is None:
        factor = d.get("factor") or trained / original
        scaling = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return _base(theta, dim) / factors, float(scaling)


_KINDS: dict[str, Callable[..., tuple[torch.Tensor, float]]] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}
