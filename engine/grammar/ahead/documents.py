"""JSON as goals: what the engine underneath writes for a schema, with white space where it may stand."""

from __future__ import annotations

import json
from collections.abc import Sequence

from .. import regexes
from ..dialect_text import least_whole, whole_bounds, whole_number
from ..lower import NEVER, Lowered, plain_number
from ..nodes import (
    ANY,
    EVERY,
    Anything,
    Array,
    Bool,
    Literal,
    Node,
    Null,
    Number,
    Object,
    Option,
    Ref,
    Text,
    dumps,
)
from ..symbols import Way
from ..whitespace import Layout
from .goals import Chosen, Goal, Goals, Kit
from .letters import Letters
from .numerals import Numerals
from .writing import Place, Writing, first

_WHOLE = regexes.parse(r"-?(?:0|[1-9][0-9]*)", whole=True)
_NUMBER = regexes.parse(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", whole=True)
_MANY = 8  # constant strings that are read as one expression
_ENDED, _BEGUN, _LEAST = 50, 500, 20  # steps of work for a number that may end, one that may not, a shortest document


class Documents:
    """Of one schema."""

    def __init__(self, kit: Kit, lowered: Lowered, layout: Layout):
        self._kit, self._lowered, self._layout = kit, lowered, layout
        self._comma, self._colon = layout.comma.encode(), layout.colon.encode()
        self._blank: Goals = ()
        if layout.blank is not None:
            blank = kit.letters.of(layout.blank)
            self._blank = self._text(Writing(kit.letters), kit.letters.either([blank, kit.letters.empty]))
        self._free = Writing(kit.letters, json=True, uniform=True)
        self._bound = Writing(kit.letters, json=True)
        self._plain = Writing(kit.letters)
        self._shortest: dict[str, bytes | None] = dict.fromkeys(lowered.source.definitions)
        self._required: dict[int, list[tuple[bytes | None, int]]] = {}
        self._counts: dict[int, tuple[int | None, int | None]] = {}
        self._extra: dict[int, list[tuple[Goal, Node]]] = {}
        self._leasts: dict[int, bytes | None] = {}
        self._settled = False
        self._settle()
        self._settled = True
        self._required, self._leasts = {}, {}

    def root(self) -> Goal:
        return self._value(self._lowered.source.root)

    # ------------------------------------------------------------ the shortest

    def _settle(self) -> None:
        """The shortest document of every definition: the least fixed point (Knuth, "A generalization of Dijkstra's
        algorithm", 1977)."""
        changed = True
        while changed:
            changed = False
            for pointer, node in self._lowered.source.definitions.items():
                found = self._least(node)
                if found is not None and found != self._shortest[pointer]:
                    self._shortest[pointer], changed = found, True

    def _least(self, node: Node) -> bytes | None:
        if self._settled and id(node) in self._leasts:
            return self._leasts[id(node)]
        self._kit.work.spend(_LEAST)
        best: bytes | None = None
        for option in self._possible(node):
            if (found := self._least_option(option)) is not None:
                best = first(best, found)
        self._leasts[id(node)] = best
        return best

    def _least_option(self, option: Option) -> bytes | None:
        match option:
            case Ref(pointer):
                return self._shortest[pointer]
            case Null():
                return b"null"
            case Bool():
                return b"true"
            case Literal(_, written):
                return self._compact(written)
            case Number(True, multiple=None) if _is_bound(option):
                return least_whole(option).encode()
            case Number() | Text():
                return b"".join(bytes(goal.best) for goal in self._sequences(option)[0])
            case Array():
                return self._joined([b"[", self._items_left(option, 0, False)])
            case Object():
                return self._joined([b"{", self._members_left(option, 0, 0, False)])
        return b"0"

    def _compact(self, written: str) -> bytes:
        marks = (self._layout.comma, self._layout.colon)
        return dumps(json.loads(written), separators=marks).encode()

    def _joined(self, parts: list[bytes | None]) -> bytes | None:
        return None if None in parts else b"".join(part or b"" for part in parts)

    def _items_left(self, option: Array, at: int, begun: bool) -> bytes | None:
        parts: list[bytes | None] = []
        for place in range(at, option.low):
            parts += [self._comma if begun or place > at else b"", self._least(_item(option, place))]
        return self._joined([*parts, b"]"])

    def _members_left(self, option: Object, at: int, count: int, begun: bool) -> bytes | None:
        """Of the members from `at` on, where `count` were written: those that must be, and the end."""
        low, _ = self._counted(option)
        text, required = self._musts(option)[at]
        wanting = [self._comma, self._least_extra(option)] if low is not None and count + required < low else []
        whole = self._joined([text, *wanting])
        return None if whole is None else (whole if begun else whole[len(self._comma) :]) + b"}"

    def _musts(self, option: Object) -> list[tuple[bytes | None, int]]:
        """The required members from each place on, a comma before each; and how many they are."""
        if self._settled and (known := self._required.get(id(option))) is not None:
            return known
        text: bytes | None = b""
        count = 0
        found: list[tuple[bytes | None, int]] = [(text, count)]
        for name, value in reversed(option.properties):
            if name in option.required:
                text = self._joined([self._comma, _quoted(name), self._colon, self._least(value), text])
                count += 1
            found.append((text, count))
        self._required[id(option)] = found[::-1]
        return found[::-1]

    def _least_member(self, option: Object, at: int, count: int) -> bytes | None:
        """A member, and what must follow."""
        best: bytes | None = None
        for place, (name, value) in enumerate(option.properties[at:], at):
            rest = self._members_left(option, place + 1, count + 1, True)
            member = self._joined([_quoted(name), self._colon, self._least(value), rest])
            best = best if member is None else first(best, member)
            if name in option.required:
                return best
        member = self._joined([self._least_extra(option), self._members_left(option, at, count + 1, True)])
        return best if member is None else first(best, member)

    def _least_extra(self, option: Object) -> bytes | None:
        best: bytes | None = None
        for key, value in self._extras(option):
            least = self._least(value)
            if least is not None:
                best = first(best, b'"' + bytes(key.best) + b'"' + self._colon + least)
        return best

    # ------------------------------------------------------------ goals

    def _possible(self, node: Node) -> Node:
        """Without those that no document is valid for."""
        if node == ANY:
            return EVERY
        return tuple(option for option in node if self._lowered.least((option,)) < NEVER)

    def _counted(self, option: Object) -> tuple[int | None, int | None]:
        """The least and most members."""
        if id(option) not in self._counts:
            self._counts[id(option)] = self._lowered.counted(option)
        return self._counts[id(option)]

    def _value(self, node: Node) -> Goal:
        if node == ANY:
            node = ANY

        def sequences() -> list[Goals]:
            options = self._possible(node)
            texts = [option for option in options if _is_text(option)]
            if len(texts) < _MANY:
                return [goals for option in options for goals in self._sequences(option)]
            found = [goals for option in options if not _is_text(option) for goals in self._sequences(option)]
            return [*found, self._one_of(texts)]

        return self._kit.goal(
            (self, "value", id(node)), lambda: Chosen(self._kit, lambda: tuple(self._least(node) or b""), sequences)
        )

    def _sequences(self, option: Option) -> list[Goals]:
        kit = self._kit
        match option:
            case Ref(pointer):
                return [(self._value(self._lowered.source.definitions[pointer]),)]
            case Anything():
                return [(self._value(ANY),)]
            case Null():
                return [(kit.spelled("null"),)]
            case Bool():
                return [(kit.spelled("true"),), (kit.spelled("false"),)]
            case Literal(_, written):
                return [self._literal(json.loads(written))]
            case Number():
                return [self._number(option)]
            case Text():
                return [(kit.spelled('"'), *self._string(option), kit.spelled('"'))]
            case Array():
                return [(kit.spelled("["), self._items(option, 0, False))]
            case Object():
                return [(kit.spelled("{"), self._members(option, 0, 0, False))]
        raise AssertionError(option)

    def _one_of(self, texts: Sequence[Option]) -> Goals:
        """One of several constant strings, read as one expression."""
        letters = self._kit.letters
        found = letters.words(json.loads(option.written) for option in texts if isinstance(option, Literal))
        quote = self._kit.spelled('"')
        return (quote, *self._text(self._bound, found), quote)

    def _literal(self, value: object) -> Goals:
        kit, blank = self._kit, self._blank
        found: list[Goal] = []
        if isinstance(value, list):
            for i, item in enumerate(value):
                found += [*((kit.spelled(self._layout.comma), *blank) if i else ()), *self._literal(item), *blank]
            return (kit.spelled("["), *blank, *found, kit.spelled("]"))
        if isinstance(value, dict):
            for i, (name, item) in enumerate(value.items()):
                found += [*((kit.spelled(self._layout.comma), *blank) if i else ()), kit.spelled(tuple(_quoted(name)))]
                found += [*blank, kit.spelled(self._layout.colon), *blank, *self._literal(item), *blank]
            return (kit.spelled("{"), *blank, *found, kit.spelled("}"))
        return (kit.spelled(dumps(value)),)

    def _text(self, writing: Writing, letters: Letters) -> Goals:
        return (self._kit.written(writing, Place(letters)),)

    def _number(self, option: Number) -> Goals:
        if not _is_bound(option):
            return self._text(self._plain, self._kit.letters.of(_WHOLE if option.integer else _NUMBER))
        if option.integer and option.multiple is None:
            within = whole_number(option)
            low, high = whole_bounds(option)
            if low is not None and high is not None and low < 0 <= high:
                within += "|-0"  # the engine underneath lets it come, where there are two bounds
            return self._text(self._plain, self._kit.letters.of(regexes.parse(within, whole=True)))
        numerals = Numerals(option, plain_number(option))
        return (self._numeral(numerals, option, b""),)

    def _numeral(self, numerals: Numerals, option: Number, text: bytes) -> Goal:
        return self._kit.goal((option, text), lambda: _Numeral(self._kit, numerals, option, text))

    def _string(self, option: Text) -> Goals:
        letters = self._kit.letters
        parts = [letters.of(pattern) for pattern in option.patterns]
        if option.low or option.high is not None:
            parts.append(letters.times(letters.one((regexes.ALL,)), option.low, option.high))
        return self._text(self._bound if option.patterns else self._free, letters.both(parts))

    # arrays

    def _items(self, option: Array, at: int, begun: bool) -> Goal:
        if option.high is None:
            at = min(at, max(option.low, len(option.prefix)))
        return self._kit.goal(
            (self, "items", id(option), at, begun),
            lambda: Chosen(
                self._kit,
                lambda: tuple(self._items_left(option, at, begun) or b""),
                lambda: self._item_options(option, at, begun),
            ),
        )

    def _item_options(self, option: Array, at: int, begun: bool) -> list[Goals]:
        kit, blank = self._kit, self._blank
        found: list[Goals] = []
        if at >= option.low:
            found.append((*blank, kit.spelled("]")))
        node = _item(option, at)
        if (option.high is None or at < option.high) and self._possible(node):
            comma = (kit.spelled(self._layout.comma), *blank) if begun else ()
            found.append((*blank, *comma, self._value(node), self._items(option, at + 1, True)))
        return found

    # objects

    def _members(self, option: Object, at: int, count: int, begun: bool) -> Goal:
        low, high = self._counted(option)
        if high is None:
            count = min(count, low or 0)
        return self._kit.goal(
            (self, "members", id(option), at, count, begun),
            lambda: Chosen(
                self._kit,
                lambda: tuple(self._members_left(option, at, count, begun) or b""),
                lambda: self._member_options(option, at, count, begun),
            ),
        )

    def _member_options(self, option: Object, at: int, count: int, begun: bool) -> list[Goals]:
        kit, blank = self._kit, self._blank
        low, high = self._counted(option)
        comma = (*blank, kit.spelled(self._layout.comma)) if begun else ()
        found: list[Goals] = []
        listed = any(self._possible(value) for _, value in option.properties[at:])
        if (listed or self._extras(option)) and (high is None or count < high):
            member = Chosen(
                kit,
                lambda: tuple(self._least_member(option, at, count) or b""),
                lambda: self._member(option, at, count),
            )
            found.append((*comma, *blank, member))
        if not any(name in option.required for name, _ in option.properties[at:]) and (low is None or count >= low):
            found.append((*blank, kit.spelled("}")))
        return found

    def _member(self, option: Object, at: int, count: int) -> list[Goals]:
        """A member and all that is behind it."""
        kit, found = self._kit, []
        between = (*self._blank, kit.spelled(self._layout.colon), *self._blank)
        for place in range(at, len(option.properties)):
            name, value = option.properties[place]
            if self._possible(value):
                after = self._members(option, place + 1, count + 1, True)
                found.append((kit.spelled(tuple(_quoted(name))), *between, self._value(value), after))
            if name in option.required:
                return found
        for key, value in self._extras(option):
            after = self._members(option, len(option.properties), count + 1, True)
            found.append((kit.spelled('"'), key, kit.spelled('"'), *between, self._value(value), after))
        return found

    def _extras(self, option: Object) -> list[tuple[Goal, Node]]:
        """Names of properties that are not listed, without their quotes, and what these must be."""
        if (known := self._extra.get(id(option))) is not None:
            return known
        letters = self._kit.letters
        names = [letters.other(letters.words(name for name, _ in option.properties))]
        patterns = [(letters.of(pattern), value) for pattern, value in option.patterns]
        others = [*names, *(letters.other(pattern) for pattern, _ in patterns)]
        found: list[tuple[Goal, Node]] = []
        asked = [(letters.both([pattern, *names]), value) for pattern, value in patterns]
        for own, value in [*asked, (letters.both(others), option.extra)]:
            if self._possible(value) and self._bound.rest(Place(own)) is not None:
                writing = self._free if own is letters.anything else self._bound
                found.append((self._kit.written(writing, Place(own)), value))
        self._extra[id(option)] = found
        return found


class _Numeral(Goal):
    __slots__ = ("_kit", "_numerals", "_option", "_text")

    def __init__(self, kit: Kit, numerals: Numerals, option: Number, text: bytes):
        kit.work.spend(_ENDED)
        super().__init__(done=numerals.ends(text), begun=bool(text))
        self._kit, self._numerals, self._option, self._text = kit, numerals, option, text

    def _shortest(self) -> Way:
        if self.done:
            return ()
        self._kit.work.spend(_BEGUN)
        rest = self._numerals.rest(self._text)
        assert rest is not None, f"no number begins with {self._text!r}"
        return tuple(rest)

    def _after(self, symbol: int) -> list[Goals]:
        if symbol >= 0x80 or not self._numerals.may_come(self._text, symbol):
            return []
        text = self._text + bytes([symbol])
        goal = self._kit.goal((self._option, text), lambda: _Numeral(self._kit, self._numerals, self._option, text))
        return [(goal,)]


def _is_bound(option: Number) -> bool:
    return (option.low, option.high, option.multiple) != (None, None, None)


def _is_text(option: Option) -> bool:
    return isinstance(option, Literal) and option.written.startswith('"')


def _item(option: Array, at: int) -> Node:
    return option.prefix[at] if at < len(option.prefix) else option.rest


def _quoted(name: str) -> bytes:
    return json.dumps(name, ensure_ascii=False).encode()
