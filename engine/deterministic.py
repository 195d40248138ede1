"""The same answer under any load, where that is not so by itself: what `deterministic` asks of a device.

A row's bits must not depend on the rows beside it. On the CPU they do not, whether this is asked for or not: the C++
kernels have one order of sums, and where there are none, products go through oneDNN, two rows at least, whose order
was the same for any number of rows wherever it was looked at. On a GPU libraries choose their kernel by the number of
rows, so that all that adds up is given to Triton's kernels: products (dense.py, matrix.py), norms (rows.py), attention,
what adapters add (lora.py, by tiles), and the draw (sampler.py). Raises ConfigError for what cannot be.
"""

from __future__ import annotations

import torch

from ..kernels import native
from ..kernels.linear import packs
from ..kernels.triton import chosen, there
from .errors import ConfigError

FIELD = "deterministic"


def attention(name: str, device: torch.device, asked: bool) -> str:
    """The attention backend to choose, where `name` is set. asked: whether `deterministic` is."""
    if not asked or device.type != "cuda":
        return name
    if name not in ("auto", "triton"):
        found = f"is {name!r}, and deterministic is true on {device}"
        raise ConfigError("attention", found, "auto or triton: the others sum in an order that depends on the step")
    return "triton"


def products(dtype: torch.dtype, device: torch.device, ours: bool) -> bool:
    """Whether products have to be fixed (`Linear`), as their rows depend on each other here otherwise. ours: the model
    is of a family of quire's own."""
    if native.serves(dtype, device):
        return False
    lack = there.lack(dtype, device)
    if device.type == "cpu" and lack is not None:
        if not packs(dtype, device):
            found = f"is true, and the model runs in {dtype} on {device} ({native.described()})"
            raise ConfigError(FIELD, found, "float32, and the C++ kernels or oneDNN")
        return False
    if not ours:
        found = f"is true, and on {device} the model runs in transformers' own code"
        raise ConfigError(FIELD, found, "a family of quire's own, or the CPU: that code multiplies as it likes")
    if lack is not None:
        raise ConfigError(FIELD, f"is true on {device}, and {lack}", "false, or what Triton's kernels need")
    if torch_ := [what for what in ("norm", "layer_norm") if chosen.WAYS[what] != "triton"]:
        expected = "triton for each in kernels/triton/chosen.py"
        raise ConfigError(FIELD, f"is true, and torch computes {' and '.join(torch_)}", expected)
    return True
