"""What a JSON Schema means, in a form of which every part is enforced: a Node is a choice of Options.

A Node is a tuple: a document is valid if one of its Options admits it; the empty tuple admits nothing. `allOf`,
siblings and types are worked into the Options by `Meeting.both`, so that what is handed to the engine underneath is
only of the plainest kind (`write`).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from fractions import Fraction
from typing import Any

from . import probe, regexes
from .errors import GrammarRefused


@dataclass(frozen=True)
class Anything:
    pass


@dataclass(frozen=True)
class Null:
    pass


@dataclass(frozen=True)
class Bool:
    pass


@dataclass(frozen=True)
class Number:
    integer: bool = False
    low: Decimal | None = None
    low_open: bool = False
    high: Decimal | None = None
    high_open: bool = False
    multiple: Decimal | None = None


@dataclass(frozen=True)
class Text:
    """low, high: characters. All of `patterns` match the whole text."""

    low: int = 0
    high: int | None = None
    patterns: tuple[regexes.Regex, ...] = ()


@dataclass(frozen=True)
class Array:
    prefix: tuple[Node, ...]
    rest: Node
    low: int = 0
    high: int | None = None


@dataclass(frozen=True)
class Object:
    """extra: of names that are neither in `properties` nor match one of `patterns`. low, high: how many properties.
    Every required name is in `properties`, and what a pattern asks of a listed name is in its Node."""

    properties: tuple[tuple[str, Node], ...]
    required: tuple[str, ...]
    patterns: tuple[tuple[regexes.Regex, Node], ...]
    extra: Node
    low: int = 0
    high: int | None = None
    path: str = field(default="", compare=False)  # where it stands, for errors

    @functools.cached_property
    def named(self) -> dict[str, Node]:
        return dict(self.properties)


@dataclass(frozen=True)
class Literal:
    """One JSON value. `text`: how it is told apart; `written`: as JSON, its properties in their own order."""

    text: str
    written: str


@dataclass(frozen=True)
class Ref:
    """A definition by its pointer; how a schema refers to itself."""

    pointer: str


Option = Anything | Null | Bool | Number | Text | Array | Object | Literal | Ref
Node = tuple[Option, ...]
_EXPONENT = re.compile(r'("(?:[^"\\]|\\.)*")|-?[0-9.]+e[-+]?[0-9]+')
ANY: Node = (Anything(),)
EVERY: Node = (Null(), Bool(), Number(), Text(), Array((), ANY), Object((), (), (), ANY))  # the same, kind by kind


def literal(value: Any) -> Literal:
    plain = _plain(value)
    return Literal(json.dumps(plain, sort_keys=True), dumps(plain))


def dumps(value: Any, **more: Any) -> str:
    """JSON whose numbers have no exponent, as llguidance writes those of enum and const. more: as json.dumps has it."""
    return _EXPONENT.sub(lambda m: m[1] or f"{Decimal(m[0]):f}", json.dumps(value, ensure_ascii=False, **more))


def _plain(value: Any) -> Any:
    """Numbers of equal value in one form."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


