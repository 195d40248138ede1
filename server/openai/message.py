"""Events of an answer as OpenAI words them: deltas of a stream, and the message of a plain answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..stream import Piece
from ..tools.events import Arguments, CallStart, Content, Event, Thought


def events_of(pieces: Iterable[Piece]) -> list[Event]:
    """Neighbours of a kind are joined."""
    out: list[Event] = []
    for piece in pieces:
        for event in piece.events if piece.events is not None else [Content(piece.text)] if piece.text else []:
            last = out[-1] if out else None
            match event, last:
                case Content(new), Content(old):
                    out[-1] = Content(old + new)
                case Thought(new), Thought(old):
                    out[-1] = Thought(old + new)
                case Arguments(index, new), Arguments(same, old) if index == same:
                    out[-1] = Arguments(index, old + new)
                case _:
                    out.append(event)
    return out


def deltas(events: Sequence[Event]) -> list[dict[str, Any]]:
    """One each, but for the ends of calls, of which a client is told nothing. What a call is stands in its first delta
    only: clients join repeats."""
    out: list[dict[str, Any]] = []
    for event in events:
        match event:
            case Content(text):
                out.append({"content": text})
            case Thought(text):
                out.append({"reasoning_content": text})
            case CallStart(index, id_, name):
                call = {"index": index, "id": id_, "type": "function", "function": {"name": name, "arguments": ""}}
                out.append({"tool_calls": [call]})
            case Arguments(index, text):
                out.append({"tool_calls": [{"index": index, "function": {"arguments": text}}]})
    return out


def message(events: Iterable[Event]) -> dict[str, Any]:
    """The whole. content is null where there are only calls."""
    content, thoughts = "", ""
    calls: list[dict[str, Any]] = []
    for event in events:
        match event:
            case Content(text):
                content += text
            case Thought(text):
                thoughts += text
            case CallStart(_, id_, name):
                calls.append({"id": id_, "type": "function", "function": {"name": name, "arguments": ""}})
            case Arguments(index, text):
                calls[index]["function"]["arguments"] += text
    found: dict[str, Any] = {"role": "assistant", "content": content or (None if calls else ""), "refusal": None}
    if thoughts:
        found["reasoning_content"] = thoughts
    if calls:
        found["tool_calls"] = calls
    return found
