"""Checkpoints that were quantized elsewhere, as a reader that gives `Quantized` matrices under their plain names.

What a method packs X.weight into (X.qweight, X.scales, ...) is shown as X.weight; every other tensor is passed through.
METHODS says which module reads which `quant_method`. Such a module has ENDS, the ends of the names by which packed
matrices are known, and `method(settings)`, which takes all fields of the quantization_config and returns what makes
a Quantized of a matrix's `Parts`.
"""

from __future__ import annotations

import importlib
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ...kernels.quantized import Quantized
from ..errors import ModelError
from ..tokens import read_object
from . import Reader
from .packing import Parts, Settings

METHODS = {  # quant_method -> module of this folder
    "gptq": "gptq",
    "awq": "awq",
    "compressed-tensors": "compressed_tensors",
}

# File beside a config.json that tells nothing -> quant_method, and fields that have other names now.
OLDER: dict[str, tuple[str, dict[str, str]]] = {
    "quantize_config.json": ("gptq", {}),
    "quant_config.json": ("awq", {"w_bit": "bits", "q_group_size": "group_size"}),
}
FIELDS = ("quantization_config", "compression_config")  # of config.json, the newer name first


def split_config(config: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """A config.json without how its weights are quantized, and how they are; None where they are not."""
    model = {k: v for k, v in config.items() if k not in FIELDS}
    return model, next((config[field] for field in FIELDS if config.get(field) is not None), None)


def told_beside(folder: Path, reader: Reader) -> tuple[dict[str, Any], str] | None:
    """How the packed matrices of an older checkpoint are quantized, and the file that tells it; None where nothing is
    packed, or nothing tells. Raises ModelError for a file that is no JSON object."""
    if any(name.endswith(".qweight") for name in reader.names):
        for name, (method, renamed) in OLDER.items():
            if found := read_object(folder / name):
                fields = {renamed.get(key, key): value for key, value in found.items()}
                return {"quant_method": method, **fields}, str(folder / name)
    return None


def unpacked(reader: Reader, settings: Mapping[str, Any], where: str) -> Reader:
    """The reader's tensors with what is packed as `Quantized` [out, in].

    settings: what `split_config` found. where: the file it is in. Raises ModelError for what cannot be served exactly,
    or is not all there; shapes and kinds are looked at when a matrix is read.
    """
    fields = Settings(settings, where, FIELDS[0])
    module = importlib.import_module(f".{METHODS[fields.one_of('quant_method', METHODS)]}", __package__)
    return UnpackedReader(reader, module.method(fields), module.ENDS)


class UnpackedReader:
    """A `Reader` whose packed matrices come whole."""

    def __init__(self, reader: Reader, unpack: Callable[[Parts], Quantized], ends: tuple[str, ...]):
        self._reader = reader
        self._unpack = unpack
        self._packed: dict[str, dict[str, str]] = defaultdict(dict)  # X.weight -> end -> name of the part
        for name in reader.names:
            base, _, end = name.rpartition(".")
            if end in ends:
                self._packed[f"{base}.weight"][end] = name
        if not self._packed:
            raise ModelError(f"{reader.where('')}: no tensor is packed; expected names that end in .{ends[0]}")
        self.names: dict[str, int] = {}
        for name, size in reader.names.items():
            base, _, end = name.rpartition(".")
            if end in ends or name in self._packed:
                name = f"{base}.weight"
                self._packed[name][end] = f"{base}.{end}"
            self.names[name] = self.names.get(name, 0) + size

    def read(self, name: str) -> Tensor | Quantized:
        """A tensor as it is in its file, or a matrix [out, in] of its parts."""
        if name not in self._packed:
            return self._reader.read(name)
        parts = Parts(self._reader, name.removesuffix(".weight"), self._packed[name])
        found = self._unpack(parts)
        parts.finish()
        return found

    def where(self, name: str) -> str:
        """The file of a tensor, or of a matrix's first part; else the folder."""
        return self._reader.where(next(iter(self._packed[name].values())) if name in self._packed else name)
