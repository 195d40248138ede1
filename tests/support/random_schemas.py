"""Random JSON Schemas in which every enforced keyword comes up, random tools, and a judge of answers.

The judge is `jsonschema`, with what that leaves out: exact decimals for `multipleOf`, formats that need further
packages, and JSON itself, which knows no NaN.
"""

from __future__ import annotations

import datetime
import itertools
import json
import random
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import jsonschema
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

Schema = dict[str, Any]

NAMES = ["a", "id", "name", "tags", "é", "two words", 'quo"te', "value", "x_1", "long_name_of_a_property"]
TEXTS = ["", "a", "x y", "Köln", 'in "quotes"', "back\\slash", "line\nfeed", "日本", "a rather long constant"]
PATTERNS = ["^[a-z]{2,4}$", "^\\d+-\\d+$", "x", "^(foo|bar)+$", '^[^\\s"]{1,3}$', "é|ü", "^$|^y", "[0-9]{2}$"]
FORMATS = ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"]
OLD = "http://json-schema.org/draft-07/schema#"
NEW = "https://json-schema.org/draft/2020-12/schema"


# ---------------------------------------------------------------- schemas


def random_schema(pick: random.Random, keyword: str | None = None, *, obj: bool = False) -> Schema:
    """One that is mostly satisfiable and mostly not refused. keyword: it stands in it somewhere. obj: of an object, as
    the parameters of a tool."""
    for _ in range(2_000):
        found = _Maker(pick, old=pick.random() < 0.2 or keyword == "additionalItems").document(obj)
        if keyword is None or keyword in keywords(found):
            return found
    raise AssertionError(f"no schema with {keyword} came up")