class Meeting:
    """What two Nodes have in common. `resolve` gives the Node of a Ref, or refuses."""

    def __init__(self, resolve: Callable[[str, str], Node], limit: int):
        self.resolve = resolve
        self.left = limit

    def both(self, a: Node, b: Node, path: str) -> Node:
        """Valid for both. Raises GrammarRefused where this cannot be told, or grows too large."""
        if a == b or b == ANY:
            return a
        if a == ANY:
            return b
        found: dict[Option, None] = {}
        for x in a:
            for y in b:
                self._count(path)
                found.update(dict.fromkeys(self._pair(x, y, path)))
        return tuple(found)

    def _count(self, path: str) -> None:
        self.left -= 1
        if self.left < 0:
            raise GrammarRefused("what allOf, anyOf, oneOf and $ref make of each other is too large", path=path)

    def _pair(self, x: Option, y: Option, path: str) -> Node:
        if isinstance(y, Anything) or x == y:
            return (x,)
        if isinstance(x, Anything):
            return (y,)
        if isinstance(x, Ref):
            return self.both(self.resolve(x.pointer, path), (y,), path)
        if isinstance(y, Ref):
            return self.both((x,), self.resolve(y.pointer, path), path)
        if isinstance(x, Literal):
            return (x,) if self.admits((y,), json.loads(x.written), path) else ()
        if isinstance(y, Literal):
            return (y,) if self.admits((x,), json.loads(y.written), path) else ()
        if isinstance(x, Number) and isinstance(y, Number):
            return (_numbers(x, y, path),)
        if isinstance(x, Text) and isinstance(y, Text):
            patterns = tuple(dict.fromkeys(x.patterns + y.patterns))
            return (Text(max(x.low, y.low), _least(x.high, y.high), patterns),)
        if isinstance(x, Array) and isinstance(y, Array):
            return (self._arrays(x, y, path),)
        if isinstance(x, Object) and isinstance(y, Object):
            return (self._objects(x, y, path),)
        return ()

    def _arrays(self, x: Array, y: Array, path: str) -> Array:
        length = max(len(x.prefix), len(y.prefix))
        prefix = tuple(self.both(_item(x, i), _item(y, i), path) for i in range(length))
        return Array(prefix, self.both(x.rest, y.rest, path), max(x.low, y.low), _least(x.high, y.high))

    def _objects(self, x: Object, y: Object, path: str) -> Object:
        if (x.patterns and not _names_nothing(y)) or (y.patterns and not _names_nothing(x)):
            raise GrammarRefused(
                "patternProperties cannot be met with further properties of allOf, anyOf or $ref", path=path
            )
        names = dict.fromkeys([n for n, _ in x.properties] + [n for n, _ in y.properties])
        mine, theirs = dict(x.properties), dict(y.properties)
        merged = tuple((n, self.both(mine.get(n, x.extra), theirs.get(n, y.extra), path)) for n in names)
        return Object(
            merged,
            tuple(dict.fromkeys(x.required + y.required)),
            x.patterns + y.patterns,
            self.both(x.extra, y.extra, path),
            max(x.low, y.low),
            _least(x.high, y.high),
            path,
        )

    def admits(self, node: Node, value: Any, path: str) -> bool:
        """Whether a value is valid."""
        return any(self._admits(option, value, path) for option in node)

    def _admits(self, option: Option, value: Any, path: str) -> bool:
        match option:
            case Anything():
                return True
            case Ref(pointer):
                return self.admits(self.resolve(pointer, path), value, path)
            case Literal(text):
                return literal(value).text == text
            case Null():
                return value is None
            case Bool():
                return isinstance(value, bool)
            case Number():
                return isinstance(value, int | float) and not isinstance(value, bool) and is_within(option, value)
            case Text(low, high, patterns):
                if not isinstance(value, str):
                    return False
                fits = low <= len(value) and (high is None or len(value) <= high)
                return fits and all(probe.matches(p, value) for p in patterns)
            case Array(_, _, low, high):
                fits = isinstance(value, list) and low <= len(value) and (high is None or len(value) <= high)
                return fits and all(self.admits(_item(option, i), v, path) for i, v in enumerate(value))
            case Object():
                return isinstance(value, dict) and self._is_object(option, value, path)

    def _is_object(self, option: Object, value: dict[str, Any], path: str) -> bool:
        if not option.low <= len(value) or (option.high is not None and len(value) > option.high):
            return False
        return all(n in value for n in option.required) and all(
            self.admits(self.value_of(option, n, path), v, path) for n, v in value.items()
        )

    def value_of(self, option: Object, name: str, path: str) -> Node:
        """What the value of a property must be: what is listed under its name meets every pattern that matches it."""
        nodes = [option.named[name]] if name in option.named else []
        nodes += [v for p, v in option.patterns if probe.matches(p, name)]
        return functools.reduce(lambda a, b: self.both(a, b, path), nodes) if nodes else option.extra

    def apart(self, a: Node, b: Node, path: str, depth: int = 8) -> bool:
        """Whether it is proven that no document is valid for both."""
        return all(self._apart(x, y, path, depth) for x in a for y in b)

    def _apart(self, x: Option, y: Option, path: str, depth: int) -> bool:
        self._count(path)
        if depth == 0 or isinstance(x, Anything) or isinstance(y, Anything):
            return False
        if isinstance(x, Ref):
            return self.apart(self.resolve(x.pointer, path), (y,), path, depth - 1)
        if isinstance(y, Ref):
            return self.apart((x,), self.resolve(y.pointer, path), path, depth - 1)
        if isinstance(x, Literal):
            return not self.admits((y,), json.loads(x.written), path)
        if isinstance(y, Literal):
            return not self.admits((x,), json.loads(y.written), path)
        if type(x) is not type(y):
            return True
        if isinstance(x, Number) and isinstance(y, Number):
            return is_empty(_numbers(x, y, path, exact=False))
        if isinstance(x, Text) and isinstance(y, Text):
            return (x.high is not None and x.high < y.low) or (y.high is not None and y.high < x.low)
        if isinstance(x, Array) and isinstance(y, Array):
            if (x.high is not None and x.high < y.low) or (y.high is not None and y.high < x.low):
                return True
            sure = max(x.low, y.low)
            return any(self.apart(_item(x, i), _item(y, i), path, depth - 1) for i in range(min(sure, 64)))
        if isinstance(x, Object) and isinstance(y, Object) and not x.patterns and not y.patterns:
            mine, theirs = dict(x.properties), dict(y.properties)
            sure_names = dict.fromkeys(x.required + y.required)
            return any(self.apart(mine.get(n, x.extra), theirs.get(n, y.extra), path, depth - 1) for n in sure_names)
        return False


