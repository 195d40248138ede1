"""Against repetition: repetition_penalty, presence and frequency penalties, DRY.

Each function takes logits [n, vocab] of the n sequences that use the option, and changes them in place.
"""

from __future__ import annotations

import numpy as np
import torch

from .memory import Memory
from .rows import Row


def repetition(logits: torch.Tensor, seqs: list[Row], memory: Memory) -> None:
    """Tokens of the prompt or the answer: a positive logit is divided, a negative one multiplied (CTRL, 2019)."""
    for row, seq in zip(logits, seqs, strict=True):
        counts = memory.counts(seq, logits.device)
        penalty = seq.params.repetition_penalty
        seen = counts.in_prompt | (counts.answer > 0)
        row.copy_(torch.where(seen, torch.where(row > 0, row / penalty, row * penalty), row))


def presence_and_frequency(logits: torch.Tensor, seqs: list[Row], memory: Memory) -> None:
    """Tokens of the answer: logit -= presence * (count > 0) + frequency * count (OpenAI)."""
    for row, seq in zip(logits, seqs, strict=True):
        counts = memory.counts(seq, logits.device).answer
        row.sub_((counts > 0) * seq.params.presence_penalty + counts * seq.params.frequency_penalty)


def dry(logits: torch.Tensor, seqs: list[Row], memory: Memory) -> None:
    """ "Don't repeat yourself": logit -= multiplier * base ** (n - allowed_length), where n >= allowed_length tokens at
    the end of the text already stood somewhere before this token (p-e-w, 2024)."""
    for row, seq in zip(logits, seqs, strict=True):
        p = seq.params
        start = max(0, len(seq.tokens) - p.dry_penalty_last_n) if p.dry_penalty_last_n >= 0 else 0
        tokens = seq.tokens[start:]
        for token, length in repeats(tokens, frozenset(p.dry_sequence_breakers)).items():
            if length >= p.dry_allowed_length:
                exponent = min(length - p.dry_allowed_length, 10_000)
                with np.errstate(over="ignore"):
                    row[token] -= float(p.dry_multiplier * np.float64(p.dry_base) ** exponent)


def repeats(tokens: list[int], breakers: frozenset[int]) -> dict[int, int]:
    """Token -> the longest end of `tokens` that it followed before. No repeat reaches across a breaker."""
    if len(tokens) < 2 or tokens[-1] in breakers:
        return {}
    text = np.array(tokens)
    places = np.flatnonzero(text[:-1] == text[-1])  # where the last token stood before
    longest: dict[int, int] = {}
    length = 1
    while places.size:
        for token in text[places + 1].tolist():
            longest[token] = length
        before = len(tokens) - 1 - length
        places = places[places >= length]
        if before < 0 or tokens[before] in breakers:
            break
        places = places[text[places - length] == text[before]]
        length += 1
    return {token: n for token, n in longest.items() if token not in breakers}
