"""Regular expressions and choices, by outlines-core: an index of which tokens each state of an automaton goes on with.

The automaton is finite, so how far its end is, in tokens, is known exactly from every state.
"""

from __future__ import annotations

import bisect
import functools
import json
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from outlines_core import Index
from outlines_core import Vocabulary as Pieces

from . import nfa, regexes
from .errors import BeyondEngine, GrammarRefused
from .spec import GrammarSpec, Limits
from .vocabulary import Row, Vocabulary, canonical

if TYPE_CHECKING:
    from collections.abc import Sequence

FAR = np.iinfo(np.int64).max // 2
_STEPS = 400_000  # of counting the states; about 0.1 s
_FORCED = 256  # bytes looked ahead


@functools.lru_cache(maxsize=4)
def _pieces(vocabulary: Vocabulary) -> Pieces:
    found: dict[str | bytes, list[int]] = {}
    for token, piece in enumerate(vocabulary.pieces):
        if piece:
            found.setdefault(piece, []).append(token)
    found[regexes.END.encode()] = [vocabulary.size]
    return Pieces(vocabulary.eos_ids[0], found)


@functools.lru_cache(maxsize=4)
def _first_bytes(vocabulary: Vocabulary) -> NDArray[np.int16]:
    return np.array([piece[0] if piece else -1 for piece in vocabulary.pieces], dtype=np.int16)


@functools.lru_cache(maxsize=4)
def _beginnings(vocabulary: Vocabulary) -> list[int]:
    """First characters of all tokens, sorted."""
    return sorted(ord(text[0]) for piece in vocabulary.pieces if (text := piece.decode(errors="ignore")))


def warm(vocabulary: Vocabulary) -> None:
    """Make what is made once a vocabulary."""
    _pieces(vocabulary)
    _first_bytes(vocabulary)
    _beginnings(vocabulary)
    assert vocabulary.beginnings


def read(spec: GrammarSpec, limits: Limits) -> regexes.Regex:
    """The expression that the whole answer matches. Raises GrammarRefused."""
    if spec.kind == "regex":
        return regexes.parse(spec.text, whole=True, path="regex", repeat=limits.repeat)
    try:
        choices = json.loads(spec.text)
    except ValueError as error:
        raise GrammarRefused(f"choice is not JSON: {error}") from None
    if not isinstance(choices, list) or not choices or not all(isinstance(c, str) and c for c in choices):
        raise GrammarRefused("choice: expected a list of texts, none of them empty", path="choice")
    for i, choice in enumerate(choices):
        if not choice.isascii() and any("\ud800" <= c <= "\udfff" for c in choice):
            raise GrammarRefused("choice: half a surrogate pair", path=f"choice/{i}")
    return regexes.Either(tuple(regexes.literal(c) for c in dict.fromkeys(choices)))


def compile(spec: GrammarSpec, vocabulary: Vocabulary, limits: Limits) -> Compiled:
    """Raises GrammarRefused; BeyondEngine, a kind of it, before it takes long. The index is made without the GIL."""
    if len(spec.text.encode(errors="replace")) > limits.text_bytes:
        raise BeyondEngine(f"{spec.kind} of {len(spec.text)} characters; at most {limits.text_bytes} bytes")
    if spec.kind not in ("regex", "choice"):
        raise GrammarRefused(f"outlines does not serve {spec.kind}")
    regex = read(spec, limits)
    _measure(regex, vocabulary, limits)
    if regexes.least(regex, lambda ranges: nfa.in_bytes(ranges)[0]) == float("inf"):
        raise GrammarRefused("the expression matches nothing", path=spec.kind)
    try:
        index = Index(f"(?:{regexes.write(regex)}){regexes.END}", _pieces(vocabulary))
    except ValueError as error:
        raise GrammarRefused(f"{spec.kind}: {str(error)[:200]}", path=spec.kind) from None
    return Compiled(index, vocabulary)


def _measure(regex: regexes.Regex, vocabulary: Vocabulary, limits: Limits) -> None:
    """Refuse before the work what would be too much of it."""
    if regexes.positions(regex) > nfa.LARGEST:
        raise BeyondEngine("the expression is too large", path="regex")
    states = nfa.Nfa()
    states.add(regex, 0, 1)
    try:
        ways = nfa.determined(states, states=limits.states, steps=_STEPS)
    except nfa.TooManyStates:
        raise BeyondEngine(f"the automaton has more than {limits.states} states", path="regex") from None
    first = _beginnings(vocabulary)
    count = sum(bisect.bisect_right(first, b) - bisect.bisect_left(first, a) for state in ways for a, b, _ in state)
    if count > limits.transitions:
        raise BeyondEngine(f"the automaton has up to {count} transitions; at most {limits.transitions}", path="regex")


