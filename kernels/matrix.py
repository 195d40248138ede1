"""A matrix as the C++ products read it: panels of 16 outputs, packed once, good for one row and for a thousand.

Its form and the order of its sums are described in cpu/matrix.h.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from . import native
from .before import AS_IT_IS, Numbers
from .memory import Room
from .quantized import MIDDLE, Quantized, alike, in_place, join, quantize

LANES = 16
FORMATS = (torch.float32, torch.bfloat16, torch.float16, 8, 4)  # kind of weight, or its bits; Format of cpu/matrix.h
BYTES = len(FORMATS)  # the Format of 8 bits where rows have 8 as well
BITS = {torch.float32: 32, torch.bfloat16: 16, torch.float16: 16, 8: 8, 4: 4}
ROWS = 1024  # of a matrix that are packed at once


class Matrix:
    """Packed weights [out, in] and a bias [out] or None; owns both. `kind`: one of FORMATS. order: of the inputs, as
    `Quantized` has it; the products of C++ know nothing of it."""

    __slots__ = ("_held", "_table", "address", "bytes", "inputs", "kind", "order", "outputs")

    def __init__(
        self,
        kind: torch.dtype | int,
        outputs: int,
        inputs: int,
        group: int = 0,
        *,
        lows: bool = False,
        room: Room | None = None,
    ):
        """One that is still to be filled. room: where its panels are to lie."""
        self.kind, self.outputs, self.inputs = kind, outputs, inputs
        self.order: Tensor | None = None
        whole = isinstance(kind, int)
        panels = -(-outputs // LANES)
        groups = -(-inputs // group) if whole else 0
        padded = groups * group if whole else inputs
        size = panels * LANES * padded * BITS[kind] // 8
        memory = torch.empty(size, dtype=torch.uint8) if room is None else room.take(size)
        self._held: dict[str, Tensor] = {"panels": memory}
        for name in ("scale", *(("low",) if lows else ())) if whole else ():
            self._held[name] = torch.zeros(panels, groups, LANES)
        self.bytes = sum(held.nbytes for held in self._held.values())
        form = BYTES if kind == 8 and native.multiplies_bytes() else FORMATS.index(kind)
        numbers = [form, outputs, inputs, group, *map(self._address, ("panels", "scale", "low", "bias"))]
        self._table = torch.tensor(numbers, dtype=torch.int64)
        self.address = self._table.data_ptr()

    def _address(self, name: str) -> int:
        return self._held[name].data_ptr() if name in self._held else 0

    @classmethod
    def of(
        cls,
        parts: Sequence[Tensor | Quantized],
        bias: Tensor | None = None,
        bits: int | None = None,
        room: Room | None = None,
    ) -> Matrix:
        """The parts [.., in] side by side. bits: 8 or 4, to quantize what is floating point; part by part, so that no
        second copy is ever whole."""
        if len(parts) > 1 and any(len(part.shape) == 2 and part.shape[0] % LANES for part in parts[:-1]):
            parts = [_together(parts)]
        whole = [part for part in parts if isinstance(part, Quantized)]
        if whole:
            bits = bits or 8
            if not alike(whole) or (whole[0].order is not None and len(whole) < len(parts)):
                parts, whole = [part.dense() if isinstance(part, Quantized) else part for part in parts], []
            elif len(whole) < len(parts):  # no weight that is quantized already changes: the others come to their form
                group = group_of(parts[0].shape[1], bits)
                parts = whole = [p if isinstance(p, Quantized) else quantize(p, bits, group) for p in parts]
        kinds = {part.dtype for part in parts if isinstance(part, Tensor)}
        outputs, inputs = sum(part.shape[0] for part in parts), parts[0].shape[1]
        if bits is None:
            found = cls(kinds.pop() if len(kinds) == 1 else torch.float32, outputs, inputs, room=room)
        elif len(whole) == len(parts):
            one = join(whole)
            parts = [one]
            found = cls(one.bits, outputs, inputs, one.group, lows=one.low is not None, room=room)
            found.order = one.order
        else:
            found = cls(bits, outputs, inputs, group_of(inputs, bits), room=room)
        row = 0
        for part in parts:
            found._fill(row, part)
            row += part.shape[0]
        if bias is not None:
            found._held["bias"] = bias = bias.float().contiguous()
            found._table[7] = bias.data_ptr()
        return found

    def _fill(self, first: int, part: Tensor | Quantized) -> None:
        """Outputs from `first` on."""
        if isinstance(self.kind, torch.dtype):
            weight = part.dense() if isinstance(part, Quantized) else part
            self._pack(first, weight.to(self.kind))
        elif isinstance(part, Tensor):
            self._quantize(first, part)
        else:
            for at in range(0, part.shape[0], ROWS):
                some = part.rows(slice(at, at + ROWS))
                self._pack(first + at, some.codes)
                for name, values in (("scale", some.scale), ("low", some.low)):
                    if values is not None:
                        self._lay(name, first + at, values)

    def _quantize(self, first: int, rows: Tensor) -> None:
        """As `quantize` does, to the bit, in one pass over them."""
        rows = (rows if rows.dtype in FORMATS else rows.float()).contiguous()
        native.kernels().quantize(
            self.address, self._address("panels"), self._address("scale"), FORMATS.index(rows.dtype), rows.data_ptr(),
            rows.stride(0), first, rows.shape[0],
        )  # fmt: skip

    def _pack(self, first: int, rows: Tensor) -> None:
        rows = rows.contiguous()
        native.kernels().pack(
            self.address, self._address("panels"), rows.data_ptr(), rows.stride(0), first, rows.shape[0]
        )

    def _lay(self, name: str, first: int, values: Tensor) -> None:
        """values [rows, groups] -> [panels, groups, LANES]."""
        panels = -(-values.shape[0] // LANES)
        values = torch.nn.functional.pad(values, (0, 0, 0, panels * LANES - values.shape[0]))
        at = first // LANES
        self._held[name][at : at + panels] = values.view(panels, LANES, -1).transpose(1, 2)

    def product(self, x: Tensor, before: Numbers = AS_IT_IS, add: Tensor | None = None) -> Tensor:
        """x float32 [rows, in] (with a gate [rows, 2 * in]) -> [rows, out], a new tensor: W x + bias + add.

        With an order nothing may come before.
        """
        if self.order is not None:
            x = x[:, self.order]
        elif x.stride(1) != 1:
            x = x.contiguous()
        y = torch.empty(x.shape[0], self.outputs)
        more = (0, 0) if add is None else (add.data_ptr(), add.stride(0))
        native.kernels().product(
            self.address, x.data_ptr(), x.stride(0), x.shape[0], y.data_ptr(), self.outputs, *more, *before
        )
        return y

    def rows(self, index: Tensor) -> Tensor:
        """index int64 [n] -> those rows of the weights, float32 [n, in]. Raises IndexError for one that is not."""
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < self.outputs:
            raise IndexError(f"rows {int(index.min())} to {int(index.max())}; expected 0 to {self.outputs - 1}")
        y = torch.empty(index.shape[0], self.inputs)
        index = index.contiguous()
        native.kernels().weights_of(self.address, index.data_ptr(), index.shape[0], y.data_ptr(), self.inputs)
        return y if self.order is None else in_place(y, self.order)

    def dense(self) -> Tensor:
        """All weights, float32 [out, in], a new tensor."""
        return self.rows(torch.arange(self.outputs))


def _together(parts: Sequence[Tensor | Quantized]) -> Tensor | Quantized:
    """Parts that do not end where panels do."""
    whole = [part for part in parts if isinstance(part, Quantized)]
    if len(whole) == len(parts) and alike(whole):
        return join(whole)
    return torch.cat([part.dense() if isinstance(part, Quantized) else part for part in parts])


def group_of(inputs: int, bits: int) -> int:
    """Inputs that share a scale where quire chooses: 128 of 8 bits, 64 of 4, or fewer where that would fill up a matrix
    with nothing."""
    return next((group for group in (128, 64, 32) if inputs % group == 0 and group <= 16 * bits), 32)


def known(kind: torch.dtype) -> bool:
    """Whether weights of that kind are kept as they are; they are multiplied in float32."""
    return kind in FORMATS


assert MIDDLE[4] == 8, "cpu/matrix_body.h takes 8 off the codes of four bits"
