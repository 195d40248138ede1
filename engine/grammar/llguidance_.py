"""JSON Schema, Lark, GBNF and structural tags, by llguidance: an Earley parser over a lexer of derivatives."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import llguidance

from . import ahead, lark, probe, searching
from .ahead import FAR, Course, TooFar
from .beginning import BETWEEN, TRIES, Beginning, takes
from .endings import BACK, Endings, Known, Plain, State, Tail, shortest
from .errors import GrammarFailed, GrammarRefused
from .items import Unknown
from .readers import READERS, Read, from_lark
from .spec import GrammarSpec, Limits
from .symbols import Symbols, Way
from .vocabulary import Row, Vocabulary

AHEAD = 256  # bytes looked ahead for forced tokens
LARGE = 16 * 1024  # characters of a grammar whose first masks are made before its answers need them
PLACES = 5_000  # of a course, which answers share; beyond that the next one begins anew


class _Wrapped:
    """What llguidance asks of a tokenizer."""

    def __init__(self, vocabulary: Vocabulary):
        self.tokens = vocabulary.pieces
        self.eos_token_id = vocabulary.eos_ids[0]
        self.bos_token_id = None
        self.special_token_ids: list[int] = []
        self._vocabulary = vocabulary

    def __call__(self, text: str | bytes) -> list[int]:
        return self._vocabulary.encode(text if isinstance(text, str) else text.decode(errors="ignore"))


@functools.lru_cache(maxsize=4)
def tokenizer(vocabulary: Vocabulary) -> llguidance.LLTokenizer:
    return llguidance.LLTokenizer(
        llguidance.TokenizerWrapper(_Wrapped(vocabulary)), n_vocab=vocabulary.size, eos_token=list(vocabulary.eos_ids)
    )


@functools.lru_cache(maxsize=4)
def _plain(vocabulary: Vocabulary) -> Plain:
    return Plain(vocabulary)


def warm(vocabulary: Vocabulary) -> None:
    """Make what is made once a vocabulary."""
    spec = GrammarSpec(kind="json_object")
    compile(spec, vocabulary, Limits()).matcher().fill_mask(vocabulary.mask([]), 8)


def compile(spec: GrammarSpec, vocabulary: Vocabulary, limits: Limits) -> Compiled:
    """Raises GrammarRefused. Reading the schema and the goals hold the GIL; llguidance's part runs without."""
    if len(spec.text.encode(errors="replace")) > limits.text_bytes:
        raise GrammarRefused(f"grammar of {len(spec.text)} characters; at most {limits.text_bytes} bytes")
    if spec.kind not in READERS:
        raise GrammarRefused(f"llguidance does not serve {spec.kind}")
    return Compiled(READERS[spec.kind](spec, limits, vocabulary), spec, vocabulary)


