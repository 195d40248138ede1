"""What a format of tool calls is: one description, of which come the parser (parser.py) and the grammar (`structure`).

Calls stand in sections: `opens`, calls with `separator` between them, `closes`. A call is its head, its arguments, its
tail. The texts are those that the model was trained on, with their white space; when reading, that is free.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...engine.errors import RequestError

Tool = Mapping[str, Any]  # as in the request: {"type": "function", "function": {"name", "parameters", ...}}
Style = Literal["json", "python", "gemma", "parameters", "nested"]


@dataclass(frozen=True, slots=True)
class Keys:
    """A head that is a JSON object: {"name": ..., "arguments": ...}, in any order when read."""

    name: str = "name"
    arguments: str = "arguments"
    number: str = ""  # a key before the name whose value numbers the call: "0", "1" ...


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in a head that is not the same for each call. reads: a regular expression of what may stand there, with
    a group `name` or `id`. writes: what the grammar writes, None for the name; if it is empty, any text of `reads`."""

    reads: str
    writes: tuple[str | Slot | None, ...] = ()


NAME = Slot(r"\s*(?P<name>.*\S)\s*", (None,))


@dataclass(frozen=True, slots=True)
class Parameters:
    """Arguments one by one between tags: opens, name, middle, value, closes. Text stands as it is, anything else as
    JSON. json: the middle before what is no text, where it differs. In the style "nested" the name and a ">" stand
    behind `closes` too, and objects and lists (of elements `item`) are elements again."""

    opens: str
    middle: str
    closes: str
    json: str = ""
    cdata: bool = False  # a text may be wrapped in <![CDATA[ ]]>


@dataclass(frozen=True, slots=True)
class Call:
    """What the grammar must write to call one tool: `begin`, arguments that `schema` allows (None: any object), `end`.
    begin: text, and regular expressions as Slot."""

    name: str
    begin: tuple[str | Slot, ...]
    schema: dict[str, Any] | None
    end: str


@dataclass(frozen=True, slots=True)
class Structure:
    """From which a grammar is built: any of `opens`, calls with `separator` between them, `closes`.

    triggers: each is how such text begins; where free text comes to one, it may only go on as the structure says.
    starts: the same, but only at the beginning of the answer. style: how the arguments are written, `parameters` with
    tags of their own.
    """

    triggers: tuple[str, ...]
    starts: tuple[str, ...]
    opens: tuple[str, ...]
    calls: tuple[Call, ...]
    separator: str
    closes: str
    style: Style
    parameters: Parameters | None
    at_most_one: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format of tool calls.

    starts: what opens a section at the beginning of the answer only. Where it is none of `opens`, it belongs to the
    first call already, and `trigger` is the text from which on it surely is a call.
    """

    name: str
    marks: tuple[tuple[str, ...], ...]  # a template that contains all of any of these has this format
    opens: tuple[str, ...] = ("",)  # any is read, the first is written
    closes: tuple[str, ...] = ("",)
    each: bool = False  # every call has a section of its own
    head: Keys | tuple[str | Slot, ...] = Keys()
    style: Style = "json"
    parameters: Parameters | None = None
    tail: str = ""
    separator: str = ""
    starts: tuple[str, ...] = ()
    trigger: str = ""
    parallel: bool = True  # the model was trained to make several calls in one answer
    content: str = ""  # the name under which text is no call but content
    ids: Literal["call", "nine", "given"] = "call"

    def matches(self, template: str) -> bool:
        return any(all(text in template for text in texts) for texts in self.marks)

    @property
    def openings(self) -> tuple[str, ...]:
        """The texts that open a section wherever they stand."""
        return tuple(text.strip() for text in self.opens if text and text not in self.starts)

    def structure(
        self, tools: Sequence[Tool], choice: str | Mapping[str, Any] = "auto", *, parallel: bool = True
    ) -> Structure:
        """choice: tool_choice of the request: "auto", "required" or a named function. parallel: parallel_tool_calls.
        Raises RequestError where the choice names none of the tools."""
        wanted = None if isinstance(choice, str) else choice["function"]["name"]
        calls = [self._call(tool["function"]) for tool in tools if wanted in (None, tool["function"]["name"])]
        if not calls:
            names = ", ".join(tool["function"]["name"] for tool in tools)
            raise RequestError(
                f"tool_choice.function.name is {wanted!r}; expected one of the tools: {names or 'there are none'}",
                param="tool_choice",
            )
        return Structure(
            triggers=self.openings,
            starts=(self.trigger,) if self.trigger else tuple(filter(None, self.starts)),
            opens=("",) if self.each else self.opens,
            calls=tuple(calls),
            separator=self.separator,
            closes="" if self.each else self.closes[0],
            style=self.style,
            parameters=self.parameters,
            at_most_one=wanted is not None or not (parallel and self.parallel),
        )

    def _call(self, function: Mapping[str, Any]) -> Call:
        begin, end = self._around(function["name"])
        if self.each:
            begin, end = [self.opens[0], *begin], end + self.closes[0]
        joined: list[str | Slot] = []
        for part in begin:
            if isinstance(part, str) and joined and isinstance(joined[-1], str):
                joined[-1] += part
            elif part:
                joined.append(part)
        return Call(function["name"], tuple(joined), function.get("parameters"), end)

    def _around(self, name: str) -> tuple[list[str | Slot], str]:
        """What stands before a call's arguments and behind them."""
        if isinstance(self.head, Keys):
            number: list[str | Slot] = []
            if self.head.number:
                number = [f'"{self.head.number}": "', Slot("[0-9]{1,3}"), '", ']
            shown = json.dumps(name, ensure_ascii=False)
            return ["{", *number, f'"{self.head.name}": {shown}, "{self.head.arguments}": '], "}" + self.tail
        parts: list[str | Slot] = []
        for part in self.head:
            if isinstance(part, Slot) and part.writes:
                parts += [name if text is None else text for text in part.writes]
            else:
                parts.append(part)
        return parts, self.tail
