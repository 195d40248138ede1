"""Where answers can stand in one grammar, and how many tokens the shortest way from there to an end has.

A place is a set of stacks of goals, known by its number; the way between places is a table that grows as answers walk.
So what follows from a place is a matter of the text alone, however it was tokenized, and of what other answers asked.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..symbols import Symbols, Way
from ..vocabulary import Vocabulary
from .goals import Goal, Goals, Kit, Spelled
from .writing import order

NOWHERE = 0  # the place of what cannot come
FAR = 1 << 30  # tokens; there is no end
WALKING = 300_000  # steps of work while answers walk, at most at once
TOKEN = 5_000  # of them for each token that one goes on
REMEMBERED = 8_000_000  # tokens behind places of a vocabulary's courses; 12 bytes each
_LETTER = 0x61
_NUMBERS = itertools.count()  # of courses
_FEW, _ANY = 16, -1
_UNKNOWN = -1
_BYTES = 256


class Pieces:
    """The bytes of a vocabulary's tokens one behind the other, and what courses found out about them.

    begins, sizes  [size] where a token's bytes begin and how many they are; 0: it spells nothing
    characters     [size] of tokens that can stand in any JSON string and say nothing to it; 0: of others
    """

    def __init__(self, vocabulary: Vocabulary):
        self.sizes = np.array([len(piece) for piece in vocabulary.pieces], dtype=np.int64)
        self.begins = np.cumsum(self.sizes) - self.sizes
        self._behind: OrderedDict[tuple[int, int], Behind] = OrderedDict()  # the last asked last
        self._remembered = 0  # tokens in it
        self._lock = threading.Lock()  # courses are followed in several threads
        self.bytes = np.frombuffer(b"".join(vocabulary.pieces) or b"\0", dtype=np.uint8)
        self.characters = np.array([_plain_characters(piece) for piece in vocabulary.pieces], dtype=np.int64)

    def recall(self, course: int, place: int) -> Behind | None:
        with self._lock:
            found = self._behind.get((course, place))
            if found is not None:
                self._behind.move_to_end((course, place))
            return found

    def remember(self, course: int, place: int, found: Behind) -> None:
        """What was asked longest ago makes room."""
        with self._lock:
            self._behind[course, place] = found
            self._remembered += len(found.tokens)
            while self._remembered > REMEMBERED and len(self._behind) > 1:
                self._remembered -= len(self._behind.popitem(last=False)[1].tokens)


def _plain_characters(piece: bytes) -> int:
    if any(byte < 0x20 or byte in (0x22, 0x5C, 0x7F) for byte in piece):
        return 0
    try:
        return len(piece.decode())
    except UnicodeDecodeError:
        return 0


@functools.lru_cache(maxsize=4)
def pieces_of(vocabulary: Vocabulary) -> Pieces:
    return Pieces(vocabulary)


class Behind(NamedTuple):
    """What the tokens that may come at a place leave to be written.

    tokens, left  [N] those that may come, and `Course.left` behind each
    most          of `left`
    """

    tokens: NDArray[np.int64]
    left: NDArray[np.int32]
    most: int


class End:
    """The shortest way to an end from some place on: a symbol and what follows it. tokens: the fewest that spell it."""

    __slots__ = ("after", "length", "symbol", "then", "token", "tokens")

    def __init__(self, symbol: int, then: End | None):
        self.symbol, self.then = symbol, then
        self.length: int = 0 if then is None else then.length + 1
        self.tokens = -1 if then is not None else 0
        self.token = 0  # the first of them
        self.after: End | None = None  # what follows that

    def __iter__(self) -> Iterator[End]:
        at: End | None = self
        while at is not None and at.then is not None:
            yield at
            at = at.then


class _Stack:
    __slots__ = ("below", "end", "goal", "moves")

    def __init__(self, goal: Goal | None, below: _Stack | None):
        self.goal, self.below = goal, below
        self.moves: dict[int, tuple[_Stack, ...]] = {}
        self.end: End | None = None


class Ends:
    """The ways to an end: equal ones are one object."""

    def __init__(self, symbols: Symbols):
        self._symbols, self._vocabulary = symbols, symbols.vocabulary
        self.none = End(-1, None)
        self._known: dict[tuple[int, int], End] = {}

    def before(self, way: tuple[int, ...], end: End) -> End:
        for symbol in reversed(way):
            key = (symbol, id(end))
            found = self._known.get(key)
            if found is None:
                found = self._known[key] = End(symbol, end)
            end = found
        return end

    def first(self, ends: list[End]) -> End:
        """The shortest, and of those the one that comes first."""
        best = ends[0]
        for end in ends[1:]:
            if end.length < best.length or (end.length == best.length and end is not best and _precedes(end, best)):
                best = end
        return best

    def count(self, end: End) -> int:
        """The fewest tokens that spell a way; FAR where some byte of it has no token."""
        todo = []
        at = end
        while at.tokens < 0:
            todo.append(at)
            assert at.then is not None
            at = at.then
        for at in reversed(todo):
            self._spell(at)
        return end.tokens

    def _spell(self, end: End) -> None:
        end.tokens = FAR
        if end.symbol >= _BYTES:
            assert end.then is not None
            end.token, end.after = self._symbols.token_of(end.symbol), end.then
            end.tokens = min(FAR, end.then.tokens + 1)
            return
        pieces, beginnings, piece = self._vocabulary.by_bytes, self._vocabulary.beginnings, b""
        for part in end:
            if part.symbol >= _BYTES:
                return
            piece += _ONE[part.symbol]
            assert part.then is not None
            if part.then.tokens + 1 < end.tokens and (token := pieces.get(piece)) is not None:
                end.tokens, end.token, end.after = part.then.tokens + 1, token, part.then
            if piece not in beginnings:
                return


_ONE = [bytes([byte]) for byte in range(_BYTES)]


def _precedes(one: End, other: End) -> bool:
    """Of ways of one length."""
    for a, b in zip(one, other, strict=True):
        if a is b:
            return False
        if a.symbol != b.symbol:
            return order(a.symbol) < order(b.symbol)
    return False


class Course:
    """Of one grammar."""

    def __init__(self, start: Goals, symbols: Symbols, kit: Kit):
        """kit: what `start` was made with, and the course's own from now on. All that walks on may raise TooFar; then a
        new course may still do."""
        self._symbols, self._kit, self._work = symbols, kit, kit.work
        self._ends = Ends(symbols)
        self._done = _Stack(None, None)
        self._done.end = self._ends.none
        self._stacks: dict[tuple[int, int], _Stack] = {}
        self._places: list[tuple[_Stack, ...]] = [()]
        self._numbers: dict[frozenset[_Stack], int] = {frozenset(): NOWHERE}
        self._table = np.full((64, _BYTES + 1 + len(symbols.controls)), _UNKNOWN, dtype=np.int32)
        self._table[NOWHERE] = NOWHERE
        self._shortest: dict[int, End] = {}  # way to an end, of places
        self._far = np.full(64, _UNKNOWN, dtype=np.int32)
        self._far[NOWHERE] = FAR
        self.size = symbols.vocabulary.size
        self._by_first: dict[int, dict[int, list[_Stack]]] = {}  # of places of many stacks
        self._pieces = pieces_of(symbols.vocabulary)
        self._id = next(_NUMBERS)
        self.only: dict[int, tuple[Way, bool]] = {}  # what must come at a place, and whether the answer ends behind it
        self.start = self._number((self._push(start, self._done),))
        self.left(self.start)
        self._work.left = min(self._work.left, WALKING)

    def __del__(self) -> None:
        """Stacks and goals lead to each other. Without this they would be there until a collection finds them, and one
        that has to look at hundreds of grammars holds up all answers for as many milliseconds."""
        for stack in self._stacks.values():
            stack.moves.clear()
        self._kit.forget()

    def __len__(self) -> int:
        return len(self._places)

    # ------------------------------------------------------------ places

    def step(self, place: int, symbol: int) -> int:
        """NOWHERE where the symbol cannot come."""
        to = int(self._table[place, symbol])
        return self._stepped(place, symbol) if to == _UNKNOWN else to

    def take(self, place: int, token: int) -> int:
        """The place behind a token."""
        for symbol in self._symbols.of(token):
            place = self.step(place, symbol)
        return place

    def go_on(self, place: int, token: int) -> int:
        """The same for a token that was taken: an answer that grows may have work done for it."""
        self._work.left = min(WALKING, self._work.left + TOKEN)
        return self.take(place, token)

    def _stepped(self, place: int, symbol: int) -> int:
        found: dict[_Stack, None] = {}
        stacks = self._moving(place, symbol)
        self._work.spend(2 * len(stacks))
        for stack in stacks:
            found.update(dict.fromkeys(self._moves(stack, symbol)))
        to = self._number(tuple(found))
        self._table[place, symbol] = to
        return to

    def _moving(self, place: int, symbol: int) -> Sequence[_Stack]:
        """The stacks that a symbol may move, and no more of the others than need be."""
        stacks = self._places[place]
        if len(stacks) <= _FEW:
            return stacks
        by_first = self._by_first.get(place)
        if by_first is None:
            by_first = self._by_first[place] = {}
            for stack in stacks:
                first = stack.goal.way[0] if isinstance(stack.goal, Spelled) else _ANY
                by_first.setdefault(first, []).append(stack)
        return [*by_first.get(symbol, ()), *by_first.get(_ANY, ())]

    def _number(self, stacks: tuple[_Stack, ...]) -> int:
        key = frozenset(stacks)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._places)
            self._places.append(stacks)
            if number >= len(self._table):
                self._table = np.concatenate([self._table, np.full_like(self._table, _UNKNOWN)])
                self._far = np.concatenate([self._far, np.full_like(self._far, _UNKNOWN)])
        return number

    def _push(self, goals: Goals, below: _Stack) -> _Stack:
        for goal in reversed(goals):
            key = (id(goal), id(below))
            found = self._stacks.get(key)
            if found is None:
                found = self._stacks[key] = _Stack(goal, below)
            below = found
        return below

    def _moves(self, stack: _Stack, symbol: int) -> tuple[_Stack, ...]:
        known = stack.moves.get(symbol)
        if known is not None:
            return known
        found: dict[_Stack, None] = {}
        at: _Stack | None = stack
        while at is not None and at.goal is not None and at.below is not None:
            moves = at.goal.moves(symbol)
            found.update(dict.fromkeys(self._push(goals, at.below) for goals in moves))
            if not at.goal.done or (at.goal.begun and moves):
                break
            at = at.below
        stack.moves[symbol] = tuple(found)
        return stack.moves[symbol]

    # ------------------------------------------------------------ ends

    def left(self, place: int) -> int:
        """The tokens of the way to an end; FAR where there is none."""
        found = int(self._far[place])
        if found == _UNKNOWN:
            found = self._far[place] = self._ends.count(self._end(place))
        return int(found)

    def ending(self, place: int) -> list[int]:
        """The tokens of that way. Of a place that has one."""
        self.left(place)
        at: End | None = self._end(place)
        found = []
        while at is not None and at.then is not None:
            found.append(at.token)
            at = at.after
        return found

    def length(self, place: int) -> int:
        """Symbols of the way to an end."""
        return self._end(place).length if place != NOWHERE else FAR

    def _end(self, place: int) -> End:
        found = self._shortest.get(place)
        if found is None:
            found = self._ends.first([self._end_of(stack) for stack in self._places[place]])
            self._shortest[place] = found
        return found

    def _end_of(self, stack: _Stack) -> End:
        todo = []
        at = stack
        while at.end is None:
            todo.append(at)
            assert at.below is not None
            at = at.below
        end = at.end
        for at in reversed(todo):
            assert at.goal is not None
            end = at.end = self._ends.before(at.goal.best, end)
        return end

    # ------------------------------------------------------------ behind every token

    def behind(self, place: int, allowed: Callable[[], NDArray[np.bool_]]) -> Behind:
        """allowed: [size] the tokens that may come here; the same whenever the place is."""
        found = self._pieces.recall(self._id, place)
        if found is None:
            bits = allowed()
            tokens = np.flatnonzero(bits)
            left = self._measured(place, bits)[tokens]
            found = Behind(tokens, left, int(left.max(initial=0)))
            self._pieces.remember(self._id, place, found)
        return found

    def _measured(self, place: int, allowed: NDArray[np.bool_]) -> NDArray[np.int32]:
        pieces = self._pieces
        found = np.full(len(allowed), FAR, dtype=np.int32)
        rest = allowed & (pieces.sizes > 0)
        if all(stack.goal is not None and stack.goal.uniform for stack in self._places[place]):
            plain = allowed & (pieces.characters > 0)
            counts = pieces.characters[plain]
            after, at = [FAR], place
            for _ in range(int(counts.max(initial=0))):
                at = self.step(at, _LETTER)
                after.append(self.left(at))
            found[plain] = np.array(after, dtype=np.int32)[counts]
            rest &= ~plain
        tokens = np.flatnonzero(rest)
        at_ = np.full(len(tokens), place, dtype=np.int32)
        size = 0
        while len(tokens):
            at_ = self._steps(at_, pieces.bytes[pieces.begins[tokens] + size])
            size += 1
            whole = pieces.sizes[tokens] == size
            ended = at_[whole]
            for number in np.unique(ended).tolist():
                self.left(number)
            found[tokens[whole]] = self._far[ended]
            going = ~whole & (at_ != NOWHERE)
            tokens, at_ = tokens[going], at_[going]
        for token in self._symbols.controls:
            if allowed[token]:
                found[token] = self.left(self.take(place, token))
        return found

    def _steps(self, places: NDArray[np.int32], symbols: NDArray[np.uint8]) -> NDArray[np.int32]:
        """`step` of many."""
        found = self._table[places, symbols]
        unknown = np.flatnonzero(found == _UNKNOWN)
        if len(unknown):
            for key in np.unique(places[unknown].astype(np.int64) << 8 | symbols[unknown]).tolist():
                self.step(key >> 8, key & 0xFF)
            found[unknown] = self._table[places[unknown], symbols[unknown]]
        return found
