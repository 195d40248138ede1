"""JSON Schema, Lark, GBNF and structural tags, by llguidance: an Earley parser over a lexer of derivatives."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import llguidance

from . import gbnf, lark, lower, outlines_, outlook, probe, regexes, tags, witness
from .endings import BACK, UNFINISHED, Endings, Known, Plain, State, Tail, shortest
from .errors import GrammarFailed, GrammarRefused
from .lower import Bounds, Lowered, cheapest
from .nfa import hint, in_bytes
from .schema import Schema
from .search import Hints
from .spec import GrammarSpec, Limits
from .symbols import Symbols, Way
from .vocabulary import Vocabulary
from .whitespace import checked

if TYPE_CHECKING:
    import torch

NEAR = 256  # tokens before its end from which a grammar without Bounds is watched
AHEAD = 256  # bytes looked ahead for forced tokens
JUMP = 64  # tokens by which one token is taken to put off the ending of such a grammar at most


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
    """Raises GrammarRefused. Holds the GIL only for reading the schema; llguidance's part runs without."""
    if len(spec.text.encode(errors="replace")) > limits.text_bytes:
        raise GrammarRefused(f"grammar of {len(spec.text)} characters; at most {limits.text_bytes} bytes")
    if spec.kind not in _READERS:
        raise GrammarRefused(f"llguidance does not serve {spec.kind}")
    return Compiled(_READERS[spec.kind](spec, limits, vocabulary), spec, vocabulary)


class _Read(NamedTuple):
    """looks_ahead: what it forces has an end. ours: it is sure to name no control tokens."""

    grammar: str
    known: Known
    bounds: Bounds | None = None
    example: bytes | Way = b""  # what may be an answer
    looks_ahead: bool = False
    ours: bool = False
    text: str = ""  # in Lark


def _schema(spec: GrammarSpec, limits: Limits, vocabulary: Vocabulary) -> _Read:
    lowered = Lowered(Schema('{"type": "object"}' if spec.kind == "json_object" else spec.text, limits))
    strings = tuple(h for p in lowered.patterns if (h := hint(p, cheapest)) is not None)
    hints = Hints(strings, tuple(lowered.examples()))
    known = Known(hints, lowered.names, told=len(strings) == len(lowered.patterns))
    grammar = probe.grammar_of(lowered.schema, checked(spec.whitespace))
    return _Read(grammar, known, lowered.bounds, lowered.example(), looks_ahead=True, ours=True)


def _lark(spec: GrammarSpec, limits: Limits, vocabulary: Vocabulary) -> _Read:
    documents: dict[str, Lowered] = {}
    text = lark.checked(spec.text, spec.controls, checked(spec.whitespace), limits, documents, spec.ours)
    example = witness.of_lark(text, documents, Symbols(vocabulary, spec.controls))
    return _Read(_from_lark(text), *outlook.of_lark(text, documents, vocabulary), example, text=text)


def _gbnf(spec: GrammarSpec, limits: Limits, vocabulary: Vocabulary) -> _Read:
    text, rules, whole = gbnf.to_lark(spec.text)
    if whole is not None:
        return _expression(whole, text)
    return _Read(_from_lark(text), *outlook.of_rules(rules, "root", vocabulary), text=text)


def _regex(spec: GrammarSpec, limits: Limits, vocabulary: Vocabulary) -> _Read:
    """What is too large for an index: the lexer makes states only as they are needed."""
    regex = outlines_.read(spec, limits)
    return _expression(regex, f"start: /{regexes.write(regex)}/")


def _expression(regex: regexes.Regex, text: str) -> _Read:
    hints = Hints(whole=hint(regex, in_bytes))
    far = regexes.worst(regex, lambda ranges: in_bytes(ranges)[0])
    known = hints.whole is not None and far < lower.NEVER
    bounds = Bounds(int(far) + UNFINISHED, 0, 0) if known else None
    return _Read(_from_lark(text), Known(hints), bounds, looks_ahead=known, ours=known, text=text)


def _tags(spec: GrammarSpec, limits: Limits, vocabulary: Vocabulary) -> _Read:
    documents: dict[str, Lowered] = {}
    text = tags.to_lark(spec.text, checked(spec.whitespace), limits, documents)
    return _Read(_from_lark(text), *outlook.of_lark(text, documents, vocabulary), text=text)


def _from_lark(text: str) -> str:
    """Without looking ahead: the text that a grammar forces may have no end."""
    grammar: str = llguidance.LLMatcher.grammar_from_lark('%llguidance {"no_forcing": true}\n' + text)
    return grammar


_READERS: dict[str, Callable[[GrammarSpec, Limits, Vocabulary], _Read]] = {
    "json_schema": _schema,
    "json_object": _schema,
    "lark": _lark,
    "gbnf": _gbnf,
    "ebnf": _gbnf,
    "structural_tag": _tags,
    "regex": _regex,
    "choice": _regex,
}


