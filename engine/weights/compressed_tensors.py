"""compressed-tensors, as llm-compressor writes it: whole numbers of 4 and 8 bits.

pack-quantized: X.weight_packed int32 [out, in * bits / 32], the codes of neighbouring inputs in a word, the first in
its lowest bits, from 0 on (the middle is added). X.weight_shape [2] is [out, in]. X.weight_zero_point is packed along
the outputs, int32 [out * bits / 32, groups] (older files: int8 [out, groups]).
int-quantized: X.weight int8 [out, in]. X.weight_zero_point int8, like the scales.
X.weight_scale [out, groups], [out, 1] or [1], by the strategy. weight = scale * (code - zero), both signed.

Activations that are quantized by the token as they come are what our own kernels do; fixed scales for them are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...kernels.quantized import MIDDLE, Quantized
from .packing import FLOATS, INDICES, WHOLE, Parts, Settings, count, fields, groups, matrix

ENDS = ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx")

PACKED, PLAIN, NAIVE, MIXED = "pack-quantized", "int-quantized", "naive-quantized", "mixed-precision"
STRATEGIES = ("group", "channel", "tensor")  # what shares a scale: a group of inputs, an output, all
SINGLE = ((1,), (1, 1), ())  # shapes of one scale for all
ORDERS = {None: False, False: False, "weight": False, "static": False, "group": True, "dynamic": True, True: True}
NO_ORDER = -1  # in X.weight_g_idx: inputs are in their order

FIXED: dict[str, tuple[Any, ...]] = {  # what may stand there; anything else would change the maths
    "quantization_status": ("compressed", "frozen"),
    "transform_config": ({}, {"config_groups": {}}),
    "kv_cache_scheme": (),
    "moe_sparsity_config": (),
}
HARMLESS = frozenset({"version", "global_compression_ratio"})
SPARSITY = frozenset({"global_sparsity", "ignore", "registry_requires_subclass", "sparsity_structure", "targets"})
OBSERVERS = frozenset({"observer", "observer_kwargs", "scale_dtype", "zp_dtype"})  # how scales were found, are stored

ACTIVATIONS = {"num_bits": (8,), "type": ("int",), "symmetric": (True,)}  # what our kernels do


@dataclass(frozen=True, slots=True)
class Target:
    """Which modules are meant: one by its name, some by "re:" and a pattern, or as "Linear" all."""

    text: str
    pattern: re.Pattern[str] | None

    @classmethod
    def read(cls, settings: Settings, name: str) -> list[Target]:
        """Those of the field `name`."""
        return [
            cls(text, settings.pattern(name, text[3:]) if text.startswith("re:") else None)
            for text in settings.names(name)
        ]

    def fit(self, module: str) -> int:
        """How well; the best is what counts. 0: not at all."""
        if self.pattern is not None:
            return 2 if self.pattern.match(module) else 0
        return 3 if self.text == module else int(self.text == "Linear")


@dataclass(frozen=True, slots=True)
class Scheme:
    """How the matrices of some modules are packed."""

    targets: list[Target]
    form: str
    bits: int
    size: int  # inputs that share a scale
    single: bool  # one scale for all inputs and outputs
    symmetric: bool  # zeros are zero
    reordered: bool  # the groups were made of inputs in another order, so the file must say which

    def fit(self, module: str) -> int:
        return max((target.fit(module) for target in self.targets), default=0)


def method(settings: Settings) -> Callable[[Parts], Quantized]:
    """Take all fields of a quantization_config; what makes a matrix of its parts."""
    form = settings.one_of("format", (PACKED, PLAIN, NAIVE, MIXED))
    schemes = [scheme(group, form) for group in settings.objects("config_groups").values()]
    ignored = Target.read(settings, "ignore")
    sparsity = settings.inner("sparsity_config", {})
    sparsity.one_of("format", ("dense",), None)
    sparsity.finish(SPARSITY)
    settings.fixed(FIXED)
    settings.finish(HARMLESS)
    return partial(unpack, schemes=schemes, ignored=ignored)


def scheme(settings: Settings, form: str) -> Scheme:
    """One of the config_groups. form: that of the config."""
    own = () if form == MIXED else (form,)
    form = settings.one_of("format", (PACKED, PLAIN, NAIVE), *own)
    weights = settings.inner("weights")
    given = "group_size" in weights
    size = weights.group("group_size", WHOLE)
    guess = "group" if size != WHOLE else "channel" if given else "tensor"
    strategy = weights.one_of("strategy", STRATEGIES, guess)
    if (strategy == "group") != (size != WHOLE):
        raise weights.wrong("group_size", size, f"what fits strategy {strategy!r}")
    weights.one_of("type", ("int",))
    weights.one_of("dynamic", (False,), False)
    found = Scheme(
        targets=Target.read(settings, "targets"),
        form=form,
        bits=weights.one_of("num_bits", MIDDLE),
        size=size,
        single=strategy == "tensor",
        symmetric=weights.flag("symmetric", True),
        reordered=ORDERS[weights.one_of("actorder", ORDERS, None)],
    )
    weights.finish(OBSERVERS)
    if "input_activations" in settings:
        activations = settings.inner("input_activations")
        activations.one_of("dynamic", (True,))
        activations.one_of("strategy", ("token",))
        activations.fixed(ACTIVATIONS)
        activations.finish(OBSERVERS)
    settings.finish()  # such as output_activations
    return found


def unpack(parts: Parts, schemes: list[Scheme], ignored: list[Target]) -> Quantized:
    """One matrix [out, in]."""
    if any(target.fit(parts.base) for target in ignored):
        raise parts.wrong(None, "is quantized, though `ignore` names its module", "a float matrix")
    best = max(schemes, key=lambda one: one.fit(parts.base), default=None)
    if best is None or not best.fit(parts.base):
        raise parts.wrong(None, "is quantized, though no target of config_groups names its module", "a float matrix")
    codes = packed_codes(parts, best) if best.form == PACKED else plain_codes(parts, best)
    outputs, inputs = codes.shape
    order = None
    if "weight_g_idx" in parts or best.reordered:
        group_of = parts.tensor("weight_g_idx", INDICES, (inputs,))
        if not bool((group_of == NO_ORDER).all()):
            order = parts.order("weight_g_idx", inputs, best.size)
    shape = outputs, groups(inputs, best.size)
    shapes = SINGLE if best.single else (shape,)
    scale = parts.tensor("weight_scale", FLOATS, *shapes, why=f"for {inputs} inputs in groups of {best.size}")
    zero = zeros(parts, best, shape, shapes)
    if best.single:
        scale = scale.reshape(1, 1).expand(outputs, 1)
        zero = zero if zero is None else zero.reshape(1, 1).expand(outputs, 1)
    return matrix(codes, scale, zero, best.bits, best.size, order)


def packed_codes(parts: Parts, scheme: Scheme) -> Tensor:
    """uint8 [out, in]."""
    outputs, inputs = parts.tensor("weight_shape", INDICES, (2,)).tolist()
    why = f"as weight_shape is [{outputs}, {inputs}]"
    words = parts.tensor("weight_packed", torch.int32, (outputs, count(inputs * scheme.bits, 32)), why=why)
    return fields(words, scheme.bits)[:, :inputs]


def plain_codes(parts: Parts, scheme: Scheme) -> Tensor:
    """uint8 [out, in]."""
    half = 1 << scheme.bits - 1
    codes = parts.tensor("weight", torch.int8, (None, None))
    if scheme.bits < 8 and not -half <= int(codes.min()) <= int(codes.max()) < half:
        raise parts.wrong("weight", f"has {int(codes.min())} to {int(codes.max())}", f"{-half} to {half - 1}")
    return (codes.view(torch.uint8) + half) & (2 * half - 1)


def zeros(parts: Parts, scheme: Scheme, shape: tuple[int, int], shapes: tuple[tuple[int, ...], ...]) -> Tensor | None:
    """The zeros as codes from 0 on, of the scale's shape; None where all are the middle."""
    if scheme.symmetric and "weight_zero_point" not in parts:
        return None
    half = 1 << scheme.bits - 1
    if scheme.form == PACKED and parts.kind("weight_zero_point") == torch.int32:
        outputs, width = shape
        words = parts.tensor("weight_zero_point", torch.int32, (count(outputs * scheme.bits, 32), width))
        found = fields(words.t(), scheme.bits)[:, :outputs].t()
    else:
        found = parts.tensor("weight_zero_point", torch.int8, *shapes).to(torch.int16) + half
    if not scheme.symmetric:
        return found
    if not bool((found == half).all()):
        raise parts.wrong("weight_zero_point", "is not zero", "0 everywhere, as symmetric is true")
    return None
