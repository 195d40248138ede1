"""The real text: readers of the files under `train/`, one a kind. A line that does not parse or fit is skipped.

Every file is `<name>.jsonl.gz`. Readers only read: mixing and holding out is the work of `samples`.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from .samples import Sample
from .synth import chat
from .synth.sums import CALCULATOR, plain

LONGEST = 1500  # characters of a sample: about 400 tokens
_PLAIN = str.maketrans(
    {
        "“": '"',
        "”": '"',
        "‘": "'",
        "’": "'",
        "—": "--",
        "–": "-",
        "…": "...",
        "\xa0": " ",
        "\ufeff": "",
        "\u200b": "",
        "\r": "",
    }
)
_RUDE = re.compile(
    r"\b(nigg\w*|negro\w*|dark(y|ies)|savages?|squaws?|injuns?|half-breeds?|ethiopians?|kaffirs?|chinam[ae]n|japs?"
    r"|rape\w*|whore\w*|sluts?|fuck\w*|shit\w*|bitch\w*|cunts?)\b",
    re.I,
)


def _lines(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """The objects of one file. Raises FileNotFoundError that says where it was looked for."""
    path = folder / f"{name}.jsonl.gz"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; the training text is expected in this folder")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _clean(text: str) -> str:
    """Plain quotes, dashes and spaces."""
    return text.translate(_PLAIN)


# --- prose -----------------------------------------------------------------------------------------------------------

_PLAYS = {"An Ideal Husband", "The Importance of Being Earnest"}
_GRIM = {
    "The House Behind the Cedars",
    "Why Is the Negro Lynched?",
    "Narrative of the Life of Frederick Douglass",
    "Bulfinch's Mythology",
}
_MARKUP = re.compile(r"[_*]")
_ODD = re.compile(r"[^A-Za-z0-9 \n.,;:!?'\"()-]")
_SENTENCE_END = re.compile(r"[.!?]['\")]*(?:\s|$)")


def prose(folder: Path) -> Iterator[Sample]:
    """Passages of 200 to 1500 characters that end with a paragraph and are told in short sentences."""
    for line in _lines(folder, "classics_simple"):
        if line["title"] in _PLAYS | _GRIM:
            continue
        passage: list[str] = []
        size = 0
        for paragraph in [*_paragraphs(line["text"]), ""]:
            if passage and (not paragraph or size + len(paragraph) > LONGEST or size > 1000):
                text = "\n\n".join(passage)
                if _simple(text):
                    yield Sample("prose", text=text)
                passage, size = [], 0
            if paragraph and len(paragraph) < LONGEST:
                passage.append(paragraph)
                size += len(paragraph) + 2


def _paragraphs(text: str) -> Iterator[str]:
    """Running text only; a heading, a verse or a rule comes as an empty one, which ends the passage."""
    for block in _clean(text).split("\n\n"):
        joined = " ".join(_MARKUP.sub("", block).split())
        heading = block.lstrip().startswith(("#", ">", "|", "-", "![")) or joined.isupper()
        short = len(joined) < 60 and not joined.endswith((".", "!", "?", '"', "'"))
        yield "" if heading or short else joined


def _simple(text: str) -> bool:
    """Whether a passage reads easily: short sentences and words, few odd characters, nothing rude."""
    if len(text) < 200 or not text.rstrip("'\")").endswith((".", "!", "?")) or _RUDE.search(text):
        return False
    if len(_ODD.findall(text)) > 2 or "Ã" in text:  # the latter is UTF-8 read as Latin-1
        return False
    words = text.count(" ") + 1
    sentences = len(_SENTENCE_END.findall(text)) or 1
    return words / sentences < 19 and len(text) / words < 5.75


# --- docs ------------------------------------------------------------------------------------------------------------


def docs(folder: Path) -> Iterator[Sample]:
    """Short manual pages, short programs, and pieces of longer documents that end with a paragraph."""
    for line in _lines(folder, "docs_code"):
        text = _clean(line["text"]).strip()
        if line["src"] == "tldr-pages/tldr":
            text = "\n".join(part for part in text.split("\n") if "More information" not in part)
            if len(text) <= LONGEST:
                yield Sample("docs", text=text)
        elif line["src"] == "TheAlgorithms/Python":
            if len(text) <= LONGEST:
                yield Sample("docs", text=text)
        elif line["src"] != "python/peps":
            yield from (Sample("docs", text=piece) for piece in _pieces(text))


def _pieces(text: str) -> Iterator[str]:
    """Of 300 to 1500 characters, cut between paragraphs."""
    piece = ""
    for block in text.split("\n\n"):
        if piece and len(piece) + len(block) > LONGEST - 300:
            if 300 <= len(piece) <= LONGEST:
                yield piece
            piece = ""
        piece = f"{piece}\n\n{block}" if piece else block
    if 300 <= len(piece) <= LONGEST:
        yield piece


# --- dialogue --------------------------------------------------------------------------------------------------------

_PERSONA = {
    "professional": ("Be professional.", "You are a polite and professional assistant."),
    "friendly": ("Be friendly.", "You are a friendly assistant."),
    "witty": ("Be witty.", "You are witty and a bit cheeky."),
    "caring": ("Be caring.", "You are a warm and caring assistant."),
    "enthusiastic": ("Be enthusiastic!", "You are full of energy."),
}
_TOPIC = (
    "Chat with a friend about {}.",
    "You love to talk about {}.",
    "You are a person who likes {}.",
    "Talk about {} like a friend.",
)
_TOPICS = {
    "nfl_football": "football", "disney": "Disney films", "star_wars": "Star Wars", "thriller": "thrillers",
    "beatles": "the Beatles", "pop": "pop music", "rap_hiphop": "hip hop", "rock": "rock music",
    "action": "action films",
    "lady_gaga": "Lady Gaga", "comedy": "comedies", "harry_potter": "Harry Potter", "horror": "horror films",
    "superhero": "superhero films", "fast_furious": "car films", "music_and_movies": "music and movies",
    "icehockey": "ice hockey",
}  # fmt: skip
_NAMELESS = re.compile(
    r"\bname\b|Prevention Lifeline", re.I
)  # who it is, `talk` says; a phone number would come out wrong


def dialogue(folder: Path) -> Iterator[Sample]:
    """Chats about films, music and sports by people; small talk of five tempers, which the system prompt names."""
    yield from _people(folder)
    yield from _tempers(folder)


def _people(folder: Path) -> Iterator[Sample]:
    for number, line in enumerate(_lines(folder, "self_dialogue")):
        topic = _TOPICS.get(line["topic"], line["topic"])
        turns: list[dict[str, Any]] = []
        size = 0
        for message in line["messages"]:
            text = " ".join(_clean(message["content"]).split())
            wanted = "assistant" if len(turns) % 2 else "user"
            if message["role"] != wanted or not text or size + len(text) > 900:
                break
            turns.append({"role": wanted, "content": text})
            size += len(text)
        turns = turns[: len(turns) // 2 * 2]
        if len(turns) < 4 or any(_RUDE.search(turn["content"]) for turn in turns):
            continue
        head = [chat.system(_TOPIC[number % len(_TOPIC)].format(topic))] if number % 5 else []
        yield Sample("dialogue", head + turns)


def _tempers(folder: Path) -> Iterator[Sample]:
    """Two remarks of one temper a chat. Without a system prompt it is friendly or professional."""
    waiting: dict[str, list[dict[str, Any]]] = {}
    lines = list(_lines(folder, "ms_chitchat"))
    Random(0).shuffle(lines)  # the file goes by subject, and two remarks of one subject are nearly the same
    for number, line in enumerate(lines):
        ask, reply = (" ".join(_clean(message["content"]).split()) for message in line["messages"])
        if _NAMELESS.search(ask) or _NAMELESS.search(reply) or _RUDE.search(ask):
            continue
        temper = line["persona"]
        turns = waiting.pop(temper, []) + [chat.user(ask), chat.assistant(reply)]
        if len(turns) == 2 and number % 3:
            waiting[temper] = turns
            continue
        plain = temper in ("friendly", "professional") and number % 2
        yield Sample("dialogue", turns if plain else [chat.system(_PERSONA[temper][number // 2 % 2]), *turns])


# --- calls -----------------------------------------------------------------------------------------------------------

_MARK = re.compile(r"<<([^<>=]+)=([^<>]+)>>")
_EXPRESSION = re.compile(r"[0-9.+*/() -]*\d\)*[+*/-][0-9.+*/() -]*")
_NUMBER = re.compile(r"\d*\.?\d+")


def gsm8k(folder: Path) -> Iterator[Sample]:
    """Word problems: every `<<48/2=24>>` becomes a call to the calculator. One to three steps, the last the answer."""
    for line in _lines(folder, "gsm8k_train"):
        question, solution = (_clean(message["content"]) for message in line["messages"])
        final = solution.partition("####")[2].strip().replace(",", "")
        steps = [(expression.replace(" ", ""), value.replace(",", "")) for expression, value in _MARK.findall(solution)]
        if not 1 <= len(steps) <= 3 or steps[-1][1] != final or len(question) > 330:
            continue
        if not all(_EXPRESSION.fullmatch(expression) and _NUMBER.fullmatch(value) for expression, value in steps):
            continue
        messages = [chat.user(" ".join(question.split()))]
        wanted = [{"name": "calculator", "arguments": {"expression": expression}} for expression, _ in steps]
        for number, (call, (_, value)) in enumerate(zip(wanted, steps, strict=True), 1):
            messages += [chat.calls([call], number), chat.result("calculator", plain(float(value)), number)]
        answer = f"The answer is {final}."
        facts = {**chat.facts(wanted[:1]), "answer": answer}
        yield Sample("gsm8k", [*messages, chat.assistant(answer)], [CALCULATOR], facts=facts)


def seal(folder: Path) -> Iterator[Sample]:
    """Calls over real schemas: only the tools called and one other, calls whose values stand in the question."""
    for line in _lines(folder, "seal_tools"):
        question = _clean(line["messages"][0]["content"])
        known = {tool["name"]: tool for tool in line["tools"]}
        calls = line["messages"][1]["tool_calls"]
        wanted = [typed for call in calls if (typed := _typed(call, known, question.lower()))]
        if not 1 <= len(wanted) == len(calls) <= 3:
            continue
        called = {call["name"] for call in wanted}
        names = sorted([*called, *[name for name in known if name not in called][:1]])
        offers = [{"type": "function", "function": _short(known[name])} for name in names]
        if len(json.dumps(offers)) + len(question) <= LONGEST:
            yield Sample("seal", [chat.user(question), chat.calls(wanted)], offers, facts=chat.facts(wanted))


def _typed(call: dict[str, Any], known: dict[str, Any], said: str) -> dict[str, Any] | None:
    """The call with numbers as numbers; None where a value is not in the question or not of its type."""
    if call["name"] not in known:
        return None
    schema = known[call["name"]]["parameters"]
    arguments: dict[str, Any] = {}
    for name, value in call["arguments"].items():
        if name not in schema["properties"] or str(value).lower() not in said:
            return None
        try:
            arguments[name] = _CASTS[schema["properties"][name]["type"]](str(value))
        except (KeyError, ValueError):
            return None
    return {"name": call["name"], "arguments": arguments} if set(schema["required"]) <= set(arguments) else None


_CASTS: dict[str, Callable[[str], Any]] = {"string": str, "integer": int, "number": float}


def _short(tool: dict[str, Any]) -> dict[str, Any]:
    """Without the descriptions of parameters where the tool is long."""
    parameters = tool["parameters"]
    if len(json.dumps(tool)) > 350:
        properties = {
            k: {n: v for n, v in p.items() if n != "description"} for k, p in parameters["properties"].items()
        }
        parameters = {**parameters, "properties": properties}
    return {"name": tool["name"], "description": tool["description"], "parameters": parameters}


_STRING = {"type": "string"}
_OBJECTS = {"type": "array", "items": {"type": "object"}}
# The tools of the coffee shop: name -> description, parameters, which are required. The schemas are ours.
COFFEE: dict[str, tuple[str, dict[str, Any], list[str]]] = {
    "get_menu_items": ("Look up the menu", {"query": _STRING}, ["query"]),
    "get_addons": ("Look up options of an item", {"query": _STRING, "menu_item_id": _STRING}, ["query"]),
    "add_order_item": ("Add an item to the order",
                       {"menu_item_id": _STRING, "quantity": _STRING, "order_id": _STRING, "attributes": _OBJECTS,
                        "addons": _OBJECTS, "notes": _STRING},
                       ["menu_item_id", "quantity"]),
    "get_order_details": ("Show the order", {"order_id": _STRING}, ["order_id"]),
    "finish_order": ("Finish the order", {"order_id": _STRING}, ["order_id"]),
    "show_menu": ("Show the menu to the guest", {}, []),
}  # fmt: skip


def coffee(folder: Path) -> Iterator[Sample]:
    """Orders in a coffee shop: as many turns as fit, cut after a turn of the assistant."""
    for line in _lines(folder, "tm4_coffee"):
        messages = _order(line["messages"])
        used = dict.fromkeys(c["function"]["name"] for m in messages for c in m.get("tool_calls", ()))
        if len(messages) < 2 or not used:
            continue
        tools = [chat.tool(name, *given) for name, given in COFFEE.items() if name in used]
        yield Sample("coffee", messages, tools)


def _order(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The turns up to the first that is too long, not understood, or calls a tool that is not in COFFEE."""
    turns: list[dict[str, Any]] = []
    size = number = kept = 0
    for message in messages:
        size += len(json.dumps(message))
        calls = message.get("tool_calls") or []
        fits = all(
            c["name"] in COFFEE
            and isinstance(c["arguments"], dict)
            and set(c["arguments"]) <= set(COFFEE[c["name"]][1])
            for c in calls
        )
        if size > 1100 or not fits or len(calls) > 1:
            break
        if calls:
            number += 1
            given = {k: v.strip() if isinstance(v, str) else v for k, v in calls[0]["arguments"].items()}
            turns.append(chat.calls([{"name": calls[0]["name"], "arguments": given}], number))
        elif message["role"] == "tool":
            turns.append(
                {
                    "role": "tool",
                    "name": message["name"],
                    "tool_call_id": f"call_{number}",
                    "content": message["content"],
                }
            )
        else:
            turns.append({"role": message["role"], "content": _clean(message["content"])})
        if message["role"] == "assistant":
            kept = len(turns)
    return turns[:kept]


READERS: dict[str, Callable[[Path], Iterator[Sample]]] = {
    "prose": prose,
    "docs": docs,
    "dialogue": dialogue,
    "gsm8k": gsm8k,
    "seal": seal,
    "coffee": coffee,
}
