"""The gatekeeper: a JSON Schema becomes a Node in which every keyword counts, or is refused by keyword and place."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Callable
from decimal import Context, Decimal
from typing import Any, NoReturn
from urllib.parse import unquote

from . import probe, regexes, strict
from .errors import GrammarRefused
from .keywords import ANNOTATIONS, ENFORCED, FORMATS, REFUSED
from .nodes import ANY, Array, Bool, Literal, Meeting, Node, Null, Number, Object, Option, Ref, Text, literal
from .spec import Limits

_MOST_PATTERNS = 50
_DEEPEST = 64  # of the lists and objects of a value
_INDEX = re.compile("0|[1-9][0-9]{0,6}")  # of a list, in a pointer
EXACT = 2**53  # numbers beyond are not told apart by every reader of JSON
_DIGITS = Context(prec=15)  # nor are numbers of more digits, and llguidance compares no more
_DIGITS_OF_MULTIPLES = 5
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_STRINGS = ("minLength", "maxLength", "pattern", "format")
_ARRAYS = ("items", "prefixItems", "additionalItems", "minItems", "maxItems")
_OBJECTS = ("properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties")
_TYPES = ("null", "boolean", "number", "string", "array", "object")
_DRAFTS = ("draft-04", "draft-06", "draft-07", "2019-09", "2020-12")


class Schema:
    """A schema that is enforced: `root`, and `definitions` by pointer for the Refs in it."""

    def __init__(self, text: str, limits: Limits):
        """Raises GrammarRefused."""
        if len(text.encode(errors="replace")) > limits.text_bytes:
            raise GrammarRefused(f"schema of {len(text)} characters; at most {limits.text_bytes} bytes")
        self.document = _loads(text)
        self.limits = limits
        self.definitions: dict[str, Node] = {}
        self.meeting = Meeting(self._resolved, limits.nodes)
        self._open: set[str] = set()  # definitions being read
        self._wanted: list[str] = ["#"]
        self._count = 0
        self._draft: str | None = None  # None: any
        while self._wanted:
            self._define(self._wanted.pop())
        self.root: Node = self.definitions["#"]
        del self.document, self.meeting  # which were for reading, may be large, and lead back here

    # ------------------------------------------------------------ definitions

    def _define(self, pointer: str) -> None:
        if pointer not in self.definitions:
            self._open.add(pointer)
            self.definitions[pointer] = self._node(self._find(pointer), pointer, 0)
            self._open.discard(pointer)

    def _resolved(self, pointer: str, path: str) -> Node:
        if pointer in self._open:
            _refuse("$ref to what it stands in, beside other keywords or in allOf", path)
        self._define(pointer)
        return self.definitions[pointer]

    def _find(self, pointer: str) -> Any:
        at: Any = self.document
        for part in pointer[1:].split("/")[1:]:
            key = _unescape(part)
            if isinstance(at, dict) and key in at:
                at = at[key]
            elif isinstance(at, list) and _INDEX.fullmatch(key) and int(key) < len(at):
                at = at[int(key)]
            else:
                _refuse(f"$ref: nothing stands at {pointer}", pointer)
            if isinstance(at, dict) and isinstance(at.get("$id"), str):
                _refuse("$id anywhere but at the root", pointer)
        return at

    # ------------------------------------------------------------ one schema

    def _node(self, schema: Any, path: str, depth: int) -> Node:
        self._count += 1
        if self._count > self.limits.nodes:
            _refuse(f"more than {self.limits.nodes} schemas, properties and values", path)
        if depth > self.limits.depth:
            _refuse(f"schemas nested deeper than {self.limits.depth}", path)
        if isinstance(schema, bool):
            return ANY if schema else ()
        if not isinstance(schema, dict):
            _refuse(f"a schema is an object or a boolean, not {json.dumps(schema)[:40]}", path)
        self._check_keywords(schema, path)
        node = self._own(schema, path, depth)
        for keyword, read in self._JOINED.items():
            if keyword in schema:
                node = self.meeting.both(
                    node, read(self, schema[keyword], f"{path}/{keyword}", depth), f"{path}/{keyword}"
                )
        return node

    def _check_keywords(self, schema: dict[str, Any], path: str) -> None:
        for keyword, value in schema.items():
            where = f"{path}/{_escape(keyword)}"
            if keyword == "uniqueItems" and (value is False or schema.get("maxItems") in (0, 1)):
                continue
            if keyword in REFUSED or (keyword not in ENFORCED and keyword not in ANNOTATIONS and keyword[:2] != "x-"):
                hint = REFUSED.get(keyword)
                _refuse(f"{keyword} is not supported" + (f" ({hint})" if hint else ""), where)
        if isinstance(schema.get("$id"), str) and path != "#":
            _refuse("$id anywhere but at the root", f"{path}/$id")
        if "$schema" in schema:
            draft = next((d for d in _DRAFTS if d in str(schema["$schema"])), None)
            if draft is None or path != "#":
                _refuse("$schema: expected draft 4, 6, 7, 2019-09 or 2020-12, at the root", f"{path}/$schema")
            self._draft = draft
        if "prefixItems" in schema and self._draft not in (None, "2020-12"):
            _refuse("prefixItems: $schema is of a draft that does not have it; expected items", f"{path}/prefixItems")
        if isinstance(schema.get("items"), list) and self._draft == "2020-12":
            _refuse("items as a list: $schema is of draft 2020-12; expected prefixItems", f"{path}/items")
        if "$ref" in schema and self._draft in _DRAFTS[:3] and any(k in ENFORCED for k in schema if k != "$ref"):
            _refuse("$ref with siblings: drafts up to 7 ignore them, later ones do not", f"{path}/$ref")

    def _own(self, schema: dict[str, Any], path: str, depth: int) -> Node:
        """Of type and the keywords that belong to one type each."""
        names = schema.get("type")
        if "type" not in schema and not any(k in schema for k in (*_NUMBERS, *_STRINGS, *_ARRAYS, *_OBJECTS)):
            return ANY
        names = list(_TYPES) if "type" not in schema else names if isinstance(names, list) else [names]
        found: list[Option] = []
        for name in names:
            if not isinstance(name, str) or name not in _MAKERS:
                _refuse(f"type {json.dumps(name)[:40]} is none; these are: {', '.join(_MAKERS)}", f"{path}/type")
            if not (name == "integer" and "number" in names):
                found.append(_MAKERS[name](self, schema, path, depth))
        return tuple(dict.fromkeys(found))

    def _number(self, schema: dict[str, Any], path: str, depth: int, integer: bool = False) -> Option:
        values = {}
        for keyword in _NUMBERS:
            if keyword in schema:
                values[keyword] = _decimal(schema[keyword], f"{path}/{keyword}")
        bounds = {k: (v, k[:2] == "ex") for k, v in values.items()}
        for keyword, next_to in (("exclusiveMinimum", _DIGITS.next_plus), ("exclusiveMaximum", _DIGITS.next_minus)):
            if not integer and values.get(keyword):  # to a reader 0.99999999999999999 is 1
                bounds[keyword] = (next_to(values[keyword]), False)
        low = max((bounds[k] for k in ("minimum", "exclusiveMinimum") if k in bounds), default=(None, False))
        high = min(
            ((bounds[k][0], not bounds[k][1]) for k in ("maximum", "exclusiveMaximum") if k in bounds),
            default=(None, True),
        )
        multiple = values.get("multipleOf")
        if multiple is not None:
            _check_multiple(multiple, f"{path}/multipleOf")
        return Number(integer, low[0], low[1], high[0], not high[1], multiple)

    def _string(self, schema: dict[str, Any], path: str, depth: int) -> Option:
        patterns = []
        high = self._size(schema, "maxLength", path)
        if "pattern" in schema:
            where = f"{path}/pattern"
            patterns.append(
                regexes.parse(_text(schema["pattern"], where), whole=False, path=where, repeat=self.limits.repeat)
            )
        if "format" in schema:
            name = schema["format"]
            if not isinstance(name, str) or name not in FORMATS:
                _refuse(
                    f"format {json.dumps(name)[:40]} is not supported; these are: {', '.join(FORMATS)}",
                    f"{path}/format",
                )
            expression, longest = FORMATS[name]
            patterns.append(_format(expression))
            high = longest if high is None else high if longest is None else min(high, longest)
        return Text(self._size(schema, "minLength", path) or 0, high, tuple(patterns))

    def _array(self, schema: dict[str, Any], path: str, depth: int) -> Option:
        prefix, rest = schema.get("prefixItems", []), schema.get("items", True)
        where, after = f"{path}/prefixItems", f"{path}/items"
        if isinstance(rest, list):
            if "prefixItems" in schema:
                _refuse("items as a list beside prefixItems", after)
            prefix, rest, where, after = rest, schema.get("additionalItems", True), after, f"{path}/additionalItems"
        elif "additionalItems" in schema:
            _refuse("additionalItems without a list of items", f"{path}/additionalItems")
        if not isinstance(prefix, list):
            _refuse("prefixItems must be a list", where)
        return Array(
            tuple(self._node(s, f"{where}/{i}", depth + 1) for i, s in enumerate(prefix)),
            self._node(rest, after, depth + 1),
            self._size(schema, "minItems", path) or 0,
            self._size(schema, "maxItems", path),
        )

    def _object(self, schema: dict[str, Any], path: str, depth: int) -> Option:
        properties = _dict(schema.get("properties", {}), f"{path}/properties")
        patterns = _dict(schema.get("patternProperties", {}), f"{path}/patternProperties")
        required = schema.get("required", [])
        if not isinstance(required, list) or not all(isinstance(n, str) for n in required):
            _refuse("required must be a list of names", f"{path}/required")
        by_pattern = []
        for pattern, value in patterns.items():
            where = f"{path}/patternProperties/{_escape(pattern)}"
            regex = regexes.parse(pattern, whole=False, path=where, repeat=self.limits.repeat)
            by_pattern.append((regex, self._node(value, where, depth + 1)))
        for (one, _), (other, _) in itertools.combinations(by_pattern[:_MOST_PATTERNS], 2):
            if not probe.are_apart(one, other):
                _refuse(
                    "patternProperties: two patterns are not proven to exclude each other", f"{path}/patternProperties"
                )
        extra = self._node(schema.get("additionalProperties", True), f"{path}/additionalProperties", depth + 1)
        named: dict[str, Node] = {}
        for name, value in properties.items():
            where = f"{path}/properties/{_escape(name)}"
            check_writable(name, where)
            named[name] = self._node(value, where, depth + 1)
        listed = Object(tuple(named.items()), (), tuple(by_pattern), extra)
        for name in dict.fromkeys([*named, *required]):
            check_writable(name, f"{path}/required")
            named[name] = self.meeting.value_of(listed, name, f"{path}/required")
        high = self._size(schema, "maxProperties", path)
        if high == 0:
            named, by_pattern, extra = dict.fromkeys(required, ()), [], ()
        low = self._size(schema, "minProperties", path) or 0
        return Object(tuple(named.items()), tuple(dict.fromkeys(required)), tuple(by_pattern), extra, low, high, path)

    # ------------------------------------------------------------ what is met with the rest

    def _ref(self, value: Any, path: str, depth: int) -> Node:
        if not isinstance(value, str) or not (value == "#" or value.startswith("#/")):
            _refuse(f"$ref to {json.dumps(value)[:60]}: only # and #/... within the schema are followed", path)
        pointer = "#" + "".join(f"/{_escape(_unescape(part))}" for part in unquote(value[1:]).split("/")[1:])
        if pointer not in self.definitions:
            self._wanted.append(pointer)
        return (Ref(pointer),)

    def _all(self, value: Any, path: str, depth: int) -> Node:
        node = ANY
        for i, member in enumerate(_members(value, path)):
            node = self.meeting.both(node, self._node(member, f"{path}/{i}", depth + 1), f"{path}/{i}")
        return node

    def _any(self, value: Any, path: str, depth: int) -> Node:
        nodes = [self._node(member, f"{path}/{i}", depth + 1) for i, member in enumerate(_members(value, path))]
        found = tuple(dict.fromkeys(option for node in nodes for option in node))
        return ANY if ANY[0] in found else found

    def _one(self, value: Any, path: str, depth: int) -> Node:
        nodes = [self._node(member, f"{path}/{i}", depth + 1) for i, member in enumerate(_members(value, path))]
        for i, node in enumerate(nodes):
            for j in range(i):
                if not self.meeting.apart(nodes[j], node, path):
                    _refuse(f"oneOf: members {j} and {i} are not proven to exclude each other; anyOf would do", path)
        return tuple(dict.fromkeys(option for node in nodes for option in node))

    def _enum(self, value: Any, path: str, depth: int) -> Node:
        if not isinstance(value, list):
            _refuse("enum must be a list", path)
        self._count += len(value)
        return tuple(dict.fromkeys(self._literal(v, f"{path}/{i}") for i, v in enumerate(value)))

    def _const(self, value: Any, path: str, depth: int) -> Node:
        return (self._literal(value, path),)

    def _literal(self, value: Any, path: str) -> Literal:
        _check_value(value, path)
        return literal(value)

    def _size(self, schema: dict[str, Any], keyword: str, path: str) -> int | None:
        if keyword not in schema:
            return None
        value = schema[keyword]
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0 or value != int(value):
            _refuse(f"{keyword} must be a whole number from 0 on", f"{path}/{keyword}")
        if value > self.limits.repeat:
            _refuse(f"{keyword} above {self.limits.repeat}", f"{path}/{keyword}")
        return int(value)

    _JOINED: dict[str, Callable[..., Node]] = {
        "enum": _enum,
        "const": _const,
        "$ref": _ref,
        "allOf": _all,
        "anyOf": _any,
        "oneOf": _one,
    }


_MAKERS: dict[Any, Callable[..., Option]] = {
    "null": lambda reader, schema, path, depth: Null(),
    "boolean": lambda reader, schema, path, depth: Bool(),
    "number": Schema._number,
    "integer": lambda reader, schema, path, depth: reader._number(schema, path, depth, integer=True),
    "string": Schema._string,
    "array": Schema._array,
    "object": Schema._object,
}


_format = functools.cache(functools.partial(regexes.parse, whole=True))


def check_writable(text: str, path: str) -> None:
    """Answers write strings without \\uXXXX: what needs it cannot be asked for."""
    for character in text:
        if (
            (character < " " and character not in "\b\t\n\f\r")
            or character == "\x7f"
            or "\ud800" <= character <= "\udfff"
        ):
            _refuse(f"the character U+{ord(character):04X} cannot be written without \\u", path)


def _check_value(value: Any, path: str, depth: int = 0) -> None:
    """depth: how many lists and objects it stands in."""
    if depth > _DEEPEST:
        _refuse(f"a value in more than {_DEEPEST} lists and objects", path[:80])
    if isinstance(value, str):
        check_writable(value, path)
    elif isinstance(value, int | float) and abs(value) >= 2**63:
        _refuse("a number of more than 63 bits", path)
    elif isinstance(value, int) and float(value) != value:
        _refuse(f"{value} is no double, as readers of JSON have them; the nearest is {int(float(value))}", path)
    elif isinstance(value, list):
        for i, item in enumerate(value):
            _check_value(item, f"{path}/{i}", depth + 1)
    elif isinstance(value, dict):
        for name, item in value.items():
            check_writable(name, path)
            _check_value(item, f"{path}/{_escape(name)}", depth + 1)


def _loads(text: str) -> Any:
    try:
        return strict.loads(text)
    except ValueError as error:
        raise GrammarRefused(f"the schema is not JSON: {error}") from None


def _decimal(value: Any, path: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse("expected a number", path)
    number = Decimal(str(value))
    if abs(number) > EXACT:
        _refuse(f"{value} is beyond 2^53", path)
    digits, most = len(number.as_tuple().digits), _DIGITS.prec
    if number != number.to_integral_value() and (digits > most or int(number.as_tuple().exponent) < -most):
        _refuse(f"{value} has more than {most} digits, or as many behind the point", path)
    return number


def _check_multiple(multiple: Decimal, path: str) -> None:
    """To follow it takes a state for each remainder. llguidance makes its digits by multiplying a double by ten until
    it is whole, which makes other digits of some."""
    if multiple <= 0 or len(multiple.normalize().as_tuple().digits) > _DIGITS_OF_MULTIPLES:
        _refuse(f"{multiple}: expected one above 0, of at most {_DIGITS_OF_MULTIPLES} digits but for zeros", path)
    number, places = float(multiple), 0
    while not number.is_integer():
        number, places = number * 10, places + 1
    if Decimal(number).scaleb(-places) != multiple:
        _refuse(f"{multiple} cannot be followed, as no double is that number and tenfold ones miss it too", path)


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        _refuse("expected a string", path)
    return value


def _dict(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse("expected an object", path)
    return value


def _members(value: Any, path: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        _refuse("expected a list of schemas, not empty", path)
    return value


def _escape(part: str) -> str:
    return part.replace("~", "~0").replace("/", "~1")


def _unescape(part: str) -> str:
    return part.replace("~1", "/").replace("~0", "~")


def _refuse(message: str, path: str) -> NoReturn:
    raise GrammarRefused(message, path=path)
