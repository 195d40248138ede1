"""How a text that has begun is brought to an end that its grammar allows, soon."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import llguidance

from .nfa import Hint

SEARCHED = 1_500  # states looked at for one ending
GREEDY = 10_000  # the same, where any ending will do
LONGEST = 8_192  # bytes of an ending
WIDTH = 3  # states of equal next bytes kept among ways of equal length
MANY = 64  # bytes; where more may come, text is free
EXAMPLES = 24  # short objects and arrays that are tried where one may stand
PATIENCE = 1_000  # characters of a string that expressions are tried on
_BLANK = frozenset(b" \t\r\n")
_DIGITS = frozenset(b"0123456789")
_QUOTE = 0x22

_Layers = dict[int, dict[bytes, None]]  # length -> ways of that length


@dataclass(frozen=True)
class Hints:
    """What is known of the texts inside a grammar. strings: what JSON strings must match; values: short objects and
    arrays; whole: what all the text must match."""

    strings: tuple[Hint, ...] = ()
    values: tuple[bytes, ...] = ()
    whole: Hint | None = None

    def here(self, text: bytes) -> list[bytes]:
        """What may complete the string that `text` is in, or all of it."""
        if self.whole is not None:
            return _encoded([self.whole.complete(text.decode(errors="ignore"))], "")
        begun = _open_string(text) if self.strings else None
        return [] if begun is None else _encoded([h.complete(begun) for h in self.strings], '"')

    def bind(self, text: bytes) -> bool:
        """Whether one of the expressions may still match the string that `text` is in."""
        begun = _open_string(text)
        return begun is None or len(begun) > PATIENCE or any(h.nfa.after(begun) for h in self.strings)

    @cached_property
    def examples(self) -> list[bytes]:
        """Of whole strings, after their first quote."""
        return _encoded([h.complete("") for h in self.strings], '"')


def _encoded(texts: list[str | None], end: str) -> list[bytes]:
    return [((json.dumps(t, ensure_ascii=False)[1:-1] if end else t) + end).encode() for t in texts if t is not None]


def _open_string(text: bytes) -> str | None:
    """The value so far of the JSON string that a text ends in; None if it is in none, or inside a character."""
    begin = None
    for found in re.finditer(rb'\\.|"', text, re.DOTALL):
        if found[0] == b'"':
            begin = found.end() if begin is None else None
    if begin is None:
        return None
    try:
        return str(json.loads(b'"' + text[begin:] + b'"'))
    except ValueError:
        return None


def find(matcher: llguidance.LLMatcher, hints: Hints, text: bytes, limit: int) -> tuple[bytes | None, int]:
    """A short way to an end: the shortest first, states of equal next bytes taken for equal beyond a few.

    matcher: over bytes, after `text`; it is not changed. Returns (the way or None if it was not found within `limit`
    states, the states that were looked at). The same state gives the same way.
    """
    state = matcher.deep_copy()  # the only one: every way is walked from here and taken back
    layers: _Layers = {0: {b"": None}}
    _leap(layers, b"", state, hints.here(text))
    seen = 0
    while layers:
        depth = min(layers)
        kept: dict[bytes, int] = {}
        for way in layers.pop(depth):
            taken = state.try_consume_tokens(list(way))
            if taken == len(way):
                if state.is_accepting():
                    return way, seen
                mask = state.compute_bitmask()
                kept[mask] = kept.get(mask, 0) + 1
                if kept[mask] <= WIDTH:
                    _go_on(layers, way, state, mask, hints)
            seen += 1 + len(way) // 32
            if state.is_error() or seen > limit:
                return None, seen
            state.rollback(taken)
    return None, seen


def _go_on(layers: _Layers, way: bytes, state: llguidance.LLMatcher, mask: bytes, hints: Hints) -> None:
    if hints.values and _begins_value(mask):
        _leap(layers, way, state, hints.values[:EXAMPLES])
    for byte in _worth_trying(mask):
        further = _along(byte, state)
        if further:
            layers.setdefault(len(way) + len(further), {})[way + further] = None
            if byte == _QUOTE:
                _leap(layers, way, state, [b'"' + example for example in hints.examples])


def _along(byte: int, state: llguidance.LLMatcher) -> bytes:
    """A byte, and what has no alternative after it; b"" if it cannot come. The state stays where it is."""
    text = b""
    only = [byte]
    while len(only) == 1 and len(text) < LONGEST and state.consume_token(only[0]):
        text += bytes(only)
        if state.is_accepting() or only[0] == _QUOTE:
            break
        only = _worth_trying(state.compute_bitmask())
    if not state.is_error():
        state.rollback(len(text))
    return text


def _leap(layers: _Layers, way: bytes, state: llguidance.LLMatcher, texts: Sequence[bytes]) -> None:
    """Take whole texts in one step of the search, where they can stand."""
    for text in texts:
        if state.validate_tokens(list(text)) == len(text):
            layers.setdefault(len(way) + len(text), {})[way + text] = None


def find_any(matcher: llguidance.LLMatcher, hints: Hints, text: bytes) -> bytes | None:
    """Some way to an end, where the shortest is too far to be searched for: what closes first, then short values, then
    the next byte; back where that leads nowhere."""
    state = matcher.deep_copy()
    steps: list[bytes] = []  # of the way so far
    options = [hints.here(text) + _options(state, hints)]  # what is left to try, before each step and after the last
    for _ in range(GREEDY):
        if state.is_accepting():
            return b"".join(steps)
        if options[-1] and len(steps) < LONGEST:
            step = options[-1].pop(0)
            taken = state.try_consume_tokens(list(step))
            if taken == len(step):
                steps.append(step)
                options.append(_options(state, hints))
            else:
                state.rollback(taken)
        elif steps:
            options.pop()
            state.rollback(len(steps.pop()))
        if state.is_error() or (len(options) == 1 and not options[0]):
            break
    return None


def _options(state: llguidance.LLMatcher, hints: Hints) -> list[bytes]:
    mask = state.compute_bitmask()
    values = list(hints.values) if hints.values and _begins_value(mask) else []
    return values + [bytes([byte]) for byte in _worth_trying(mask)]


def _allows(mask: bytes, byte: int) -> bool:
    return bool(mask[byte >> 3] >> (byte & 7) & 1)


def _begins_value(mask: bytes) -> bool:
    """Whether an object or an array may come, and not as text: letters that begin no value may not."""
    return (_allows(mask, 0x7B) or _allows(mask, 0x5B)) and not _allows(mask, 0x71)


@functools.lru_cache(maxsize=4_096)
def _worth_trying(mask: bytes) -> list[int]:
    """The bytes to go on with, what closes first. White space and characters of many bytes only if nothing else;
    of text that is free some letters, and none where it may be closed; of a number no more than must be."""
    allowed = [b for b in range(256) if _allows(mask, b)]
    useful = [b for b in allowed if b < 0x80 and b not in _BLANK] or [b for b in allowed if b < 0x80] or allowed
    if len(useful) > MANY:
        return [_QUOTE] if _QUOTE in useful else [b for b in useful if b in b"0a-"] or useful[:3]
    digits = [b for b in useful if b in _DIGITS]
    if digits and any(b in b",]}" for b in useful):
        useful = [b for b in useful if b not in b"0123456789.eE+-"]
    elif digits:
        useful = [b for b in useful if b not in _DIGITS or b in digits[:2]]
        useful = [b for b in useful if b not in b"tfn"] if any(b in b'"[{' for b in useful) else useful
    return sorted(useful, key=lambda b: (b not in b'"}]', b))
