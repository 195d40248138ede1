"""A matcher that allows the same tokens at every place, and guides over it or over any other."""

from __future__ import annotations

import torch

from quire.engine.grammar.guide import Guide


class Allowing:
    """Every answer of `allowed` tokens that is `length` long; `eos` ends it. forced: what must come, by place."""

    def __init__(self, allowed, length: int = 1000, eos: int = 0, forced: dict[int, list[int]] | None = None):
        self.allowed, self.length, self.eos = list(allowed), length, eos
        self.must = forced or {}
        self.taken: list[int] = []
        self.lefts: list[int | None] = []

    @property
    def may_end(self) -> bool:
        return len(self.taken) >= self.length

    must_end = may_end

    def fill_mask(self, row: torch.Tensor, left: int | None = None) -> None:
        self.lefts.append(left)
        row.zero_()
        bits = 0
        for token in [self.eos] if self.must_end else self.allowed:
            bits |= 1 << token
        for word in range(row.numel()):
            value = (bits >> 32 * word) & 0xFFFFFFFF
            row[word] = value - (1 << 32) if value >= 1 << 31 else value

    def accept(self, tokens: list[int]) -> int:
        self.taken += tokens
        return len(tokens)

    def rollback(self, count: int) -> None:
        del self.taken[len(self.taken) - count :]

    def forced(self, left: int | None = None) -> list[int]:
        return self.must.get(len(self.taken), [])


def guided(seq, matcher, vocab: int, eos: int = 0, after: tuple[int, ...] = ()):
    """`seq` bound by the matcher, and looking at its next token."""
    seq.guide = Guide(matcher, vocab, eos, after)
    seq.guide.look(seq)
    return seq
