"""Whether an answer is right: calls against the schemas of their tools, JSON against what was to be extracted."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
    "null": type(None),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one answer to a prompt with tools."""

    tool: bool  # the tools that were to be called, or none, in any order
    valid: bool  # and every argument is what the schema allows
    exact: bool  # and every argument is right


def calls_of(text: str) -> list[dict[str, Any]] | None:
    """The calls in an answer; None where one is broken."""
    found = []
    for written in _CALL.findall(text):
        try:
            call = json.loads(written)
        except ValueError:
            return None
        if not isinstance(call, dict) or not isinstance(call.get("arguments"), dict):
            return None
        found.append({"name": call.get("name"), "arguments": call["arguments"]})
    return None if not found and "<tool_call>" in text else found


def judge_calls(text: str, tools: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> Verdict:
    got = calls_of(text)
    if got is None or _names(got) != _names(wanted):
        return Verdict(False, False, False)
    schemas = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in tools}
    valid = all(conforms(call["arguments"], schemas.get(call["name"], {})) for call in got)
    return Verdict(True, valid, valid and _sorted(got) == _sorted(wanted))


def is_json(text: str, wanted: Any) -> bool:
    """Whether the text is exactly this value. 1 and 1.0 are the same number, as JSON has it."""
    try:
        return bool(json.loads(text) == wanted)
    except ValueError:
        return False


def fields_of(text: str, wanted: dict[str, Any]) -> list[bool]:
    """Of each field that is wanted, whether the text is an object that has it exactly."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    found = found if isinstance(found, dict) else {}
    return [name in found and found[name] == value for name, value in wanted.items()]


def conforms(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value fits a schema, of the words that pocket's own schemas use."""
    kind = schema.get("type")
    if kind is not None and not isinstance(value, _TYPES[kind]):
        return False
    if isinstance(value, bool) and kind in ("integer", "number"):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, list):
        return all(conforms(item, schema.get("items", {})) for item in value)
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        known = all(name in properties and conforms(item, properties[name]) for name, item in value.items())
        return known and all(name in value for name in schema.get("required", ()))
    return True


def _names(calls: list[dict[str, Any]]) -> list[str]:
    return sorted(str(call["name"]) for call in calls)


def _sorted(calls: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps([call["name"], call["arguments"]], sort_keys=True) for call in calls)