class _Maker:
    """Of one document: its definitions, and which draft it is of."""

    def __init__(self, pick: random.Random, old: bool):
        self.pick, self.old = pick, old
        self.definitions: Schema = {}
        self.where = "definitions" if old else pick.choice(["$defs", "$defs", "definitions"])

    def document(self, obj: bool) -> Schema:
        if self.pick.random() < 0.35:
            self._recursive()
        body = self._object(3) if obj else self.node(3)
        head: Schema = {}
        if self.old or self.pick.random() < 0.2:
            head["$schema"] = OLD if self.old else NEW
        if self.old and "$ref" in body:
            body = {"allOf": [body]}
        if self.definitions:
            head[self.where] = self.definitions
        return {**head, **body}

    def node(self, depth: int) -> Schema:
        kinds = ["null", "boolean", "integer", "number", "string", "string", "enum", "const"]
        if depth:
            kinds += ["array", "object", "object", "any_of", "all_of", "one_of", "types", "ref", "plain"] * 2
        found: Schema = getattr(self, f"_{self.pick.choice(kinds)}")(depth)
        return self._noted(found)

    def _noted(self, schema: Schema) -> Schema:
        """With annotations, which change nothing."""
        if "$ref" in schema and self.old:
            return schema
        notes = {
            "title": "T",
            "description": 'the "thing"',
            "default": None,
            "examples": [1],
            "$comment": "c",
            "x-y": {},
        }
        return {**schema, **{k: v for k, v in notes.items() if self.pick.random() < 0.04}}

    def _maybe(self, schema: Schema, chance: float = 0.4, **more: Any) -> Schema:
        return schema | {name: value for name, value in more.items() if self.pick.random() < chance}

    # ------------------------------------------------------------ plain values

    def _null(self, depth: int) -> Schema:
        return {"type": "null"}

    def _boolean(self, depth: int) -> Schema:
        return {"type": "boolean"}

    def _plain(self, depth: int) -> Schema:
        return self.pick.choice([{}, {"type": "object"}, {"type": "array"}, {"type": "string"}])

    def _integer(self, depth: int) -> Schema:
        pick = self.pick
        low = self._maybe({}, minimum=pick.randint(-20, 5)) or self._maybe({}, exclusiveMinimum=pick.randint(-300, 0))
        high = self._maybe({}, maximum=pick.randint(14, 5000)) or self._maybe({}, exclusiveMaximum=pick.randint(15, 99))
        return self._maybe({"type": "integer", **low, **high}, 0.25, multipleOf=pick.choice([2, 7, 0.5]))

    def _number(self, depth: int) -> Schema:
        pick = self.pick
        low = self._maybe({}, minimum=pick.choice([-1.5, 0, 0.25, -1e3]))
        low = low or self._maybe({}, exclusiveMinimum=pick.choice([-2.75, 0, 0.999]))
        high = self._maybe({}, exclusiveMaximum=pick.choice([2, 3.75, 100.001]))
        high = high or self._maybe({}, maximum=pick.choice([1.5, 7, 12345.678]))
        return self._maybe({"type": "number", **low, **high}, 0.2, multipleOf=pick.choice([0.1, 0.25, 0.5, 1]))

    def _string(self, depth: int) -> Schema:
        way = self.pick.random()
        if way < 0.25:
            return self._maybe({"type": "string", "pattern": self.pick.choice(PATTERNS)}, 0.2, maxLength=40)
        if way < 0.45:
            return {"type": "string", "format": self.pick.choice(FORMATS)}
        return self._maybe({"type": "string"}, minLength=self.pick.randint(0, 5), maxLength=self.pick.randint(5, 12))

    def _value(self, depth: int) -> Any:
        pick = self.pick
        flat = [None, True, False, 0, -1.5, 3, 12345678901, 1e-3, *TEXTS]
        if depth == 0 or pick.random() < 0.7:
            return pick.choice(flat)
        if pick.random() < 0.5:
            return [self._value(depth - 1) for _ in range(pick.randint(0, 3))]
        return {name: self._value(depth - 1) for name in pick.sample(NAMES, pick.randint(0, 3))}

    def _enum(self, depth: int) -> Schema:
        return {"enum": [self._value(1) for _ in range(self.pick.randint(1, 5))]}

    def _const(self, depth: int) -> Schema:
        return {"const": self._value(2)}

    def _types(self, depth: int) -> Schema:
        """Several types with keywords of each."""
        pick = self.pick
        names = pick.sample(["null", "boolean", "integer", "number", "string", "array", "object"], pick.randint(1, 3))
        more: Schema = {}
        for name in names:
            if name in ("integer", "number", "string", "array"):
                more |= getattr(self, f"_{name}")(max(depth - 1, 0))
        return {**more, "type": names}

    # ------------------------------------------------------------ arrays and objects

    def _array(self, depth: int) -> Schema:
        pick = self.pick
        first = [self.node(depth - 1) for _ in range(pick.randint(1, 2))] if pick.random() < 0.4 and depth else []
        rest: Any = self.node(depth - 1) if depth else {"type": "integer"}
        if pick.random() < 0.1:
            rest = True
        elif first and pick.random() < 0.4:
            rest = False
        found: Schema = {"type": "array"}
        if first and self.old:
            found |= self._maybe({"items": first}, 0.8, additionalItems=rest)
        elif first:
            found |= self._maybe({"prefixItems": first}, 0.8, items=rest)
        else:
            found["items"] = True if rest is False else rest
        low, high = pick.randint(0, 3), pick.randint(3, 5)
        if first and rest is False:
            low = min(low, len(first))
        return self._maybe(found, 0.35, minItems=low, maxItems=high)

    def _object(self, depth: int) -> Schema:
        pick = self.pick
        names = pick.sample(NAMES, pick.randint(0, 4))
        found: Schema = {"type": "object", "properties": {n: self.node(depth - 1) if depth else {} for n in names}}
        found["required"] = [n for n in names if pick.random() < 0.5]
        if pick.random() < 0.65:
            found["additionalProperties"] = pick.choice([False, False, True, self.node(0)])
        if found.get("additionalProperties", True) is not False and pick.random() < 0.1:
            found["required"].append("unlisted")
        if pick.random() < 0.15:
            found["patternProperties"] = {
                "^x_": self.node(0),
                **({"^[0-9]+$": self.node(0)} if pick.random() < 0.4 else {}),
            }
        if pick.random() < 0.12:
            found["required"] = list(names)
            found |= pick.choice(
                [{"minProperties": len(names)}, {"minProperties": len(names) + 1}, {"maxProperties": len(names)}]
            )
            if found.get("minProperties", 0) > len(names):
                found["additionalProperties"] = self.node(0)
        if not names and pick.random() < 0.5:
            del found["properties"]
        if not found["required"] and pick.random() < 0.5:
            del found["required"]
        return found

    # ------------------------------------------------------------ what is made of others

    def _any_of(self, depth: int) -> Schema:
        pick = self.pick
        if pick.random() < 0.6:
            return {"anyOf": [self.node(depth - 1) for _ in range(pick.randint(1, 3))]}
        properties = {n: self.node(depth - 1) for n in ("a", "id", "value")}
        return {
            "type": "object",
            "properties": properties,
            "anyOf": [{"required": [n]} for n in pick.sample(list(properties), 2)],
        }

    def _all_of(self, depth: int) -> Schema:
        pick = self.pick
        match pick.randint(0, 2):
            case 0:
                return {"allOf": [{"type": "integer", "minimum": -5}, {"maximum": pick.randint(5, 500)}]}
            case 1:
                return {
                    "allOf": [
                        {"type": "string", "pattern": pick.choice(PATTERNS[:3])},
                        {"maxLength": pick.randint(4, 9)},
                    ]
                }
        first = {"type": "object", "properties": {"a": self.node(depth - 1)}, "required": ["a"]}
        second = {"properties": {"value": self.node(depth - 1)}, "required": pick.choice([[], ["value"]])}
        return {"allOf": [first, second]} if pick.random() < 0.6 else {**first, "allOf": [second]}

    def _one_of(self, depth: int) -> Schema:
        pick = self.pick
        match pick.randint(0, 2):
            case 0:
                kinds = pick.sample(["null", "boolean", "integer", "string", "object"], pick.randint(2, 3))
                return {"oneOf": [getattr(self, f"_{kind}")(depth - 1) for kind in kinds]}
            case 1:
                return {"oneOf": [{"type": "integer", "maximum": -1}, {"type": "number", "minimum": 0, "maximum": 99}]}
        branches = []
        for kind in ("cat", "dog"):
            properties = {"kind": {"const": kind}, **{n: self.node(depth - 1) for n in pick.sample(NAMES, 1)}}
            branches.append({"type": "object", "properties": properties, "required": ["kind"]})
        return {"oneOf": branches}

    def _ref(self, depth: int) -> Schema:
        if not self.definitions or self.pick.random() < 0.3:
            self.definitions[f"d{len(self.definitions)}"] = self.node(max(depth - 2, 0))
        return {"$ref": f"#/{self.where}/{self.pick.choice(list(self.definitions))}"}

    def _recursive(self) -> None:
        """Definitions that refer to themselves: a list, a tree, or two that refer to each other."""
        pick, to = self.pick, lambda name: {"$ref": f"#/{self.where}/{name}"}
        value = self.node(1)
        closed: Schema = {"type": "object", "additionalProperties": False}
        match pick.randint(0, 2):
            case 0:
                rest = {"anyOf": [to("list"), {"type": "null"}]}
                self.definitions["list"] = {**closed, "properties": {"v": value, "next": rest}, "required": ["next"]}
            case 1:
                many = self._maybe({"type": "array", "items": to("tree")}, maxItems=3)
                self.definitions["tree"] = {**closed, "properties": {"v": value, "sub": many}, "required": ["v", "sub"]}
            case 2:
                self.definitions["even"] = {**closed, "properties": {"odd": to("odd")}}
                self.definitions["odd"] = {"anyOf": [value, {"type": "array", "items": to("even")}]}


