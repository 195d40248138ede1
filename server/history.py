"""Turns of a conversation as templates know them, from what clients may still send. Pure."""

from __future__ import annotations

from typing import Any

from ..engine.errors import RequestError

REFUSED = {  # fields of messages that other servers know
    "images": "only text goes into these models",
    "audio": "only text goes into these models",
    "prefix": "name it continue_final_message, beside messages",
}


def modern(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same conversation with each function_call, and the turn of role "function" that answers it, as a call of a
    tool and its result. Raises RequestError where a turn has calls of both kinds or asks for what cannot be done, and
    where a result has no call."""
    out: list[dict[str, Any]] = []
    _check_fields(messages)
    called: dict[str, str] = {}  # function -> id of its last call
    ids: set[str | None] = set()  # of all calls so far; None: of one that has none
    for i, message in enumerate(messages):
        call = message.get("function_call")
        if call is not None:
            if message.get("tool_calls"):
                where = f"messages[{i}].function_call"
                raise RequestError(f"{where}: it stands beside tool_calls; only one can", param=where)
            id_ = called[call["name"]] = f"call{i:05d}"  # nine characters, as some templates want
            rest = {key: value for key, value in message.items() if key != "function_call"}
            message = {**rest, "tool_calls": [{"id": id_, "type": "function", "function": call}]}
        elif message.get("role") == "function" and message.get("name") in called:
            message = {**message, "role": "tool", "tool_call_id": called[message["name"]]}
        ids.update(call.get("id") for call in message.get("tool_calls") or ())
        if message.get("role") in ("tool", "function"):
            _check_result(message, f"messages[{i}]", ids)
        out.append(message)
    return out


def _check_fields(messages: list[dict[str, Any]]) -> None:
    for i, message in enumerate(messages):
        for field, why in REFUSED.items():
            if message.get(field):
                where = f"messages[{i}].{field}"
                raise RequestError(f"{where}: {why}", param=where, code="unsupported_parameter")


def _check_result(message: dict[str, Any], where: str, ids: set[str | None]) -> None:
    """ids: of the calls before it."""
    if not ids:
        raise RequestError(f"{where}: it is the result of a call, and no call stands before it", param=where)
    id_ = message.get("tool_call_id")
    if id_ is not None and id_ not in ids and None not in ids:
        where += ".tool_call_id"
        raise RequestError(f"{where}: no call before it has the id {str(id_)[:60]!r}", param=where)
