"""Tool calls as models write them, from a format's own description: what a grammar would write, a parser must read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from quire.server.tools.events import Arguments, CallStart, Content, Event, Thought
from quire.server.tools.format import Format, Parameters, Slot
from quire.server.tools.parser import Parser

WEATHER = {
    "city": {"type": "string"},
    "note": {"type": "string"},
    "days": {"type": "integer"},
    "exact": {"type": "boolean"},
    "nothing": {"type": "null"},
    "ratio": {"type": "number"},
    "where": {"type": "object", "properties": {"lat": {"type": "number"}, "names": {"type": "object"}}},
    "tags": {"type": "array", "items": {"type": "string"}},
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object", "properties": properties}}}
    for name, properties in (("get_weather", WEATHER), ("get", {"zone": {"type": "string"}}), ("ping", {}))
]

Call = tuple[str, dict[str, Any]]


def written(format: Format, calls: Sequence[Call]) -> str:
    """Calls in a row, as `structure` says that they are written; of undeclared names too."""
    names = dict.fromkeys(name for name, _ in calls)
    structure = format.structure([{"function": {"name": name}} for name in names])
    by_name = {call.name: call for call in structure.calls}
    texts = []
    for number, (name, arguments) in enumerate(calls):
        begin = "".join(part if isinstance(part, str) else filled(part, number) for part in by_name[name].begin)
        texts.append(begin + arguments_text(format, arguments) + by_name[name].end)
    return structure.opens[0] + structure.separator.join(texts) + structure.closes


def filled(slot: Slot, number: int) -> str:
    """Something that a slot's pattern allows."""
    examples = {"[0-9]{1,3}": "", "[a-z0-9]{10}": "a1b2c3d4e", "[a-zA-Z0-9]{9}": "aBcD1234"}
    return f"{examples[slot.reads]}{number}"


def arguments_text(format: Format, arguments: dict[str, Any]) -> str:
    match format.style:
        case "python":
            return ", ".join(f"{key}={value!r}" for key, value in arguments.items()) + ")"
        case "gemma":
            return gemma(arguments)
        case "parameters":
            assert format.parameters is not None
            return "".join(parameter(format.parameters, key, value) for key, value in arguments.items())
        case "nested":
            assert format.parameters is not None
            return "".join(element(format.parameters, key, value) for key, value in arguments.items())
    return json.dumps(arguments, ensure_ascii=False)


def parameter(shape: Parameters, key: str, value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if shape.cdata and isinstance(value, str) and "<" in text:
        text = f"<![CDATA[{text}]]>"
    middle = shape.json if shape.json and not isinstance(value, str) else shape.middle
    return f"{shape.opens}{key}{middle}{text}{shape.closes}"


def element(shape: Parameters, key: str, value: Any) -> str:
    if isinstance(value, dict):
        text = "".join(element(shape, k, v) for k, v in value.items())
    elif isinstance(value, list):
        text = "".join(element(shape, "item", v) for v in value)
    else:
        text = value if isinstance(value, str) else json.dumps(value)
    return f"{shape.opens}{key}{shape.middle}{text}{shape.closes}{key}>"


def gemma(value: Any) -> str:
    if isinstance(value, str):
        return f'<|"|>{value}<|"|>'
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{gemma(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(gemma, value)) + "]"
    return json.dumps(value)


def merged(events: Iterable[Event]) -> list[Any]:
    """Neighbours of a kind joined, ids left out: what may not depend on how the text was cut."""
    out: list[Any] = []
    for event in events:
        match event:
            case CallStart(index, _, name):
                out.append(("call", index, name))
            case Content(text) | Thought(text) | Arguments(text=text):
                kind = type(event).__name__
                if out and out[-1][0] == kind:
                    out[-1] = (kind, out[-1][1] + text)
                else:
                    out.append((kind, text))
            case _:
                out.append(("end", event.index))
    return out


def parse(format: Format, pieces: Iterable[str], tools: Sequence[dict[str, Any]] = TOOLS) -> list[Any]:
    parser = Parser(format, tools)
    events: list[Event] = []
    for piece in pieces:
        events += parser.feed(piece)
    return merged(events + parser.finish())


def calls_of(found: list[Any]) -> list[Call]:
    """The complete calls of merged events."""
    calls: list[Call] = []
    for i, event in enumerate(found):
        if event[0] == "end":
            calls.append((found[i - 2][2], json.loads(found[i - 1][1])))
    return calls


def content_of(found: list[Any]) -> str:
    return "".join(text for kind, text, *_ in found if kind == "Content")


def cuts(text: str) -> Iterator[list[str]]:
    """Ways to cut a text: into pieces of one size, and in two at many places."""
    for size in (1, 2, 3, 5, 8, 13, 34):
        yield [text[i : i + size] for i in range(0, len(text), size)]
    for i in range(1, len(text), max(1, len(text) // 60)):
        yield [text[:i], text[i:]]
