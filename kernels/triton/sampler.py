"""A token from each row of logits, in one launch and without a sort: penalties, temperature, top_k, top_p, min_p, draw.

A program has a row, whatever its options are. What it does is what `engine/sampling` does for the same options, in the
same order, and its token is the same: penalties, the temperature and min_p's floor are the same float32 operations;
top_k and top_p keep the same values, found by a search; the number of (seed, position) is the same 53 bits of Philox.
Where weights are summed, for top_p and for the draw, they are whole numbers of 2^-42 of the greatest: e^(y - top) in
float32, to within a unit in the last place and by operations that IEEE 754 fixes, rounded to that. So a sum is exact
and has no order, and a token does not depend on the tiles, on the device or on the rows beside it. It differs from the
other path's only where the roundings of the weights, of some 2^-24 of each, here or there, carry a sum across the
target of the draw, or across that of top_p: one token more or less stays then, the least likely of them.

The search (`_search`): the sum of the weights above a value falls as the value rises, and the smallest value whose sum
is below what is wanted is the last that stays, ties included; with weights of 1, the k-th largest. Passes over the row
narrow the range of values, PIVOTS at a time, until few elements are left to look at, which are then copied and searched
by the bits of their floats until one is left.

NaN counts as -inf here. Where there is +inf, the first of the greatest is taken.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..transfer import sent
from .there import DTYPES

TILE = 1024  # as many weights have one sum that is kept for the draw
TILES = 4  # taken at once where a tile's result is wanted on the way
PIVOTS = 8
COARSE = 3  # passes by value, each of which narrows the range to an eighth
RANGE = 32.0  # below the greatest: further down a weight is nothing
FEW = 4096  # elements that are copied
MOST = 1 << 20  # tokens: the sum of as many weights fits into 63 bits

GREEDY, SCALED, TOP_P, MIN_P = 1, 2, 4, 8  # flags
_INTEGERS, _FLOATS = 7, 5  # of a row, in the order of `Row.numbers` and `Row.floats`

_NUMBERS = ["logits_stride", "work_stride", "vocab", "blocks"]
_POINTERS = ["logits", "work", "tokens", "integers", "floats", "sums", "few"]


@triton.jit
def _key(y):
    """A whole number that is ordered as floats are; -0 and 0 are one."""
    bits = tl.where(y == 0, 0.0, y).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def _value(key):
    """The float of a key."""
    return tl.where(key < 0, key ^ 0x7FFFFFFF, key).to(tl.float32, bitcast=True)


@triton.jit
def _weight(y, top):
    """e^(y - top), y <= top, as a whole number of 2^-42. Cody and Waite's reduction, then the Taylor series of e^r to
    its seventh power, |r| <= ln 2 / 2: what is left out is below 2^-27."""
    x = y - top
    there = x > -30.0  # e^-30 is less than half a grain
    x = tl.where(there, x, -30.0)
    n = tl.floor(x * 1.44269504 + 0.5)
    r = (x - n * 0.693359375) + n * 2.12194440e-4
    p = r * 0.0001984127 + 0.0013888889
    p = p * r + 0.008333334
    p = p * r + 0.041666668
    p = p * r + 0.16666667
    p = p * r + 0.5
    p = (p * r) * r + (r + 1.0)
    whole = p * ((n.to(tl.int32) + (127 + 42)) << 23).to(tl.float32, bitcast=True)
    return tl.where(there, tl.floor(whole + 0.5).to(tl.int64), 0)


@triton.jit
def _sums(values, count, top, least, pivots, hi, MASS: tl.constexpr, TILE: tl.constexpr, PIVOTS: tl.constexpr):
    """[PIVOTS] int64: of each pivot, the sum of what is above it, up to hi and from least on (all keys)."""
    acc = tl.zeros([TILE, PIVOTS], tl.int64)
    for at in range(0, count, TILE):
        i = at + tl.arange(0, TILE)
        y = tl.load(values + i, mask=i < count, other=float("-inf"))
        key = _key(y)
        if MASS:
            weight = _weight(y, top)
        else:
            weight = tl.full([TILE], 1, tl.int64)
        weight = tl.where((i < count) & (key <= hi) & (key >= least), weight, 0)
        acc += tl.where(key[:, None] > pivots[None, :], weight[:, None], 0)
    return tl.sum(acc, 0)


@triton.jit
def _search(
    values, count, few, top, least, wanted,
    MASS: tl.constexpr, TILE: tl.constexpr, PIVOTS: tl.constexpr, COARSE: tl.constexpr, RANGE: tl.constexpr,
    FEW: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """The smallest key such that the weights above it sum to less than `wanted`; all weights sum to that or more.

    Always: the sum above lo is `wanted` or more, that above hi is `above`, and less.
    """
    nth = tl.arange(0, PIVOTS)
    hi = _key(top).to(tl.int64)
    lo = tl.full((), -2139095042, tl.int64)  # one less than the key of -inf
    above = tl.full((), 0, tl.int64)
    upper = top
    lower = top - RANGE
    for _ in range(COARSE):
        pivots = lower + (upper - lower) * (nth.to(tl.float32) / PIVOTS)
        keys = tl.minimum(tl.maximum(_key(pivots).to(tl.int64), lo), hi)
        found = above + _sums(values, count, top, least, keys, hi, MASS, TILE, PIVOTS)
        over = found >= wanted
        lo = tl.maximum(lo, tl.max(tl.where(over, keys, lo), 0))
        hi = tl.min(tl.where(over, hi, keys), 0)
        above = tl.max(tl.where(over, above, found), 0)
        # Where nothing was over, what is wanted is below all pivots, and the next passes see nothing new.
        upper = _value(hi.to(tl.int32))
        lower = tl.maximum(_value(tl.maximum(lo, -2139095041).to(tl.int32)), lower)
        lower = tl.minimum(lower, upper)
    left = tl.full((), 0, tl.int32)
    for at in range(0, count, WIDE):
        i = at + tl.arange(0, WIDE)
        y = tl.load(values + i, mask=i < count, other=float("-inf"))
        key = _key(y)
        inside = (i < count) & (key > lo) & (key <= hi) & (key >= least)
        place = left + tl.cumsum(inside.to(tl.int32), 0) - 1
        tl.store(few + place, y, mask=inside & (place < FEW))
        left += tl.sum(inside.to(tl.int32), 0)
    tl.debug_barrier()  # what other threads wrote is read
    fits = left <= FEW
    source = values
    number = count
    if fits:
        source = few
        number = left
    while hi - lo > 1:
        keys = lo + (hi - lo) * (nth + 1) // (PIVOTS + 1)
        found = above + _sums(source, number, top, least, keys, hi, MASS, TILE, PIVOTS)
        over = found >= wanted
        lo = tl.maximum(lo, tl.max(tl.where(over, keys, lo), 0))
        hi = tl.min(tl.where(over, hi, keys), 0)
        above = tl.max(tl.where(over, above, found), 0)
    return hi


@triton.jit
def _share(part, total):
    """Of part, a whole number of 2^-64 as its bits, times total: the whole number below, and what is over as bits."""
    a, b = part.to(tl.uint64, bitcast=True), total.to(tl.uint64)
    return tl.umulhi(a, b).to(tl.int64), tl.mul(a, b, sanitize_overflow=False)


@triton.jit
def _penalised(x, i, inside, in_prompt, answer, repetition, presence, frequency):
    """x with the penalties of tokens i. in_prompt, answer: addresses, 0 for nothing."""
    counts = tl.zeros(x.shape, tl.float32)
    if answer != 0:
        counts = tl.load(answer.to(tl.pointer_type(tl.float32)) + i, mask=inside, other=0.0)
    seen = counts > 0
    if in_prompt != 0:
        seen = seen | (tl.load(in_prompt.to(tl.pointer_type(tl.int8)) + i, mask=inside, other=0) != 0)
    times = tl.zeros(x.shape, tl.float32) + repetition
    x = tl.where(seen, tl.where(x > 0, tl.div_rn(x, times), x * times), x)
    return x - (tl.where(counts > 0, presence, 0.0) + counts * frequency)


@triton.jit(do_not_specialize=_NUMBERS, do_not_specialize_on_alignment=_POINTERS)
def sample_rows(
    logits, work, tokens, integers, floats, sums, few, logits_stride, work_stride, vocab, blocks,
    INTEGERS: tl.constexpr, FLOATS: tl.constexpr, COPIED: tl.constexpr, TILE: tl.constexpr, TILES: tl.constexpr,
    PIVOTS: tl.constexpr, COARSE: tl.constexpr, RANGE: tl.constexpr, FEW: tl.constexpr,
):  # fmt: skip
    """Program row. work: float32 of logits' shape, logits itself unless COPIED. sums int64 [rows, blocks], few float32
    [rows, FEW]: room."""
    row = tl.program_id(0).to(tl.int64)
    logits += row * logits_stride
    work += row * work_stride
    sums += row * blocks
    few += row * FEW
    integers += row * INTEGERS
    floats += row * FLOATS
    flags = tl.load(integers)
    seed, position, top_k, top_p = (
        tl.load(integers + 1),
        tl.load(integers + 2),
        tl.load(integers + 3),
        tl.load(integers + 4),
    )
    in_prompt, answer = tl.load(integers + 5), tl.load(integers + 6)
    temperature, repetition, presence = tl.load(floats), tl.load(floats + 1), tl.load(floats + 2)
    frequency, least_of_top = tl.load(floats + 3), tl.load(floats + 4)

    # Penalties, and the first of the greatest.
    WIDE: tl.constexpr = TILE * TILES
    penalised = (in_prompt != 0) | (answer != 0)
    best = tl.full([WIDE], float("-inf"), tl.float32)
    best_at = tl.full([WIDE], 0, tl.int32)
    for at in range(0, vocab, WIDE):
        i = at + tl.arange(0, WIDE)
        x = tl.load(logits + i, mask=i < vocab, other=float("-inf")).to(tl.float32)
        if penalised:
            x = _penalised(x, i, i < vocab, in_prompt, answer, repetition, presence, frequency)
        if COPIED:  # noqa: SIM114  # a constant of the kernel; what follows is a number of the row
            tl.store(work + i, x, mask=i < vocab)
        elif penalised:
            tl.store(work + i, x, mask=i < vocab)
        best_at = tl.where(x > best, i, best_at)
        best = tl.where(x > best, x, best)
    top = tl.max(best, 0)
    token = tl.min(tl.where(best == top, best_at, 0x7FFFFFFF), 0).to(tl.int64)
    if top == float("-inf"):
        token = tl.full((), -1, tl.int64)
    tl.store(tokens + row, token)
    if ((flags & 1) != 0) | (top == float("-inf")) | (top == float("inf")):
        return
    tl.debug_barrier()

    # The temperature.
    if (flags & 2) != 0:
        for at in range(0, vocab, WIDE):
            i = at + tl.arange(0, WIDE)
            x = tl.load(work + i, mask=i < vocab, other=float("-inf"))
            y = tl.div_rn(x - top, tl.zeros([WIDE], tl.float32) + temperature)
            tl.store(work + i, y, mask=i < vocab)
        top = top - top
        tl.debug_barrier()

    # What stays: the keys from `least` on.
    least = tl.full((), -2139095041, tl.int64)  # the key of -inf
    if (top_k > 0) & (top_k < vocab):
        least = _search(work, vocab, few, top, least, top_k, False, TILE, PIVOTS, COARSE, RANGE, FEW, WIDE)
        tl.debug_barrier()
    if (flags & 4) != 0:
        nothing = tl.full([PIVOTS], -2139095042, tl.int64)
        total = tl.max(_sums(work, vocab, top, least, nothing, _key(top), True, TILE, PIVOTS), 0)
        wanted, over = _share(top_p, total)
        wanted += (over != 0).to(tl.int64)
        if wanted > 0:
            least = _search(work, vocab, few, top, least, wanted, True, TILE, PIVOTS, COARSE, RANGE, FEW, WIDE)
        else:
            least = _key(top).to(tl.int64)
    if (flags & 8) != 0:
        least = tl.maximum(least, _key(top + least_of_top).to(tl.int64))

    # The draw: sums by block, the block in which the cumulated weight exceeds the target, the token in it.
    totals = tl.zeros([TILES], tl.int64)
    for at in range(0, vocab, WIDE):
        nth = tl.arange(0, TILES)
        i = at + nth[:, None] * TILE + tl.arange(0, TILE)[None, :]
        y = tl.load(work + i, mask=i < vocab, other=float("-inf"))
        inside = (i < vocab) & (_key(y) >= least)
        part = tl.sum(tl.where(inside, _weight(y, top), 0), 1)
        block = at // TILE + nth
        tl.store(sums + block, part, mask=block < blocks)
        totals += part
    tl.debug_barrier()
    total = tl.sum(totals, 0)
    none = tl.full((), 0, tl.uint32)
    w0, w1, _, _ = tl.philox(seed, position.to(tl.uint32), none, none, none)
    bits = ((w0 >> 5).to(tl.int64) << 26) | (w1 >> 6).to(tl.int64)
    target, _ = _share(bits << 11, total)
    before = tl.full((), 0, tl.int64)
    block = tl.full((), 0, tl.int32)
    carried = tl.full((), 0, tl.int64)
    for at in range(0, blocks, TILE):
        nth = at + tl.arange(0, TILE)
        cumulated = carried + tl.cumsum(tl.load(sums + nth, mask=nth < blocks, other=0), 0)
        short = (cumulated <= target) & (nth < blocks)
        block += tl.sum(short.to(tl.int32), 0)
        before = tl.maximum(before, tl.max(tl.where(short, cumulated, 0), 0))
        carried = tl.max(cumulated, 0)
    i = block * TILE + tl.arange(0, TILE)
    y = tl.load(work + i, mask=i < vocab, other=float("-inf"))
    inside = (i < vocab) & (_key(y) >= least)
    cumulated = before + tl.cumsum(tl.where(inside, _weight(y, top), 0), 0)
    tl.store(tokens + row, (block * TILE + tl.sum((cumulated <= target).to(tl.int32), 0)).to(tl.int64))


@functools.lru_cache(4096)
def _encoded(
    temperature: float, top_p: float, min_p: float, repetition: float, presence: float, frequency: float
) -> tuple[int, int, tuple[float, ...]]:
    """Options as the kernel has them, which are the same from step to step: flags, the share of top_p, the floats."""
    flags = GREEDY if temperature == 0 else SCALED * (temperature != 1) | TOP_P * (top_p < 1) | MIN_P * (min_p > 0)
    share = min(int(max(top_p, 0.0) * 2.0**64), (1 << 64) - 1)
    floor = math.log(min_p) if min_p > 0 else 0.0
    tiny = torch.finfo(torch.float32).tiny
    return flags, _signed(share), (max(temperature, tiny), repetition, presence, frequency, floor)


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """What one row asks for: the fields of the same names in `SamplingParams`, and where its sequence stands.

    seed < 2**64; position < 2**32: tokens before the one that is drawn. in_prompt bool [vocab], answer float32 [vocab]:
    which tokens are in the prompt, and how often each is in the answer; None where no penalty asks for it.
    """

    seed: int
    position: int
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    in_prompt: Tensor | None = None
    answer: Tensor | None = None

    def encoded(self) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """As the kernel has it: integers and floats."""
        flags, share, floats = _encoded(
            self.temperature, self.top_p, self.min_p,
            self.repetition_penalty, self.presence_penalty, self.frequency_penalty,
        )  # fmt: skip
        a, b = self.in_prompt, self.answer
        addresses = 0 if a is None else a.data_ptr(), 0 if b is None else b.data_ptr()
        return (flags, _signed(self.seed), self.position, self.top_k, share, *addresses), floats

    def check(self, vocab: int, device: torch.device) -> None:
        """Raises ValueError where a penalty lacks its counts, or they are not [vocab] on that device."""
        repeats = self.repetition_penalty != 1
        wanted = {"in_prompt": repeats, "answer": bool(repeats or self.presence_penalty or self.frequency_penalty)}
        if not wanted["answer"] and self.in_prompt is None and self.answer is None:
            return
        for name, kind in (("in_prompt", torch.bool), ("answer", torch.float32)):
            found: Tensor | None = getattr(self, name)
            if found is None:
                if wanted[name]:
                    raise ValueError(f"{name} is None, expected {kind} [{vocab}] for the row's penalties")
            elif found.dtype != kind or found.shape != (vocab,) or found.device != device or not found.is_contiguous():
                where = f"{found.dtype} {list(found.shape)} on {found.device}"
                raise ValueError(f"{name} is {where}, expected {kind} [{vocab}] on {device}, contiguous")


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """The rows of a launch on its device: integers int64 [rows, _INTEGERS], floats float32 [rows, _FLOATS]. Keeps what
    their addresses point to, which is [vocab]."""

    vocab: int
    integers: Tensor
    floats: Tensor
    held: tuple[Row, ...]

    @classmethod
    def of(cls, rows: Sequence[Row], vocab: int, device: torch.device | str) -> Table:
        """Raises ValueError where a row's counts do not fit."""
        at = torch.device(device)
        for row in rows:
            row.check(vocab, at)
        found = [row.encoded() for row in rows]
        integers = torch.tensor([n for one, _ in found for n in one], dtype=torch.int64).view(-1, _INTEGERS)
        floats = torch.tensor([x for _, one in found for x in one], dtype=torch.float32).view(-1, _FLOATS)
        return cls(vocab, sent(integers, at), sent(floats, at), tuple(rows))


