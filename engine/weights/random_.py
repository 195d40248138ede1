"""Weights that are drawn as they are asked for: a model of a published shape to measure with, without its files.

A folder with random.json has no weights. The file says which tensors there would be, and from which seed they are
drawn: {"seed": 0, "dtype": "bfloat16", "tensors": {"model.norm.weight": [4096], ...}}. What such a model says is
noise; how long it takes depends on its shape alone. `python -m quire.clients.bench.make_model NAME FOLDER --random`
writes one.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from math import prod
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError

FILE = "random.json"
FIELDS = ("seed", "dtype", "tensors")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SPREAD = 0.02  # standard deviation of matrices and biases; vectors of norms are ones


def open_folder(folder: Path, device: torch.device) -> RandomReader:
    """Raises ModelError naming the field that is wrong."""
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(found, dict) or set(found) != set(FIELDS):
        named = ", ".join(sorted(found)) if isinstance(found, dict) else type(found).__name__
        raise ModelError(f"{path}: holds {named}; expected an object of {', '.join(FIELDS)}")
    seed, dtype, tensors = (found[field] for field in FIELDS)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ModelError(f"{path}: seed is {seed!r}; expected a whole number from 0 on, less than 2^63")
    if dtype not in DTYPES:
        raise ModelError(f"{path}: dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    if not isinstance(tensors, dict) or not tensors:
        raise ModelError(f"{path}: tensors is {type(tensors).__name__}; expected an object of shapes by name")
    for name, shape in tensors.items():
        if not _is_shape(shape):
            raise ModelError(f"{path}: tensors.{name} is {shape!r}; expected a list of numbers of at least 1")
    return RandomReader(path, seed, DTYPES[dtype], tensors, device)


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in shape)


class RandomReader:
    """A `Reader` that draws on the device where the tensors are wanted; a tensor is the same whenever it is read, on
    one kind of device."""

    def __init__(self, path: Path, seed: int, dtype: torch.dtype, tensors: dict[str, list[int]], device: torch.device):
        self._path, self._seed, self._dtype, self._shapes, self._device = path, seed, dtype, tensors, device
        self.names = {name: prod(shape) * dtype.itemsize for name, shape in tensors.items()}

    def read(self, name: str) -> torch.Tensor:
        shape = self._shapes[name]
        if len(shape) == 1 and name.endswith("weight"):
            return torch.ones(shape, dtype=self._dtype, device=self._device)
        key = blake2b(f"{self._seed} {name}".encode(), digest_size=8)
        draws = torch.Generator(self._device).manual_seed(int.from_bytes(key.digest(), "little") >> 1)
        return torch.empty(shape, dtype=self._dtype, device=self._device).normal_(0, SPREAD, generator=draws)

    def where(self, name: str) -> str:
        return str(self._path)
