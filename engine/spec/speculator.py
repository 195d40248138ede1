"""Drafts for the next step: proposers are asked, in order, as far as drafts are worth their rows."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from ..config import Speculation
from ..plan import Outcome, Slice
from ..sequence import Sequence
from .lookup import Trail, repeated
from .pace import Costs, Record, shares
from .prediction import Prediction

EXPECTED = (4.0, 5.0)  # drafts of a prediction that are taken to be right, of so many
PATIENCE = 32  # steps between two attempts of a sequence whose drafts were never right, at most


@dataclass(slots=True)
class _Known:
    """Of one sequence."""

    prediction: Prediction | None = None  # while it has something to say
    trail: Trail = field(default_factory=Trail)
    record: Record = field(default_factory=Record)
    offered: int = 0  # drafts of the step that comes
    predicted: bool = False  # whether the prediction gave them
    right: int = 0  # of its drafts
    wrong: int = 0
    failures: int = 0  # attempts without a right draft, on end
    pause: int = 0  # steps until the next attempt


def _is_decode(piece: Slice) -> bool:
    return piece.sample and len(piece.tokens) == piece.drafts + 1


class Speculator:
    """Of one runner. Remembers of a sequence what helps to guess, by its id, until `forget`."""

    def __init__(self, speculation: Speculation):
        self._speculation = speculation
        self._costs = Costs()  # of steps without prompts
        self._prompts = 0.0  # seconds that a token of a prompt took last
        self._known: dict[str, _Known] = {}
        most = speculation.num_speculative_tokens if speculation.method != "none" else 0
        self._most = most
        self.drafted, self.accepted = [0] * most, [0] * most  # by position behind the last token

    def learn_cost(self, slices: Seq[Slice], seconds: float) -> None:
        """A step took so long."""
        prompts = sum(len(piece.tokens) for piece in slices if not _is_decode(piece))
        decodes = sum(len(piece.tokens) for piece in slices if _is_decode(piece))
        if not prompts:
            self._costs.learn(decodes, seconds)
        elif (alone := self._costs.of(decodes)) is not None:
            self._prompts = max(0.0, seconds - alone * self._costs.speed) / prompts

    def learn(self, piece: Slice, outcome: Outcome) -> None:
        """What came of the drafts of a slice; those that its grammar did not let come were wrong too."""
        known = self._known.get(piece.seq.id)
        if known is None or not known.offered or not outcome.tokens:
            return
        drafts, right, known.offered = known.offered, len(outcome.tokens) - 1, 0
        if drafts != piece.drafts:
            return  # there was no room for them
        known.record.learn(drafts, right)
        if known.predicted:
            known.right += right
            known.wrong += drafts - right
            outcome.predicted = known.right, known.wrong
        for place in range(drafts):
            self.drafted[place] += 1
            self.accepted[place] += place < right
        known.failures = 0 if right else known.failures + 1
        known.pause = 0 if right else min(PATIENCE, 1 << known.failures) - 1

    def propose(self, slices: Seq[Slice], outcomes: Seq[Outcome]) -> None:
        """Give drafts to the outcomes of a step that have none."""
        if not self._most:
            return
        offers: list[tuple[Outcome, list[int], _Known]] = []
        offered: list[tuple[float, int]] = []
        for piece, outcome in zip(slices, outcomes, strict=True):
            if not self._can(piece, outcome):
                continue
            known = self._known.get(piece.seq.id)
            if known is None:
                known = self._known[piece.seq.id] = _Known()
                if piece.seq.prediction:
                    known.prediction = Prediction(list(piece.seq.prediction))
                    known.record.right, known.record.tried = EXPECTED  # who sends one knows what is coming
            if known.pause:
                known.pause -= 1
            elif drafts := self._drafts(piece.seq, outcome.tokens + outcome.forced, known):
                offers.append((outcome, drafts, known))
                offered.append((known.record.chance, len(drafts)))
        sampled = sum(piece.sample for piece in slices)
        prompts = sum(len(piece.tokens) for piece in slices if not piece.sample)  # the next step has as many
        counts = shares(offered, sampled, self._costs, self._prompts * prompts / self._costs.speed)
        for (outcome, drafts, known), count in zip(offers, counts, strict=True):
            outcome.drafts = drafts[:count]
            known.offered = count

    def _drafts(self, seq: Sequence, new: list[int], known: _Known) -> list[int]:
        room = seq.end - len(seq.tokens) - len(new) - 1  # the last token is always sampled
        if room < 1:
            return []
        if known.prediction is not None:
            answer = seq.tokens[seq.prompt_len :] + new
            found = known.prediction.guesses(answer, min(self._most, room))
            known.predicted = bool(found)
            if found:
                return found
        text = known.trail.follow(seq.tokens, new)
        least, most = self._speculation.prompt_lookup_min, self._speculation.prompt_lookup_max
        return repeated(text, least, most, min(self._most, room))

    def _can(self, piece: Slice, outcome: Outcome) -> bool:
        params = piece.seq.params
        if outcome.error is not None or not outcome.tokens or outcome.drafts or params.mirostat:
            return False  # each step of mirostat rests on the one before
        return outcome.tokens[-1] not in params.stop_token_ids

    def forget(self, ids: Seq[str]) -> None:
        for id_ in ids:
            self._known.pop(id_, None)
