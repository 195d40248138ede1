"""Awkward conversations, as they come over the wire."""

from __future__ import annotations

import json
from typing import Any

Message = dict[str, Any]


def user(content: Any, **more: Any) -> Message:
    return {"role": "user", "content": content, **more}


def system(content: Any) -> Message:
    return {"role": "system", "content": content}


def assistant(content: Any, **more: Any) -> Message:
    return {"role": "assistant", "content": content, **more}


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def call(number: int, **arguments: Any) -> dict[str, Any]:
    """Its arguments are JSON in a string, as OpenAI has them."""
    function = {"name": "get_weather", "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"abcdefgh{number}", "type": "function", "function": function}


def reply(number: int, content: Any = '{"degrees": 3}') -> Message:
    return {"role": "tool", "tool_call_id": f"abcdefgh{number}", "name": "get_weather", "content": content}


CALL = call(1, city="Köln", days=[1, 2.5, None, True], note='a "quoted"\nline')
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather ‹now› at a place",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "a city"}},
                "required": ["city"],
            },
        },
    }
]

CONVERSATIONS: dict[str, list[Message]] = {
    "one question": [user("Hello")],
    "system and question": [system("Be brief."), user("Hello")],
    "many turns": [user("a"), assistant("b"), user("c"), assistant("d"), user("e")],
    "empty content": [user("")],
    "empty system": [system(""), user("x")],
    "empty answer": [user("a"), assistant(""), user("b")],
    "null answer": [user("a"), assistant(None), user("b")],
    "two systems": [system("one"), system("two"), user("x")],
    "late system": [user("x"), system("late"), user("y")],
    "system alone": [system("alone")],
    "developer": [{"role": "developer", "content": "Be kind."}, user("x")],
    "two users": [user("a"), user("b")],
    "ends with the assistant": [user("a"), assistant("b")],
    "begins with the assistant": [assistant("hi"), user("a")],
    "whitespace": [system("  s\n"), user(" \n\t x  \n\n"), assistant("\n b \n"), user("  ")],
    "unicode": [user("日本語 🙂👩‍👩‍👧 e\u0301 \u202e \x00 ẞ İ \u3000"), assistant("ﬁ ½ \u00a0"), user("\u2028\ufeff")],
    "private use": [user("\ue000\ue001 \uf8ff \U000f5afe \U0010fffd"), assistant("\ue000"), user("\ufffe")],
    "names": [user("hi", name="Ann"), assistant("ho", name="Bob"), user("x", name="user")],
    "words of the markup": [user("assistant"), assistant("user\n"), user("system: x <| |> < > [ ] im_start")],
    "markup of others": [user("### Human: <<SYS>> {{ x }} {% if %} <h1>&amp;</h1>"), assistant("\\n"), user("'\"`")],
    "reasoning": [user("a"), assistant("b", reasoning_content="hm"), user("c")],
    "reasoning by another name": [user("a"), assistant("b", reasoning="hm"), user("c")],
    "thoughts in the answer": [user("a"), assistant("<think>\nhm\n</think>\n\nb"), user("c")],
    "long": [user("word é " * 400), assistant("x" * 1000), user("y")],
    "a call": [user("w?"), assistant(None, tool_calls=[CALL]), reply(1), user("thanks")],
    "a call with words": [user("w?"), assistant("Let me see.", tool_calls=[CALL]), reply(1)],
    "two calls": [
        user("w?"), assistant("", tool_calls=[CALL, call(2)]), reply(1), reply(2), assistant("cold"), user("ok"),
    ],
    "user in one part": [user(parts(" one "))],
    "user in parts": [user(parts("one", "two"))],
    "system in parts": [system(parts("one", "two")), user("x")],
    "assistant in parts": [user("a"), assistant(parts("one", "two")), user("x")],
    "tool in parts": [user("w?"), assistant("", tool_calls=[CALL]), reply(1, parts("one", "two"))],
}  # fmt: skip


def parsed(messages: list[Message]) -> list[Message]:
    """The same, the arguments of calls as objects, which is what transformers wants."""
    messages = json.loads(json.dumps(messages))
    for message in messages:
        for one in message.get("tool_calls") or ():
            one["function"]["arguments"] = json.loads(one["function"]["arguments"])
    return messages


def joined(messages: list[Message]) -> list[Message]:
    """The same, parts as one text."""
    return [
        {**m, "content": "\n".join(p["text"] for p in m["content"])} if isinstance(m["content"], list) else m
        for m in messages
    ]


def filled(messages: list[Message]) -> list[Message]:
    """The same, no content as empty content."""
    return [{**m, "content": "" if m["content"] is None else m["content"]} for m in messages]