class Compiled:
    """The index as arrays. `shortest`: tokens of a shortest answer."""

    def __init__(self, index: Index, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        # The index loses what goes on from a final state to one that is not (outlines-core 0.2.14: of "a(bc)?" it knows
        # only "a"). With a mark behind the expression no state is final before it.
        transitions = index.get_transitions()
        mark = vocabulary.size
        numbers = {state: i for i, state in enumerate(transitions)}
        if index.get_initial_state() not in numbers:
            raise GrammarRefused("no token spells what the expression asks for")
        self.start = numbers[index.get_initial_state()]
        self.final = np.array([mark in ways for ways in transitions.values()], dtype=np.bool_)
        self.tokens: list[NDArray[np.int64]] = []
        self.next: list[NDArray[np.int64]] = []
        states = np.array(sorted(numbers), dtype=np.int64)
        places = np.array([numbers[state] for state in states.tolist()], dtype=np.int64)
        for ways in transitions.values():
            tokens = np.fromiter(ways.keys(), np.int64, len(ways))
            following = np.fromiter(ways.values(), np.int64, len(ways))
            kept = (tokens < mark) & np.isin(following, states)
            order = np.argsort(tokens[kept])
            self.tokens.append(tokens[kept][order])
            self.next.append(places[np.searchsorted(states, following[kept][order])])
        self.distance = self._distances()
        if self.distance[self.start] >= FAR:
            raise GrammarRefused("no token spells what the expression asks for")
        self.farthest = int(self.distance[self.distance < FAR].max())
        self.shortest = int(self.distance[self.start])
        self._masks: dict[int, Row] = {}
        self._forced: dict[int, tuple[bytes, bool]] = {}

    def _distances(self) -> NDArray[np.int64]:
        """[states] tokens to the nearest end; FAR where there is none."""
        distance = np.where(self.final, 0, FAR)
        for _ in range(len(distance)):
            before = distance.copy()
            for state, following in enumerate(self.next):
                if len(following) and not self.final[state]:
                    distance[state] = min(int(distance[state]), int(distance[following].min()) + 1)
            if (before == distance).all():
                break
        return np.minimum(distance, FAR)

    def allowed(self, state: int, room: int) -> Row:
        """Mask of the tokens after which at most `room` more are needed, and the ends of text where one may end."""
        if room >= self.farthest:
            if state not in self._masks:
                self._masks[state] = self._mask(state, self.farthest)
            return self._masks[state]
        return self._mask(state, room)

    def _mask(self, state: int, room: int) -> Row:
        near = self.tokens[state][self.distance[self.next[state]] <= room]
        ends = list(self.vocabulary.eos_ids) if self.final[state] else []
        return self.vocabulary.mask(np.concatenate([near, np.array(ends, np.int64)]))

    def step(self, state: int, token: int) -> int | None:
        at = int(np.searchsorted(self.tokens[state], token))
        found = at < len(self.tokens[state]) and self.tokens[state][at] == token
        to = int(self.next[state][at]) if found else -1
        return to if found and self.distance[to] < FAR else None

    def forced_text(self, state: int) -> tuple[bytes, bool]:
        """The bytes that must come next, and whether the answer must end after them."""
        if state not in self._forced:
            self._forced[state] = self._only_way(state)
        return self._forced[state]

    def _only_way(self, state: int) -> tuple[bytes, bool]:
        text = b""
        while len(text) < _FORCED and (byte := self._only_byte(state)) is not None:
            following = self.step(state, self.vocabulary.by_bytes.get(bytes([byte]), -1))
            if following is None:
                break
            text, state = text + bytes([byte]), following
        return text, bool(self.final[state]) and not len(self.tokens[state])

    def _only_byte(self, state: int) -> int | None:
        if self.final[state] or not len(self.tokens[state]):
            return None
        alive = self.tokens[state][self.distance[self.next[state]] < FAR]
        first = np.unique(_first_bytes(self.vocabulary)[alive])
        return int(first[0]) if len(first) == 1 else None

    def matcher(self) -> Matcher:
        return Matcher(self)


class Matcher:
    """Where one answer stands in the automaton: all its states so far, so that any token can be taken back."""

    def __init__(self, compiled: Compiled):
        self._compiled = compiled
        self._states = [compiled.start]
        self._taken: list[int] = []
        self._ended = False

    @property
    def may_end(self) -> bool:
        return self._ended or bool(self._compiled.final[self._states[-1]])

    @property
    def must_end(self) -> bool:
        """Nothing but the end can come."""
        return self.may_end and (self._ended or not len(self._compiled.tokens[self._states[-1]]))

    def fill_mask(self, row: Row, left: int | None = None) -> None:
        """row: int32 [ceil(vocab/32)]. left: tokens that may still come, this one included."""
        if self._ended:
            row[:] = self._compiled.vocabulary.mask(list(self._compiled.vocabulary.eos_ids))
            return
        row[:] = self._compiled.allowed(self._states[-1], FAR if left is None else left - 1)

    def accept(self, tokens: Sequence[int]) -> int:
        """How many were taken, in order, up to the first that is not allowed. An end of text counts as one."""
        taken = 0
        for token in tokens:
            if self._ended:
                break
            state = self._states[-1]
            if token in self._compiled.vocabulary.eos_ids:
                if not self._compiled.final[state]:
                    break
                self._ended = True
            elif (following := self._compiled.step(state, token)) is not None:
                state = following
            else:
                break
            self._states.append(state)
            self._taken.append(token)
            taken += 1
        return taken

    def rollback(self, count: int) -> None:
        """Take back the last `count` tokens."""
        if count > len(self._taken):
            raise ValueError(f"rollback of {count} tokens; {len(self._taken)} were taken")
        if count > 0:
            self._ended = False
            del self._taken[-count:]
            del self._states[-count:]

    def forced(self, left: int | None = None) -> list[int]:
        """The canonical tokens that must come next, whatever is sampled. left: tokens that may still come; only those
        are given behind which the answer can still end in time."""
        if self._ended:
            return []
        state = self._states[-1]
        text, ends = self._compiled.forced_text(state)
        found = canonical(self._compiled.vocabulary, self._taken, text, ends) if text else []
        for count, token in enumerate(found, 1):
            following = self._compiled.step(state, token)
            if following is None or (left is not None and self._compiled.distance[following] > left - count):
                return found[: count - 1]
            state = following
        return found
