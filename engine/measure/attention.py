"""Attention alone, in the shape of an 8B Llama: a token behind 32k others, and a prompt of 8k; Triton's and torch's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from ...kernels.triton import there
from .. import attention as backends
from ..attention import LayerSpec
from ..batch import Batch
from ..cache import KVCache
from ..config import BLOCK_SIZE
from ..messages import SamplingParams
from ..plan import Plan, Slice
from ..sequence import Sequence
from .clock import alone
from .machine import copy_rate, dense_rate
from .report import Place, Report

SPEC, SPEC_TINY = LayerSpec(32, 8, 128, 128**-0.5), LayerSpec(4, 2, 16, 0.25)
CONTEXT, PROMPT, BATCHES = 32_768, 8192, (1, 8)
CONTEXT_TINY, PROMPT_TINY, BATCHES_TINY = 32, 16, (2,)
PAGES = {"triton": ("auto", "fp8", "int8"), "torch": ("auto",)}  # backend -> kinds of pages


class Some:
    """Sequences of one layer, with keys and values drawn at random; `step` makes what computes the last tokens of each,
    layer 0, and may be called again and again."""

    def __init__(self, place: Place, backend: str, kept: str, count: int, length: int):
        self.spec, self.device = (SPEC_TINY if place.tiny else SPEC), place.device
        self.kind = torch.bfloat16 if place.cuda else torch.float32
        self.backend = backends.choose_backend(backend, self.kind, place.device, kept)
        each = -(-length // BLOCK_SIZE)
        self.cache: KVCache = self.backend.cache([self.spec], each * count, self.kind, place.device)
        self.bytes = self.cache.bytes
        for pages in (*self.cache.k, *self.cache.v, *self.cache.k_units, *self.cache.v_units):
            fill(pages)
        mixed = torch.randperm(each * count, generator=torch.Generator().manual_seed(0)).tolist()
        self.seqs = []
        for i in range(count):
            seq = Sequence(str(i), 0, [0] * length, SamplingParams(max_tokens=1, seed=0))
            seq.blocks = mixed[i * each : (i + 1) * each]
            self.seqs.append(seq)

    def step(self, tokens: int) -> Callable[[], torch.Tensor]:
        slices = [Slice(seq, len(seq.tokens) - tokens, [0] * tokens) for seq in self.seqs]
        batch = Batch.of(Plan(slices), self.device)
        attend = self.backend.plan(batch, [self.spec], self.cache)
        rows, s = tokens * len(self.seqs), self.spec
        qkv = torch.randn(rows, s.heads + 2 * s.kv_heads, s.head_dim, device=self.device).to(self.kind)
        q, k, v = qkv.split([s.heads, s.kv_heads, s.kv_heads], 1)
        return lambda: attend(0, q, k, v)


def fill(pages: torch.Tensor) -> None:
    """A few numbers over and over: what is read has no bearing on the time, if none of it is special."""
    if pages.dtype == torch.float32 and pages.dim() == 3:  # units
        pages.fill_(0.01)
    elif pages.is_floating_point():
        some = torch.randn(4096, device=pages.device).clamp(-3, 3).to(pages.dtype)
        flat = pages.view(-1)
        flat.copy_(some.repeat(-(-flat.numel() // 4096))[: flat.numel()])
    else:
        pages.random_(-100, 100)


def measure(report: Report, place: Place) -> None:
    copied, dense = copy_rate(place), dense_rate(place)
    for backend, kinds in PAGES.items():
        if backend == "triton" and (lack := there.lack(torch.float32, place.device)) is not None:
            report.lacks("attention.triton", lack)
            continue
        for kept in kinds:
            for count in BATCHES_TINY if place.tiny else BATCHES:
                key = f"attention.decode.{backend}.{kept}.{count}"
                report.attempt(key, partial(decode, report, place, key, backend, kept, count, copied))
        key = f"attention.prompt.{backend}"
        report.attempt(key, partial(prompt, report, place, key, backend, dense))


def decode(report: Report, place: Place, key: str, backend: str, kept: str, count: int, copied: float) -> None:
    """One token of each of `count` sequences."""
    context = CONTEXT_TINY if place.tiny else CONTEXT
    some = Some(place, backend, kept, count, context)
    seconds, how = alone(some.step(1), place)
    note = f"{1e6 * seconds:.1f} us {how}, {count} at {context} tokens, {some.bytes / 1e6:.0f} MB of keys and values"
    report.row(key, some.bytes / copied / seconds, "of the copy rate", note)


def prompt(report: Report, place: Place, key: str, backend: str, dense: float) -> None:
    """All tokens of a prompt in one step."""
    length = PROMPT_TINY if place.tiny else PROMPT
    some = Some(place, backend, "auto", 1, length)
    seconds, how = alone(some.step(length), place)
    spec = some.spec
    work = 4 * spec.heads * spec.head_dim * length * (length + 1) / 2
    note = f"{1e3 * seconds:.2f} ms {how}, {length} tokens, {work / 1e9:.0f} Gflop"
    report.row(key, work / dense / seconds, "of the dense rate", note)
