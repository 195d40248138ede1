"""Each Triton kernel beside what torch does in its place, by number of rows: from this `chosen` tables are set.

A row's value is torch's time over Triton's, of the device alone where both could be recorded in a graph; its note has
the times. Torch's ways stand here once more, as which one the engine takes is what is to be chosen.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional

from ...kernels.quantized import quantize
from ...kernels.triton import there
from .clock import alone, called
from .report import Place, Report

ROWS, ROWS_TINY = (1, 4, 16, 64, 256), (2,)
WIDTH, INNER, VOCAB, WIDTH_TINY, INNER_TINY, VOCAB_TINY = 4096, 14_336, 128_256, 64, 96, 300
EPS = 1e-5
Ways = tuple[Callable[[], object], Callable[[], object]]  # Triton's and torch's


class Sizes:
    def __init__(self, place: Place):
        self.device = place.device
        self.kind = torch.bfloat16 if place.cuda else torch.float32
        self.width, self.inner, self.vocab = (
            (WIDTH_TINY, INNER_TINY, VOCAB_TINY) if place.tiny else (WIDTH, INNER, VOCAB)
        )

    def some(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=self.device).to(self.kind)


def norm(s: Sizes, rows: int) -> Ways:
    triton = importlib.import_module("quire.kernels.triton.rows")
    x, weight = s.some(rows, s.width), s.some(s.width)

    def plain() -> torch.Tensor:
        wide = x.float()
        return weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPS)).to(x.dtype)

    return lambda: triton.rms_norm(x, weight, EPS), plain


def gate(s: Sizes, rows: int) -> Ways:
    triton = importlib.import_module("quire.kernels.triton.rows")
    x = s.some(rows, 2 * s.inner)
    a, b = x[:, : s.inner], x[:, s.inner :]
    return lambda: triton.gate(x, "silu"), lambda: functional.silu(a).mul_(b)


def mask(s: Sizes, rows: int) -> Ways:
    triton = importlib.import_module("quire.kernels.triton.mask")
    logits = torch.randn(rows, s.vocab, device=s.device)
    masks = torch.randint(-(1 << 31), 1 << 31, (rows, -(-s.vocab // 32)), device=s.device, dtype=torch.int64)
    masks = masks.to(torch.int32)
    shifts = torch.arange(32, dtype=torch.int32, device=s.device)

    def plain() -> torch.Tensor:
        bits = (masks[:, :, None] >> shifts).bitwise_and_(1).view(rows, -1)[:, : s.vocab]
        return logits.masked_fill_(bits == 0, float("-inf"))

    return lambda: triton.apply_bitmask(logits, masks), plain


def sampler(s: Sizes, rows: int) -> Ways:
    """top_k 50, top_p 0.95: torch sorts. (A temperature would divide the same logits again and again.)"""
    triton = importlib.import_module("quire.kernels.triton.sampler")
    logits = torch.randn(rows, s.vocab, device=s.device) * 3
    asked = [triton.Row(seed=i, position=100, top_k=50, top_p=0.95) for i in range(rows)]
    table = triton.Table.of(asked, s.vocab, s.device)
    u = torch.rand(rows, 1, device=s.device)

    def plain() -> torch.Tensor:
        found, order = logits.sort(-1, descending=True)
        found[:, 50:] = float("-inf")
        share = found.softmax(-1)
        share = share.masked_fill(share.cumsum(-1) - share >= 0.95, 0)
        sums = share.cumsum(-1)
        return order.gather(-1, torch.searchsorted(sums, u * sums[:, -1:]).clamp_(max=s.vocab - 1))

    return lambda: triton.sample(logits, table), plain


def quantized(form: str) -> Callable[[Sizes, int], Ways]:
    """Beside torch's product with the same weights in the model's kind: what quantizing saves or costs."""

    def ways(s: Sizes, rows: int) -> Ways:
        triton = importlib.import_module("quire.kernels.triton.matrix")
        weight, x = s.some(2 * s.inner, s.width), s.some(rows, s.width)
        if form == "fp8":
            scale = weight.float().abs().amax(1) / 448
            packed = triton.Packed.of_fp8((weight.float() / scale[:, None]).to(torch.float8_e4m3fn), scale)
        else:
            packed = triton.Packed.of(quantize(weight, int(form[-1]), 64 if s.width < 128 else 128))
        return lambda: packed.product(x), lambda: functional.linear(x, weight)

    return ways


def unpacked(s: Sizes, rows: int) -> Ways:
    """A product with int8 as it is packed, beside torch's with the weights made whole for it: what many rows take."""
    triton = importlib.import_module("quire.kernels.triton.matrix")
    packed = triton.Packed.of(quantize(s.some(2 * s.inner, s.width), 8, 64 if s.width < 128 else 128))
    x = s.some(rows, s.width)
    return lambda: packed.product(x), lambda: functional.linear(x, packed.dense().to(x.dtype))


def dense(s: Sizes, rows: int) -> Ways:
    """The product of the deterministic mode beside torch's."""
    triton = importlib.import_module("quire.kernels.triton.dense")
    weight, x = s.some(2 * s.inner, s.width), s.some(rows, s.width)
    return lambda: triton.product(x, weight), lambda: functional.linear(x, weight)


CASES: dict[str, Callable[[Sizes, int], Ways]] = {
    "norm": norm,
    "gate": gate,
    "mask": mask,
    "sampler": sampler,
    "int8": quantized("int8"),
    "int4": quantized("int4"),
    "fp8": quantized("fp8"),
    "dense": dense,
    "unpacked": unpacked,
}


def measure(report: Report, place: Place) -> None:
    sizes = Sizes(place)
    if (lack := there.lack(sizes.kind, place.device)) is not None:
        report.lacks("kernels", lack)
        return
    for name, ways in CASES.items():
        for rows in ROWS_TINY if place.tiny else ROWS:
            key = f"kernels.{name}.{rows}"
            report.attempt(key, partial(case, report, place, key, sizes, ways, rows))


def case(report: Report, place: Place, key: str, sizes: Sizes, ways: Callable[[Sizes, int], Ways], rows: int) -> None:
    one(report, place, key, *ways(sizes, rows))


@torch.inference_mode()
def one(report: Report, place: Place, key: str, triton: Callable[[], object], plain: Callable[[], object]) -> None:
    # Graphs are recorded of both or compared of neither.
    (mine, how), (theirs, other) = alone(triton, place, 0.02), alone(plain, place, 0.02)
    called_mine, called_theirs = (called(way, place, 0.02) for way in (triton, plain)) if place.cuda else (mine, theirs)
    if how != other:
        mine, theirs, how = called_mine, called_theirs, "called"
    note = (
        f"Triton {1e6 * mine:.1f} us, torch {1e6 * theirs:.1f} ({how}); "
        f"called from Python {1e6 * called_mine:.1f} and {1e6 * called_theirs:.1f}"
    )
    report.row(key, theirs / mine, "torch / Triton", note)
