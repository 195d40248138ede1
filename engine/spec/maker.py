"""Guesses that cost something to make: what is asked of a draft model, or of heads, and what they give."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import torch

from ..attention import LayerSpec
from ..plan import Outcome, Slice
from ..sequence import Sequence

FIELD = "speculative_config"  # whose fault it is where a maker cannot be loaded


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


@dataclass(frozen=True, slots=True)
class States:
    """What a step of the model computed. sampled: [S, width], as its head got them; starts: of each slice its first row
    in the batch, and the batch's size; tapped: [T, taps * width], what entered the layers that the maker taps."""

    sampled: torch.Tensor | None
    starts: list[int]
    tapped: torch.Tensor | None


class Maker(Protocol):
    name: str  # in metrics
    taps: tuple[int, ...]  # layers of the model whose input it sees
    layers: list[LayerSpec]  # its own, whose keys and values need pages

    def open(self, pages: int, backend: ModuleType) -> None:
        """Before anything else: it may have so many pages, as many as the model."""
        ...

    def read(self, slices: Seq[Slice], outcomes: Seq[Outcome], states: States) -> None:
        """A step has run; called before it is asked for drafts of the next one."""
        ...

    def room(self, seq: Sequence, new: list[int], count: int) -> int:
        """How many of `count` drafts it could make."""
        ...

    def price(self, sequences: int) -> float:
        """Seconds that it takes to make a draft of each of so many sequences."""
        ...

    def entry(self, seq: Sequence) -> float:
        """Seconds that the first draft of a step takes beside that."""
        ...

    def draft(self, wanted: Seq[Want]) -> list[Drafts]:
        """Of each at most as many as it wants."""
        ...

    def forget(self, ids: Seq[str]) -> None: ...
