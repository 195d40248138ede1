"""Drafts for the next step: proposers are asked, the cheapest first, as far as drafts are worth their rows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from ..config import Speculation
from ..plan import Outcome, Slice
from ..sequence import Sequence
from .answers import Answers
from .lookup import Trail, repeated
from .maker import Drafts, Maker, States, Want
from .pace import DOUBT, PRIOR, SLIGHT, SLOWLY, SPEED, Costs, Offer, Record, Trust, shares
from .prediction import Prediction
from .tally import Tally

log = logging.getLogger("quire.engine")
T = TypeVar("T")

PATIENCE = 32  # steps between two attempts of a proposer whose drafts were wrong more than once, at most
QUIET = 8  # steps on end that nobody is asked in, at most, where steps may fly and nobody had anything to say
CROWD = 8  # for each so many sequences in a step, one that had nothing of use is not asked in one more step
READ = 256  # tokens of earlier answers that a step takes in
PREDICTION, NGRAM, SUFFIX, GRAMMAR = "prediction", "ngram", "suffix", "grammar"
PRIORS = {PREDICTION: (4.0, 5.0)}  # drafts that are taken to be right, of so many: who sends a prediction knows


@dataclass(slots=True)
class _Trial:
    """How the drafts of one proposer do in one sequence."""

    record: Record = field(default_factory=lambda: Record(0.0, 0.0))
    failures: int = 0  # attempts without a right draft, on end
    pause: int = 0  # steps until the next attempt

    def due(self) -> bool:
        """Whether its pause is over."""
        self.pause -= self.pause > 0
        return not self.pause

    def learn(self, drafts: int, right: int) -> None:
        self.record.learn(drafts, right)
        self.failures = 0 if right else self.failures + 1
        self.pause = 0 if self.failures < 2 else min(PATIENCE, 1 << self.failures)


@dataclass(slots=True)
class _Known:
    """Of one sequence."""

    seq: Sequence
    prediction: Prediction | None
    trail: Trail = field(default_factory=Trail)
    trials: dict[str, _Trial] = field(default_factory=dict)
    pause: int = 0  # steps until it is asked again
    proposer: str = ""  # who gave the drafts of the step that comes
    offered: int = 0  # how many
    others: Record | None = None  # what is known of such drafts
    expected: float = 0.0  # of them to be right
    right: int = 0  # of its prediction's
    wrong: int = 0
    tally: Tally = field(default_factory=Tally)


@dataclass(slots=True)
class _Offered:
    """Drafts that a sequence could have in the next step; None: those that the maker would make."""

    known: _Known
    outcome: Outcome
    proposer: str
    drafts: Drafts | None
    others: Record  # what is known of such drafts
    offer: Offer
    row: int = 0  # of the step's hidden states: of the last token that was computed


# (sequence, what joins it, known, at most) -> drafts, and how much of the text before them speaks for them
Ask = Callable[[Sequence, list[int], _Known, int], tuple[list[int], int]]


def _is_decode(piece: Slice) -> bool:
    return piece.sample and len(piece.tokens) == piece.drafts + 1


class Speculator:
    """Of one runner. Remembers of a sequence what helps to guess, by its id, until `forget`."""

    def __init__(self, speculation: Speculation):
        self._speculation = speculation
        self._adaptive = speculation.adaptive
        self._costs = Costs()  # of steps without prompts
        self._prompts = 0.0  # seconds that a token of a prompt takes
        self._known: dict[str, _Known] = {}
        self._general: dict[tuple[str, int], Record] = {}  # of a proposer, and of what spoke for its drafts
        self._trust = Trust()
        self._most = speculation.num_speculative_tokens if speculation.method != "none" else 0
        self._answers = Answers(speculation.suffix_tokens) if SUFFIX in speculation.stack else None
        self._still = 0  # steps on end in which all were asked and none had a draft
        self._quiet = 0  # steps that nobody is asked in
        self.maker: Maker | None = None  # asked where none of them has something to say
        self.proposers: list[tuple[str, Ask]] = [(PREDICTION, self._predicted)]  # in the order they are asked
        if NGRAM in speculation.stack:
            self.proposers.append((NGRAM, self._repeated))
        if SUFFIX in speculation.stack:
            self.proposers.append((SUFFIX, self._said))
        self.tally = Tally()  # of all that were ever checked

    def learn_cost(self, slices: Seq[Slice], seconds: float) -> None:
        """A step took so long."""
        prompts = sum(len(piece.tokens) for piece in slices if not _is_decode(piece))
        decodes = sum(len(piece.tokens) for piece in slices if _is_decode(piece))
        if not prompts:
            self._costs.learn(decodes, seconds)
        elif (alone := self._costs.of(decodes)) is not None:
            one = max(0.0, seconds - alone * self._costs.speed) / prompts
            self._prompts += (SPEED if self._prompts else 1.0) * (one - self._prompts)

    def learn(self, piece: Slice, outcome: Outcome) -> None:
        """What came of the drafts of a slice; those that its grammar did not let come were wrong too."""
        known, right = self._of(piece.seq), len(outcome.tokens) - 1
        drafts, known.offered = known.offered, 0
        if not outcome.tokens or not piece.drafts:
            return  # there was no room for them
        for tally in (self.tally, known.tally):
            tally.count(known.proposer if drafts else GRAMMAR, piece, right)
        outcome.guesses = known.tally.told()
        if not drafts:
            return
        known.trials[known.proposer].learn(drafts, right)
        if known.others is not None:
            known.others.learn(drafts, right)
        self._trust.learn(known.expected, right)
        if known.proposer == PREDICTION:
            known.right += right
            known.wrong += drafts - right
            outcome.predicted = known.right, known.wrong

    @property
    def rests(self) -> bool:
        """Whether nobody needs to be asked in the next step, so that it may fly (engine/ahead.py)."""
        return not self._most or self._quiet > 0

    def passed(self) -> None:
        """A step flew, and nobody was asked."""
        self._quiet = max(0, self._quiet - 1)

    def look_back(self, outcomes: Seq[Outcome]) -> None:
        """All were asked: where none had a draft, or none was worth its row, the next few steps may go by without. Text
        that was not seen is looked at later; a maker must see each step."""
        self._still = 0 if self.maker is not None or any(one.drafts for one in outcomes) else self._still + 1
        self._quiet = min(QUIET, 1 << self._still) if self._still else 0

    @property
    def taps(self) -> tuple[int, ...]:
        """Layers of the model whose input is wanted in each step."""
        return self.maker.taps if self.maker is not None else ()

    def propose(self, slices: Seq[Slice], outcomes: Seq[Outcome], states: States) -> None:
        """Give drafts to the outcomes of a step that have none."""
        if not self._most:
            return
        self._safely(lambda maker: maker.read(slices, outcomes, states))
        if self._answers is not None:
            self._answers.read(READ)
        sampled = sum(piece.sample for piece in slices)
        pause = min(QUIET, sampled // CROWD) if self._adaptive else 0
        offered, row = [], 0
        for piece, outcome in zip(slices, outcomes, strict=True):
            if _can(piece, outcome) and (found := self._offer(piece.seq, outcome, pause)) is not None:
                found.row = row + _last(outcome)
                offered.append(found)
            row += piece.drafts + 1 if piece.sample else 0
        counts = [found.offer.most for found in offered]
        if self._adaptive:
            beside = any(not piece.sample for piece in slices)  # the next step has prompts too
            least = self._prompts / self._costs.speed if beside else 0.0
            offers = [found.offer for found in offered]
            counts = shares(offers, sampled, self._costs, least, self._making, self._trust.share)
            if offered and not any(counts):
                self._trust.rest()
        due = [(found, count) for found, count in zip(offered, counts, strict=True) if found.drafts is None and count]
        if due:
            self._make(due, states.sampled)
        idle: dict[Record, tuple[float, float]] = {}
        for found, count in zip(offered, counts, strict=True):
            if found.drafts is not None:
                found.outcome.drafts = found.drafts.tokens[:count]
                found.outcome.parents = found.drafts.parents[:count]
            made = len(found.outcome.drafts)
            found.known.proposer, found.known.offered, found.known.others = found.proposer, made, found.others
            found.known.expected = found.offer.expected(made)
            if count:
                found.known.pause = 0
            else:
                found.known.trials[found.proposer].record.rest(DOUBT, (0.0, 0.0))
                idle[found.others] = PRIORS.get(found.proposer, PRIOR)
        for others, prior in idle.items():  # once a step, or 16 at once would forget 16 times as fast
            others.rest(SLIGHT, prior)

    def _make(self, due: Seq[tuple[_Offered, int]], hidden: torch.Tensor | None) -> None:
        """Let the maker make so many. hidden: [S, width] of the rows that were sampled."""
        wants = []
        for found, count in due:
            seq, outcome = found.known.seq, found.outcome
            row = hidden[found.row] if hidden is not None and not outcome.forced else None
            new = outcome.tokens + outcome.forced
            wants.append(Want(seq, new, count, row, line=seq.guide is not None))  # masks lie along a line
        for (found, _), drafts in zip(due, self._safely(lambda maker: maker.draft(wants)) or (), strict=False):
            found.drafts = drafts

    def _safely(self, act: Callable[[Maker], T]) -> T | None:
        """Let the maker do something. It is left out from then on if it fails: nobody needs it."""
        if self.maker is None:
            return None
        try:
            return act(self.maker)
        except Exception:
            log.exception("the %s failed; from now on nothing is drafted by it", self.maker.name)
            self.maker = None
            return None

    def _making(self, sequences: int) -> float:
        return self.maker.price(sequences) / self._costs.speed if self.maker is not None else 0.0

    def _offer(self, seq: Sequence, outcome: Outcome, pause: int) -> _Offered | None:
        """Of the first proposer that has something to say. pause: steps that it is not asked in behind this one, if
        that is of no use."""
        new = outcome.tokens + outcome.forced
        wanted = seq.params.num_speculative_tokens
        most = self._most if wanted is None else min(wanted, self._most)
        room = min(most, seq.end - len(seq.tokens) - len(new) - 1)  # the last token is always sampled
        if room < 1:
            return None
        known = self._of(seq)
        if known.pause:
            known.pause -= 1
            return None
        known.pause = pause
        for name, ask in self.proposers:
            trial = known.trials.setdefault(name, _Trial())
            if not self._due(trial):
                continue
            drafts, matched = ask(seq, new, known, room)
            if drafts:
                others = self._like(name, matched)
                return _Offered(
                    known, outcome, name, Drafts(drafts), others, Offer(trial.record.within(others), len(drafts))
                )
        maker = self.maker
        if maker is None or (room := maker.room(seq, new, room)) < 1:
            return None
        trial = known.trials.setdefault(maker.name, _Trial())
        if not self._due(trial):
            return None
        others = self._like(maker.name, 0)
        offer = Offer(trial.record.within(others), room, True, maker.entry(seq) / self._costs.speed)
        return _Offered(known, outcome, maker.name, None, others, offer)

    def _of(self, seq: Sequence) -> _Known:
        known = self._known.get(seq.id)
        if known is None:
            prediction = Prediction(list(seq.prediction)) if seq.prediction else None
            known = self._known[seq.id] = _Known(seq, prediction)
        return known

    def _due(self, trial: _Trial) -> bool:
        return trial.due() or not self._adaptive

    def _like(self, proposer: str, matched: int) -> Record:
        """What is known of drafts for which so much of the text before them speaks: more, each time that is doubled."""
        prior = PRIORS.get(proposer, PRIOR)
        return self._general.setdefault((proposer, matched.bit_length()), Record(*prior, fading=SLOWLY))

    def _predicted(self, seq: Sequence, new: list[int], known: _Known, count: int) -> tuple[list[int], int]:
        if known.prediction is None:
            return [], 0
        return known.prediction.guesses(seq.tokens[seq.prompt_len :] + new, count)

    def _repeated(self, seq: Sequence, new: list[int], known: _Known, count: int) -> tuple[list[int], int]:
        text = known.trail.follow(seq.tokens, new)
        return repeated(text, self._speculation.prompt_lookup_min, self._speculation.prompt_lookup_max, count)

    def _said(self, seq: Sequence, new: list[int], known: _Known, count: int) -> tuple[list[int], int]:
        if self._answers is None or seq.salt:
            return [], 0
        most = self._speculation.prompt_lookup_max
        tail = (seq.tokens[-most:] + new)[-most:]
        return self._answers.guesses(tail, self._speculation.prompt_lookup_min, count)

    def forget(self, ids: Seq[str]) -> None:
        for id_ in ids:
            known = self._known.pop(id_, None)
            if known is not None and self._answers is not None and not known.seq.salt:
                self._answers.tell(known.seq.tokens[known.seq.prompt_len :])
        if self.maker is not None:
            self.maker.forget(ids)


def _last(outcome: Outcome) -> int:
    """Of the rows of its slice that behind which the last token was sampled."""
    right = len(outcome.tokens) - 1
    return outcome.path[right - 1] + 1 if 0 < right <= len(outcome.path) else right


def _can(piece: Slice, outcome: Outcome) -> bool:
    params = piece.seq.params
    if outcome.error is not None or not outcome.tokens or outcome.drafts or params.mirostat:
        return False  # each step of mirostat rests on the one before
    if len(outcome.tokens) > piece.drafts + 1:
        return False  # sampled in an earlier step, behind drafts that this one did not compute
    return outcome.tokens[-1] not in params.stop_token_ids
