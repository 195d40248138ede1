"""How a text that has begun is brought to an end that its grammar allows, soon."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import llguidance

from . import probe
from .nfa import Hint
from .symbols import Way

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

_Layers = dict[int, dict[Way, None]]  # length -> ways of that length


@dataclass(frozen=True)
class Hints:
    """What is known of the texts inside a grammar. strings: what JSON strings must match; values: short objects and
    arrays; closers: what ends free text or follows what may repeat; whole: what all the text must match."""

    strings: tuple[Hint, ...] = ()
    values: tuple[bytes, ...] = ()
    closers: tuple[bytes, ...] = ()
    whole: Hint | None = None

    def here(self, text: bytes) -> list[bytes]:
        """What may complete the string or the closer that `text` is in, or all of it."""
        if self.whole is not None:
            return _encoded([self.whole.complete(text.decode(errors="ignore"))], "")
        begun = _open_string(text) if self.strings else None
        found = [] if begun is None else _encoded([h.complete(begun) for h in self.strings], '"')
        return [closer[n:] for closer in self.closers if (n := _overlap(text, closer))] + found

    def bind(self, text: bytes) -> bool:
        """Whether one of the expressions may still match the string that `text` is in."""
        begun = _open_string(text)
        return begun is None or len(begun) > PATIENCE or any(h.nfa.after(begun) for h in self.strings)

    @cached_property
    def examples(self) -> list[bytes]:
        """Of whole strings, after their first quote."""
        return _encoded([h.complete("") for h in self.strings], '"')

    @cached_property
    def blank(self) -> list[bytes]:
        """Closers that begin with white space, which is tried nowhere else."""
        return [closer for closer in self.closers if closer[0] in _BLANK]


class Spent(Exception):
    """The lexer of a matcher is at its limit (beginning.py)."""


def _overlap(text: bytes, closer: bytes) -> int:
    """Bytes of a closer that a text ends in."""
    return next((n for n in range(min(len(text), len(closer) - 1), 0, -1) if text.endswith(closer[:n])), 0)


def _encoded(texts: list[str | None], end: str) -> list[bytes]:
    return [((json.dumps(t, ensure_ascii=False)[1:-1] if end else t) + end).encode() for t in texts if t is not None]


def _open_string(text: bytes) -> str | None:
    """The value so far of the JSON string that a text ends in, if it is in one: what stands behind the last bare quote.
    None if there is none, or it ends inside a character."""
    begin = len(text)
    while (begin := text.rfind(b'"', 0, begin)) >= 0:
        before = text[:begin]
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
            break
    try:
        return None if begin < 0 else str(json.loads(text[begin:] + b'"'))
    except ValueError:
        return None


def find(matcher: llguidance.LLMatcher, hints: Hints, text: bytes, limit: int) -> tuple[Way | None, int]:
    """A short way to an end: the shortest first, states of equal next bytes taken for equal beyond a few.

    matcher: over symbols; it is not changed. text: what it took behind the last control token. Returns (the way or None
    if it was not found within `limit` states, the states that were looked at). The same state gives the same way.
    Raises Spent.
    """
    state = matcher.deep_copy()  # the only one: every way is walked from here and taken back
    layers: _Layers = {0: {(): None}}
    planned: Counter[tuple[int, bytes]] = Counter()  # ways of a length and of equal next bytes that are in `layers`
    _leap(layers, (), state, hints.here(text))
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
                    _go_on(layers, planned, way, state, mask, hints)
            seen += 1 + len(way) // 32
            _check(state)
            if seen > limit:
                return None, seen
            state.rollback(taken)
    return None, seen


def _go_on(
    layers: _Layers,
    planned: Counter[tuple[int, bytes]],
    way: Way,
    state: llguidance.LLMatcher,
    mask: bytes,
    hints: Hints,
) -> None:
    if hints.values and _begins_value(mask):
        _leap(layers, way, state, hints.values[:EXAMPLES])
    if hints.closers:
        _leap(layers, way, state, _closing(state, mask, hints))
    for symbol in _worth_trying(mask):
        further, behind = _along(symbol, state, hints)
        if further:
            kind = (len(way) + len(further), behind)
            planned[kind] += 1
            if planned[kind] <= WIDTH:
                layers.setdefault(kind[0], {})[way + further] = None
            if symbol == _QUOTE:
                _leap(layers, way, state, [b'"' + example for example in hints.examples])


def _along(symbol: int, state: llguidance.LLMatcher, hints: Hints) -> tuple[Way, bytes]:
    """A symbol, and what has no alternative after it, () if it cannot come; and the mask behind that. The state stays
    where it is."""
    way: list[int] = []
    only = [symbol]
    mask = b""
    while len(only) == 1 and len(way) < LONGEST and state.consume_token(only[0]):
        way += only
        mask = state.compute_bitmask()
        if state.is_accepting() or only[0] == _QUOTE:
            break
        if hints.blank and _may_be_blank(mask) and any(_fits(state, closer) for closer in hints.blank):
            break
        only = _worth_trying(mask)
    if not state.is_error():
        state.rollback(len(way))
    return tuple(way), mask


def _leap(layers: _Layers, way: Way, state: llguidance.LLMatcher, texts: Sequence[bytes]) -> None:
    """Take whole texts in one step of the search, where they can stand."""
    for text in texts:
        if _fits(state, text):
            layers.setdefault(len(way) + len(text), {})[(*way, *text)] = None


def find_any(matcher: llguidance.LLMatcher, hints: Hints, text: bytes) -> Way | None:
    """Some way to an end, where the shortest is too far to be searched for: what closes first, then short values, then
    the next symbol; back where that leads nowhere. Raises Spent."""
    state = matcher.deep_copy()
    steps: list[Way] = []  # of the way so far
    options = [
        [*map(tuple, hints.here(text)), *_options(state, hints)]
    ]  # what is left to try, before each step and after the last
    for _ in range(GREEDY):
        if state.is_accepting():
            return tuple(symbol for step in steps for symbol in step)
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
        _check(state)
        if len(options) == 1 and not options[0]:
            break
    return None


def _check(state: llguidance.LLMatcher) -> None:
    if state.is_error():
        raise Spent


def _options(state: llguidance.LLMatcher, hints: Hints) -> list[Way]:
    mask = state.compute_bitmask()
    texts = [*_closing(state, mask, hints), *(hints.values if _begins_value(mask) else ())]
    return [*map(tuple, texts), *((symbol,) for symbol in _worth_trying(mask))]


def _allows(mask: bytes, byte: int) -> bool:
    return bool(mask[byte >> 3] >> (byte & 7) & 1)


def _begins_value(mask: bytes) -> bool:
    """Whether an object or an array may come, and not as text: letters that begin no value may not."""
    return (_allows(mask, 0x7B) or _allows(mask, 0x5B)) and not _allows(mask, 0x71)


def _fits(state: llguidance.LLMatcher, text: bytes) -> bool:
    return bool(state.validate_tokens(list(text)) == len(text))


def _may_be_blank(mask: bytes) -> bool:
    return bool(mask[1] & 0b100110 or mask[4] & 1)  # tab, line feed, carriage return, space


def _closing(state: llguidance.LLMatcher, mask: bytes, hints: Hints) -> list[bytes]:
    """The closers that change something here. In free text that a control token ends, none."""
    if not _is_free(mask):
        return hints.blank
    found = []
    for closer in hints.closers if mask[32] < 2 and not any(mask[33:]) else ():
        taken = state.try_consume_tokens(list(closer))
        if taken == len(closer) and state.compute_bitmask() != mask:
            found.append(closer)
        state.rollback(taken)
    return found


def _is_free(mask: bytes) -> bool:
    """Whether many bytes may come."""
    return int.from_bytes(mask[:32], "little").bit_count() > MANY


@functools.lru_cache(maxsize=4_096)
def _worth_trying(mask: bytes) -> list[int]:
    """The symbols to go on with, what closes first. White space and characters of many bytes only if nothing else;
    of text that is free some letters, and none where it may be closed; of a number no more than must be."""
    controls = [c for c in range(probe.EOS + 1, 8 * len(mask)) if _allows(mask, c)]
    allowed = [b for b in range(256) if _allows(mask, b)]
    useful = [b for b in allowed if b < 0x80 and b not in _BLANK]
    useful = useful or ([] if controls else [b for b in allowed if b < 0x80] or allowed)
    if len(useful) > MANY:
        closing = controls or [b for b in useful if b == _QUOTE]
        return closing or [b for b in useful if b in b"0a-"] or useful[:3]
    digits = [b for b in useful if b in _DIGITS]
    if digits and any(b in b",]}" for b in useful):
        useful = [b for b in useful if b not in b"0123456789.eE+-"]
    elif digits:
        useful = [b for b in useful if b not in _DIGITS or b in digits[:2]]
        useful = [b for b in useful if b not in b"tfn"] if any(b in b'"[{' for b in useful) else useful
    return controls + sorted(useful, key=lambda b: (b not in b'"}]', b))
