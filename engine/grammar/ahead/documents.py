"""JSON as goals: what the engine underneath writes for a schema, with white space where it may stand."""

from __future__ import annotations

import json
from collections.abc import Sequence

from .. import regexes
from ..lower import NEVER, Lowered, plain_number
from ..nodes import (
    ANY,
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
)
from .goals import Chosen, Goal, Goals, Kit
from .letters import Letters
from .numerals import Numerals
from .writing import Place, Writing, first

_WHOLE = regexes.parse(r"-?(?:0|[1-9][0-9]*)", whole=True)
_NUMBER = regexes.parse(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", whole=True)
_MANY = 8  # constant strings that are read as one expression
_ENDED, _BEGUN = 50, 2_000  # steps of work for a number that may end, and for one that may not
_EXAMPLES: Node = (Null(), Bool(), Number(), Text(), Array((), ANY), Object((), (), (), ANY))


class Documents:
    """Of one schema."""

    def __init__(self, kit: Kit, lowered: Lowered, whitespace: regexes.Regex | None):
        """whitespace: what may stand once between two parts; None: nothing."""
        self._kit, self._lowered = kit, lowered
        self._blank: Goals = ()
        if whitespace is not None:
            blank = kit.letters.of(whitespace)
            self._blank = self._text(Writing(kit.letters), kit.letters.either([blank, kit.letters.empty]))
        self._free = Writing(kit.letters, json=True, uniform=True)
        self._bound = Writing(kit.letters, json=True)
        self._plain = Writing(kit.letters)
        self._shortest: dict[str, bytes | None] = dict.fromkeys(lowered.source.definitions)
        self._settle()

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
        best: bytes | None = None
        for option in self._possible(node):
            if (found := self._least_option(option)) is not None:
                best = first(best, found)
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
                return _compact(written)
            case Number() | Text():
                return b"".join(bytes(goal.best) for goal in self._sequences(option)[0])
            case Array():
                return self._joined([b"[", self._items_left(option, 0, False)])
            case Object():
                return self._joined([b"{", self._members_left(option, 0, 0, False)])
        return b"0"

    def _joined(self, parts: list[bytes | None]) -> bytes | None:
        return None if None in parts else b"".join(part or b"" for part in parts)

    def _items_left(self, option: Array, at: int, begun: bool) -> bytes | None:
        parts: list[bytes | None] = []
        for place in range(at, option.low):
            parts += [b"," if begun or place > at else b"", self._least(_item(option, place))]
        return self._joined([*parts, b"]"])

    def _members_left(self, option: Object, at: int, count: int, begun: bool) -> bytes | None:
        parts: list[bytes | None] = []
        low, _ = self._lowered.counted(option)
        for name, value in option.properties[at:]:
            if name in option.required:
                parts += [b"," if begun else b"", _quoted(name), b":", self._least(value)]
                begun, count = True, count + 1
        if low is not None and count < low:
            parts += [b"," if begun else b"", self._least_extra(option)]
        return self._joined([*parts, b"}"])

    def _least_extra(self, option: Object) -> bytes | None:
        best: bytes | None = None
        for key, value in self._extras(option):
            least = self._least(value)
            if least is not None:
                best = first(best, b'"' + bytes(key.best) + b'":' + least)
        return best

    # ------------------------------------------------------------ goals

    def _possible(self, node: Node) -> Node:
        """Without those that no document is valid for."""
        if node == ANY:
            return _EXAMPLES
        return tuple(option for option in node if self._lowered.least((option,)) < NEVER)

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
            (self, "value", id(node)), lambda: Chosen(self._kit, tuple(self._least(node) or b""), sequences)
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
        found = [letters.text(json.loads(option.written)) for option in texts if isinstance(option, Literal)]
        quote = self._kit.spelled('"')
        return (quote, *self._text(self._bound, letters.either(found)), quote)

    def _literal(self, value: object) -> Goals:
        kit, blank = self._kit, self._blank
        found: list[Goal] = []
        if isinstance(value, list):
            for i, item in enumerate(value):
                found += [*((kit.spelled(","), *blank) if i else ()), *self._literal(item), *blank]
            return (kit.spelled("["), *blank, *found, kit.spelled("]"))
        if isinstance(value, dict):
            for i, (name, item) in enumerate(value.items()):
                found += [*((kit.spelled(","), *blank) if i else ()), kit.spelled(tuple(_quoted(name)))]
                found += [*blank, kit.spelled(":"), *blank, *self._literal(item), *blank]
            return (kit.spelled("{"), *blank, *found, kit.spelled("}"))
        return (kit.spelled(json.dumps(value, ensure_ascii=False)),)

    def _text(self, writing: Writing, letters: Letters) -> Goals:
        return (self._kit.written(writing, Place(letters)),)

    def _number(self, option: Number) -> Goals:
        if option.low is None and option.high is None and option.multiple is None:
            return self._text(self._plain, self._kit.letters.of(_WHOLE if option.integer else _NUMBER))
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
                tuple(self._items_left(option, at, begun) or b""),
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
            comma = (kit.spelled(","), *blank) if begun else ()
            found.append((*blank, *comma, self._value(node), self._items(option, at + 1, True)))
        return found

    # objects

    def _members(self, option: Object, at: int, count: int, begun: bool) -> Goal:
        low, high = self._lowered.counted(option)
        if high is None:
            count = min(count, low or 0)
        return self._kit.goal(
            (self, "members", id(option), at, count, begun),
            lambda: Chosen(
                self._kit,
                tuple(self._members_left(option, at, count, begun) or b""),
                lambda: self._member_options(option, at, count, begun),
            ),
        )

    def _member_options(self, option: Object, at: int, count: int, begun: bool) -> list[Goals]:
        kit, blank = self._kit, self._blank
        low, high = self._lowered.counted(option)
        before = (*blank, kit.spelled(","), *blank) if begun else blank
        between = (*blank, kit.spelled(":"), *blank)
        found: list[Goals] = []
        full = high is not None and count >= high
        for place in range(at, len(option.properties)):
            name, value = option.properties[place]
            if self._possible(value) and not full:
                after = self._members(option, place + 1, count + 1, True)
                found.append((*before, kit.spelled(tuple(_quoted(name))), *between, self._value(value), after))
            if name in option.required:
                return found
        for key, value in self._extras(option) if not full else ():
            after = self._members(option, len(option.properties), count + 1, True)
            found.append((*before, kit.spelled('"'), key, kit.spelled('"'), *between, self._value(value), after))
        if low is None or count >= low:
            found.append((*blank, kit.spelled("}")))
        return found

    def _extras(self, option: Object) -> list[tuple[Goal, Node]]:
        """Names of properties that are not listed, without their quotes, and what these must be."""
        letters = self._kit.letters
        names = [letters.other(letters.text(name)) for name, _ in option.properties]
        patterns = [(letters.of(pattern), value) for pattern, value in option.patterns]
        others = [*names, *(letters.other(pattern) for pattern, _ in patterns)]
        found: list[tuple[Goal, Node]] = []
        for own, value in [
            *((letters.both([p, *names]), v) for p, v in patterns),
            (letters.both(others), option.extra),
        ]:
            if self._possible(value) and self._bound.rest(Place(own)) is not None:
                writing = self._free if own is letters.anything else self._bound
                found.append((self._kit.written(writing, Place(own)), value))
        return found


class _Numeral(Goal):
    __slots__ = ("_kit", "_numerals", "_option", "_text")

    def __init__(self, kit: Kit, numerals: Numerals, option: Number, text: bytes):
        done = numerals.ends(text)
        kit.work.spend(_ENDED if done else _BEGUN)
        rest = b"" if done else numerals.rest(text)
        assert rest is not None, f"no number begins with {text!r}"
        super().__init__(tuple(rest), done=done, begun=bool(text))
        self._kit, self._numerals, self._option, self._text = kit, numerals, option, text

    def _after(self, symbol: int) -> list[Goals]:
        if symbol >= 0x80 or not self._numerals.may_come(self._text, symbol):
            return []
        text = self._text + bytes([symbol])
        goal = self._kit.goal((self._option, text), lambda: _Numeral(self._kit, self._numerals, self._option, text))
        return [(goal,)]


def _is_text(option: Option) -> bool:
    return isinstance(option, Literal) and option.written.startswith('"')


def _item(option: Array, at: int) -> Node:
    return option.prefix[at] if at < len(option.prefix) else option.rest


def _quoted(name: str) -> bytes:
    return json.dumps(name, ensure_ascii=False).encode()


def _compact(written: str) -> bytes:
    return json.dumps(json.loads(written), ensure_ascii=False, separators=(",", ":")).encode()
