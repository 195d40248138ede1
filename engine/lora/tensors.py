"""Safetensors files from people nobody knows: the head is checked before anything is read, and the data is copied.

The file is read with plain reads, not mapped: a file that somebody cuts while it is mapped ends the process. Reading
releases the GIL. The format: 8 bytes with the length of the head, the head as JSON (name -> dtype, shape,
data_offsets), the data without holes (https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import json
import math
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch

from ..errors import RequestError

LONGEST_HEAD = 8 * 2**20  # bytes; 2,000 tensors take a quarter of a MiB
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies: bytes [start, end) of the file."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


def open_regular(path: Path) -> BinaryIO:
    """Open a file that may be a link (hub caches have them) but must lead to a regular file: no pipe, no device."""
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    except OSError as error:
        raise RequestError(f"{path.name}: cannot be opened ({error.strerror})", param="path") from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise RequestError(f"{path.name} is no regular file; expected one", param="path")
    return open(handle, "rb", buffering=0)


class TensorFile:
    """An open file with its checked head. entries: name -> Entry."""

    def __init__(self, path: Path):
        self.name = path.name
        self._file = open_regular(path)
        try:
            self.entries = self._head(os.fstat(self._file.fileno()).st_size)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> TensorFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def read(self, name: str) -> torch.Tensor:
        """A copy of one tensor, as it is in the file."""
        entry = self.entries[name]
        held = torch.empty(entry.end - entry.start, dtype=torch.uint8)
        self._fill(held.numpy().data, entry.start, name)
        return held.view(entry.dtype).view(entry.shape) if held.numel() else held.to(entry.dtype).view(entry.shape)

    def _fill(self, into: memoryview, start: int, what: str) -> None:
        """Read so many bytes; a read may give fewer than are asked for."""
        try:
            self._file.seek(start)
            done = 0
            while done < len(into):
                got = self._file.readinto(into[done:])  # type: ignore[attr-defined]
                if not got:
                    raise self._bad(f"ends within {what}")
                done += got
        except OSError as error:
            raise self._bad(f"cannot be read ({error.strerror})") from None

    def _head(self, size: int) -> dict[str, Entry]:
        first = bytearray(8)
        self._fill(memoryview(first), 0, "the length of its head")
        length = int.from_bytes(first, "little")
        if length > min(size - 8, LONGEST_HEAD):
            raise self._bad(
                f"says its head has {length:,} bytes, of {size:,} in the file; expected at most {LONGEST_HEAD:,} "
                "(is it cut off, or no safetensors file?)"
            )
        text = bytearray(length)
        self._fill(memoryview(text), 8, "its head")
        try:
            head = json.loads(text.decode("utf-8"), object_pairs_hook=_once)
        except (ValueError, RecursionError) as error:
            raise self._bad(f"has a head that is no JSON ({type(error).__name__})") from None
        if not isinstance(head, dict):
            raise self._bad(f"has a {type(head).__name__} as its head; expected an object")
        head.pop("__metadata__", None)
        found = {name: self._entry(name, about, 8 + length) for name, about in head.items()}
        at = 8 + length
        for name, entry in sorted(found.items(), key=lambda item: (item[1].start, item[1].end)):
            if entry.start != at:
                raise self._bad(f"has a hole or an overlap before tensor {_short(name)}: expected none")
            at = entry.end
        if at != size:
            raise self._bad(f"has {size:,} bytes, but its head tells of {at:,}: it is cut off or something was added")
        return found

    def _entry(self, name: str, about: Any, data: int) -> Entry:
        if not isinstance(about, dict) or set(about) != {"dtype", "shape", "data_offsets"}:
            raise self._bad(f"does not tell dtype, shape and data_offsets of tensor {_short(name)}")
        shape, offsets = about["shape"], about["data_offsets"]
        if not _whole(shape) or len(shape) > 8:
            raise self._bad(f"gives tensor {_short(name)} the shape {_short(shape)}; expected up to 8 whole numbers")
        if not _whole(offsets) or len(offsets) != 2:
            raise self._bad(f"gives tensor {_short(name)} the offsets {_short(offsets)}; expected two whole numbers")
        dtype = DTYPES.get(about["dtype"]) if isinstance(about["dtype"], str) else None
        if dtype is None:
            raise self._bad(f"holds tensor {_short(name)} as {_short(about['dtype'])}; expected {', '.join(DTYPES)}")
        start, end = offsets
        if end - start != math.prod(shape) * dtype.itemsize:
            raise self._bad(
                f"gives tensor {_short(name)} {end - start:,} bytes; its shape {shape} in {about['dtype']} takes "
                f"{math.prod(shape) * dtype.itemsize:,}"
            )
        return Entry(dtype, tuple(shape), data + start, data + end)

    def _bad(self, what: str) -> RequestError:
        return RequestError(f"{self.name} {what}", param="path")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found


def _whole(numbers: Any) -> bool:
    return isinstance(numbers, list) and all(type(n) is int and 0 <= n < 2**48 for n in numbers)


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 200 else text[:200] + "..."
