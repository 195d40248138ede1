"""Complete at any budget: which tokens may come when few are left, so that the answer can still end in time.

With b tokens left a token may come only if an ending of at most b - 1 tokens is known to follow it. Every such ending
is tried on the matcher before the token is allowed: guesses cost time, never validity. Far from the end nothing is
looked at (`Bounds` in lower.py says how far is far).

What is allowed depends on the text so far and on b alone, not on how one came there: an answer that is computed again
is the same.

    ending    tokens that lead from a state to one where the answer may end
    plain     tokens that say nothing to JSON: inside a string they only make it longer
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence

import llguidance
import numpy as np
from numpy.typing import NDArray

from .beginning import BETWEEN, TRIES, Beginning, takes
from .search import SEARCHED, Hints, Spent, find, find_any
from .symbols import Symbols, Way
from .vocabulary import Row, Vocabulary, pack, unpack

NEARBY = 256  # bytes of an answer that is searched for
TRIED = 1_000  # tokens tried one by one in one mask, the most frequent first
QUICK = 150  # states looked at for the ending after one token
ALLOTTED = 400  # the same, after all tokens of a mask
SPELLED = 48  # characters of a token that is looked for in names; longer ones are taken to be in one
BACK = 64  # tokens gone back for an ending
FEW = 64  # tokens that are tried each, where others of a kind are taken for alike
SAMPLED = 8  # of the others
UNFINISHED = 4  # bytes of a character
OUTSIDE = frozenset("truefalsnE+-.0123456789[]{}:, ")  # characters of JSON outside of strings


class Plain:
    """Tokens by what they do inside a JSON string; once a vocabulary.

    lengths  [size] characters of a plain token; 0: not plain
    marks    [size] those of them that can stand nowhere but in a string: some letter is in no number or keyword
    opens    the most objects and arrays that one token may open
    tokens_of  bytes -> the tokens that spell them
    mended   tokens that end inside a character or an escape -> tokens that complete it
    """

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self.lengths = np.zeros(vocabulary.size, dtype=np.int32)
        self.marks = np.zeros(vocabulary.size, dtype=np.bool_)
        self.mended: dict[int, list[int]] = {}
        self.tokens_of: dict[bytes, list[int]] = {}
        for token, piece in enumerate(vocabulary.pieces):
            text = _plain_text(piece)
            self.lengths[token] = len(text)
            self.marks[token] = bool(set(text) - OUTSIDE)
            self.tokens_of.setdefault(piece, []).append(token)
            if missing := _missing(piece):
                self.mended[token] = vocabulary.fewest_tokens(missing) or []
        self.opens = max(piece.count(b"{") + piece.count(b"[") for piece in vocabulary.pieces)

    def outside(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """[size] plain tokens that are no part of any name."""
        found = (self.lengths > 0) & (self.lengths <= SPELLED)
        for name in names:
            for at in range(len(name)):
                for end in range(at + 1, min(len(name), at + SPELLED) + 1):
                    found[self.tokens_of.get(name[at:end].encode(), [])] = False
        return found


def _plain_text(piece: bytes) -> str:
    if any(c < 0x20 or c in (0x22, 0x5C, 0x7F) for c in piece):
        return ""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return ""


def _missing(piece: bytes) -> bytes:
    """What completes the character or the escape that a piece ends in."""
    if (len(piece) - len(piece.rstrip(b"\\"))) % 2:
        return b"n"
    for size in range(1, min(3, len(piece)) + 1):
        first = piece[-size]
        needed = 2 if first >> 5 == 0b110 else 3 if first >> 4 == 0b1110 else 4 if first >> 3 == 0b11110 else 1
        if first >= 0xC0:
            second = {0xE0: b"\xa0", 0xF0: b"\x90"}.get(first, b"\x80") if size == 1 else b"\x80"
            return (second + b"\x80\x80")[: max(0, needed - size)]
        if first < 0x80:
            break
    return b""


class Known:
    """Of a grammar."""

    def __init__(
        self,
        hints: Hints,
        names: Sequence[str] = (),
        told: bool = False,
        tail: str | None = None,
        reach: int = 0,
    ):
        """names: all strings that it spells out. told: `hints` hold every expression that binds a string. tail: a Lark
        grammar of the free text that its answers end in; reach: bytes before a place in it that tell what may come."""
        self.hints, self.names, self.told, self.tail, self.reach = hints, names, told, tail, reach
        self._plain: NDArray[np.bool_] | None = None

    def plain(self, plain: Plain) -> NDArray[np.bool_]:
        """[size] tokens that inside a string bound by no more than its length only make it longer."""
        if self._plain is None:
            self._plain = plain.outside(self.names)
        return self._plain


class Tail:
    """The free text that answers end in: every token that may come in it may be the last, but for those that end inside
    a character."""

    def __init__(self, begin: llguidance.LLMatcher, plain: Plain, reach: int):
        self._begin, self._plain, self._reach = begin, plain, reach
        self._mended: NDArray[np.bool_] | None = None

    def allowed(self, taken: Sequence[int]) -> NDArray[np.bool_]:
        """[size] the tokens that may come after these, as far as they are free text."""
        vocabulary = self._plain.vocabulary
        seen: list[int] = []
        size = 0
        for token in reversed(taken):
            if size >= self._reach or not vocabulary.pieces[token]:
                break
            seen.insert(0, token)
            size += len(vocabulary.pieces[token])
        state = self._begin.deep_copy()
        while (count := state.try_consume_tokens(seen)) < len(seen):  # what is barred stands there, before free text
            state = self._begin.deep_copy()
            del seen[: count + 1]
        row = vocabulary.mask([])
        state.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        found = unpack(row & vocabulary.producible)[: vocabulary.size].copy()
        found[list(vocabulary.eos_ids)] = False
        return found

    @property
    def mended(self) -> NDArray[np.bool_]:
        """[size] the tokens that end inside a character which `Plain.mended` completes."""
        if self._mended is None:
            self._mended = np.zeros(self._plain.vocabulary.size, dtype=np.bool_)
            for token, rest in self._plain.mended.items():
                whole = [token, *rest]
                self._mended[token] = bool(rest) and self._begin.validate_tokens(whole) == len(whole)
        return self._mended


class State:
    """Where an answer stands, over tokens and over symbols alike."""

    def __init__(self, token: llguidance.LLMatcher, in_symbols: Callable[[], Beginning], symbols: Symbols):
        """in_symbols: of matchers of symbols; few answers ever need one."""
        self.token, self._in_symbols, self.symbols = token, in_symbols, symbols
        self.vocabulary = symbols.vocabulary
        self.taken: list[int] = []
        self._in_bytes = 0  # tokens of `taken` that `byte` has seen

    @functools.cached_property
    def _first(self) -> llguidance.LLMatcher:
        return self._in_symbols().first

    @functools.cached_property
    def byte(self) -> llguidance.LLMatcher:
        return self._first.deep_copy()

    @property
    def text(self) -> bytes:
        """Behind the last control token."""
        return self.symbols.text(self.taken)

    def follow(self) -> None:
        """Bring `byte` to where `token` is."""
        spelled = self.symbols.spell(self.taken[self._in_bytes :])
        if not takes(self.byte, spelled, BETWEEN[0]):
            self.begin_anew()
        self._in_bytes = len(self.taken)

    def begin_anew(self) -> None:
        """`byte`, with another lexer."""
        spelled = self.symbols.spell(self.taken)
        for between in BETWEEN:
            self._first = self._in_symbols().instead_of(self._first)
            self.byte = self._first.deep_copy()
            if takes(self.byte, spelled, between):
                break
        self._in_bytes = len(self.taken)

    def back(self, count: int) -> None:
        """`token` went back."""
        del self.taken[-count:]
        if self._in_bytes > len(self.taken):
            self.byte.reset()
            self._in_bytes = 0

    def before(self) -> State:
        """A copy that has not taken the last token."""
        state = State(self.token.deep_copy(), self._in_symbols, self.symbols)
        state.token.rollback(1)
        state._first, state.byte = self._first, self.byte.deep_copy()
        state.taken, state._in_bytes = list(self.taken), self._in_bytes
        state.back(1)
        state.follow()
        return state


class Endings:
    """Of one state, which its owner moves."""

    def __init__(self, plain: Plain, state: State, grammar: Known, tail: Tail | None = None, back: int = BACK):
        self.plain, self.state, self.grammar, self.vocabulary = plain, state, grammar, state.vocabulary
        self._tail = tail
        self.eos = self.vocabulary.eos_ids[0]
        self._back = back
        self._allotted = 0  # states that may still be looked at for this mask
        self._after: dict[int, list[int]] = {}  # token of the last mask -> an ending that follows it
        self._after_many: list[tuple[NDArray[np.bool_], list[int]]] = []  # the same for many tokens at once
        self._carried: list[int] | None = None  # what the last mask knew to follow the token that was taken
        self._found: list[int] | None = None  # by a search from this state
        self._searched = False

    def moved(self, token: int) -> None:
        """The state went on by a token."""
        self._carried = self._following(token)
        self._after, self._after_many, self._found, self._searched = {}, [], None, False

    def forget(self) -> None:
        """The state went back."""
        self._carried, self._after, self._after_many, self._found, self._searched = None, {}, [], None, False

    def ending(self, left: int) -> list[int] | None:
        """A short ending of the present state, of at most `left` tokens if one is known."""
        if not self._searched:
            self._found, self._searched = self._search_here(), True
        if self._found is not None and len(self._found) <= left:
            return self._found
        if self._carried is None and self.state.taken and self._back:
            earlier = Endings(self.plain, self.state.before(), self.grammar, self._tail, self._back - 1)
            earlier.narrow(self.vocabulary.mask([]), left + 1)
            self._carried = earlier._following(self.state.taken[-1])
        return self._carried or self._found

    def narrow(self, row: Row, left: int, ends: Sequence[int] = ()) -> None:
        """Make a mask of the tokens after which an ending of at most left - 1 tokens is known, and of `ends`."""
        ending = self.ending(left)
        if ending is None:
            return
        self._after, self._after_many = {}, []
        if len(ending) <= left:
            self.state.token.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
            self._allow(unpack(row)[: self.vocabulary.size], ending, left - 1)
        if ending and ending[0] not in self._after:
            self._after[ending[0]] = ending[1:]
        allowed = np.zeros(self.vocabulary.size, dtype=np.bool_)
        for many, _ in self._after_many:
            allowed |= many
        allowed[list(self._after)] = True
        allowed[list(ends)] = True
        row[:] = pack(allowed)

    def _following(self, token: int) -> list[int] | None:
        if token in self._after:
            return self._after[token]
        return next((ending for many, ending in self._after_many if many[token]), None)

    # ------------------------------------------------------------ which tokens

    def _allow(self, mask: NDArray[np.bool_], ending: list[int], room: int) -> None:
        self._allotted = ALLOTTED
        known = [ending]  # to guess with
        if not ending and self._tail is not None:
            mask = self._allow_tail(mask, self._tail, room)
        mask = self._allow_plain(mask, known, room)
        symbols = self.state.symbols
        rest = [t for t in symbols.controls if mask[t]]
        rest += [t for t in np.flatnonzero(mask)[:TRIED].tolist() if self.vocabulary.pieces[t]]
        open_: dict[tuple[bytes, int], list[int]] = {}
        byte = self.state.byte.deep_copy()
        for token in rest:
            if (found := self._guess(token, known, room)) is not None:
                self._after[token] = found
                continue
            spelled = symbols.of(token)
            taken = byte.try_consume_tokens(spelled)
            if taken == len(spelled):
                open_.setdefault((byte.compute_bitmask(), taken), []).append(token)
            byte.rollback(taken)
        found_here: list[list[int]] = []
        for group in open_.values():  # states of equal next bytes: mostly one ending does for all
            guess = self._first(group[0], found_here, room)
            if guess is None and self._allotted > 0 and (guess := self._search_after(group[0])) is not None:
                found_here.append(guess)
            for token in group if guess is not None and len(guess) <= room else ():
                if self._leads([token], guess or []):
                    self._after[token] = guess or []

    def _allow_tail(self, mask: NDArray[np.bool_], tail: Tail, room: int) -> NDArray[np.bool_]:
        """Where the answer may end in free text, what goes on in that may be the last. Returns the tokens this does not
        settle."""
        free = mask & tail.allowed(self.state.taken)
        whole = free.copy()
        whole[list(self.plain.mended)] = False
        if self._are_alike(whole, []):
            self._after_many.append((whole, []))
            mask = mask & ~whole
        if room >= UNFINISHED:
            for token in np.flatnonzero(free & tail.mended & mask).tolist():
                self._after[token] = self.plain.mended[token]
            mask = mask & ~(free & tail.mended)
        return mask

    def _are_alike(self, tokens: NDArray[np.bool_], ending: list[int]) -> bool:
        """Whether an ending follows each of few tokens, and some of many."""
        found = np.flatnonzero(tokens)
        if len(found) > FEW:
            found = found[:: len(found) // SAMPLED]
        return bool(len(found)) and all(self._leads([token], ending) for token in found.tolist())

    def _allow_plain(self, mask: NDArray[np.bool_], known: list[list[int]], room: int) -> NDArray[np.bool_]:
        """Inside a string bound by no more than its length, what may follow the shortest and the longest plain token
        may follow those between, but for those that may complete a name. Returns the tokens this does not settle."""
        if not self.grammar.told or (self.grammar.hints.strings and self.grammar.hints.bind(self.state.text)):
            return mask
        plain = mask & self.grammar.plain(self.plain)
        marks = np.flatnonzero(plain & self.plain.marks)
        if not len(marks):
            return mask
        lengths = self.plain.lengths
        least = int(marks[lengths[marks].argmin()])
        most = int(marks[lengths[marks].argmax()])
        if (found := self._guess(least, known, room)) is None:
            found = self._search_after(least)
        if found is None or len(found) > room or not self._leads([least], found) or not self._leads([most], found):
            return mask
        known.append(found)
        settled = plain & (lengths >= lengths[least]) & (lengths <= lengths[most])
        if not self._are_alike(settled, found):
            return mask
        self._after_many.append((settled, found))
        return mask & ~settled

    def _guess(self, token: int, known: list[list[int]], room: int) -> list[int] | None:
        own = known[0]
        if own and own[0] == token:
            return own[1:]
        if (mend := self.plain.mended.get(token)) is not None:
            return self._first(token, [mend + ending for ending in known], room)
        if (found := self._first(token, known, room)) is not None:
            return found
        spelled, way = self.state.symbols.of(token), self.state.symbols.spell(own)
        if way[: len(spelled)] == spelled:
            return self._first(token, [self.state.symbols.tokens(tuple(way[len(spelled) :])) or []], room)
        return None

    def _first(self, token: int, endings: list[list[int]], room: int) -> list[int] | None:
        """The first of some endings that fits and follows a token."""
        return next((e for e in endings if len(e) <= room and self._leads([token], e)), None)

    def _leads(self, start: list[int], ending: list[int]) -> bool:
        tokens = [*start, *ending, self.eos]
        return self.state.token.validate_tokens(tokens) == len(tokens)

    def _search(self, search: Callable[[], list[int] | None]) -> list[int] | None:
        """With another lexer where one is at its limit."""
        for _ in range(TRIES):
            try:
                return search()
            except Spent:
                self.state.begin_anew()
        return None

    def _search_here(self) -> list[int] | None:
        return self._search(self._found_here)

    def _found_here(self) -> list[int] | None:
        way, _ = find(self.state.byte, self.grammar.hints, self.state.text, SEARCHED)
        if way is None:
            way = find_any(self.state.byte, self.grammar.hints, self.state.text)
        return None if way is None else self.state.symbols.tokens(way)

    def _search_after(self, token: int) -> list[int] | None:
        return self._search(lambda: self._found_after(token))

    def _found_after(self, token: int) -> list[int] | None:
        symbols, state = self.state.symbols, self.state.byte.deep_copy()
        if not state.consume_tokens(symbols.of(token)):
            return None
        text = symbols.text([*self.state.taken, token])
        way, seen = find(state, self.grammar.hints, text, min(QUICK, self._allotted))
        self._allotted -= seen
        return None if way is None else symbols.tokens(way)


def shortest(byte: llguidance.LLMatcher, hints: Hints, example: Way, symbols: Symbols) -> list[int] | None:
    """The tokens of a short answer, or None if none was found. byte: over symbols. example: what may be one."""
    state = byte.deep_copy()
    fits = bool(example) and state.try_consume_tokens(list(example)) == len(example) and state.is_accepting()
    way: Way | None = tuple(example) if fits else None
    if not fits or len(example) < NEARBY:
        with contextlib.suppress(Spent):
            found, _ = find(byte, hints, b"", SEARCHED if fits else 4 * SEARCHED)
            way = found if found is not None else way if fits else find_any(byte, hints, b"")
    return None if way is None else symbols.tokens(way)
