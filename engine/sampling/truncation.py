"""Which tokens stay in the draw: top_n_sigma, temperature, top_k, typical_p, top_p, min_p, XTC.

Each function takes logits [n, vocab] of the n sequences that use the option, and changes them in place. Tokens that go
get -inf. Those that tie with the last one that stays stay too: what stays depends on values, not on their order.
"""

from __future__ import annotations

import math

import torch

from .memory import Memory
from .random import XTC, uniforms
from .rows import NEVER, Row
from .sums import row_sums

NUCLEUS = 1024  # most likely tokens looked at before the whole vocabulary is sorted


def _column(values: list[float], like: torch.Tensor) -> torch.Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def top_n_sigma(logits: torch.Tensor, seqs: list[Row], memory: Memory) -> None:
    """Keep logits >= max - n * sigma, sigma of all logits that are not -inf (Tang et al. 2024)."""
    there = logits > NEVER
    count = there.sum(-1, keepdim=True)
    mean = (row_sums(logits.masked_fill(~there, 0)) / count).to(logits.dtype)
    sigma = (row_sums((logits - mean).masked_fill(~there, 0).square()) / count).sqrt().to(logits.dtype)
    floor = logits.amax(-1, keepdim=True) - _column([s.params.top_n_sigma for s in seqs], logits) * sigma
    logits.masked_fill_(logits < floor, NEVER)


def temperature(logits: torch.Tensor, seqs: list[Row], memory: Memory) -> None:
    """logit / temperature."""
    # The greatest is moved to 0 first: a tiny temperature must not overflow, nor become 0 as a float32. In a row of
    # which nothing is left the greatest is -inf, and -inf - -inf would be no number.
    range_ = torch.finfo(logits.dtype)
    logits.sub_(logits.amax(-1, keepdim=True).clamp_(min=range_.min))
    logits.div_(_column([s.params.temperature for s in seqs], logits).clamp_(min=range_.tiny))


def top_k(logits: torch.Tensor, seqs: list[Row], memory: Memory) -> None:
    """Keep the k most likely."""
    for row, seq in zip(logits, seqs, strict=True):
        if seq.params.top_k < row.numel():
            floor = torch.topk(row, seq.params.top_k).values[-1]
            row.masked_fill_(row < floor, NEVER)


def typical_p(logits: torch.Tensor, seqs: list[Row], memory: Memory) -> None:
    """Keep those whose surprise is nearest to the entropy, until their mass is p (Meister et al. 2022)."""
    logp = torch.log_softmax(logits.double(), -1)
    p = logp.exp()
    entropy = -row_sums((p * logp).nan_to_num(0))
    distance = (-logp - entropy).abs()
    for row, d, mass, seq in zip(logits, distance, p, seqs, strict=True):
        order = torch.sort(d).indices
        before = mass[order].cumsum(-1) - mass[order]
        kept = int((before < seq.params.typical_p).sum())
        row.masked_fill_(d > d[order[max(kept, 1) - 1]], NEVER)


def top_p(logits: torch.Tensor, seqs: list[Row], memory: Memory) -> None:
    """Keep the most likely until their mass is p (Holtzman et al. 2020).

    Exact, without a sort of the vocabulary where the NUCLEUS most likely tokens reach the mass: nearly always.
    """
    top = logits.amax(-1, keepdim=True)
    total = row_sums((logits - top).double().exp())[:, 0]
    for row, most, mass, seq in zip(logits, top[:, 0], total, seqs, strict=True):
        wanted = seq.params.top_p * mass
        for size in (min(NUCLEUS, row.numel()), row.numel()):
            ordered = torch.topk(row, size).values
            before = (ordered - most).double().exp()
            before = before.cumsum(-1) - before
            kept = int((before < wanted).sum())
            if kept < size or size == row.numel():
                row.masked_fill_(row < ordered[max(kept, 1) - 1], NEVER)
                break


def min_p(logits: torch.Tensor, seqs: list[Row], memory: Memory) -> None:
    """Keep those of at least min_p times the greatest probability (Nguyen et al. 2024)."""
    floor = logits.amax(-1, keepdim=True) + _column([math.log(s.params.min_p) for s in seqs], logits)
    logits.masked_fill_(logits < floor, NEVER)


def xtc(logits: torch.Tensor, seqs: list[Row], memory: Memory) -> None:
    """ "Exclude top choices": with a chance of xtc_probability, of the tokens above the threshold only the least likely
    stays (p-e-w, 2024)."""
    chance = uniforms([s.seed for s in seqs], [len(s.tokens) for s in seqs], XTC)
    for row, seq, u in zip(logits, seqs, chance, strict=True):
        if u >= seq.params.xtc_probability:
            continue
        p = torch.softmax(row.double(), -1)
        above = p >= seq.params.xtc_threshold
        if int(above.sum()) > 1:
            least = row[above].amin()
            row.masked_fill_(above & (row > least), NEVER)