class _Place(NamedTuple):
    """Where in JSON one stands, as far as that can be told: the objects and arrays that are open if one is outside of a
    string, inside of one, or behind a backslash in one; -1: one is not. opened: `Bounds.openers` so far; tail: the last
    bytes, in which the next may have begun."""

    outside: int = 0
    inside: int = -1
    escaped: int = -1
    opened: int = 0
    tail: bytes = b""

    @property
    def depth(self) -> int:
        return max(self.outside, self.inside, self.escaped)

    def after(self, text: bytes, *, anew: bool) -> _Place:
        """anew: JSON may begin anywhere in the text."""
        outside, inside, escaped = self.outside, self.inside, self.escaped
        least = 0 if anew else -1
        for byte in text:
            if byte == 0x22:
                outside, inside, escaped = max(inside, least), max(outside, escaped), -1
            elif byte == 0x5C:
                inside, escaped = escaped, inside
            else:
                inside, escaped = max(inside, escaped), -1
                if outside >= 0 and byte in b"{[":
                    outside += 1
                elif outside >= 0 and byte in b"}]":
                    outside = max(outside - 1, 0)
        return self._replace(outside=outside, inside=inside, escaped=escaped)

    def counted(self, token: int, text: bytes, openers: tuple[bytes | int, ...]) -> _Place:
        """With the openers in a token."""
        if not openers:
            return self
        both, opened, longest = self.tail + text, self.opened, 1
        for opener in openers:
            if isinstance(opener, int):
                opened += opener == token
            else:
                opened += _count(both, opener) - _count(self.tail, opener)
                longest = max(longest, len(opener))
        return self._replace(opened=opened, tail=both[-(longest - 1) :] if longest > 1 else b"")


def _count(text: bytes, opener: bytes) -> int:
    """How often an opener ends in a text, overlapping ones too."""
    return sum(text.startswith(opener, at) for at in range(len(text) - len(opener) + 1))


@functools.lru_cache(maxsize=64)
def _most_openers(vocabulary: Vocabulary, openers: tuple[bytes | int, ...]) -> int:
    """That one token may hold, or end."""
    texts = [opener for opener in openers if isinstance(opener, bytes)]
    return max(1, *(sum(piece.count(opener) for opener in texts) for piece in vocabulary.pieces)) + len(texts)


class Compiled:
    """A grammar that fits a vocabulary. `shortest`: tokens of a shortest answer, None if none was found."""

    def __init__(self, read: _Read, spec: GrammarSpec, vocabulary: Vocabulary):
        self.vocabulary, self.known, self.bounds = vocabulary, read.known, read.bounds
        self.producible = None if read.ours else vocabulary.producible | vocabulary.mask(spec.controls)
        self.symbols = Symbols(vocabulary, spec.controls)
        self._token = llguidance.LLMatcher(tokenizer(vocabulary), read.grammar, log_level=0, limits=probe.LIMITS)
        grammar = _from_lark(lark.renumbered(read.text, self.symbols.number)) if spec.controls else read.grammar
        self._byte = llguidance.LLMatcher(self.symbols.tokenizer, grammar, log_level=0, limits=probe.LIMITS)
        self._token.compute_bitmask()  # what is too large shows at the first mask
        if self._token.is_error():
            raise GrammarRefused(probe.first_line(self._token.get_error()))
        self.looks_ahead = read.looks_ahead
        self.jump = _most_openers(vocabulary, read.bounds.openers) if read.bounds and read.bounds.openers else 0
        self.tail: Tail | None = None
        if read.known.tail is not None:
            begin = llguidance.LLMatcher(
                tokenizer(vocabulary), _from_lark(read.known.tail), log_level=0, limits=probe.LIMITS
            )
            self.tail = Tail(begin, _plain(vocabulary), read.known.reach)
        found = shortest(self._byte, read.known.hints, read.example, self.symbols)
        if found is None:
            raise GrammarRefused(self._why_not(read.example))
        self.shortest = len(found)

    def _why_not(self, example: bytes | Way) -> str:
        trial = self._byte.deep_copy()
        trial.try_consume_tokens(list(example))
        error = probe.first_line(trial.get_error())
        return error or "no answer that ends was found; see docs/grammar.md on longest matches"

    def matcher(self) -> Matcher:
        """A new one, at the beginning."""
        return Matcher(self, self._token.deep_copy(), self._byte.deep_copy())


