"""Safetensors: one file, or shards named by an index. On the CPU tensors are views of the memory-mapped file until
copied; those for a GPU are read straight to it.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from ..errors import ModelError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


def open_folder(folder: Path, device: torch.device) -> SafetensorsReader:
    return SafetensorsReader(folder, shards(folder), device)


def shards(folder: Path) -> dict[str, set[str] | None]:
    """Names of the files that hold the model -> the tensors that the index says they hold; None for a single file,
    which goes before an index, as in transformers. A folder may have other files beside them."""
    index = folder / INDEX
    if (folder / SINGLE).is_file():
        return {SINGLE: None}
    if not index.is_file():
        raise ModelError(f"{folder}: neither {SINGLE} nor {INDEX}")
    try:
        table = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        found: dict[str, set[str] | None] = {}
        for name, shard in table.items():
            if Path(shard).name != shard:
                raise ModelError(f"{index}: {name} lies in {shard!r}; expected a file name of this folder")
            held = found.setdefault(shard, set())
            assert held is not None
            held.add(name)
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{index}: cannot be read as a shard index ({error!r})") from None


class SafetensorsReader:
    """All tensors of a folder's files by name."""

    def __init__(self, folder: Path, shards: dict[str, set[str] | None], device: torch.device):
        self._folder = folder
        self._file_of: dict[str, Path] = {}
        self._open = {}
        self.names: dict[str, int] = {}
        home = {name: shard for shard, promised in shards.items() for name in promised or ()}
        for shard, promised in shards.items():
            path = folder / shard
            try:
                handle = safe_open(path, framework="pt", device=str(device))
                held = handle.keys()
                names = [name for name in held if home.get(name, shard) == shard]  # not what is another shard's
                sizes = {n: _bytes(handle.get_slice(n)) for n in names}
            except (OSError, SafetensorError) as error:
                raise ModelError(f"{path}: cannot be read as safetensors ({error})") from None
            if promised and (absent := promised - set(names)):
                raise ModelError(f"{path}: {INDEX} says it holds {min(absent)}; it does not")
            self._open[path] = handle
            self._file_of.update(dict.fromkeys(names, path))
            self.names.update(sizes)

    def read(self, name: str) -> torch.Tensor:
        """A view of the mapped file, or a tensor of its own on a GPU."""
        path = self._file_of[name]
        try:
            found: torch.Tensor = self._open[path].get_tensor(name)
            return found
        except SafetensorError as error:
            raise ModelError(f"{path}: tensor {name} cannot be read ({error})") from None

    def where(self, name: str) -> str:
        """The file of a tensor, or the folder."""
        return str(self._file_of.get(name, self._folder))


def _bytes(piece) -> int:  # type: ignore[no-untyped-def]  # safetensors' slices have no type
    size = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I16": 2}.get(piece.get_dtype(), 1)
    for n in piece.get_shape():
        size *= n
    return size
