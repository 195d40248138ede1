"""A row of logits: what its sequence is if the drafts before it are right."""

from __future__ import annotations

from collections.abc import Iterable

from ..messages import SamplingParams
from ..plan import Slice
from ..sequence import Sequence

NEVER = float("-inf")  # the logit of a token that cannot be sampled


class Row:
    """A place where a token is sampled. `ahead` drafts stand between the sequence's own tokens and it."""

    __slots__ = ("ahead", "kept", "mask", "seq", "tokens")

    def __init__(self, seq: Sequence, drafts: list[int], mask: bytes | None):
        """mask: int32 [ceil(vocab / 32)] of what may come, None: anything."""
        self.seq, self.mask = seq, mask
        self.ahead = len(drafts)
        self.tokens = seq.tokens + drafts if drafts else seq.tokens
        self.kept = 1.0  # share of the model's probability that the mask left

    @property
    def id(self) -> str:
        return self.seq.id

    @property
    def params(self) -> SamplingParams:
        return self.seq.params

    @property
    def seed(self) -> int:
        return self.seq.seed

    @property
    def prompt_len(self) -> int:
        return self.seq.prompt_len

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.seq.prompt_len


def rows_of(slices: Iterable[Slice]) -> list[Row]:
    """The rows of slices that are sampled, in order: a slice's last `drafts + 1`."""
    found = []
    for piece in slices:
        guide, drafts = piece.seq.guide, piece.drafted
        for n, path in enumerate(piece.behind()):
            found.append(Row(piece.seq, [drafts[i] for i in path], guide.masks[n] if guide is not None else None))
    return found
