"""How a conversation is put together: turns, calls, results, and the system prompts that half of the chats have."""

from __future__ import annotations

import json
from random import Random
from typing import Any

Message = dict[str, Any]

SYSTEM = (
    "You are a helpful assistant.",
    "You are pocket, a small helpful model.",
    "You are a friendly assistant.",
    "You are a helpful AI assistant. Be brief.",
    "Answer in simple English.",
    "Be kind and clear.",
    "Answer the question in short sentences.",
    "You are pocket. You are small, polite and honest.",
    "Help the user. Say so when you do not know something.",
    "You are an assistant that gives short answers.",
    "You are a careful assistant.",
    "Please help the user.",
)
TOOL_SYSTEM = (
    "You are a helpful assistant with tools.",
    "Use a tool when it helps. Otherwise just answer.",
    "You can call tools.",
    "Call a tool if the user needs one.",
    "Help the user with the tools you have.",
)
LACKING = (  # what is said where no tool does what is asked
    "Sorry, I have no tool for that.",
    "I cannot do that. I do not have a tool for it.",
    "I do not have the right tool for that.",
)


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def opening(rng: Random, prompts: tuple[str, ...] = SYSTEM, share: float = 0.5) -> list[Message]:
    """A system message or none."""
    return [system(rng.choice(prompts))] if rng.random() < share else []


def calls(wanted: list[dict[str, Any]], first: int = 1) -> Message:
    """The assistant's turn that calls. wanted: {"name", "arguments"} each; ids are call_1, call_2 ..."""
    return {
        "role": "assistant",
        "tool_calls": [
            {
                "id": f"call_{first + n}",
                "type": "function",
                "function": {"name": w["name"], "arguments": w["arguments"]},
            }
            for n, w in enumerate(wanted)
        ],
    }


def result(name: str, value: Any, number: int = 1) -> Message:
    """What a tool answered, to call_<number>."""
    return {"role": "tool", "name": name, "tool_call_id": f"call_{number}", "content": json.dumps(value)}


def tool(name: str, description: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """An OpenAI tool."""
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def facts(wanted: list[dict[str, Any]]) -> dict[str, Any]:
    """What evaluation compares with: all calls, and the one where it is one."""
    return {"calls": wanted, "call": wanted[0]} if len(wanted) == 1 else {"calls": wanted}
