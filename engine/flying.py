"""A step that has been launched and not been read: its tokens are on the device, where the next one finds them."""

from __future__ import annotations

import torch

from ..kernels.transfer import Fetched
from ..kernels.vocabulary import greatest
from .plan import Outcome, StepResult
from .sampling import NOT_ALLOWED, NOTHING_LEFT

NOT_FINITE = "the model gave non-finite logits"
_NOTHING, _UNSOUND = -1, -2  # in place of a token


class Flying:
    """tokens int64 [S] on the device: of each slice that samples its token, in their order; below 0 where it failed.

    sampled: of each slice of the step whether it samples.
    """

    __slots__ = ("_fetched", "_sampled", "tokens")

    def __init__(self, tokens: torch.Tensor, sampled: list[bool]):
        self.tokens = tokens
        self._fetched = Fetched(tokens)
        self._sampled = sampled

    def result(self) -> StepResult:
        """Waits for the device. What failed for one sequence is that outcome's `error`; what failed as a whole is
        raised."""
        tokens = iter(self._fetched.read().tolist())
        return StepResult([_outcome(next(tokens)) if sampled else Outcome() for sampled in self._sampled])


def _outcome(token: int) -> Outcome:
    if token >= 0:
        return Outcome(tokens=[token])
    return Outcome(error=NOT_FINITE) if token == _UNSOUND else Outcome(error=NOTHING_LEFT, code=NOT_ALLOWED)


def sound_rows(logits: torch.Tensor) -> torch.Tensor:
    """bool [S], on the device: which rows of logits [S, vocab] can be sampled from: no NaN, no +inf, not all -inf
    (single tokens may be ruled out by -inf)."""
    return torch.isfinite(greatest(logits)[0])


def checked(tokens: torch.Tensor, sound: torch.Tensor) -> torch.Tensor:
    """The tokens of rows that could be sampled from."""
    return torch.where(sound, tokens, _UNSOUND)
