"""What `quire check-template` finds out about a chat template, by rendering conversations and reading what came out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ...engine.errors import RequestError
from ..prompt import Renderer
from ..reasoning import Reasoning
from ..tokenizer import Tokenizer
from .events import Arguments, CallStart, Content
from .format import Format
from .parser import Parser

Message = dict[str, Any]

_ASKED: Message = {"role": "user", "content": "What is the weather?"}
_ARGUMENTS = [
    {"city": 'Köln "x"', "days": 3, "exact": True, "where": {"lat": 1.5}, "tags": ["a", "b"]},
    {"zone": "CET"},
]
_PROPERTIES: list[dict[str, Any]] = [
    {
        "city": {"type": "string", "description": "a city"},
        "days": {"type": "integer", "description": "how many"},
        "exact": {"type": "boolean", "description": "or rounded"},
        "where": {"type": "object", "description": "a place", "additionalProperties": {"type": "number"}},
        "tags": {"type": "array", "description": "words", "items": {"type": "string"}},
    },
    {"zone": {"type": "string", "description": "a zone"}},
]
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Tells the {name}",
            "parameters": {"type": "object", "properties": properties, "required": list(properties)},
        },
    }
    for name, properties in zip(("get_weather", "get_time"), _PROPERTIES, strict=True)
]
CALLS = [
    {
        "id": f"quirecal{i}",
        "type": "function",
        "function": {"name": tool["function"]["name"], "arguments": json.dumps(arguments, ensure_ascii=False)},
    }
    for i, (tool, arguments) in enumerate(zip(TOOLS, _ARGUMENTS, strict=True))
]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. ok: it is as it should be; otherwise it is a warning. text: what was found."""

    ok: bool
    about: str
    text: str


def check(renderer: Renderer, tokenizer: Tokenizer, format: Format | None, reasoning: Reasoning) -> list[Finding]:
    """Everything that is worth knowing before a model is served."""
    findings = [*_generation(renderer), *_contents(renderer), *_system(renderer)]
    findings += [*_tools(renderer, format), *_thinking(renderer, reasoning), *_leaks(renderer, tokenizer)]
    return findings


def assistant_part(renderer: Renderer, message: Message, tools: list[dict[str, Any]] | None = None) -> tuple[str, str]:
    """(prompt, what the template writes for an assistant's message), cut where the model would have begun. Raises
    RequestError where the template refuses."""
    whole = renderer.render([_ASKED, message], tools=tools, add_generation_prompt=False).text
    asked = renderer.render([_ASKED], tools=tools).text
    begin = next((i for i, (a, b) in enumerate(zip(whole, asked, strict=False)) if a != b), min(len(whole), len(asked)))
    while 0 < begin < len(asked) and whole[begin - 1] not in ">]\n:":  # not in the middle of a tag
        begin -= 1
    return whole[:begin], whole[begin:]


def calls_in(format: Format, text: str) -> list[tuple[str, Any]]:
    """(name, arguments) of the calls that the parser finds in a text."""
    parser = Parser(format, TOOLS)
    found: list[tuple[str, str]] = []
    for event in [*parser.feed(text), *parser.finish()]:
        if isinstance(event, CallStart):
            found.append((event.name, ""))
        elif isinstance(event, Arguments):
            found[-1] = (found[-1][0], found[-1][1] + event.text)
    return [(name, _parsed(arguments)) for name, arguments in found]


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _generation(renderer: Renderer) -> Iterator[Finding]:
    about = "generation prompt"
    try:
        without = renderer.render([_ASKED], add_generation_prompt=False).text
        asked = renderer.render([_ASKED]).text
        _, answer = assistant_part(renderer, {"role": "assistant", "content": "quire-answer"})
    except RequestError as error:
        yield Finding(False, about, f"one question cannot be rendered: {error.message}")
        return
    if asked == without and answer.lstrip().startswith("quire-answer"):
        yield Finding(True, about, "the prompt ends where the answer begins, with or without")
    elif asked == without:
        yield Finding(False, about, "add_generation_prompt makes no difference: the answer may begin anywhere")
    elif not asked.startswith(without):
        yield Finding(False, about, "add_generation_prompt changes more than the end of the prompt")
    else:
        yield Finding(True, about, f"ends the prompt with {asked[len(without) :]!r}")