class Compiled:
    """A grammar that fits a vocabulary. `shortest`: tokens of a shortest answer, None if none was found."""

    def __init__(self, read: Read, spec: GrammarSpec, vocabulary: Vocabulary):
        self.vocabulary, self.bounds, self._read = vocabulary, read.bounds, read
        self.producible = None if read.ours else vocabulary.producible | vocabulary.mask(spec.controls)
        self.symbols = Symbols(vocabulary, spec.controls)
        words = tokenizer(vocabulary)
        self.beginning = Beginning(lambda: _at_its_beginning(words, read.grammar))
        self.beginning.first.compute_bitmask()  # what is too large shows at the first mask
        if self.beginning.first.is_error():
            raise GrammarRefused(probe.first_line(self.beginning.first.get_error()))
        self.looks_ahead = read.looks_ahead
        self._course = self._new_course()
        self.shortest = self._shortest()
        if len(spec.text) > LARGE and self._course is not None:
            self._rehearse(self._course.ending(self._course.start))

    def _rehearse(self, answer: list[int]) -> None:
        """Walk an answer, so that what its masks need is made here, beside the loop, and not in it. Raises
        GrammarRefused where not even this one can be followed."""
        matcher, row = self.matcher(), self.vocabulary.mask([])
        try:
            for left, token in zip(range(len(answer), 0, -1), answer, strict=True):
                matcher.fill_mask(row, left)
                matcher.accept([token])
        except GrammarFailed as error:
            raise GrammarRefused(error.message) from None

    def _new_course(self) -> Course | None:
        """None where the grammar is not followed by goals, or the goals have no tokens. Raises GrammarRefused."""
        if self._read.course is None or self.bounds is None:
            return None
        try:
            course = self._read.course(self.symbols)
            return course if course.left(course.start) < FAR else None
        except Unknown:
            return None
        except TooFar:
            raise GrammarRefused("the grammar is too much to be followed to its end") from None

    @functools.cached_property
    def in_symbols(self) -> Beginning:
        """Made when it is asked for, which is seldom where goals are followed."""
        read, symbols = self._read, self.symbols
        grammar = from_lark(lark.renumbered(read.text, symbols.number)) if symbols.controls else read.grammar
        return Beginning(lambda: _at_its_beginning(symbols.tokenizer, grammar))

    @functools.cached_property
    def _known(self) -> Known:
        return self._read.known()

    def _shortest(self) -> int:
        if self._course is not None:
            found = self._course.ending(self._course.start)
            trial = self.beginning.first.deep_copy()
            if trial.try_consume_tokens(found) < len(found) or not trial.is_accepting():
                raise GrammarRefused(self._why_not(tuple(self.symbols.spell(found))))
            return len(found)
        example = self._read.example()
        known = shortest(self.in_symbols.first, self._known.hints, example, self.symbols)
        if known is None:
            raise GrammarRefused(self._why_not(example))
        return len(known)

    def _why_not(self, example: Way) -> str:
        trial = self.in_symbols.first.deep_copy()
        trial.try_consume_tokens(list(example))
        error = probe.first_line(trial.get_error())
        return error or "no answer that ends was found; see docs/grammar.md on longest matches"

    def matcher(self) -> Matcher:
        """A new one, at the beginning."""
        return Matcher(self)

    def watch(self, state: State) -> ahead.Watch | searching.Watch:
        """Of an answer that stands there."""
        if self._course is None or self.bounds is None:
            return self.search(state)
        if len(self._course) > PLACES:
            self._renewed()
        bounds = self.bounds
        jump = searching.most_openers(self.vocabulary, bounds.openers)
        rise = (_opens(self.vocabulary) + 1) * bounds.frame + bounds.leaf + jump * bounds.nest
        return ahead.Watch(self._renewed, self._course, state.taken, bounds.flat, rise)

    def search(self, state: State) -> searching.Watch:
        """The same without goals."""
        endings = Endings(_plain(self.vocabulary), state, self._known, self._tail, BACK if self.bounds else 0)
        return searching.Watch(endings, self.bounds, self.shortest)

    def _renewed(self) -> Course:
        self._course = self._new_course()
        assert self._course is not None
        return self._course

    @functools.cached_property
    def _tail(self) -> Tail | None:
        if self._known.tail is None:
            return None
        text = from_lark(self._known.tail)
        return Tail(_at_its_beginning(tokenizer(self.vocabulary), text), _plain(self.vocabulary), self._known.reach)


def _at_its_beginning(words: llguidance.LLTokenizer, grammar: str) -> llguidance.LLMatcher:
    return llguidance.LLMatcher(words, grammar, log_level=0, limits=probe.LIMITS)


@functools.lru_cache(maxsize=4)
def _opens(vocabulary: Vocabulary) -> int:
    """The most objects and arrays that one token may open."""
    return max(piece.count(b"{") + piece.count(b"[") for piece in vocabulary.pieces)


