"""Arguments that are no JSON object where they stand: Python's `name=value`, and parameters between tags."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from .format import Parameters
from .source import Broken, Source, Step, escaped, pieces_of, stops
from .values import PYTHON, Emit, as_json, value

_IDENTIFIER = re.compile(r"\w*")
_LONGEST_KEY = 300  # characters
_DEEPEST = 32  # elements inside of each other
_TOLD = 5
_KINDS = {'"': "string", "{": "object", "[": "array", "t": "boolean", "f": "boolean", "n": "null"}
_TYPES = {str: "string", dict: "object", list: "array", bool: "boolean", int: "integer", float: "number"}


def first_name(source: Source) -> Step[str]:
    """The first argument's name and its "="; "" where there are no arguments. Raises Broken on a value alone."""
    yield from source.space()
    name = yield from source.run(_IDENTIFIER, _LONGEST_KEY)
    yield from source.space()
    if not (yield from source.literal("=")) if name else (yield from source.next()) != ")":
        raise Broken
    return name


def read_named(source: Source, name: str, emit: Emit) -> Step[None]:
    """name=value, name=value ... ) behind what `first_name` read."""
    emit("{")
    while name:
        emit(f"{json.dumps(name, ensure_ascii=False)}: ")
        yield from value(source, PYTHON, emit)
        yield from source.space()
        if not (yield from source.literal(",")):
            break
        name = yield from first_name(source)
        if name:
            emit(", ")
    if not (yield from source.literal(")")):
        raise Broken
    emit("}")


def read_parameters(source: Source, shape: Parameters, schema: Any, ends: tuple[str, ...], emit: Emit) -> Step[None]:
    """Parameters up to one of `ends`, which is not taken. schema: of the arguments, it tells text from JSON."""
    before, expected = "{", Expected(schema, schema)
    while True:
        yield from source.space()
        if not (yield from source.literal(shape.opens)):
            break
        name = yield from _name(source, shape)
        kind = yield from _middle(source, shape)
        types = expected.under(name).types if kind is None else kind
        emit(f"{before}{json.dumps(name, ensure_ascii=False)}: ")
        before = ", "
        yield from _value(source, shape, types, (shape.opens, *ends), emit)
    if not (yield from source.follows(*ends)):
        raise Broken
    emit("}" if before == ", " else "{}")


def _name(source: Source, shape: Parameters) -> Step[str]:
    name = ""
    while piece := (yield from source.upto(stops(pieces_of(shape.middle)[0]), limit=_LONGEST_KEY - len(name))):
        name += piece
    return name.strip()


def _middle(source: Source, shape: Parameters) -> Step[frozenset[str] | None]:
    """Take what stands between name and value; the types that it tells, if it does."""
    if shape.json:
        found = yield from source.literal(shape.middle, shape.json)
        if not found:
            raise Broken
        return _TEXT if found == shape.middle else _NO_TEXT
    for piece in pieces_of(shape.middle):
        yield from source.space()
        if not (yield from source.literal(piece)):
            raise Broken
    if shape.middle.endswith("\n"):
        yield from source.literal("\n")
    return None


def _value(
    source: Source, shape: Parameters, types: frozenset[str] | None, behind: tuple[str, ...], emit: Emit
) -> Step[None]:
    """Text goes out as it comes; what may be something else goes out when it has come."""
    wrapped = bool(shape.cdata and (yield from source.literal("<![CDATA[")))
    close = "]]>" + shape.closes.strip() if wrapped else shape.closes.strip()
    closes = (f"\n{close}", close) if shape.closes.startswith("\n") else (close,)
    text = wrapped or types == _TEXT
    held: list[str] = []
    if text:
        emit('"')
    while True:
        while piece := (yield from source.upto(stops(*closes))):
            emit(json_text(piece)) if text else held.append(piece)
        found = yield from source.literal(*closes)
        if (yield from source.follows(*behind)):
            break
        emit(json_text(found)) if text else held.append(found)  # no more than text that looks like an end
    emit('"' if text else converted("".join(held), types))


def read_nested(source: Source, shape: Parameters, schema: Any, ends: tuple[str, ...], emit: Emit) -> Step[None]:
    """Elements up to a closing one, which is not taken. Each goes out when it is complete."""
    before, expected = "{", Expected(schema, schema)
    while (yield from _child(source, shape)):
        name, text = yield from _element(source, shape, expected, 0)
        emit(f"{before}{json.dumps(name, ensure_ascii=False)}: {text}")
        before = ", "
    if not (yield from source.follows(*ends)):
        raise Broken
    emit("}" if before == ", " else "{}")


def _child(source: Source, shape: Parameters) -> Step[bool]:
    """Whether an element opens here; takes the beginning of its tag."""
    yield from source.space()
    if (yield from source.follows(shape.closes)):
        return False
    if not (yield from source.literal(shape.opens)):
        raise Broken
    return True


