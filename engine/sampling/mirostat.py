"""Mirostat 1 and 2 (Basu et al. 2021): the surprise of each token is steered towards tau, in bits.

mu starts at 2 * tau; after a token of surprise s (under the truncated, renormalized distribution) it becomes
mu - eta * (s - tau).
"""

from __future__ import annotations

import math

import torch

from .memory import Memory
from .rows import NEVER, Row

HEAD = 100  # tokens from which version 1 estimates the exponent of Zipf's law


def truncate(logits: torch.Tensor, seqs: list[Row], memory: Memory) -> None:
    """logits [n, vocab], changed in place: version 2 drops what is more surprising than mu, version 1 keeps the k most
    likely, with k from mu and the estimated exponent. The most likely token always stays."""
    for row, seq in zip(logits, seqs, strict=True):
        mu = memory.mu(seq)
        if seq.params.mirostat == 2:
            surprise = -torch.log_softmax(row.double(), -1) / math.log(2)
            row.masked_fill_((surprise > mu) & (row < row.max()), NEVER)
        else:
            keep = _zipf_k(row, mu)
            row.masked_fill_(row < torch.topk(row, keep).values[-1], NEVER)


def _zipf_k(row: torch.Tensor, mu: float) -> int:
    """k = (eps * 2**mu / (1 - N**-eps)) ** (1 / s), eps = s - 1, s fitted to the first HEAD probabilities."""
    size = int((row > NEVER).sum())
    head = row.double().topk(min(HEAD, size)).values  # logits: a probability may be too small to be told from 0
    if size < 2:
        return 1
    rank = torch.arange(1, head.numel(), dtype=torch.float64, device=row.device)
    t, b = torch.log((rank + 1) / rank), head[:-1] - head[1:]
    s = float((t * b).sum() / (t * t).sum())
    eps = s - 1
    if abs(eps) < 1e-9 or s <= 0:
        return size  # a flat distribution: Zipf's law says nothing of it
    try:
        k = (eps * 2**mu / (1 - size**-eps)) ** (1 / s)
    except OverflowError:
        return size
    return max(1, min(size, round(k)))


def observe(logits: torch.Tensor, seqs: list[Row], tokens: list[int], memory: Memory) -> None:
    """Move mu by the surprise of the tokens drawn from the truncated logits."""
    for row, seq, token in zip(logits, seqs, tokens, strict=True):
        surprise = -float(torch.log_softmax(row.double(), -1)[token]) / math.log(2)
        mu = memory.mu(seq) - seq.params.mirostat_eta * (surprise - seq.params.mirostat_tau)
        memory.set_next_mu(seq, mu)
