"""Arguments that are no JSON object where they stand: Python's `name=value`, and parameters between tags."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .format import Parameters
from .source import Broken, Source, Step, escaped, pieces_of, stops
from .values import PYTHON, Emit, as_json, value

_IDENTIFIER = re.compile(r"\w*")
_LONGEST_KEY = 300  # characters
_DEEPEST = 32  # elements inside of each other
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
    before = "{"
    while True:
        yield from source.space()
        if not (yield from source.literal(shape.opens)):
            break
        name = yield from _name(source, shape)
        kind = yield from _middle(source, shape)
        types = types_of(_inner(schema, name)) if kind is None else kind
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
    before = "{"
    while (yield from _child(source, shape)):
        name, text = yield from _element(source, shape, schema, 0)
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


def _element(source: Source, shape: Parameters, schema: Any, depth: int) -> Step[tuple[str, str]]:
    """(name, JSON) of an element that opened."""
    if depth > _DEEPEST:
        raise Broken
    name = yield from _name(source, shape)
    yield from _middle(source, shape)
    inner = _inner(schema, name)
    types = types_of(inner)
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


def _inner(schema: Any, name: str) -> Any:
    """The schema of what stands under a name, or in a list, of this one."""
    if not isinstance(schema, Mapping):
        return None
    properties = schema.get("properties")
    return properties[name] if isinstance(properties, Mapping) and name in properties else schema.get("items")


def converted(text: str, types: frozenset[str] | None) -> str:
    """A parameter's text as JSON of one of the types; None: of whatever it looks like."""
    found = as_json(text.strip())
    kind = _KINDS.get(found[0], "number") if found else "string"
    if found is None or (types is None and kind == "string"):
        return f'"{json_text(text)}"'
    if types is not None and "string" in types and kind not in types and not ("integer" in types and kind == "number"):
        return f'"{json_text(text)}"'
    return found


def types_of(schema: Any) -> frozenset[str] | None:
    """Which types of JSON a schema allows; None where it does not say."""
    if not isinstance(schema, Mapping):
        return None
    kinds = schema.get("type")
    if isinstance(kinds, str | list):
        return frozenset(kind for kind in ([kinds] if isinstance(kinds, str) else kinds) if isinstance(kind, str))
    options = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(options, list):
        return frozenset(_TYPES.get(type(option), "null") for option in options)
    branches = schema.get("anyOf") or schema.get("oneOf")
    if not isinstance(branches, list):
        return None
    each = [types for types in map(types_of, branches) if types is not None]
    return frozenset().union(*each) if len(each) == len(branches) else None


def json_text(text: str) -> str:
    """As it stands inside a JSON string."""
    return escaped(text.replace("\\", "\\\\").replace('"', '\\"'))


_TEXT = frozenset(["string"])
_EMPTY = {frozenset(["array"]): "[]", frozenset(["object"]): "{}"}
_NO_TEXT = frozenset(["object", "array", "number", "integer", "boolean", "null"])
