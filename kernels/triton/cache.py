"""What goes into the pages of keys and values: a step's own, normed and turned on the way in, and slots moved about.

Pages are [pages, kv_heads, PAGE, dim]; a slot is page * PAGE + offset. Where they hold bytes (attention.py says which),
a token's key of a head, and its value, counts in a unit of its own: what is largest in it, divided by the largest
number that a byte is. One that is not all numbers counts in NaN. As in attention.py nothing is compiled anew for
numbers that change from step to step, and grids may be larger than what there is to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..before import Norm
from .attention import BYTES, LARGEST, padded

HEADS = 8  # of one row, that a program takes
WIDTH = 256  # elements that are moved at once
WORDS = {1: torch.int8, 2: torch.int16, 4: torch.int32}  # that elements of so many bytes are moved as


class Turn(Protocol):
    """What becomes of queries and keys first: a norm of each head, then the rotary embedding.

    cos, sin [rows, 1, angles], contiguous: dimension i turns with i + angles; None: nothing turns.
    """

    @property
    def cos(self) -> Tensor | None: ...
    @property
    def sin(self) -> Tensor | None: ...
    @property
    def q_norm(self) -> Norm | None: ...
    @property
    def k_norm(self) -> Norm | None: ...


@triton.jit
def _turned(
    x, d, inside, row, cos, sin, norm, eps, DIM: tl.constexpr, ANGLES: tl.constexpr, NORMED: tl.constexpr
):  # fmt: skip
    """x [heads, 1], addresses of heads -> float32 [heads, D], normed and turned."""
    own = tl.load(x + d[None, :], mask=inside, other=0.0).to(tl.float32)
    gain = tl.full([own.shape[0]], 1.0, tl.float32)
    if NORMED:
        gain = tl.rsqrt(tl.sum(own * own, 1) / DIM + eps)
        own = own * gain[:, None] * tl.load(norm + d, mask=d < DIM, other=0.0).to(tl.float32)[None, :]
    if ANGLES > 0:
        turns, low = d < 2 * ANGLES, d < ANGLES
        other = tl.where(low, d + ANGLES, d - ANGLES)
        angle = row * ANGLES + tl.where(low, d, d - ANGLES)
        partner = tl.load(x + other[None, :], mask=inside & turns[None, :], other=0.0).to(tl.float32)
        if NORMED:
            partner = partner * gain[:, None] * tl.load(norm + other, mask=turns, other=0.0).to(tl.float32)[None, :]
        c = tl.load(cos + angle, mask=turns, other=1.0).to(tl.float32)
        s = tl.load(sin + angle, mask=turns, other=0.0).to(tl.float32)
        own = own * c[None, :] + partner * tl.where(low, -s, s)[None, :]
    return own


@triton.jit
def _bytes(x, inside, LARGEST: tl.constexpr, KIND: tl.constexpr):
    """x float32 [heads, D], of which `inside` counts -> (bytes [heads, D], units [heads]). Rounded to the nearest, and
    to the even one of two, each alike on every device."""
    size = tl.where(inside, tl.abs(x), 0.0)
    largest = tl.max(size, 1)
    numbers = tl.min(tl.where(size < float("inf"), 1, 0), 1) == 1
    # Of less than 1e-30 the unit would not be a normal float: that counts as nothing.
    unit = tl.where(largest < 1e-30, 0.0, tl.div_rn(largest, tl.full([x.shape[0]], LARGEST, tl.float32)))
    counted = inside & (numbers & (unit > 0.0))[:, None]
    y = tl.div_rn(tl.where(counted, x, 0.0), tl.broadcast_to(tl.where(counted, unit[:, None], 1.0), x.shape))
    if KIND == "int8":
        held = (y + 12582912.0).to(tl.int32, bitcast=True)  # 1.5 * 2^23, where a float counts by ones
    else:
        bits = y.to(tl.int32, bitcast=True)
        size = bits & 0x7FFFFFFF
        held = ((size + 0x7FFFF + ((size >> 20) & 1)) >> 20) - (120 << 3)  # 3 bits of fraction, a bias less by 120
        few = (tl.abs(y) + 16384.0).to(tl.int32, bitcast=True) & 15  # counted by 2^-9, as 2^14 is in float32
        held = tl.where(tl.abs(y) < 0.015625, few, held) | ((bits >> 24) & 128)
    return (held & 255).to(tl.uint8), tl.where(numbers, unit, float("nan"))


@triton.jit(do_not_specialize=["heads", "kv_heads", "q_parts", "k_parts"], do_not_specialize_on_alignment=["slots"])
def write(
    q, k, v, turned, keys, values, key_units, value_units, slots, cos, sin, q_norm, k_norm,
    q_stride, k_stride, v_stride, q_eps, k_eps, heads, kv_heads, q_parts, k_parts,
    DIM: tl.constexpr, V_DIM: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, PAGE: tl.constexpr,
    ANGLES: tl.constexpr, Q_NORMED: tl.constexpr, K_NORMED: tl.constexpr, HEADS: tl.constexpr,
    LARGEST: tl.constexpr, KIND: tl.constexpr,
):  # fmt: skip
    """Program (row, part): HEADS heads of the row's query, which go to `turned` [rows, heads, DIM], or of its key or
    its value, which go to the pages. A slot below 0: the row is none, nothing of it is written."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    slot = tl.load(slots + row)
    if slot < 0:
        return
    h = tl.arange(0, HEADS)
    page, offset = slot // PAGE, slot % PAGE
    d = tl.arange(0, D)
    if part < q_parts:
        h += part * HEADS
        inside = (h < heads)[:, None] & (d < DIM)[None, :]
        query = _turned(
            q + row * q_stride + h[:, None] * DIM, d, inside, row, cos, sin, q_norm, q_eps, DIM, ANGLES, Q_NORMED
        )
        tl.store(turned + (row * heads + h)[:, None] * DIM + d[None, :], query.to(turned.dtype.element_ty), mask=inside)
    elif part < q_parts + k_parts:
        h += (part - q_parts) * HEADS
        inside = (h < kv_heads)[:, None] & (d < DIM)[None, :]
        key = _turned(
            k + row * k_stride + h[:, None] * DIM, d, inside, row, cos, sin, k_norm, k_eps, DIM, ANGLES, K_NORMED
        )
        at = (page * kv_heads + h) * PAGE + offset
        to = keys + at[:, None] * DIM + d[None, :]
        if key_units is not None:
            held, unit = _bytes(key, inside, LARGEST, KIND)
            tl.store(to, held, mask=inside)
            tl.store(key_units + at, unit, mask=h < kv_heads)
        else:
            tl.store(to, key.to(keys.dtype.element_ty), mask=inside)
    else:
        h += (part - q_parts - k_parts) * HEADS
        e = tl.arange(0, DV)
        whole = (h < kv_heads)[:, None] & (e < V_DIM)[None, :]
        value = tl.load(v + row * v_stride + h[:, None] * V_DIM + e[None, :], mask=whole, other=0.0)
        at = (page * kv_heads + h) * PAGE + offset
        into = values + at[:, None] * V_DIM + e[None, :]
        if value_units is not None:
            bits, counted = _bytes(value.to(tl.float32), whole, LARGEST, KIND)
            tl.store(into, bits, mask=whole)
            tl.store(value_units + at, counted, mask=h < kv_heads)
        else:
            tl.store(into, value.to(values.dtype.element_ty), mask=whole)


