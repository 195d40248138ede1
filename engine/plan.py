"""What one step does (Plan) and what came of it (StepResult). Both live for that step only."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import msgspec

from .errors import QuireError
from .messages import Guesses, Guided, TokenLogprob
from .sequence import Sequence


class Slice(msgspec.Struct, gc=False):  # quicker to make than a dataclass, and there is one a sequence and step
    """The part of a sequence computed in one step: positions [start, start + len(tokens)).

    `tokens` are the accepted ones from `start` on, then `drafts` proposed ones. `sample`: the slice reaches the end of
    the sequence, so its last `drafts + 1` rows are sampled or verified; else it is a chunk of the prompt.
    `parents`: where the drafts are a tree, the draft that each stands behind, an earlier one; -1: the last accepted
    token. (): each stands behind the one before. The sequence's `blocks` already cover the slice.
    """

    seq: Sequence
    start: int
    tokens: list[int]
    drafts: int = 0
    sample: bool = True
    parents: Seq[int] = ()

    @property
    def end(self) -> int:
        return self.start + len(self.tokens)

    @property
    def drafted(self) -> list[int]:
        return self.tokens[len(self.tokens) - self.drafts :] if self.drafts else []

    def cut(self, drafts: int) -> Slice:
        """The same with the first of its drafts only."""
        tokens = self.tokens[: len(self.tokens) - self.drafts + drafts]
        return Slice(self.seq, self.start, tokens, drafts, self.sample, self.parents[:drafts])

    def behind(self) -> list[list[int]]:
        """Of the last accepted token and of each draft: the drafts that lead to it, itself the last of them."""
        found: list[list[int]] = [[]]
        for n in range(self.drafts):
            found.append([*found[self.parents[n] + 1 if self.parents else n], n])
        return found


@dataclass(frozen=True, slots=True)
class Plan:
    """One step: slices in the order they stand in the batch (decodes first), and who left since the last step."""

    slices: list[Slice]
    admitted: list[Sequence] = field(default_factory=list)  # out of the queue, new or preempted before
    preempted: list[Sequence] = field(default_factory=list)
    freed: list[str] = field(default_factory=list)  # ids of sequences that finished or were aborted: drop their state

    @property
    def num_tokens(self) -> int:
        return sum(len(s.tokens) for s in self.slices)


@dataclass(slots=True)
class Outcome:
    """What came of one slice. `tokens`: accepted drafts, then one sampled token; empty where `sample` was false."""

    tokens: list[int] = field(default_factory=list)
    path: list[int] = field(default_factory=list)  # the accepted drafts, by their place among the slice's
    forced: list[int] = field(default_factory=list)  # what must follow them, by the grammar; not computed yet
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob] | None = None  # of the slice's prompt positions + 1
    drafts: list[int] = field(default_factory=list)  # proposed for the next step
    parents: Seq[int] = ()  # of these, as of a slice
    kept: list[float] = field(default_factory=list)  # of each token, the share of the probability that its mask left
    guided: Guided | None = None  # what the grammar did so far
    predicted: tuple[int, int] | None = None  # guesses of the prediction so far that were right, and that were wrong
    guesses: Guesses | None = None  # what came of all guesses so far, where the slice had some
    error: str | None = None  # this sequence failed; the others go on
    code: str = "engine_failed"  # of the error: a code of engine/errors.py
    param: str | None = None  # the field of the request that caused it


def failure(error: QuireError) -> Outcome:
    """One sequence failed by what its request asks for."""
    return Outcome(error=error.message, code=error.code or "engine_failed", param=error.param)


@dataclass(frozen=True, slots=True)
class StepResult:
    """Outcomes, one for each slice of the plan, in its order."""

    outcomes: list[Outcome]
