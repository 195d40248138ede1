"""What a request asks its answer to be: from the fields of every API that clients speak to one GrammarSpec. Pure.

Field -> its reader, in one table; a field that asks for nothing gives None. Two that ask for something are an error,
and so is a key that nobody knows: it may have been meant to bind the answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from ..engine.errors import RequestError
from ..engine.grammar import strict
from ..engine.grammar.spec import GrammarSpec, Kind

JSON_KINDS = ("json_schema", "json_object", "structural_tag")  # those that a whitespace pattern is for


@dataclass(frozen=True, slots=True)
class Constraint:
    """What binds an answer, and the field of the request that says so: `response_format.json_schema.schema` ..."""

    spec: GrammarSpec
    field: str


def constraint(body: Mapping[str, Any]) -> Constraint | None:
    """What the whole answer must be; None: anything. body: the fields as they came, without nulls. Raises RequestError
    naming the field."""
    found: Constraint | None = None
    for field, read in FIELDS.items():
        if field not in body or (new := read(body[field], field)) is None:
            continue
        if found is not None:
            raise _wrong(new.field, f"{found.field} already says what the answer must be; only one can")
        found = new
    if (pattern := body.get("guided_whitespace_pattern")) is not None:
        found = _spaced(found, pattern, "guided_whitespace_pattern")
    return found


def _wrong(field: str, why: str) -> RequestError:
    return RequestError(f"{field}: {why}", param=field)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, f"it is {_shown(value)}; expected a string")
    return value


def _object(value: Any, where: str, keys: frozenset[str]) -> dict[str, Any]:
    """An object of known keys, those left out whose value is null."""
    if not isinstance(value, dict):
        raise _wrong(where, f"it is {_shown(value)}; expected an object")
    for key in value:
        if key not in keys:
            raise _wrong(f"{where}.{key}"[:200], f"it is not known; these are: {', '.join(sorted(keys))}")
    return {key: item for key, item in value.items() if item is not None}


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:60]!r}"


# ---------------------------------------------------------------- one kind each


def _schema(value: Any, where: str) -> Constraint:
    """A JSON Schema: an object or true, or the same as JSON in a string."""
    if isinstance(value, str):
        value = _loads(value, where)
    if value is True:
        value = {}
    if not isinstance(value, dict):
        raise _wrong(where, f"it is {_shown(value)}; expected a JSON Schema")
    return _spec("json_schema", json.dumps(value, ensure_ascii=False), where)


def _json_object(value: Any, where: str) -> Constraint | None:
    if not isinstance(value, bool):
        raise _wrong(where, f"it is {_shown(value)}; expected true or false")
    return _spec("json_object", "", where) if value else None


def _regex(value: Any, where: str) -> Constraint | None:
    return _spec("regex", text, where) if (text := _text(value, where)) else None


def _some_regex(value: Any, where: str) -> Constraint:
    """Where nothing but an expression was asked for."""
    if (found := _regex(value, where)) is None:
        raise _wrong(where, "it is empty; expected a regular expression")
    return found


def _choice(value: Any, where: str) -> Constraint:
    if not isinstance(value, list) or not value:
        raise _wrong(where, f"it is {_shown(value)}; expected a list of strings, not empty")
    for i, choice in enumerate(value):
        if not _text(choice, f"{where}[{i}]"):
            raise _wrong(f"{where}[{i}]", "it is empty; an answer has at least one character")
    return _spec("choice", json.dumps(value, ensure_ascii=False), where)


def _gbnf(value: Any, where: str) -> Constraint | None:
    """Some front ends always send the field, empty."""
    return _spec("gbnf", text, where) if (text := _text(value, where)).strip() else None


def _ebnf(value: Any, where: str) -> Constraint | None:
    return _spec("ebnf", text, where) if (text := _text(value, where)).strip() else None


def _grammar(value: Any, where: str) -> Constraint | None:
    """Lark or EBNF: only one of them defines rules with ::=."""
    text = _text(value, where)
    return _spec("ebnf" if "::=" in text else "lark", text, where) if text.strip() else None


def _structural_tag(value: Any, where: str) -> Constraint:
    if isinstance(value, str):
        value = _loads(value, where)
    found = _object(value, where, frozenset(["type", "structures", "triggers"]))
    if found.pop("type", "structural_tag") != "structural_tag":
        raise _wrong(f"{where}.type", "it must be structural_tag")
    return _spec("structural_tag", json.dumps(found, ensure_ascii=False), where)


def _loads(text: str, where: str) -> Any:
    try:
        return strict.loads(text)
    except ValueError as error:
        raise _wrong(where, f"it is not JSON: {error}") from None


def _spec(kind: Kind, text: str, where: str) -> Constraint:
    if half := re.search("[\ud800-\udfff]", text):  # JSON in a string can hold it, a message to the engine cannot
        raise _wrong(where, f"it holds U+{ord(half[0]):04X}, half of a surrogate pair, which is no character")
    return Constraint(GrammarSpec(kind=kind, text=text), where)


# ---------------------------------------------------------------- fields that hold one of several kinds

_FORMAT_KEYS: dict[str, frozenset[str]] = {
    "text": frozenset(["type"]),
    "json_object": frozenset(["type", "schema"]),
    "json_schema": frozenset(["type", "json_schema", "schema"]),
    "regex": frozenset(["type", "regex", "pattern"]),
    "grammar": frozenset(["type", "grammar"]),
    "structural_tag": frozenset(["type", "structures", "triggers"]),
}
_JSON_SCHEMA_KEYS = frozenset(["name", "description", "schema", "strict"])


def _response_format(value: Any, where: str) -> Constraint | None:
    kind = value.get("type") if isinstance(value, dict) else None
    if not isinstance(kind, str) or kind not in _FORMAT_KEYS:
        known = ", ".join(_FORMAT_KEYS)
        if not isinstance(value, dict):
            raise _wrong(where, f"it is {_shown(value)}; expected an object whose type is one of {known}")
        raise _wrong(f"{where}.type", f"it is {_shown(kind)}; expected one of {known}")
    found = _object(value, where, _FORMAT_KEYS[kind])
    match kind:
        case "json_object":
            return _schema(found["schema"], f"{where}.schema") if "schema" in found else _json_object(True, where)
        case "json_schema":
            return _json_schema(found, where)
        case "regex":
            return _some_regex(*_one_of(found, where, "pattern", "regex"))
        case "grammar":
            return _gbnf(*_one_of(found, where, "grammar"))
        case "structural_tag":
            return _structural_tag(found, where)
    return None


def _json_schema(found: dict[str, Any], where: str) -> Constraint:
    """As OpenAI has it, or with the schema beside the type. strict or not, the schema is enforced."""
    value, where = _one_of(found, where, "json_schema", "schema")
    if not where.endswith(".json_schema"):
        return _schema(value, where)
    inner = _object(value, where, _JSON_SCHEMA_KEYS)
    if not isinstance(inner.get("strict", False), bool):
        raise _wrong(f"{where}.strict", f"it is {_shown(inner['strict'])}; expected true or false")
    return _schema(*_one_of(inner, where, "schema"))


def _one_of(found: dict[str, Any], where: str, *keys: str) -> tuple[Any, str]:
    """(the value, its field) of the one of these keys that is there."""
    there = [key for key in keys if key in found]
    if len(there) != 1:
        field = f"{where}.{there[1] if there else keys[0]}"
        raise _wrong(field, f"it stands beside {there[0]}; only one can" if there else "it is missing")
    return found[there[0]], f"{where}.{there[0]}"


_STRUCTURED: dict[str, Callable[[Any, str], Constraint | None]] = {
    "json": _schema,
    "json_object": _json_object,
    "regex": _some_regex,
    "choice": _choice,
    "grammar": _grammar,
    "structural_tag": _structural_tag,
}
_STRUCTURED_OPTIONS = ("whitespace_pattern", "disable_any_whitespace", "disable_fallback")


def _structured_outputs(value: Any, where: str) -> Constraint | None:
    given = _object(value, where, frozenset([*_STRUCTURED, *_STRUCTURED_OPTIONS]))
    found: Constraint | None = None
    for key, read in _STRUCTURED.items():
        if key not in given or (new := read(given[key], f"{where}.{key}")) is None:
            continue
        if found is not None:
            raise _wrong(new.field, f"{found.field} already says what the answer must be; only one can")
        found = new
    for key in ("disable_any_whitespace", "disable_fallback"):
        if not isinstance(given.get(key, False), bool):
            raise _wrong(f"{where}.{key}", f"it is {_shown(given[key])}; expected true or false")
    if given.get("disable_any_whitespace"):
        found = _spaced(found, "", f"{where}.disable_any_whitespace")
    if "whitespace_pattern" in given:
        found = _spaced(found, given["whitespace_pattern"], f"{where}.whitespace_pattern")
    if found is not None and given.get("disable_fallback"):
        found = Constraint(msgspec.structs.replace(found.spec, only=True), found.field)
    return found


def _spaced(found: Constraint | None, pattern: Any, where: str) -> Constraint:
    """The same with an expression for the white space between JSON tokens."""
    text = _text(pattern, where)
    if found is None or found.spec.kind not in JSON_KINDS:
        raise _wrong(where, "it is about the white space of JSON, and no JSON was asked for")
    return Constraint(msgspec.structs.replace(found.spec, whitespace=text), found.field)


FIELDS: dict[str, Callable[[Any, str], Constraint | None]] = {
    "response_format": _response_format,  # OpenAI, with the further types of vLLM and llama.cpp
    "structured_outputs": _structured_outputs,  # vLLM
    "guided_json": _schema,  # vLLM of old
    "guided_regex": _regex,
    "guided_choice": _choice,
    "guided_grammar": _grammar,
    "grammar": _gbnf,  # llama.cpp
    "json_schema": _schema,  # llama.cpp, and SGLang with JSON in a string
    "regex": _regex,  # SGLang
    "ebnf": _ebnf,
    "structural_tag": _structural_tag,
}