@triton.jit(do_not_specialize=["width"], do_not_specialize_on_alignment=["held", "slots", "entries"])
def carry(
    held, slots, entries, width, PAGE: tl.constexpr, WIDTH: tl.constexpr, OUT: tl.constexpr
):  # fmt: skip
    """Program (nth slot, entry, head): what the slot has of a head in one layer's keys or values, to `held` [slots,
    width], or where OUT from there to the slot. entries: int64, of each [address, heads, dim, its column in held]."""
    nth, entry = tl.program_id(0), entries + tl.program_id(1) * 4
    head = tl.program_id(2)
    heads, dim = tl.load(entry + 1), tl.load(entry + 2)
    if head >= heads:
        return
    slot = tl.load(slots + nth)
    pages = tl.load(entry).to(tl.pointer_type(held.dtype.element_ty))
    at = pages + ((slot // PAGE * heads + head) * PAGE + slot % PAGE) * dim
    mine = held + nth.to(tl.int64) * width + tl.load(entry + 3) + head * dim
    for done in range(0, dim, WIDTH):
        i = done + tl.arange(0, WIDTH)
        if OUT:
            tl.store(at + i, tl.load(mine + i, mask=i < dim), mask=i < dim)
        else:
            tl.store(mine + i, tl.load(at + i, mask=i < dim), mask=i < dim)


def store(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, slots: Tensor, turn: Turn,
    units: tuple[Tensor, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Keys and values to their slots, in one launch, in which queries are turned too. -> the queries.

    q [rows, heads, dim], k [rows, kv_heads, dim], v [rows, kv_heads, v_dim], a row's heads side by side, of any row
    stride; slots [rows] int64. q itself where nothing is to be done with it, else another tensor. All is computed in
    float32 and rounded once. units: of keys and of values, float32 [pages, kv_heads, PAGE], where pages hold bytes.
    """
    rows, heads, dim = q.shape
    kv_heads, v_dim, page = k.shape[1], v.shape[2], keys.shape[2]
    cos, sin = (slots, slots) if turn.cos is None or turn.sin is None else (turn.cos, turn.sin)
    angles = 0 if cos is slots else cos.shape[-1]
    turns = angles > 0 or turn.q_norm is not None
    found = q.new_empty((rows, heads, dim)) if turns else q
    q_parts, kv_parts = triton.cdiv(heads, HEADS) if turns else 0, triton.cdiv(kv_heads, HEADS)
    (q_norm, q_eps), (k_norm, k_eps) = (
        (slots, 0.0) if norm is None else (norm.weight, norm.eps) for norm in (turn.q_norm, turn.k_norm)
    )
    kind = BYTES.get(keys.dtype, "")
    if kind:
        keys, values = keys.view(torch.uint8), values.view(torch.uint8)
    key_units, value_units = units or (None, None)
    write[rows, q_parts + 2 * kv_parts](
        q, k, v, found, keys, values, key_units, value_units, slots, cos, sin, q_norm, k_norm,
        q.stride(0), k.stride(0), v.stride(0), q_eps, k_eps, heads, kv_heads, q_parts, kv_parts,
        DIM=dim, V_DIM=v_dim, D=padded(dim), DV=padded(v_dim), PAGE=page,
        ANGLES=angles, Q_NORMED=turn.q_norm is not None, K_NORMED=turn.k_norm is not None, HEADS=HEADS,
        LARGEST=LARGEST.get(kind, 0.0), KIND=kind, enable_fp_fusion=False,
    )  # fmt: skip
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where all layers' keys and values lie: entries on the device, as `carry` takes them. width: elements of one slot,
    of `word`, an integer of their size, in all layers; heads: the most that a layer has."""

    entries: Tensor
    width: int
    heads: int
    word: torch.dtype
    page: int

    @classmethod
    def of(cls, pages: list[Tensor]) -> Places:
        lines: list[int] = []
        width = 0
        for x in pages:
            lines += (x.data_ptr(), x.shape[1], x.shape[3], width)
            width += x.shape[1] * x.shape[3]
        entries = torch.tensor(lines, dtype=torch.int64, device=pages[0].device)
        return cls(entries, width, max(x.shape[1] for x in pages), WORDS[pages[0].itemsize], pages[0].shape[2])


def move(places: Places, sources: list[int], targets: list[int]) -> None:
    """What is in some slots to others, in all layers, as if all at once: each is read before any is written."""
    device = places.entries.device
    slots = torch.tensor([sources, targets], dtype=torch.int64, device=device)
    held = torch.empty((len(sources), places.width), dtype=places.word, device=device)
    grid = len(sources), len(places.entries) // 4, places.heads
    carry[grid](held, slots[0], places.entries, places.width, PAGE=places.page, WIDTH=WIDTH, OUT=False)
    carry[grid](held, slots[1], places.entries, places.width, PAGE=places.page, WIDTH=WIDTH, OUT=True)
