"""GGUF files: their keys, and where each tensor lies. Every count and length is checked before it is used.

The layout (docs/gguf.md of ggml), all little endian: magic, version, how many tensors and keys there are; each key with
its type and value; each tensor with its dimensions, type and offset; then, aligned, the tensors' data. Texts and arrays
begin with their lengths. The limits below are far above what models need: a file that lies about its lengths is refused
before anything is allocated for it. No torch here: both processes read these files, and must not read them differently.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .errors import ModelError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_KEYS = 1 << 16
MOST_TENSORS = 1 << 16
MOST_ITEMS = 1 << 22  # of one array
MOST_TEXT = 1 << 24  # bytes of one text
MOST_HEADER = 1 << 28  # bytes of all keys and tensor descriptions
MOST_NAME = 1 << 10  # bytes
MOST_DIMENSIONS = 4
ALIGNMENTS = tuple(1 << n for n in range(3, 17))


@dataclass(frozen=True, slots=True)
class Kind:
    """How the values of a tensor are stored: in blocks of `values` values, `size` bytes each."""

    name: str
    values: int
    size: int


KINDS = {
    0: Kind("F32", 1, 4),
    1: Kind("F16", 1, 2),
    2: Kind("Q4_0", 32, 18),
    3: Kind("Q4_1", 32, 20),
    6: Kind("Q5_0", 32, 22),
    7: Kind("Q5_1", 32, 24),
    8: Kind("Q8_0", 32, 34),
    12: Kind("Q4_K", 256, 144),
    13: Kind("Q5_K", 256, 176),
    14: Kind("Q6_K", 256, 210),
    30: Kind("BF16", 1, 2),
}
OTHERS = {  # known by name only, for errors
    10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL",
    21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4",
}  # fmt: skip

ROPE_FACTORS = "rope_freqs.weight"  # a tensor that is no weight: it belongs into the config

NUMBERS = {
    0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # type of a value -> numpy's  # fmt: skip
FLOAT32, TEXT, ARRAY = 6, 8, 9


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where a tensor lies. shape: the slowest dimension first, as torch has it; offset: bytes from the file's begin."""

    name: str
    kind: Kind
    shape: tuple[int, ...]
    offset: int
    size: int  # bytes


_REQUIRED: Any = object()


class Metadata:
    """The keys of one file, each asked for with the type it must have. An array is a list.

    Each getter raises ModelError naming file and key; `default`: of a key that is not there.
    """

    def __init__(self, path: Path, values: Mapping[str, Any]):
        self._path = path
        self._values = values
        self._asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def number(self, key: str, default: Any = _REQUIRED, low: int = 1) -> int:
        return self._get(key, default, f"a whole number of at least {low}", lambda v: type(v) is int and v >= low)

    def real(self, key: str, default: Any = _REQUIRED, above: float = -math.inf) -> float:
        expected = "a number" if above == -math.inf else f"a number above {above:g}"
        value: Any = self._get(key, default, expected, lambda v: type(v) in (int, float) and above < v < math.inf)
        return None if value is None else float(value)  # type: ignore[return-value]  # None is a default of the caller's

    def text(self, key: str, default: Any = _REQUIRED) -> str:
        return self._get(key, default, "a text", lambda v: type(v) is str)

    def flag(self, key: str, default: Any = _REQUIRED) -> bool:
        return self._get(key, default, "true or false", lambda v: type(v) is bool)

    def one_of(self, key: str, choices: Iterable[Any], default: Any = _REQUIRED) -> Any:
        known = list(choices)
        shown = " | ".join(str(c) for c in known)
        return self._get(key, default, shown, lambda v: any(type(v) is type(c) and v == c for c in known))

    def items(self, key: str, kind: type, default: Any = _REQUIRED, count: int | None = None) -> list[Any]:
        """An array of `kind` (str, int or float), of `count` items if that is given."""
        expected = f"an array of {kind.__name__}" if count is None else f"an array of {count} {kind.__name__}"
        return self._get(
            key, default, expected,
            lambda v: type(v) is list and all(type(x) is kind for x in v) and count in (None, len(v)),
        )  # fmt: skip

    def unasked(self, prefix: str) -> list[str]:
        return sorted(key for key in self._values if key.startswith(prefix) and key not in self._asked)

    def _get(self, key: str, default: Any, expected: str, fits: Any) -> Any:
        self._asked.add(key)
        value = self._values.get(key)
        if value is None:
            if default is _REQUIRED:
                raise ModelError(f"{self._path}: key {key} is missing; expected {expected}")
            return default
        if not fits(value):
            raise ModelError(f"{self._path}: key {key} is {_shown(value)}; expected {expected}")
        return value


class File:
    """One file, mapped. Raises ModelError naming the file and the key or tensor that is wrong."""

    def __init__(self, path: Path):
        self.path = path
        try:
            with path.open("rb") as file:
                # Copy on write: nothing is ever written, but torch wants memory that could be.
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ModelError(f"{path}: cannot be read ({reason}); expected a GGUF file") from None
        header = _Header(path, self._map)
        self.metadata = Metadata(path, header.keys)
        self.tensors: dict[str, Tensor] = header.tensors
        self.digest = blake2b(self._map[: header.at] + str(len(self._map)).encode(), digest_size=16).hexdigest()

    def data(self, tensor: Tensor) -> NDArray[np.uint8]:
        """uint8 [size]: a view of the mapped file."""
        return np.frombuffer(self._map, np.uint8, tensor.size, tensor.offset)


