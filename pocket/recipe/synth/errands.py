"""Tool calls over the tools of `written/`, whose questions are all worded differently."""

from __future__ import annotations

from random import Random
from typing import Any

from ..samples import Sample
from . import chat, forms, words
from .chat import Message
from .forms import Form
from .talk import small_talk

SHARE = 0.55  # of the conversations with tools that are trained on
_TURNS = 4  # questions of one conversation
_DONE = ("Done.", "It is done.", "OK, done.", "All right, that is done.")
_STATUS: tuple[dict[str, Any], ...] = ({"status": "ok"}, {"ok": True}, {"status": "done"}, {"result": "success"})
_JOINED = (" ", " Also: ", " And then: ", " Oh, and another thing: ")


def make(rng: Random) -> Sample:
    """What the tools cost to show is paid once, so several questions about them follow each other."""
    wanted, *others = _offered(rng)
    offered = [wanted, *others]
    names = {id(form): _name(rng, form) for form in offered}
    roll = rng.random()
    facts: dict[str, Any]
    if roll < 0.1:
        question, answer = small_talk(rng)
        messages, facts = [chat.user(question), chat.assistant(answer)], {"calls": [], "answer": answer}
    elif roll < 0.15 and others:
        offered, answer = others, rng.choice(chat.LACKING)
        messages, facts = [chat.user(_ask(rng, wanted, names)[0]), chat.assistant(answer)], {"calls": []}
    else:
        messages, facts = _turns(rng, offered, names)
    rng.shuffle(offered)
    described = rng.random() < 0.75
    tools = [_tool(form, names[id(form)], described) for form in offered]
    return Sample("tools", chat.opening(rng, chat.TOOL_SYSTEM, 0.3) + messages, tools, facts=facts)


def _offered(rng: Random) -> list[Form]:
    """The tool that is asked for first, then others: its neighbors mostly, which it is easily taken for."""
    section = rng.choice(forms.tools())
    wanted = rng.choice(section)
    near = [form for form in section if form is not wanted]
    others = [rng.choice(near) if near and rng.random() < 0.6 else rng.choice(rng.choice(forms.tools()))
              for _ in range(rng.choices((0, 1, 2, 3), (20, 40, 25, 15))[0])]  # fmt: skip
    return list({form.name: form for form in (wanted, *others)}.values())


def _turns(rng: Random, offered: list[Form], names: dict[int, str]) -> tuple[list[Message], dict[str, Any]]:
    messages: list[Message] = []
    first: list[dict[str, Any]] = []
    number = 1
    for turn in range(rng.randint(1, _TURNS)):
        text, call = _ask(rng, offered[0] if turn == 0 else rng.choice(offered), names)
        calls = [call]
        if rng.random() < 0.12:
            more, second = _ask(rng, rng.choice(offered), names)
            if second != call:
                text, calls = text + rng.choice(_JOINED) + more, [call, second]
        messages += [chat.user(text), chat.calls(calls, number)]
        first = first or calls
        if rng.random() < 0.25:
            break
        status = rng.choice(_STATUS)
        messages += [chat.result(one["name"], status, number + n) for n, one in enumerate(calls)]
        messages.append(chat.assistant(rng.choice(_DONE)))
        number += len(calls)
    return messages, chat.facts(first)


def _ask(rng: Random, form: Form, names: dict[int, str]) -> tuple[str, dict[str, Any]]:
    """A question and the call it wants."""
    text, values = forms.fill(rng, form, rng.choice(form.texts))
    arguments = {name: values[name] for name in form.slots if name in values}
    return text, {"name": names[id(form)], "arguments": arguments}


def _name(rng: Random, form: Form) -> str:
    first, *rest = form.name.split("_")
    roll = rng.random()
    if roll < 0.25:
        return first + "".join(part.capitalize() for part in rest)
    return words.invented(rng) if roll < 0.3 else form.name  # now and then the description alone says what it does


def _tool(form: Form, name: str, described: bool) -> dict[str, Any]:
    properties = {
        slot.names[0]: {**slot.schema, "description": slot.about} if described and slot.about else dict(slot.schema)
        for slot in form.slots.values()
    }
    required = [slot.names[0] for slot in form.slots.values() if slot.required]
    return chat.tool(name, form.about, properties, required)
