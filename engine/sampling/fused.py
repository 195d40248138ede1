"""Rows whose options the sampler in Triton has (kernels/triton/sampler.py): a token each in one launch, without a sort.

What comes before the penalties acts on the logits as ever; from there on the kernel does what the chain does.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

import torch

from ...kernels import native
from ...kernels.triton import chosen
from .memory import Memory
from .rows import Row

if TYPE_CHECKING:
    from . import Link

DOES = (  # of the CHAIN, from the first of them on
    "repetition_penalty", "presence_penalty, frequency_penalty", "temperature", "top_k", "top_p", "min_p",
)  # fmt: skip
BEFORE = ("grammar", "allowed_token_ids", "min_tokens", "bad_words", "logit_bias")  # of the CHAIN, before those


def able(vocab: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernel takes such logits; where the C++ kernels do, they are left to them."""
    if native.serves(dtype, device):
        return False
    kernel = chosen.kernel("sampler", dtype, device)
    return kernel is not None and 0 < vocab <= kernel.MOST


def before(links: tuple[Link, ...]) -> tuple[Link, ...] | None:
    """Of the options that a request uses, those that act first; None where not all of the others are the kernel's."""
    if any(link.name not in DOES and link.name not in BEFORE for link in links):
        return None
    return tuple(link for link in links if link.name in BEFORE)


def tokens(logits: torch.Tensor, rows: list[Row], memory: Memory) -> torch.Tensor:
    """logits [n, vocab], changed -> int64 [n], on their device: a token, -1 where none is left. The device is not
    waited for."""
    kernel = chosen.module("sampler")
    asked = [_asked(kernel, row, memory, logits.device) for row in rows]
    found: torch.Tensor = kernel.sample(logits, kernel.Table.of(asked, logits.shape[1], logits.device))
    return found


def _asked(kernel: ModuleType, row: Row, memory: Memory, device: torch.device) -> object:
    p = row.params
    counts = None
    if p.repetition_penalty != 1 or p.presence_penalty or p.frequency_penalty:
        counts = memory.counts(row, device)
    return kernel.Row(
        seed=row.seed,
        position=len(row.tokens),
        temperature=p.temperature,
        top_k=p.top_k,
        top_p=p.top_p,
        min_p=p.min_p,
        repetition_penalty=p.repetition_penalty,
        presence_penalty=p.presence_penalty,
        frequency_penalty=p.frequency_penalty,
        in_prompt=None if counts is None else counts.in_prompt,
        answer=None if counts is None else counts.answer,
    )