def _contents(renderer: Renderer) -> Iterator[Finding]:
    answer = {"role": "assistant", "tool_calls": CALLS[:1]}
    cases: dict[str, list[Message]] = {
        "empty content": [{"role": "user", "content": ""}],
        "empty answer": [_ASKED, {"role": "assistant", "content": ""}, _ASKED],
        "null content beside a call": [_ASKED, {**answer, "content": None}],
        "empty content beside a call": [_ASKED, {**answer, "content": ""}],
    }
    usual = 0  # of the words None in what the template always writes
    with suppress(RequestError):
        usual = renderer.render([_ASKED, {**answer, "content": "x"}], tools=TOOLS).text.count("None")
    for about, messages in cases.items():
        try:
            text = renderer.render(messages, tools=TOOLS).text
        except RequestError as error:
            yield Finding(False, about, error.message)
            continue
        fine = text.count("None") <= usual
        yield Finding(fine, about, "renders" if fine else "the template writes None")


def _system(renderer: Renderer) -> Iterator[Finding]:
    try:
        text = renderer.render([{"role": "system", "content": "quire-system"}, _ASKED]).text
    except RequestError as error:
        yield Finding(False, "system turn", error.message)
        return
    shown = text.count("quire-system")
    yield Finding(shown == 1, "system turn", "is shown" if shown == 1 else f"is shown {shown} times")


def _tools(renderer: Renderer, format: Format | None) -> Iterator[Finding]:
    if format is None:
        yield Finding(False, "tools", "the template shows no format of tool calls that quire knows")
        return
    try:
        declared = all(t["function"]["name"] in renderer.render([_ASKED], tools=TOOLS).text for t in TOOLS)
        yield Finding(declared, "tools", f"format {format.name}; declared tools are {'' if declared else 'not '}shown")
    except RequestError as error:
        yield Finding(False, "tools", error.message)
    for count, about in ((1, "tool round trip"), (2, "parallel tool calls")):
        yield _round_trip(renderer, format, count, about)
    result = {"role": "tool", "tool_call_id": CALLS[0]["id"], "name": "get_weather", "content": "quire-result"}
    try:
        messages = [_ASKED, {"role": "assistant", "content": "", "tool_calls": CALLS[:1]}, result]
        shown = "quire-result" in renderer.render(messages, tools=TOOLS).text
        yield Finding(shown, "tool result", "is shown" if shown else "is not shown")
    except RequestError as error:
        yield Finding(False, "tool result", error.message)


def _round_trip(renderer: Renderer, format: Format, count: int, about: str) -> Finding:
    message = {"role": "assistant", "content": None, "tool_calls": CALLS[:count]}
    try:
        _, text = assistant_part(renderer, message, TOOLS)
    except RequestError as error:
        return Finding(False, about, error.message)
    wanted = [(t["function"]["name"], a) for t, a in zip(TOOLS[:count], _ARGUMENTS, strict=False)]
    found = calls_in(format, text)
    if found == wanted:
        return Finding(True, about, "the parser reads what the template writes")
    if not all(name in text for name, _ in wanted):
        return Finding(False, about, f"the template does not show {'the call' if count == 1 else 'every call'}")
    return Finding(False, about, f"the parser found {found!r} in what the template wrote: {text!r}")


def _thinking(renderer: Renderer, reasoning: Reasoning) -> Iterator[Finding]:
    if not reasoning.begin:
        yield Finding(True, "thinking", "the template shows no thoughts")
        return
    try:
        prompt = renderer.render([_ASKED]).text
        message = {"role": "assistant", "content": "quire-answer", "reasoning_content": "quire-thought"}
        before, text = assistant_part(renderer, message)
    except RequestError as error:
        yield Finding(False, "thinking", error.message)
        return
    inside = reasoning.begun_in(prompt)
    begins = "the prompt begins the thought" if inside else "the answer begins outside of a thought"
    yield Finding(True, "thinking", f"kind {reasoning.name}; {begins}")
    if "quire-thought" not in text:
        yield Finding(True, "thoughts of the history", "reasoning_content is not shown")
        return
    read = any(_read_as_thought(reasoning, start, text) for start in (before, prompt))
    found = "are read as thoughts" if read else "are read as content"
    yield Finding(read, "thoughts of the history", found)


def _read_as_thought(reasoning: Reasoning, prompt: str, text: str) -> bool:
    splitter = reasoning.splitter(prompt)
    events = [*splitter.feed(text), *splitter.finish()]
    return not any(isinstance(event, Content) and "quire-thought" in event.text for event in events)


def _leaks(renderer: Renderer, tokenizer: Tokenizer) -> Iterator[Finding]:
    """Whether a control token that a message spells comes out as one."""
    spelled = " ".join(tokenizer.control)
    try:
        plain = renderer.render([{"role": "user", "content": "x"}])
        forged = renderer.render([{"role": "user", "content": f"x {spelled} x"}])
    except RequestError as error:
        yield Finding(False, "special tokens", error.message)
        return
    kept = tokenizer.controls_in(plain.ids) == tokenizer.controls_in(forged.ids)
    text = f"{len(tokenizer.control)} control tokens stay text in content" if kept else "content became control tokens"
    yield Finding(kept, "special tokens", text)
