"""Whether the weights of a folder fit the memory that is free: asked before the first of them is read.

What they take is counted from the headers of the files, and never too high: what stays on disk, or becomes smaller, is
left out. What else is needed (pages, a step) is asked for once the weights are there (cache.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path

import torch

from ..errors import ConfigError
from ..machine import free_memory
from ..weights.safetensors_ import shards

FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}  # safetensors' names of what is kept in another kind perhaps: bytes
BITS = {"int8": 8, "int4": 4, "fp8": 8}
LARGEST_HEADER = 1 << 26  # bytes; what is larger is left to the reader of the file, which refuses it


def check(
    folder: Path,
    device: torch.device,
    kept: torch.dtype | None,
    *,
    form: str | None = None,
    left: tuple[str, ...] = (),
) -> None:
    """Raises ConfigError with the numbers where the weights alone are more than what is free.

    kept: the kind of weights of floating point in memory, None for that of the file. form: what matrices are quantized
    to (BITS). left: ends of the names of tensors that are not read. A folder without safetensors is not looked at.
    """
    need = weight_bytes(folder, kept, form=form, left=left)
    free = free_memory(device) if need else 0
    if need <= free:
        return
    found = f"is {str(device)!r}, which has {shown(free)} of free memory, and the weights take {shown(need)}"
    others = ("int8", "int4") if form is None else ()
    smaller = {name: weight_bytes(folder, kept, form=name, left=left) for name in others}
    ways = [f"quantization {name} ({shown(size)})" for name, size in smaller.items() if size <= free]
    raise ConfigError("device", found, " or ".join(["more memory", *ways, "a smaller model"]))


def weight_bytes(folder: Path, kept: torch.dtype | None, *, form: str | None = None, left: tuple[str, ...] = ()) -> int:
    """Bytes that the tensors of a folder's safetensors take in memory at least; as `check` has it. Raises ModelError
    where the files of the model cannot be told."""
    total = 0
    for file in shards(folder) if any(folder.glob("*.safetensors")) else ():
        for name, kind, shape, size in _tensors(folder / file):
            if name.endswith(left or ("\0",)):
                continue
            if kind in FLOATS and form is not None and len(shape) == 2:
                size = min(size, prod(shape) * BITS[form] // 8)
            elif kind in FLOATS and kept is not None:
                size = prod(shape) * kept.itemsize
            total += size
    return total


def _tensors(path: Path) -> Iterator[tuple[str, str, list[int], int]]:
    """(name, kind, shape, bytes) of a file's tensors; none where its header cannot be read, which its reader says."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size <= LARGEST_HEADER else {}
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                yield name, str(entry["dtype"]), [int(n) for n in entry["shape"]], int(end) - int(begin)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return


def shown(size: int) -> str:
    """1.5 GiB, or MiB where it is less than one."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