def _item(array: Array, index: int) -> Node:
    return array.prefix[index] if index < len(array.prefix) else array.rest


def _names_nothing(x: Object) -> bool:
    """Whether it says nothing about the values of properties."""
    return not x.properties and not x.patterns and x.extra == ANY


def _least(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def _numbers(x: Number, y: Number, path: str, exact: bool = True) -> Number:
    multiple = x.multiple if y.multiple is None else y.multiple
    if exact and x.multiple is not None and y.multiple is not None:
        if not _divides(x.multiple, y.multiple) and not _divides(y.multiple, x.multiple):
            raise GrammarRefused("two values of multipleOf of which neither divides the other", path=path)
        multiple = max(x.multiple, y.multiple)
    low, low_open = max(_key_low(x), _key_low(y))[1:]
    high, high_open = min(_key_high(x), _key_high(y))[1:]
    return Number(x.integer or y.integer, low, low_open, high, high_open, multiple)


def _key_low(n: Number) -> tuple[tuple[Decimal, bool], Decimal | None, bool]:
    return ((Decimal("-Infinity") if n.low is None else n.low, n.low_open), n.low, n.low_open)


def _key_high(n: Number) -> tuple[tuple[Decimal, bool], Decimal | None, bool]:
    return ((Decimal("Infinity") if n.high is None else n.high, not n.high_open), n.high, n.high_open)


def is_empty(n: Number) -> bool:
    """Whether no number is within."""
    if n.low is None or n.high is None:
        return False
    step = Fraction(0) if n.multiple is None else Fraction(n.multiple)
    if n.integer:
        step = Fraction(1) if not step else Fraction(step.numerator)  # the least whole multiple
    low, high = Fraction(n.low), Fraction(n.high)
    if not step:
        return low > high or (low == high and (n.low_open or n.high_open))
    first = -((-low) // step) * step
    first += step if n.low_open and first == low else 0
    return first > high or (first == high and n.high_open)


def is_within(n: Number, value: int | float | Decimal) -> bool:
    number = Decimal(str(value))
    if n.integer and number != number.to_integral_value():
        return False
    if n.low is not None and (number < n.low or (n.low_open and number == n.low)):
        return False
    if n.high is not None and (number > n.high or (n.high_open and number == n.high)):
        return False
    return n.multiple is None or _divides(n.multiple, number)


@functools.lru_cache(4096)
def short_number(option: Number) -> str:
    """A short number within, written without exponent; "" if none is found at once."""
    low, high = option.low, option.high
    step = option.multiple or 1
    tries = [Decimal(0), Decimal(1), Decimal(-1)]
    tries += [bound for bound in (low, high) if bound is not None]
    tries += [
        (bound / step).to_integral_value(rounding) * step
        for bound in (low, high)
        if bound is not None
        for rounding in (ROUND_CEILING, ROUND_FLOOR)
    ]
    tries += [t + step for t in tries] + [t - step for t in tries]
    tries += [(low + high) / 2] if low is not None and high is not None else []
    return min((f"{t.normalize():f}" for t in tries if is_within(option, t)), key=len, default="")


def _divides(divisor: Decimal, number: Decimal) -> bool:
    return Fraction(number) % Fraction(divisor) == 0