def sample(logits: Tensor, table: Table) -> Tensor:
    """logits [rows, vocab], changed where they are float32 -> int64 [rows], on their device: a token, -1 where all are
    -inf. Nothing waits for the device.

    Raises ValueError where shapes or kinds do not fit, or the vocabulary has more than MOST tokens.
    """
    if logits.dim() != 2 or logits.dtype not in DTYPES or (logits.shape[1] > 1 and logits.stride(1) != 1):
        found = f"{logits.dtype} {list(logits.shape)} with strides {logits.stride()}"
        raise ValueError(f"logits is {found}, expected float32, bfloat16 or float16 [rows, vocab], rows contiguous")
    rows, vocab = logits.shape
    if not 0 < vocab <= MOST:
        raise ValueError(f"logits has {vocab} tokens, expected 1 to {MOST}")
    if (len(table.held), table.vocab) != (rows, vocab):
        raise ValueError(f"table has {len(table.held)} rows of {table.vocab} tokens, expected {rows} of {vocab}")
    tokens = logits.new_empty(rows, dtype=torch.int64)
    if not rows:
        return tokens
    copied = logits.dtype != torch.float32
    work = logits.new_empty(logits.shape, dtype=torch.float32) if copied else logits
    blocks = triton.cdiv(vocab, TILE)
    sums = logits.new_empty((rows, blocks), dtype=torch.int64)
    few = logits.new_empty((rows, FEW), dtype=torch.float32)
    # a * b + c rounded once instead of twice is another number than the other path's.
    sample_rows[(rows,)](
        logits, work, tokens, table.integers, table.floats, sums, few, logits.stride(0), work.stride(0), vocab, blocks,
        INTEGERS=_INTEGERS, FLOATS=_FLOATS, COPIED=copied, TILE=TILE, TILES=TILES, PIVOTS=PIVOTS, COARSE=COARSE,
        RANGE=RANGE, FEW=FEW, num_warps=8, enable_fp_fusion=False,
    )  # fmt: skip
    return tokens


def _signed(number: int) -> int:
    """64 bits as an int64 holds them."""
    return number - (1 << 64) if number >= 1 << 63 else number
