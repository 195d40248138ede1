"""What LoRA's and the embeddings' kernels must compute, in plain torch and float64, a row at a time: the truth that
tests hold them to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .embedding import EmbeddingDelta
from .lora import Delta


def lora(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slots: Sequence[int],
    deltas: Mapping[int, Delta],
    wholes: Mapping[int, tuple[Tensor, Tensor | None]] | None = None,
) -> Tensor:
    """x [rows, in] -> float64 [rows, out]: the product of a row, with what its slot's delta changes.

    weight [out, in], bias [out]: the base's. wholes: of a slot whose delta has `whole`, its weight and bias as they
    were given, since a product keeps them packed.
    """
    out = torch.empty(x.shape[0], weight.shape[0], dtype=torch.float64)
    for row, slot in enumerate(slots):
        delta = deltas.get(slot, Delta())
        w, b = (wholes or {})[slot] if delta.whole is not None else (weight, bias)
        wide = x[row].double().cpu()
        seen = wide if delta.gain_in is None else wide * delta.gain_in.double().cpu()
        y = w.double().cpu() @ seen
        y += 0 if b is None else b.double().cpu()
        y *= 1 if delta.gain is None else delta.gain.double().cpu()
        y += 0 if delta.offset is None else delta.offset.double().cpu()
        for piece in delta.pieces:
            shrunk = piece.a.double().cpu() @ wide
            shrunk *= 1 if piece.scales is None else piece.scales.double().cpu()
            y[piece.start : piece.start + piece.rows] += piece.b.double().cpu() @ shrunk
        out[row] = y
    return out


def embedding(
    tokens: Sequence[int], weight: Tensor, slots: Sequence[int], deltas: Mapping[int, EmbeddingDelta]
) -> Tensor:
    """tokens [rows] -> float64 [rows, width]: the rows of the table, with what each one's slot changes."""
    out = torch.empty(len(tokens), weight.shape[1], dtype=torch.float64)
    for row, (token, slot) in enumerate(zip(tokens, slots, strict=True)):
        delta = deltas.get(slot, EmbeddingDelta())
        y = (weight if delta.whole is None else delta.whole)[token].double()
        y *= 1 if delta.gain is None else delta.gain.double()
        if delta.a is not None and delta.b is not None:
            y += delta.b.double() @ delta.a[token].double()
        out[row] = y
    return out
