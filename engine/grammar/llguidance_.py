"""JSON Schema, Lark, GBNF and structural tags, by llguidance: an Earley parser over a lexer of derivatives."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import llguidance

from . import gbnf, lark, lower, outlines_, probe, regexes, tags
from .endings import BACK, Endings, Known, Plain, State, shortest
from .errors import GrammarFailed, GrammarRefused
from .lower import Bounds, Lowered, cheapest
from .nfa import hint, in_bytes
from .schema import Schema
from .search import Hints
from .spec import GrammarSpec, Limits
from .vocabulary import Vocabulary, canonical
from .whitespace import checked

if TYPE_CHECKING:
    import torch

NEAR = 256  # tokens before its end from which a grammar without Bounds is watched
AHEAD = 256  # bytes looked ahead for forced tokens
UNFINISHED = 4  # bytes of a character
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
    return Compiled(_READERS[spec.kind](spec, limits), spec, vocabulary)


class _Read(NamedTuple):
    grammar: str
    known: Known
    bounds: Bounds | None = None
    example: bytes = b""


def _schema(spec: GrammarSpec, limits: Limits) -> _Read:
    lowered = Lowered(Schema('{"type": "object"}' if spec.kind == "json_object" else spec.text, limits))
    strings = tuple(h for p in lowered.patterns if (h := hint(p, cheapest)) is not None)
    hints = Hints(strings, tuple(lowered.examples()))
    known = Known(hints, lowered.names, told=len(strings) == len(lowered.patterns))
    return _Read(probe.grammar_of(lowered.schema, checked(spec.whitespace)), known, lowered.bounds, lowered.example())


def _lark(spec: GrammarSpec, limits: Limits) -> _Read:
    return _Read(_from_lark(lark.checked(spec.text, spec.controls, checked(spec.whitespace), limits)), Known(Hints()))


def _gbnf(spec: GrammarSpec, limits: Limits) -> _Read:
    text, whole = gbnf.to_lark(spec.text)
    return _Read(_from_lark(text), Known(Hints())) if whole is None else _expression(whole, text)


def _regex(spec: GrammarSpec, limits: Limits) -> _Read:
    """What is too large for an index: the lexer makes states only as they are needed."""
    regex = outlines_.read(spec, limits)
    return _expression(regex, f"start: /{regexes.write(regex)}/")


def _expression(regex: regexes.Regex, text: str) -> _Read:
    hints = Hints(whole=hint(regex, in_bytes))
    far = regexes.worst(regex, lambda ranges: in_bytes(ranges)[0])
    known = hints.whole is not None and far < lower.NEVER
    return _Read(_from_lark(text), Known(hints), Bounds(int(far) + UNFINISHED, 0, 0) if known else None)


def _tags(spec: GrammarSpec, limits: Limits) -> _Read:
    return _Read(_from_lark(tags.to_lark(spec.text, checked(spec.whitespace), limits)), Known(Hints()))


def _from_lark(text: str) -> str:
    """Without looking ahead: the text that a grammar forces may have no end."""
    grammar: str = llguidance.LLMatcher.grammar_from_lark('%llguidance {"no_forcing": true}\n' + text)
    return grammar


_READERS: dict[str, Callable[[GrammarSpec, Limits], _Read]] = {
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
    """Where in JSON text one stands."""

    depth: int  # objects and arrays open
    inside: bool  # a string
    escaped: bool  # after a backslash

    def after(self, text: bytes) -> _Place:
        depth, inside, escaped = self
        for byte in text:
            if inside:
                inside = escaped or byte != 0x22
                escaped = not escaped and byte == 0x5C
            elif byte == 0x22:
                inside = True
            elif byte in b"{[":
                depth += 1
            elif byte in b"}]":
                depth -= 1
        return _Place(depth, inside, escaped)


class Compiled:
    """A grammar that fits a vocabulary. `shortest`: tokens of a shortest answer, None if none was found."""

    def __init__(self, read: _Read, spec: GrammarSpec, vocabulary: Vocabulary):
        self.vocabulary, self.known, self.bounds = vocabulary, read.known, read.bounds
        self.producible = None
        if read.bounds is None:  # only text of ours is sure to name no control tokens
            self.producible = vocabulary.producible | vocabulary.mask(spec.controls)
        self._token = llguidance.LLMatcher(tokenizer(vocabulary), read.grammar, log_level=0, limits=probe.LIMITS)
        self._byte = llguidance.LLMatcher(probe.byte_tokenizer(), read.grammar, log_level=0, limits=probe.LIMITS)
        self._token.compute_bitmask()  # what is too large shows at the first mask
        if self._token.is_error():
            raise GrammarRefused(probe.first_line(self._token.get_error()))
        self.controls = spec.controls
        self.looks_ahead = read.bounds is not None or bool(spec.controls)
        self.shortest: int | None = None
        if not spec.controls:  # a grammar that names control tokens has no form over bytes
            found = shortest(self._byte, read.known.hints, read.example, vocabulary)
            if found is None:
                raise GrammarRefused(self._why_not(read.example))
            self.shortest = len(found)

    def _why_not(self, example: bytes) -> str:
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
        self._state = State(token, byte, compiled.vocabulary)
        self._ended = False
        self._nests = compiled.bounds is not None and compiled.bounds.flat is None
        self._places = [_Place(0, False, False)]  # after each token; kept only where Bounds need it
        back = BACK if compiled.bounds is not None else 0
        self._endings = Endings(_plain(self._vocabulary), self._state, compiled.known, back)

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
                self._places.append(self._places[-1].after(self._vocabulary.pieces[token]))
            taken += 1
        return taken

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

    def forced(self) -> list[int]:
        """The canonical tokens that must come next, whatever is sampled."""
        if self._ended or self._token.is_stopped():
            return []
        if self._compiled.looks_ahead:
            # Asked for bytes where a control token must come, llguidance would end in an error.
            text = None if self._compiled.controls else self._token.compute_ff_bytes()
            found: list[int] = self._token.compute_ff_tokens() if text != b"" else []
            found = list(itertools.takewhile(lambda t: self._vocabulary.pieces[t], found))
            return found if text is None or text.startswith(self._vocabulary.spell(found)) else []
        text, ends = self._only_way()
        return canonical(self._vocabulary, self._state.taken, text, ends) if text else []

    def _only_way(self) -> tuple[bytes, bool]:
        """The bytes that must come next, as far as is looked, and whether the answer ends there."""
        self._state.follow()
        state = self._state.byte.deep_copy()
        text = b""
        while len(text) < AHEAD and not state.is_accepting():
            mask = int.from_bytes(state.compute_bitmask(), "little")
            if mask & (mask - 1) or not mask or not state.consume_token(mask.bit_length() - 1):
                break
            text += bytes([mask.bit_length() - 1])
        return text, bool(state.is_stopped())

    def _is_near(self, left: int) -> bool:
        bounds = self._compiled.bounds
        if bounds is None:
            return left <= NEAR and self._compiled.shortest is not None and self._is_close(left)
        if bounds.flat is not None:
            return left - 1 < bounds.flat
        opened = _plain(self._vocabulary).opens + self._places[-1].depth
        return left - 1 < (opened + 1) * bounds.frame + bounds.leaf

    def _is_close(self, left: int) -> bool:
        self._state.follow()
        ending = self._endings.ending(left)
        return ending is not None and left - 1 < len(ending) + JUMP

    def _check(self) -> None:
        if self._token.is_error():
            raise GrammarFailed(probe.first_line(self._token.get_error()))
