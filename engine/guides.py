"""What binds answers, as the engine's loop knows it: grammars, guides, and masks that are here or awaited.

The work is done elsewhere (grammar/desk.py), by two processes: one for grammars that are plainly quick, and one, begun
when it is first needed, for all others, which hold up each other but not those (grammar/plain.py). An answer whose
mask, or what must follow its last token, has not come in time sits the step out: its outcome is empty, the step is made
again for it, and nobody else waits.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as Seq
from concurrent.futures import Future

from .errors import EngineUnavailable, QuireError, from_code
from .grammar import wire
from .grammar.link import Gone, Link, wait_for
from .grammar.plain import is_plain
from .grammar.spec import GrammarSpec
from .messages import ThoughtBudget
from .plan import Outcome, Slice, failure
from .sequence import Sequence

log = logging.getLogger("quire.engine")

KEPT = 256  # compiled grammars
PATIENCE, SHARE = 0.005, 0.15  # seconds, or share of a step, that it waits for masks, where others are in it
ALONE = 0.1  # and where nobody else is
LEAST = 1 / 16  # of that patience with an answer that was late again and again
COMPILING = 100  # ms between two looks whether it is done


class End:
    """A process that follows grammars, as its link knows it."""

    def __init__(self, link: Link):
        self.link = link
        self.life = 0  # which of its processes it is, one after the other
        self.due: list[wire.ToDesk] = []  # that is still to be said
        self.dropped: list[int] = []  # grammars that nobody has any more


class Grammar:
    """A compiled grammar. `shortest`: tokens of a shortest answer, None where that is not known."""

    __slots__ = ("__weakref__", "end", "life", "number", "shortest")

    def __init__(self, number: int, shortest: int | None, end: End):
        self.number, self.shortest = number, shortest
        self.end, self.life = end, end.life  # who knows it


class Guide:
    """One answer's: what is known of its next token, and of the last one that was sampled.

    Of a place (a number of tokens of the answer) the mask is wanted, then here. Once a token is sampled there, what
    must follow it is wanted, then here; with that the place is the next one.
    """

    def __init__(self, grammar: Grammar | None, after: tuple[int, ...] = (), thought: ThoughtBudget | None = None):
        """grammar: None where only thoughts are bound; after: ids behind which it begins."""
        self.grammar, self.after, self.thought = grammar, after, thought
        self.number = -1  # by which the desk knows it, once it is open
        self.place = -1  # that the first mask is of
        self.drafts: list[int] = []  # behind which there are more, as far as they may come
        self.masks: list[bytes | None] = []  # int32 [ceil(vocab / 32)] each, None: anything may come; []: not here
        self.said: Outcome | None = None  # the tokens that were sampled last, and what must follow them
        self.said_at = -1  # its place
        self.followed = False  # whether that is known
        self.late = False  # what is wanted was waited for in vain
        self.patience = 1.0  # share of a step's that it has: who was late has less
        self.failed: QuireError | None = None  # nothing more can come

    def settled(self, place: int) -> bool:
        """Whether nothing is wanted that a sequence at this place needs."""
        known = self.followed if self.said_at == place else bool(self.masks) and self.place == place
        return known or self.failed is not None

    def outcome(self, place: int) -> Outcome | None:
        """What came at this place already; an empty one where a sequence sits a step out. None: it can be sampled."""
        if self.said_at == place and self.followed:
            return self.said
        if self.failed is not None:
            return failure(self.failed)
        return None if self.settled(place) else Outcome()


class Guides:
    """All grammars and guides of one engine. Belongs to its loop."""

    def __init__(self, plain: Link, other: Link | None = None):
        """plain: to whom plain grammars go; other: all others, None: the same."""
        self._plain = End(plain)
        self._other = End(other) if other is not None else self._plain
        self._ends = [self._plain] if other is None else [self._plain, self._other]
        self._numbers = itertools.count()
        self._known: OrderedDict[GrammarSpec | None, Future[Grammar]] = OrderedDict()
        self._compiling: dict[int, tuple[Future[Grammar], End]] = {}
        self._open: dict[int, Guide] = {}
        self._by_sequence: dict[str, Guide] = {}

    def warm(self) -> None:
        """Make ready what every grammar needs, so that the first one does not wait for it."""
        self._plain.link.send([])

    def hear(self, wait: int = 0) -> None:
        """Take in what was said. wait: milliseconds, at most."""
        if not self._hear() and wait:
            wait_for([end.link for end in self._ends], wait)
            self._hear()

    def _hear(self) -> bool:
        """Whether there was something."""
        heard = False
        for end in self._ends:
            try:
                messages = end.link.receive()
            except Gone as gone:
                self._begin_anew(end, str(gone))
                heard = True
                continue
            for message in messages:
                self._take_in(message, end)
                heard = True
        return heard

    def _send(self) -> None:
        for end in self._ends:
            if end.due:
                due, end.due = end.due, []
                end.link.send(due)

    def _end_of(self, spec: GrammarSpec | None) -> End:
        return self._plain if is_plain(spec) else self._other

    # ------------------------------------------------------------ grammars

    def compile(self, spec: GrammarSpec | None) -> Future[Grammar]:
        """One that is compiled, or will be; None: only a vocabulary is needed. It fails with what is wrong with it."""
        self.hear()  # a process that died while nobody asked is noticed here, and nothing is lost
        found = self._known.get(spec)
        if found is None:
            found = self._known[spec] = Future()
            number, end = next(self._numbers), self._end_of(spec)
            self._compiling[number] = found, end
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
            self._forget_dropped()
            end.due.append(wire.Compile(number, spec))
            self._send()
        self._known.move_to_end(spec)
        return found

    def give_up(self, compiled: Future[Grammar]) -> None:
        """Nobody waits for it any more: it need not begin. It is never done."""
        for number, (future, end) in list(self._compiling.items()):
            if future is compiled:
                del self._compiling[number]
                end.due.append(wire.Forget(number))
        for spec in [spec for spec, future in self._known.items() if future is compiled]:
            del self._known[spec]
        self._send()

    def compiled(self, spec: GrammarSpec | None) -> Grammar:
        """The same, waited for. Raises QuireError."""
        found = self.compile(spec)
        while not found.done():
            self.hear(COMPILING)
        return found.result()

    def _forget_dropped(self) -> None:
        for end in self._ends:
            dropped = end.dropped[:]
            del end.dropped[: len(dropped)]  # one more may come at any time
            end.due += [wire.Forget(number) for number in dropped]

    # ------------------------------------------------------------ answers

    def look(self, pieces: Iterable[Slice]) -> None:
        """Ask for the masks of next tokens, and behind drafts, as far as they are not on their way."""
        for piece in pieces:
            seq = piece.seq
            guide, place, drafts = _guide_of(seq), seq.generated, piece.drafted
            there = place == guide.place and (not drafts or drafts == guide.drafts)
            if guide.failed is not None or there or place == guide.said_at:
                continue
            if guide.number < 0 and not self._begin(seq, guide):
                continue
            since = max(0, min(guide.place, place))
            self._end(guide).due.append(wire.Look(guide.number, since, seq.tokens[seq.prompt_len + since :], drafts))
            guide.place, guide.drafts, guide.masks, guide.late, guide.said_at = place, drafts, [], False, -1
        self._send()

    def _end(self, guide: Guide) -> End:
        """Who follows its grammar; thoughts alone are plain."""
        return self._plain if guide.grammar is None else guide.grammar.end

    def _begin(self, seq: Sequence, guide: Guide) -> bool:
        if guide.grammar is not None and guide.grammar.life != guide.grammar.end.life:
            guide.failed = _lost("was started anew")
            return False
        guide.number = next(self._numbers)
        self._open[guide.number] = self._by_sequence[seq.id] = guide
        params = seq.params
        single = params.num_speculative_tokens == 0
        banned = bool(params.bad_words) or params.allowed_token_ids is not None
        self._end(guide).due.append(
            wire.Open(
                answer=guide.number,
                grammar=guide.grammar.number if guide.grammar is not None else None,
                most=params.max_tokens,
                after=guide.after,
                thought=guide.thought,
                # The first two ask for the model's word; what a person forbids is out where it must come, too.
                every=params.logprobs is not None or params.mirostat != 0 or single or banned,
                ahead=not (params.mirostat or single),
            )
        )
        return True

    def wait(self, seqs: Seq[Sequence], alone: bool, spent: float = 0.0) -> None:
        """Until nothing is wanted that these need, but no longer than a step can wait: longer where nobody could go on
        without. alone: nobody else is in the step; spent: seconds that it took so far."""
        began = time.perf_counter()
        self.hear()
        alone = alone and _none_settled(seqs)
        asked = wanting = [guide for seq in seqs if (guide := _wanting(seq, alone)) is not None]
        while wanting:
            patience = max(guide.patience for guide in wanting)
            rest = ALONE if alone else max(PATIENCE, SHARE * spent) * patience
            rest -= time.perf_counter() - began
            if rest <= 0:
                break
            self.hear(math.ceil(1e3 * rest))
            alone = alone and _none_settled(seqs)
            wanting = [guide for seq in seqs if (guide := _wanting(seq, alone)) is not None]
        for guide in wanting:
            guide.late = True
        for guide in asked:
            guide.patience = max(LEAST, guide.patience / 4) if guide.late else min(1.0, 2 * guide.patience)

    def take(self, taken: Seq[tuple[Sequence, Outcome]], alone: bool, spent: float = 0.0) -> list[Outcome]:
        """Sequences and what was sampled for each. -> the same with what must follow; an empty outcome where that is
        not known yet: then `Guide.outcome` gives it, when the step is made again."""
        for seq, outcome in taken:
            guide, place = _guide_of(seq), seq.generated
            guide.said, guide.said_at, guide.followed, guide.late = outcome, place, False, False
            self._end(guide).due.append(wire.Took(guide.number, place, outcome.tokens, outcome.kept))
        self._send()
        self.wait([seq for seq, _ in taken], alone, spent)
        return [_guide_of(seq).outcome(seq.generated) or outcome for seq, outcome in taken]

    def forget(self, ids: Iterable[str]) -> None:
        """These sequences are gone."""
        gone = [guide for id_ in ids if (guide := self._by_sequence.pop(id_, None)) is not None]
        for guide in gone:
            if self._open.pop(guide.number, None) is not None:
                self._end(guide).due.append(wire.Close(guide.number))
        self._send()

    # ------------------------------------------------------------ what is said

    def _take_in(self, message: wire.FromDesk, end: End) -> None:
        match message:
            case wire.Ready(grammar=number) if number not in self._compiling:
                end.due.append(wire.Forget(number))  # it was given up meanwhile
            case wire.Refused(grammar=number) if number not in self._compiling:
                pass
            case wire.Ready(grammar=number, shortest=shortest):
                future, _ = self._compiling.pop(number)
                grammar = Grammar(number, shortest, end)
                weakref.finalize(grammar, end.dropped.append, number)
                future.set_result(grammar)
            case wire.Refused(grammar=number, code=code, message=text, param=param):
                self._compiling.pop(number)[0].set_exception(from_code(code, text, param))
            case wire.Masks(answer=number, place=place, drafts=drafts, bits=bits):
                guide = self._open.get(number)
                if guide is not None and guide.place == place and len(guide.drafts) == drafts:
                    guide.masks = bits
            case wire.Follows(answer=number, place=place, forced=forced, drafts=drafts, guided=guided):
                guide = self._open.get(number)
                if guide is not None and guide.said is not None and guide.said_at == place:
                    guide.said.forced, guide.said.drafts, guide.said.guided = forced, drafts, guided
                    guide.followed, guide.late = True, False
                    guide.place, guide.drafts, guide.masks = place + len(guide.said.tokens) + len(forced), drafts, []
            case wire.Failed(answer=number, code=code, message=text, param=param):
                if (guide := self._open.get(number)) is not None:
                    guide.failed = from_code(code, text, param)

    def _begin_anew(self, end: End, how: str) -> None:
        """The process is gone, and with it all that is under way there; the next one begins."""
        log.warning("a process that follows grammars %s; its requests fail, others do not notice", how)
        end.life += 1
        end.due.clear()
        end.dropped.clear()
        for number, (future, theirs) in list(self._compiling.items()):
            if theirs is end:
                del self._compiling[number]
                future.set_exception(_lost(how))
        for number, guide in list(self._open.items()):
            if self._end(guide) is end:
                del self._open[number]
                guide.failed = _lost(how)
        for spec in [spec for spec in self._known if self._end_of(spec) is end]:
            del self._known[spec]
        end.link.send([])


def _guide_of(seq: Sequence) -> Guide:
    assert seq.guide is not None
    return seq.guide


def _none_settled(seqs: Seq[Sequence]) -> bool:
    return not any(_guide_of(seq).settled(seq.generated) for seq in seqs)


def _wanting(seq: Sequence, alone: bool) -> Guide | None:
    """The guide of a sequence, where it is worth waiting for."""
    guide = _guide_of(seq)
    return None if guide.settled(seq.generated) or (guide.late and not alone) else guide


def _lost(how: str) -> EngineUnavailable:
    return EngineUnavailable(f"the process that follows grammars {how}; the next one begins, so ask again")
