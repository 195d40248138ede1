"""Guesses that cost something to make: what is asked of a draft model, or of heads, and what they give."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import Protocol

import torch

from ..sequence import Sequence


@dataclass(slots=True)
class Want:
    """A sequence that shall have so many drafts behind its tokens and `new`, those that are about to join them.

    hidden: [width] of the token before the last of them, as the model's head gets it; None where it was not computed.
    line: a tree is of no use.
    """

    seq: Sequence
    new: list[int]
    count: int
    hidden: torch.Tensor | None = None
    line: bool = False


@dataclass(frozen=True, slots=True)
class Drafts:
    """Tokens, and the draft that each stands behind as `Slice.parents` has it."""

    tokens: list[int]
    parents: Seq[int] = ()


class Maker(Protocol):
    name: str  # in metrics

    def room(self, seq: Sequence, new: list[int], count: int) -> int:
        """How many of `count` drafts it could make."""
        ...

    def price(self, sequences: int) -> float:
        """Seconds that a draft of a sequence takes beside those of the others."""
        ...

    def entry(self, seq: Sequence) -> float:
        """Seconds that the first draft of a step takes beside that."""
        ...

    def draft(self, wanted: Seq[Want]) -> list[Drafts]:
        """Of each at most as many as it wants."""
        ...

    def forget(self, ids: Seq[str]) -> None: ...