class Matcher:
    """Where one answer stands in its grammar."""

    def __init__(self, compiled: Compiled, token: llguidance.LLMatcher, byte: llguidance.LLMatcher):
        self._compiled = compiled
        self._vocabulary = compiled.vocabulary
        self._token = token
        self._state = State(token, byte, compiled.symbols)
        self._ended = False
        self._nests = compiled.bounds is not None and compiled.bounds.flat is None
        self._places = [_Place()]  # after each token; kept only where Bounds need it
        back = BACK if compiled.bounds is not None else 0
        self._endings = Endings(_plain(self._vocabulary), self._state, compiled.known, compiled.tail, back)

    @property
    def may_end(self) -> bool:
        return self._ended or bool(self._token.is_accepting())

    @property
    def must_end(self) -> bool:
        """Nothing but the end can come."""
        return self._ended or bool(self._token.is_stopped())

    def fill_mask(self, row: torch.Tensor, left: int | None = None) -> None:
        """row: int32 [ceil(vocab/32)], contiguous. left: tokens that may still come, this one included."""
        if self._ended:
            row.copy_(self._vocabulary.mask(list(self._vocabulary.eos_ids)))
            return
        self._token.unsafe_compute_mask_ptr(row.data_ptr(), row.numel() * row.element_size())
        self._check()
        if self._compiled.producible is not None:
            row &= self._compiled.producible
        if left is not None and not self._token.is_stopped() and self._is_near(left):
            self._state.follow()
            self._endings.narrow(row, left)

    def accept(self, tokens: list[int]) -> int:
        """How many were taken, in order, up to the first that is not allowed. An end of text counts as one."""
        taken = 0
        eos = set(self._vocabulary.eos_ids)
        for token in tokens:
            if self._ended or not 0 <= token < self._vocabulary.size:
                break
            if token in eos:
                if not self._token.is_accepting():
                    break
                self._ended = True
            elif not self._take(token):
                break
            self._state.taken.append(token)
            if self._nests:
                self._places.append(self._moved(token))
            taken += 1
        return taken

    def _moved(self, token: int) -> _Place:
        """The place behind a token."""
        bounds, text, place = self._compiled.bounds, self._vocabulary.pieces[token], self._places[-1]
        if bounds is None:
            return place
        if bounds.frame:
            place = place.after(text, anew=not self._compiled.looks_ahead)
        return place.counted(token, text, bounds.openers)

    def _take(self, token: int) -> bool:
        producible = self._compiled.producible
        if producible is not None and not (int(producible[token >> 5]) >> (token & 31)) & 1:
            return False
        taken = self._token.try_consume_tokens([token]) == 1
        self._check()
        if taken:
            self._endings.moved(token)
        return taken

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
        if self._nests:
            del self._places[-count:]
        self._endings.forget()

    def forced(self, left: int | None = None) -> list[int]:
        """The canonical tokens that must come next, whatever is sampled. left: tokens that may still come; where these
        are few, only those that an ending begins with which is known to fit."""
        found = self._canonical()
        if not found or left is None or not self._is_near(left - len(found)):
            return found
        self._state.follow()
        ending = self._endings.ending(left) or []
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(found, ending, strict=False))
        return [token for token, _ in same] if len(ending) <= left else []

    def _canonical(self) -> list[int]:
        if self._ended or self._token.is_stopped():
            return []
        if self._compiled.looks_ahead:
            text = self._token.compute_ff_bytes()
            found: list[int] = self._token.compute_ff_tokens() if text else []
            found = list(itertools.takewhile(lambda t: self._vocabulary.pieces[t], found))
            return found if text.startswith(self._vocabulary.spell(found)) else []
        return self._only_way()

    def _only_way(self) -> list[int]:
        """The same, found by walking as long as there is one way on."""
        self._state.follow()
        state, symbols = self._state.byte.deep_copy(), self._compiled.symbols
        way: list[int] = []
        while len(way) < AHEAD and not state.is_accepting():
            mask = int.from_bytes(state.compute_bitmask(), "little")
            if mask & (mask - 1) or not mask or not state.consume_token(mask.bit_length() - 1):
                break
            way.append(mask.bit_length() - 1)
        before = self._state.taken[symbols.behind(self._state.taken) :]
        return symbols.canonical(before, way, ends=bool(state.is_stopped()))

    def _is_near(self, left: int) -> bool:
        bounds = self._compiled.bounds
        if bounds is None:
            return left <= NEAR and self._compiled.shortest is not None and self._is_close(left)
        if bounds.flat is not None:
            return left - 1 < bounds.flat
        place = self._places[-1]
        depth = _plain(self._vocabulary).opens + place.depth + 1
        return left - 1 < depth * bounds.frame + bounds.leaf + (place.opened + self._compiled.jump) * bounds.nest

    def _is_close(self, left: int) -> bool:
        self._state.follow()
        ending = self._endings.ending(left)
        return ending is not None and left - 1 < len(ending) + JUMP

    def _check(self) -> None:
        if self._token.is_error():
            raise GrammarFailed(probe.first_line(self._token.get_error()))