class Matcher:
    """Where one answer stands in its grammar."""

    def __init__(self, compiled: Compiled):
        self._compiled = compiled
        self._vocabulary = compiled.vocabulary
        self._first = compiled.beginning.first
        self._token = self._first.deep_copy()
        self._state = State(self._token, lambda: compiled.in_symbols, compiled.symbols)
        self._ended = False
        self._watch: ahead.Watch | searching.Watch = compiled.watch(self._state)

    @property
    def may_end(self) -> bool:
        return self._ended or bool(self._token.is_accepting())

    @property
    def must_end(self) -> bool:
        """Nothing but the end can come."""
        return self._ended or bool(self._token.is_stopped())

    def fill_mask(self, row: Row, left: int | None = None) -> None:
        """row: int32 [ceil(vocab/32)], contiguous. left: tokens that may still come, this one included."""
        if self._ended:
            row[:] = self._vocabulary.mask(list(self._vocabulary.eos_ids))
            return
        self._fill(row, left)
        if not row.any():  # a lexer at its limit knows no ending that could follow anything
            self._begin_anew()
            self._state.begin_anew()
            self._watch.back()
            self._fill(row, left)

    def _fill(self, row: Row, left: int | None) -> None:
        self._asked(lambda token: token.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes))
        if self._compiled.producible is not None:
            row &= self._compiled.producible
        if left is not None and self._watch.is_near(left) and not self._token.is_stopped() and self._is_near(left):
            ends = self._vocabulary.eos_ids if self._token.is_accepting() else ()
            self._watch.narrow(row, left, ends)

    def _is_near(self, left: int) -> bool:
        return self._watch.is_near(left) and self._watching().is_near(left)

    def _watching(self) -> ahead.Watch | searching.Watch:
        if self._watch.is_lost:
            self._watch = self._compiled.search(self._state)
        return self._watch

    def accept(self, tokens: list[int]) -> int:
        """How many were taken, in order, up to the first that is not allowed. An end of text counts as one."""
        taken = 0
        for token in tokens:
            if self._ended or not 0 <= token < self._vocabulary.size:
                break
            if token in self._vocabulary.eos_ids:
                if not self._token.is_accepting():
                    break
                self._ended = True
            elif not self._take(token):
                break
            self._state.taken.append(token)
            taken += 1
        return taken

    def _take(self, token: int) -> bool:
        producible = self._compiled.producible
        if producible is not None and not (int(producible[token >> 5]) >> (token & 31)) & 1:
            return False

        def took(matcher: llguidance.LLMatcher) -> bool:
            if matcher.try_consume_tokens([token]):
                return True
            matcher.compute_bitmask()  # tells whether it is refused, or a lexer at its limit
            return False

        taken: bool = self._asked(took)
        if taken:
            self._watch.moved(token)
        return taken

    def _asked(self, question: Callable[[llguidance.LLMatcher], Any]) -> Any:
        """With another lexer where one is at its limit. Raises GrammarFailed."""
        for _ in range(TRIES - 1):
            found = question(self._token)
            if not self._token.is_error():
                return found
            self._begin_anew()
        found = question(self._token)
        self._check()
        return found

    def _begin_anew(self) -> None:
        """Raises GrammarFailed."""
        for between in BETWEEN:
            self._first = self._compiled.beginning.instead_of(self._first)
            self._token = self._state.token = self._first.deep_copy()
            if takes(self._token, self._state.taken, between):
                return
        self._token.compute_bitmask()
        raise GrammarFailed(probe.first_line(self._token.get_error()) or "the grammar is too much to be followed")

    def rollback(self, count: int) -> None:
        """Take back the last `count` tokens."""
        if count <= 0:
            return
        if count > len(self._state.taken):
            raise ValueError(f"rollback of {count} tokens; {len(self._state.taken)} were taken")
        ended = self._ended
        self._ended = False
        if self._token.rollback(count - ended) is False and count > ended:
            self._check()
        self._state.back(count)
        self._watch.back()

    def forced(self, left: int | None = None) -> list[int]:
        """The canonical tokens that must come next, whatever is sampled. left: tokens that may still come; where these
        are few, only those that an ending begins with which is known to fit."""
        found = self._canonical()
        if not found or left is None or not self._is_near(left - len(found)):
            return found
        return self._watch.in_time(found, left)

    def _canonical(self) -> list[int]:
        if self._ended or self._token.is_stopped():
            return []
        if self._compiled.looks_ahead:
            text: bytes = self._asked(lambda token: token.compute_ff_bytes())
            if not text:
                return []
            found: list[int] = self._asked(lambda token: token.compute_ff_tokens())
            found = list(itertools.takewhile(lambda t: self._vocabulary.pieces[t], found))
            return found if text.startswith(self._vocabulary.spell(found)) else []
        return self._only_way()

    def _only_way(self) -> list[int]:
        """The same, found by walking as long as there is one way on."""
        way, ends = self._watching().only_way(self._walked)
        symbols = self._compiled.symbols
        before = self._state.taken[symbols.behind(self._state.taken) :] if way else []
        return symbols.canonical(before, way, ends=ends)

    def _walked(self) -> tuple[Way, bool]:
        """What must come, and whether the answer must end behind it."""
        self._state.follow()
        for _ in range(TRIES):
            if (found := self._walk()) is not None:
                return found
            self._state.begin_anew()
        return (), False

    def _walk(self) -> tuple[Way, bool] | None:
        """None where the lexer is at its limit."""
        state = self._state.byte.deep_copy()
        way: list[int] = []
        while len(way) < AHEAD and not state.is_accepting():
            mask = int.from_bytes(state.compute_bitmask(), "little")
            if state.is_error():
                return None
            if mask & (mask - 1) or not mask or not state.consume_token(mask.bit_length() - 1):
                break
            way.append(mask.bit_length() - 1)
        return tuple(way), bool(state.is_stopped())

    def _check(self) -> None:
        if self._token.is_error():
            raise GrammarFailed(probe.first_line(self._token.get_error()))