# ---------------------------------------------------------------- what stands in one

_ONE = ("items", "additionalItems", "additionalProperties")
_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems", "items")
_MAPS = ("properties", "patternProperties", "$defs", "definitions")


def parts(schema: Any) -> Iterator[Schema]:
    """Every schema in a schema, itself included."""
    if not isinstance(schema, dict):
        return
    yield schema
    inner = [schema.get(k) for k in _ONE]
    inner += itertools.chain.from_iterable(schema[k] for k in _LISTS if isinstance(schema.get(k), list))
    inner += itertools.chain.from_iterable(schema[k].values() for k in _MAPS if k in schema)
    for one in inner:
        yield from parts(one)


def keywords(schema: Schema) -> set[str]:
    return {keyword for part in parts(schema) for keyword in part}


# ---------------------------------------------------------------- tools


def random_tools(pick: random.Random) -> list[dict[str, Any]]:
    """One to four functions; some take nothing."""
    names = pick.sample(["get_weather", "get", "ping", "math.add", "a-b", "ns:do", "Get_Weather_2"], pick.randint(1, 4))
    tools = []
    for name in names:
        function: dict[str, Any] = {"name": name}
        if pick.random() < 0.9:
            function["parameters"] = random_schema(pick, obj=True)
        if pick.random() < 0.5:
            function["description"] = "does something"
        if pick.random() < 0.6:
            function["strict"] = True
        tools.append({"type": "function", "function": function})
    return tools


