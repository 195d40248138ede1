"""Which tools an answer may call, and whether it must: `tools`, `tool_choice`, `parallel_tool_calls`, checked. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..engine.errors import RequestError
from .tools.format import Tool

_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")
MAX_TOOLS = 1024

# Schemas of no other keywords are sure to be enforced, so that a tool that is not strict is never refused for its
# schema. Their values are schemas, maps of schemas, lists of schemas, or plain.
_SCHEMAS = frozenset(["items"])
_MAPS = frozenset(["properties"])
_LISTS = frozenset(["anyOf"])
_PLAIN = frozenset(["type", "enum", "const", "required", "title", "description", "default", "examples", "minimum",
                    "maximum", "minItems", "maxItems", "minLength", "maxLength"])  # fmt: skip
_NOT_NULL = frozenset(["type", "enum", "required"])
_MORE_NAMES = ("additionalProperties", "patternProperties", "$ref", "allOf", "anyOf", "oneOf", "minProperties")
_LARGEST = 1000  # a count that costs little
_PLACES = 11  # behind the point; bounds of more than 15 digits are refused


@dataclass(frozen=True, slots=True)
class Calls:
    """tools: those that may be called, none where tool_choice is "none"; numbers: their places in the request. must: at
    least one has to be. only: the one that has to be. parallel: an answer may have more than one call."""

    tools: tuple[Tool, ...] = ()
    numbers: tuple[int, ...] = ()
    must: bool = False
    only: str | None = None
    parallel: bool = True

    @property
    def choice(self) -> str | dict[str, Any]:
        """As `Format.structure` takes it."""
        if self.only is not None:
            return {"type": "function", "function": {"name": self.only}}
        return "required" if self.must else "auto"

    @property
    def strict(self) -> str | None:
        """The field of the first tool that asks for arguments valid for its schema."""
        for number, tool in zip(self.numbers, self.tools, strict=True):
            if tool["function"].get("strict"):
                return f"tools[{number}].function.strict"
        return None


def calls(tools: Sequence[Any], choice: Any, parallel: bool) -> Calls:
    """Raises RequestError naming the field."""
    if len(tools) > MAX_TOOLS:
        raise _wrong("tools", f"there are {len(tools)}; at most {MAX_TOOLS}")
    names = [_checked(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise _wrong(f"tools[{i}].function.name", f"{name!r} is the name of another tool too")
    only = _only(choice, names)
    if choice == "none":
        return Calls()
    must = choice != "auto"
    if must and not tools:
        raise _wrong("tool_choice", "there are no tools")
    return Calls(tuple(tools), tuple(range(len(tools))), must, only, parallel)


def _wrong(field: str, why: str) -> RequestError:
    return RequestError(f"{field}: {why}", param=field)


def _checked(tool: Any, where: str) -> str:
    """A tool's name."""
    if tool.get("type", "function") != "function":
        raise _wrong(f"{where}.type", f"it is {str(tool['type'])[:60]!r}; only functions can be called here")
    function = tool.get("function")
    if not isinstance(function, dict):
        raise _wrong(f"{where}.function", "it is missing; expected an object with a name")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _wrong(
            f"{where}.function.name", f"it is {str(name)[:60]!r}; expected 1 to 128 letters, digits or any of _ - . : /"
        )
    if not isinstance(function.get("description") or "", str):
        raise _wrong(f"{where}.function.description", "it is no string")
    if not isinstance(function.get("strict") or False, bool):
        raise _wrong(f"{where}.function.strict", "it is neither true nor false")
    parameters = function.get("parameters")
    if parameters is not None and (not isinstance(parameters, dict) or parameters.get("type", "object") != "object"):
        raise _wrong(f"{where}.function.parameters", 'it must be a JSON Schema whose type is "object"')
    return name


def _only(choice: Any, names: list[str]) -> str | None:
    """The one function that has to be called."""
    if isinstance(choice, str):
        return None
    function = choice.get("function")
    if choice.get("type", "function") != "function" or not isinstance(function, dict):
        expected = 'none, auto, required or {"type": "function", "function": {"name": ...}}'
        raise _wrong("tool_choice", f"it is {json.dumps(choice)[:80]}; expected {expected}")
    name = function.get("name")
    if not isinstance(name, str) or name not in names:
        known = ", ".join(names) or "there are none"
        raise _wrong("tool_choice.function.name", f"it is {str(name)[:60]!r}; expected one of the tools: {known}")
    return name


def arguments_schema(tool: Tool, *, enforced: bool, declared: bool = False) -> dict[str, Any]:
    """The schema that a grammar writes arguments by. enforced: the tool's own, whatever is in it; else only one of
    keywords that are sure to be known, and any object in place of another. declared: of properties that are named, no
    others are written unless the schema says so itself."""
    parameters = tool["function"].get("parameters")
    if parameters is None:  # OpenAI's word for a function that takes none
        return {"type": "object", "properties": {}, "additionalProperties": False}
    if not parameters or not (enforced or is_plain(parameters)):
        return {"type": "object"}
    closed = declared and parameters.get("properties") and not any(key in parameters for key in _MORE_NAMES)
    return {**parameters, "type": "object", **({"additionalProperties": False} if closed else {})}


def is_plain(schema: Any) -> bool:
    """Whether a schema has keywords of the plain kind only."""
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, Mapping):
        return False
    for key, value in schema.items():
        if key in _SCHEMAS and is_plain(value):
            continue
        if key in _MAPS and isinstance(value, Mapping) and all(map(is_plain, value.values())):
            continue
        if key in _LISTS and isinstance(value, list) and value and all(map(is_plain, value)):
            continue
        if (key in _NOT_NULL and value is None) or (key in ("enum", "const") and not _is_held(value)):
            return False
        if key in _PLAIN and not (key.startswith("m") and not _is_small(value)):
            continue
        if key == "additionalProperties" and isinstance(value, bool):
            continue
        return False
    return not ("anyOf" in schema and "properties" in schema)


def _is_small(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) <= _LARGEST and value == round(value, _PLACES)


def _is_held(value: Any) -> bool:
    """Whether every number in it is a double, and not too large."""
    if isinstance(value, list | dict):
        return all(map(_is_held, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int | float) or (abs(value) < 2**63 and float(value) == value)
