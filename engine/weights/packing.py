"""What the methods of packed checkpoints share: settings of which none is ignored, the tensors one matrix is packed
into, and how words of 32 bits become a `Quantized`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from ...kernels.quantized import GROUPS, Quantized
from ..errors import ModelError
from . import Reader

FLOATS = (torch.float16, torch.bfloat16, torch.float32)  # that scales are stored in
INDICES = (torch.int32, torch.int64)
WHOLE = -1  # a group size: all inputs share a scale

_REQUIRED = object()
Layout = TypeVar("Layout")


class Settings:
    """The fields of one object of a config, each taken once; `finish` names those nobody took. null is absence.

    where: the file. at: the path of the object in it. All methods raise ModelError with both.
    """

    def __init__(self, values: Any, where: str, at: str):
        self._where, self._at = where, at
        if not isinstance(values, Mapping):
            raise ModelError(f"{where}: {at} is {values!r}; expected an object")
        self._left = {k: v for k, v in values.items() if v is not None}

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def one_of(self, name: str, choices: Iterable[Any], default: Any = _REQUIRED) -> Any:
        """A value of `choices`, which are what can be computed."""
        value = self._take(name, default)
        choices = tuple(choices)
        if value is default or any(value == c and type(value) is type(c) for c in choices):
            return value
        raise self.wrong(name, value, " or ".join(map(repr, choices)) or "nothing")

    def flag(self, name: str, default: Any = _REQUIRED) -> bool:
        found: bool = self.one_of(name, (True, False), default)
        return found

    def group(self, name: str, default: Any = _REQUIRED) -> int:
        """Inputs that share a scale, or WHOLE."""
        value = self._take(name, default)
        if type(value) is not int or (value != WHOLE and (value < 1 or value % GROUPS[0])):
            raise self.wrong(name, value, f"a multiple of {GROUPS[0]}, or {WHOLE} for all inputs")
        return value

    def names(self, name: str) -> list[str]:
        """A list of strings, which may be absent."""
        value = self._take(name, [])
        if not isinstance(value, list) or not all(isinstance(x, str) for x in value):
            raise self.wrong(name, value, "a list of names")
        return value

    def pattern(self, name: str, text: str) -> re.Pattern[str]:
        """A regular expression that stands in the field `name`."""
        try:
            return re.compile(text)
        except re.error as error:
            raise self.wrong(name, text, f"a regular expression ({error})") from None

    def inner(self, name: str, default: Any = _REQUIRED) -> Settings:
        """The fields of an object in this one."""
        return Settings(self._take(name, default), self._where, self.path(name))

    def objects(self, name: str, default: Any = _REQUIRED) -> dict[str, Settings]:
        """The objects in an object, by their keys."""
        inner = self.inner(name, default)
        return {key: inner.inner(key) for key in list(inner._left)}

    def part(self, names: Iterable[str]) -> dict[str, Any]:
        """Those fields of `names` that are there."""
        return {name: self._left.pop(name) for name in names if name in self._left}

    def like(self, values: Mapping[str, Any]) -> Settings:
        """Other fields in the same place."""
        return Settings(values, self._where, self._at)

    def fixed(self, table: Mapping[str, tuple[Any, ...]]) -> None:
        """Fields that are absent, or have one of the values that change nothing."""
        for name, choices in table.items():
            self.one_of(name, choices, None)

    def finish(self, harmless: Iterable[str] = ()) -> None:
        unknown = sorted(self._left.keys() - set(harmless))
        if unknown:
            raise ModelError(
                f"{self._where}: {self._at} has {', '.join(unknown)}, which may change what is computed and is not "
                "known here"
            )

    def path(self, name: str) -> str:
        return f"{self._at}.{name}"

    def wrong(self, name: str, value: Any, expected: str) -> ModelError:
        return ModelError(f"{self._where}: {self.path(name)} is {value!r}; expected {expected}")

    def _take(self, name: str, default: Any) -> Any:
        value = self._left.pop(name, default)
        if value is _REQUIRED:
            raise ModelError(f"{self._where}: {self.path(name)} is missing")
        return value


class Parts:
    """The tensors that one matrix is packed into, each taken once; `finish` names those nobody took.

    names: the end of a part's name -> its name. All methods raise ModelError naming the tensor and its file, what was
    found, and what was expected.
    """

    def __init__(self, reader: Reader, base: str, names: Mapping[str, str]):
        self.base = base  # the matrix, without ".weight"
        self._reader = reader
        self._names = names
        self._left = set(names)

    def __contains__(self, end: str) -> bool:
        return end in self._names

    def kind(self, end: str) -> torch.dtype | None:
        """The dtype of a part, if it is there."""
        found: Any = self._reader.read(self._names[end]) if end in self._names else None
        return None if found is None else found.dtype

    def tensor(
        self, end: str, kinds: torch.dtype | tuple[torch.dtype, ...], *shapes: tuple[int | None, ...], why: str = ""
    ) -> Tensor:
        """A part of one of these kinds and shapes, where None is any size but 0. why: what the shape comes from."""
        kinds = kinds if isinstance(kinds, tuple) else (kinds,)
        if end not in self._names:
            beside = next(iter(self._names.values()))
            raise ModelError(
                f"{self._reader.where(beside)}: tensor {self.base}.{end} is missing; expected beside {beside}"
            )
        self._left.discard(end)
        found: Any = self._reader.read(self._names[end])
        if found.dtype not in kinds or not any(_fits(found.shape, shape) for shape in shapes):
            expected = f"{_either(map(_kind, kinds))} {_either(map(_shown, shapes))}" + (why and f", {why}")
            raise self.wrong(end, f"is {_kind(found.dtype)} {list(found.shape)}", expected)
        return found  # type: ignore[no-any-return]

    def order(self, end: str, inputs: int, size: int) -> Tensor | None:
        """The part, [inputs], says which group each input is in -> the inputs in an order in which groups of `size` lie
        side by side (`Quantized.order`); None: they do already."""
        found = self.tensor(end, INDICES, (inputs,)).long()
        wanted = torch.arange(inputs, device=found.device) // (inputs if size == WHOLE else size)
        if torch.equal(found, wanted):
            return None
        order = found.argsort(stable=True)
        if not torch.equal(found[order], wanted):
            raise self.wrong(
                end, f"does not name {size} inputs of each group", f"{len(wanted.unique())} groups of {size}"
            )
        return order

    def wrong(self, end: str | None, found: str, expected: str) -> ModelError:
        """end: None for the matrix as a whole."""
        name = self._names[end or next(iter(self._names))]
        return ModelError(f"{self._reader.where(name)}: tensor {name} {found}; expected {expected}")

    def finish(self) -> None:
        for end in sorted(self._left):
            taken = ", ".join(sorted(self._names.keys() - self._left))
            raise self.wrong(end, "has no place in this matrix", f"only {taken}")


def per_module(
    settings: Settings, names: Iterable[str], layout: Callable[[Settings], Layout], harmless: Iterable[str]
) -> Callable[[str], Layout]:
    """What `layout` makes of the fields `names` for a module: those of the config, or what `dynamic` says otherwise.

    `dynamic` has objects of fields by patterns of module names; the first that matches counts. "+:" and "-:" may stand
    before one; with "-:" modules are not packed, so that none of ours is among them.
    """
    common = settings.part(names)
    default = layout(settings.like(common))
    rules = []
    for pattern, changes in settings.objects("dynamic", {}).items():
        fields = common | changes.part(names)
        changes.finish(harmless)
        matcher = settings.pattern("dynamic", pattern.removeprefix("+:").removeprefix("-:"))
        rules.append((matcher, layout(changes.like(fields))))

    def of(module: str) -> Layout:
        return next((found for matcher, found in rules if matcher.match(module)), default)

    return of


def count(whole: int, part: int) -> int:
    """Parts that hold `whole`; the last may be partly empty."""
    return -(-whole // part)


def groups(inputs: int, size: int) -> int:
    return 1 if size == WHOLE else count(inputs, size)


def fields(words: Tensor, bits: int) -> Tensor:
    """int32 [rows, words], each with its first field in its lowest bits -> uint8 [rows, words * 32 / bits].

    Words lie in memory with their lowest byte first, as safetensors has them.
    """
    rows, width = words.shape
    octets = words.flatten().view(torch.uint8)  # torch views no column of one word as bytes, contiguous as it may be
    if bits == 4:
        pairs = octets.to(torch.int16)  # 0x00BA -> 0x0BBA -> 0x0B0A, which are the bytes A and B
        octets = (pairs | pairs << 4).bitwise_and_(0x0F0F).view(torch.uint8)
    return octets.view(rows, width * 32 // bits)


def matrix(
    codes: Tensor, scale: Tensor, zero: Tensor | None, bits: int, size: int, order: Tensor | None = None
) -> Quantized:
    """weight = scale * (codes - zero), exactly so where scales have 16 bits.

    codes uint8 [out, in], from 0 on. scale, any float, and zero, any integer, [out, groups(in, size)]; zero None: the
    middle of the codes. order: of the inputs, in which the groups lie side by side.
    """
    inputs = codes.shape[1]
    codes = codes if order is None else codes[:, order]
    scale = scale.float()
    low = None if zero is None else scale * ((1 << bits - 1) - zero.float())
    span = inputs if size == WHOLE else min(size, inputs)
    group = max((g for g in GROUPS if span % g == 0), default=GROUPS[0])
    if bits == 8:
        codes = (codes ^ 128).view(torch.int8)  # 0 to 255 -> -128 to 127

    def spread(values: Tensor) -> Tensor:
        """[out, groups of the file] -> [out, groups of ours]."""
        wanted = count(inputs, group)
        if values.shape[1] == 1:
            return values.expand(-1, wanted).contiguous()
        return values.repeat_interleave(size // group, 1)[:, :wanted].contiguous()

    return Quantized(codes.contiguous(), spread(scale), bits, group, None if low is None else spread(low), order)


def _fits(found: torch.Size, wanted: tuple[int | None, ...]) -> bool:
    return len(found) == len(wanted) and all(f > 0 and w in (None, f) for f, w in zip(found, wanted, strict=True))


def _either(choices: Iterable[str]) -> str:
    return " or ".join(choices)


def _kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shown(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('any' if n is None else str(n) for n in shape)}]"