def _element(source: Source, shape: Parameters, outer: Expected, depth: int) -> Step[tuple[str, str]]:
    """(name, JSON) of an element that opened."""
    if depth > _DEEPEST:
        raise Broken
    name = yield from _name(source, shape)
    yield from _middle(source, shape)
    inner = outer.under(name)
    types = inner.types
    close = f"{shape.closes}{name}>"
    if types != _TEXT and (yield from source.follows(shape.opens)) and not (yield from source.follows(shape.closes)):
        children: list[tuple[str, str]] = []
        while (yield from _child(source, shape)):
            children.append((yield from _element(source, shape, inner, depth + 1)))
        listed = "array" in types if types else all(key == "item" for key, _ in children)
        shown = [text if listed else f"{json.dumps(key, ensure_ascii=False)}: {text}" for key, text in children]
        found = ("[{}]" if listed else "{{{}}}").format(", ".join(shown))
    else:
        text = ""
        pieces: list[str] = []
        while piece := (yield from source.upto(stops(close))):
            pieces.append(piece)
        text = "".join(pieces)
        found = _EMPTY.get(types, "") if types and not text else ""
        found = found or converted(text, types)
    if not (yield from source.literal(close)):
        raise Broken
    return name, found


class Expected:
    """What a schema says about the type of what stands under a name, so that text is told from other values. root: the
    schema of all arguments, in which a $ref points."""

    def __init__(self, schema: Any, root: Any):
        self._schema, self._root = _plain(schema, root), root
        self.types = types_of(schema, root)

    def under(self, name: str) -> Expected:
        """Of a property; or, as `item`, of what a list holds."""
        schema, properties = self._schema, self._schema.get("properties")
        if isinstance(properties, Mapping) and name in properties:
            return Expected(properties[name], self._root)
        if any(key in schema for key in _DIFFERENT) or ("items" in schema and "additionalProperties" in schema):
            return Expected(None, self._root)
        return Expected(schema.get("items" if name == "item" else "additionalProperties"), self._root)

    def as_json(self, depth: int = _TOLD) -> dict[str, Any]:
        """For the grammar: {"types", "properties", "rest"}. depth: how many schemas inside of each other are told; of
        one further in there is nothing."""
        found: dict[str, Any] = {"types": None if self.types is None else sorted(self.types)}
        if depth:
            properties = self._schema.get("properties")
            names = [*(properties if isinstance(properties, Mapping) else ()), *(["item"] * ("items" in self._schema))]
            found["properties"] = {name: self.under(name).as_json(depth - 1) for name in names}
            found["rest"] = self.under("").as_json(0)
        return found


def _plain(schema: Any, root: Any) -> Mapping[str, Any]:
    """A schema, or what it refers to; an empty one for anything else."""
    for _ in range(_DEEPEST):
        if not isinstance(schema, Mapping):
            return {}
        if "$ref" not in schema:
            return schema
        schema = _pointed(schema["$ref"], root) if len(schema.keys() - _SAY_NOTHING) == 1 else None
    return {}


def _pointed(reference: Any, root: Any) -> Any:
    """What a $ref within the root points at; None where there is none."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        return None
    at = root
    for part in unquote(reference)[1:].split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(at, list) and key.isdigit() and int(key) < len(at):
            at = at[int(key)]
        else:
            at = at.get(key) if isinstance(at, Mapping) else None
    return at


def converted(text: str, types: frozenset[str] | None) -> str:
    """A parameter's text as JSON of one of the types; None: of whatever it looks like."""
    found = as_json(text.strip())
    kind = _KINDS.get(found[0], "number") if found else "string"
    if found is None or (types is None and kind == "string"):
        return f'"{json_text(text)}"'
    if kind == "number" and types is not None and "number" not in types and "integer" in types:
        kind = "integer" if _WHOLE.fullmatch(found) else kind
    if types is not None and "string" in types and kind not in types:
        return f'"{json_text(text)}"'
    return found


def types_of(schema: Any, root: Any = None, depth: int = _DEEPEST) -> frozenset[str] | None:
    """Which types of JSON a schema allows; None where it does not say. root: where a $ref points."""
    found: frozenset[str] | None = None
    if not isinstance(schema, Mapping) or not depth:
        return None
    if "$ref" in schema:
        found = types_of(_pointed(schema["$ref"], root), root, depth - 1)
    kinds = schema.get("type")
    if isinstance(kinds, str | list):
        found = frozenset(kind for kind in ([kinds] if isinstance(kinds, str) else kinds) if isinstance(kind, str))
    options = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(options, list):
        found = _both(found, frozenset(_TYPES.get(type(option), "null") for option in options))
    for keyword in ("anyOf", "oneOf"):
        if isinstance(branches := schema.get(keyword), list) and branches:
            each = [types for types in (types_of(b, root, depth - 1) for b in branches) if types is not None]
            found = _both(found, frozenset().union(*each) if len(each) == len(branches) else None)
    for branch in members if isinstance(members := schema.get("allOf"), list) else ():
        found = _both(found, types_of(branch, root, depth - 1))
    return found


def _both(a: frozenset[str] | None, b: frozenset[str] | None) -> frozenset[str] | None:
    if a is None or b is None:
        return a if b is None else b
    whole = {"integer"} if "number" in a | b and "integer" in a | b else set()
    return (a & b) | whole


def json_text(text: str) -> str:
    """As it stands inside a JSON string."""
    return escaped(text.replace("\\", "\\\\").replace('"', '\\"'))


_WHOLE = re.compile(r"-?[0-9]+(?:\.0*)?")
_DIFFERENT = ("patternProperties", "prefixItems", "additionalItems")  # of types of their own
_SAY_NOTHING = frozenset(["title", "description", "default", "examples", "$defs", "definitions", "$comment"])
_TEXT = frozenset(["string"])
_EMPTY = {frozenset(["array"]): "[]", frozenset(["object"]): "{}"}
_NO_TEXT = frozenset(["object", "array", "number", "integer", "boolean", "null"])