class _Header:
    """Reads keys and tensor descriptions from the begin of `data`; `at`: where they end."""

    def __init__(self, path: Path, data: mmap.mmap):
        self._path = path
        self._data = data
        self._end = min(len(data), MOST_HEADER)
        self.at = 0
        magic = self._take(4, "magic")
        if magic != MAGIC:
            self._wrong("magic", repr(bytes(magic)), repr(MAGIC))
        version = self._int("<I", "version")
        if version not in VERSIONS:
            big = version & 0xFFFF == 0
            self._wrong("version", f"{version} (big endian?)" if big else version, "2 or 3, little endian")
        tensors = self._count("number of tensors", MOST_TENSORS, 8 + 4 + 8 + 4 + 8)
        keys = self._count("number of keys", MOST_KEYS, 8 + 4 + 1)
        self.keys: dict[str, Any] = {}
        for n in range(keys):
            self._key(f"key {n}")
        found = [self._tensor(f"tensor {n}") for n in range(tensors)]
        self.tensors = self._placed(found)

    def _key(self, what: str) -> None:
        name = self._text(f"{what}'s name", MOST_NAME)
        if name in self.keys:
            self._wrong(f"key {name}", "there twice", "each key once")
        what = f"key {name}"
        self.keys[name] = self._value(self._int("<I", what), what)

    def _value(self, kind: int, what: str) -> Any:
        if kind == TEXT:
            return self._text(what, MOST_TEXT)
        if kind == ARRAY:
            return self._array(what)
        value = self._numbers(kind, 1, what)[0]
        # A float32 is the shortest number that it is nearest to: 1e-6 was meant, not 9.999999974752427e-07.
        return float(str(np.float32(value))) if kind == FLOAT32 else value

    def _array(self, what: str) -> list[Any]:
        kind = self._int("<I", what)
        if kind == TEXT:
            return [self._text(what, MOST_TEXT) for _ in range(self._count(what, MOST_ITEMS, 8))]
        return self._numbers(kind, self._count(what, MOST_ITEMS, 1), what)

    def _numbers(self, kind: int, count: int, what: str) -> list[Any]:
        if kind not in NUMBERS:
            self._wrong(what, f"of type {kind}", "one of the types 0 to 8 and 10 to 12, or an array of them")
        form = np.dtype(NUMBERS[kind])
        raw = self._take(count * form.itemsize, what)
        if form == np.bool_ and max(raw, default=0) > 1:
            self._wrong(what, f"the byte {max(raw)}", "a bool of 0 or 1")
        found: list[Any] = np.frombuffer(raw, form).tolist()
        return found

    def _tensor(self, what: str) -> tuple[str, Kind, tuple[int, ...], int]:
        """name, kind, shape, offset in the data."""
        name = self._text(f"{what}'s name", MOST_NAME)
        what = f"tensor {name}"
        dimensions = self._int("<I", what)
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            self._wrong(what, f"of {dimensions} dimensions", f"1 to {MOST_DIMENSIONS}")
        sizes = struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions, what))
        number, offset = struct.unpack("<IQ", self._take(12, what))
        if number not in KINDS:
            known = ", ".join(kind.name for kind in KINDS.values())
            self._wrong(what, f"of type {OTHERS.get(number, number)}", f"one of {known}")
        kind = KINDS[number]
        if not all(sizes) or sizes[0] % kind.values:
            self._wrong(what, f"{kind.name} of shape {list(sizes[::-1])}", f"rows of whole blocks of {kind.values}")
        return name, kind, sizes[::-1], offset

    def _placed(self, found: list[tuple[str, Kind, tuple[int, ...], int]]) -> dict[str, Tensor]:
        """Tensors by name, each inside the file and none over another."""
        alignment = self.keys.get("general.alignment", 32)
        if alignment not in ALIGNMENTS:
            self._wrong("key general.alignment", _shown(alignment), "a power of 2 from 8 to 65536")
        begin = -(-self.at // alignment) * alignment
        tensors: dict[str, Tensor] = {}
        free = begin  # bytes from here on belong to no tensor yet
        for name, kind, shape, offset in sorted(found, key=lambda one: one[3]):
            size = math.prod(shape) // kind.values * kind.size
            what = f"tensor {name}"
            if name in tensors:
                self._wrong(what, "there twice", "each tensor once")
            if offset % alignment or begin + offset < free:
                self._wrong(what, f"at {offset} of the data", f"a multiple of {alignment}, at least {free - begin}")
            free = begin + offset + size
            if free > len(self._data):
                self._wrong(
                    what, f"{size} bytes at {begin + offset}", f"data inside the file's {len(self._data)} bytes"
                )
            tensors[name] = Tensor(name, kind, shape, begin + offset, size)
        return tensors

    def _take(self, count: int, what: str) -> bytes:
        if count > self._end - self.at:
            self._wrong(
                what, f"{count} bytes at {self.at}", f"at most {self._end - self.at}: the file is cut or damaged"
            )
        self.at += count
        return self._data[self.at - count : self.at]

    def _int(self, form: str, what: str) -> int:
        found: int = struct.unpack(form, self._take(struct.calcsize(form), what))[0]
        return found

    def _count(self, what: str, most: int, least_bytes: int) -> int:
        """least_bytes: what one item takes at least, so that no count is believed that the file cannot hold."""
        count = self._int("<Q", what)
        if count > min(most, (self._end - self.at) // least_bytes):
            self._wrong(what, f"a count of {count}", f"at most {min(most, (self._end - self.at) // least_bytes)}")
        return count

    def _text(self, what: str, most: int) -> str:
        raw = self._take(self._count(what, most, 1), what)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            self._wrong(what, f"no UTF-8 ({error})", "text")

    def _wrong(self, what: str, found: object, expected: object) -> NoReturn:
        raise ModelError(f"{self._path}: {what}: found {found}; expected {expected}")


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, list) else f"an array of {len(value)}: {value[:3]}"
    return text if len(text) <= 80 else text[:77] + "..."
