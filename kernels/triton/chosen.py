"""Which code computes what where Triton's kernels can run: one literal table, so that a measurement can turn it over.

On an H200 norms and gates by torch took 1.5 times as much of the device in a step of 64 answers, and draws by torch 8
times the step; PACKED_ROWS was not measured. Read when an operation runs: a change holds from the next call on. Imports
no triton, which is not there on every machine.
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType

import torch

from . import there

WAYS = {  # "triton" or "torch"
    "norm": "triton",  # rows.py; in deterministic mode it has to be
    "layer_norm": "triton",  # rows.py; the same
    "gate": "triton",  # rows.py
    "mask": "triton",  # mask.py
    "sampler": "triton",  # sampler.py; the rows that it can do
}
MODULES = {"norm": "rows", "layer_norm": "rows", "gate": "rows", "mask": "mask", "sampler": "sampler"}

# Weights in few bits are multiplied by matrix.py up to so many rows; for more they are unpacked, and multiplied by
# torch. In deterministic mode it is matrix.py always.
PACKED_ROWS = 64


@functools.cache
def served(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernels can compute with such tensors (`there.lack`)."""
    return there.lack(dtype, device) is None


@functools.cache
def module(name: str) -> ModuleType:
    """A module of this folder, for a caller that knows that there is a triton."""
    return importlib.import_module(f".{name}", __package__)


def kernel(what: str, dtype: torch.dtype, device: torch.device) -> ModuleType | None:
    """The module that does `what`, a key of WAYS, with such tensors; None where torch does."""
    return module(MODULES[what]) if WAYS[what] == "triton" and served(dtype, device) else None
