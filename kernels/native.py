"""Whether the C++ kernels for the CPU were built with the package, and where they are used.

They come with the package where a compiler was there (pyproject.toml, `ext-modules`). Where there was none, `cpu` is
None, everything runs in torch, and one line of the log says so.
"""

from __future__ import annotations

import logging
import struct
from array import array
from types import ModuleType

import torch

log = logging.getLogger(__name__)

VERSION = 9  # of what the module's functions take: one that an older tree left behind must not be used

cpu: ModuleType | None
try:
    from . import _cpu

    if _cpu.VERSION != VERSION:
        raise ImportError(f"_cpu is of version {_cpu.VERSION}, expected {VERSION}: install the package again")
    cpu = _cpu
except ImportError as reason:
    cpu = None
    log.warning("the C++ kernels for the CPU are not there (%s): everything runs in torch, which is slower", reason)


def serves(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the C++ kernels compute with such tensors."""
    return cpu is not None and dtype == torch.float32 and device.type == "cpu"


def address(numbers: array[int]) -> int:
    """Where a table of int64 lies; it must not grow while that is used."""
    return numbers.buffer_info()[0]


def bits(x: float) -> int:
    """A float32 as the kernels' tables of int64 hold it."""
    return struct.unpack("<i", struct.pack("<f", x))[0]


def multiplies_bytes() -> bool:
    """Whether the machine adds up products of bytes without loss: rows beside 8-bit weights then have 8 bits too."""
    return cpu is not None and cpu.isa() in ("avx512vnni", "avx512bf16")


def kernels() -> ModuleType:
    """The C++ kernels, for a caller that asked `serves`."""
    assert cpu is not None
    return cpu


def set_threads(count: int) -> None:
    """How many threads compute from now on, those of torch as well."""
    torch.set_num_threads(count)
    if cpu is not None:
        cpu.threads(count)


def described() -> str:
    """In words, for a log or a page of figures: the instruction set in use, or "torch"."""
    return "torch" if cpu is None else f"C++ ({cpu.isa()})"
