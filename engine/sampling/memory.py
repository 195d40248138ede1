"""What the sampler remembers of a sequence. All but mirostat's mu can be made anew from the sequence's tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch

from .rows import Row


class Counts:
    """How often each token stands in the prompt and in the answer, brought up to date by what is new."""

    __slots__ = ("answer", "done", "in_prompt")

    def __init__(self, seq: Row, vocab_size: int, device: torch.device):
        self.in_prompt = torch.zeros(vocab_size, dtype=torch.bool, device=device)
        self.in_prompt[torch.tensor(seq.tokens[: seq.prompt_len], dtype=torch.int64, device=device)] = True
        self.answer = torch.zeros(vocab_size, dtype=torch.float32, device=device)
        self.done = seq.prompt_len  # tokens counted

    def follow(self, tokens: list[int]) -> None:
        new = tokens[self.done :]
        if new:
            at = torch.tensor(new, device=self.answer.device)
            self.answer.index_add_(0, at, torch.ones(len(new), device=at.device))
            self.done = len(tokens)

    def copy(self) -> Counts:
        found = copy.copy(self)
        found.answer = self.answer.clone()
        return found


class Memory:
    """By sequence id, until `forget`."""

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size
        self._counts: dict[str, Counts] = {}
        self._made: dict[tuple[str, str], torch.Tensor] = {}
        self._mu: dict[str, dict[int, float]] = {}

    def counts(self, seq: Row, device: torch.device) -> Counts:
        found, tokens = self._counts.get(seq.id), seq.seq.tokens
        if found is None or found.done > len(tokens):  # tokens were taken back: count anew
            found = self._counts[seq.id] = Counts(seq, self.vocab_size, device)
        found.follow(tokens)
        if seq.ahead:
            found = found.copy()  # drafts may be wrong
            found.follow(seq.tokens)
        return found

    def once(self, seq: Row, name: str, make: Callable[[], torch.Tensor]) -> torch.Tensor:
        """A tensor that depends on the sequence's params alone."""
        key = (seq.id, name)
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    def mu(self, seq: Row) -> float:
        """Mirostat's bound on the surprise of the token at the end of `seq`, in bits."""
        return self._mu.get(seq.id, {}).get(len(seq.tokens), 2 * seq.params.mirostat_tau)

    def set_next_mu(self, seq: Row, mu: float) -> None:
        """For the token after that one. The present one is kept: a step may be run again."""
        here = len(seq.tokens)
        self._mu[seq.id] = {here: self.mu(seq), here + 1: mu}

    def forget(self, ids: list[str]) -> None:
        for id_ in ids:
            self._counts.pop(id_, None)
            self._mu.pop(id_, None)
        if ids and self._made:
            gone = set(ids)
            self._made = {key: made for key, made in self._made.items() if key[0] not in gone}
