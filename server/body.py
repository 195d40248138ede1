"""A request's body: JSON that means one thing, as the fields that came and as their types."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from typing import Any, TypeVar

import msgspec
import pydantic
from starlette.requests import Request

from ..engine.errors import RequestError
from ..engine.grammar import strict
from .context import context
from .errors import from_validation, shown

B = TypeVar("B", bound=pydantic.BaseModel)
LARGE = 1 << 20  # bytes of a body that is decoded beside the loop
_BUT_MARKS = bytes(set(range(256)) - set(b'":'))


async def body_of(http: Request, kind: type[B]) -> tuple[B, dict[str, Any]]:
    """The typed body and the fields as they came. Raises RequestError naming the field."""
    sent = await http.body()
    raw = _json_body(sent) if len(sent) < LARGE else await asyncio.to_thread(_json_body, sent)
    _check_counts(raw, context(http).most_items())
    try:
        return kind.model_validate(raw), raw
    except pydantic.ValidationError as error:
        raise from_validation(error) from None


def _json_body(raw: bytes) -> dict[str, Any]:
    """A JSON object without its nulls, which mean "left out". Raises RequestError saying what is wrong: also where a
    name stands twice in an object, as one of the two would be ignored."""
    try:
        found = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        where = _beyond_numbers(raw)
        why = "the body is not valid JSON" if where is None else where
        raise RequestError(f"{why}: {error}", param=where, code="invalid_json") from None
    if not isinstance(found, dict):
        raise RequestError(f"the body is {shown(found)}; expected a JSON object", code="invalid_json")
    if _members(raw) != _names(found):  # a parser that is shown every pair takes several times as long
        try:
            strict.loads(raw.decode())
        except ValueError as error:
            raise RequestError(f"the body cannot be read in one way only: {error}", code="invalid_json") from None
    return {key: value for key, value in found.items() if value is not None}


def _check_counts(raw: dict[str, Any], most: int) -> None:
    """Refuse what can never fit while it is cheap: to look at each of a million items takes seconds. Raises
    RequestError naming the list."""
    lists = {name: raw.get(name) for name in ("messages", "prompt", "tools")}
    messages = raw.get("messages")
    for i, message in enumerate(messages[:most] if isinstance(messages, list) else ()):
        if isinstance(message, dict):
            lists |= {f"messages[{i}].{name}": message.get(name) for name in ("content", "tool_calls")}
    for where, found in lists.items():
        if isinstance(found, list) and len(found) > most:
            raise RequestError(f"{where} has {len(found)} items; expected at most {most}", param=where)


def _beyond_numbers(raw: bytes) -> str | None:
    """The first field of a body that is a number too large to be one, such as 1e999."""
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(raw)
        if isinstance(found, dict):
            return next((key[:80] for key, value in found.items() if value in (math.inf, -math.inf)), None)
    return None


def _members(raw: bytes) -> int:
    """How many members the objects of a valid JSON text have: its colons outside strings."""
    marks = raw.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _BUT_MARKS)
    return b"".join(marks.split(b'"')[::2]).count(b":")


def _names(found: Any) -> int:
    """How many members the objects of a decoded value have: fewer where a name stood twice."""
    count, left = 0, [found]
    while left:
        item = left.pop()
        if isinstance(item, dict):
            count += len(item)
            item = item.values()
        left.extend(value for value in item if isinstance(value, dict | list))
    return count