def schema_of(tool: dict[str, Any]) -> Schema:
    found: Schema = tool["function"].get("parameters") or {"type": "object"}
    return found


# ---------------------------------------------------------------- the judge


def complaint(schema: Schema, text: str) -> str | None:
    """Why a text is no valid document; None if it is one."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except ValueError as error:
        return f"no JSON: {error}"
    kind = jsonschema.Draft7Validator if schema.get("$schema") == OLD else jsonschema.Draft202012Validator
    judge = extend(kind, {"multipleOf": _multiple, "format": _format})(schema)
    found = next(judge.iter_errors(value), None)
    return None if found is None else f"{found.json_path}: {found.message}"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _multiple(judge: Any, step: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(value, int | float) and not isinstance(value, bool) and Fraction(str(value)) % Fraction(str(step)):
        yield ValidationError(f"{value} is no multiple of {step}")


def _format(judge: Any, name: str, value: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(value, str) and not is_format(name, value):
        yield ValidationError(f"{value!r} is no {name}")


_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+")
_DURATION = re.compile(r"P(?!$)(?:\d+W|(?:\d+Y)?(?:\d+M)?(?:\d+D)?(?:T(?=\d)(?:\d+H)?(?:\d+M)?(?:\d+S)?)?)", re.ASCII)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
_TIME = re.compile(r"(\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:[Zz]|[+-](\d\d):(\d\d))", re.ASCII)


def is_format(name: str, text: str) -> bool:
    """By RFC 3339, 5321, 1123, 3986 and the standard library; written apart from the expressions under test."""
    match name:
        case "date":
            return _is_date(text)
        case "time":
            return _is_time(text)
        case "date-time":
            return len(text) > 10 and text[10] in "Tt" and _is_date(text[:10]) and _is_time(text[11:])
        case "duration":
            return _DURATION.fullmatch(text) is not None
        case "hostname":
            return len(text) <= 253 and _HOST.fullmatch(text) is not None
        case "email":
            local, _, host = text.rpartition("@")
            dots = not (local.startswith(".") or local.endswith(".") or ".." in local)
            return dots and _LOCAL.fullmatch(local) is not None and is_format("hostname", host)
        case "uri":
            return _URI.fullmatch(text) is not None
    return jsonschema.Draft202012Validator.FORMAT_CHECKER.conforms(text, name)  # ipv4, ipv6, uuid


def _is_date(text: str) -> bool:
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        return False
    year = int(text[:4])  # RFC 3339 has a year 0, a leap year; Python has none
    try:
        datetime.date(year or 2000, int(text[5:7]), int(text[8:]))
    except ValueError:
        return False
    return True


def _is_time(text: str) -> bool:
    found = _TIME.fullmatch(text)
    if found is None:
        return False
    hours, minutes, seconds, *offset = (int(group or 0) for group in found.groups())
    return hours < 24 and minutes < 60 and seconds < 60 and offset[0] < 24 and offset[1] < 60
