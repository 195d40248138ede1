"""From messages to ids: the chat template's markup may steer the model, a message's text never does.

Rendered text is tokenized as a whole, as transformers does it, so ids are those the model was trained on. What keeps
content from becoming control is a mark: before rendering, a sentinel character (one that occurs nowhere in the request)
is put into every control token that a message spells, and into every beginning or end of one at the edges of its
strings, where it could be completed by what the template puts beside it. After rendering the sentinels are taken out
and their places kept: a control token with such a place inside was spelled by a message, and is encoded as text.

A template may also bring together what was apart, by taking out what is between. Therefore it renders once more with a
sentinel at every character that begins or ends some control token; unless the text comes out otherwise, because the
template looks for such characters in content, those marks count.

In the assistant's own turns only special tokens are marked: `</think>` and its kind there are the model's own words,
which templates look for to drop old thoughts.
"""

from __future__ import annotations

import contextlib
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any

from ..engine.errors import RequestError
from .template import compile_template, render
from .tokenizer import Tokenizer

_ROLES_OF_TEMPLATES = {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"}
_GIVEN = {"messages", "tools", "add_generation_prompt", "continue_final_message", *_ROLES_OF_TEMPLATES}

_REASONING = ("reasoning_content", "thinking", "reasoning")  # one thing under the names that templates and clients use
_FORMS = [  # of messages, in which templates get them: (arguments are objects, what no content becomes)
    (parsed, empty) for empty in ("absent", "filled", "null") for parsed in (True, False)
]
_ASKED: dict[str, Any] = {"role": "user", "content": "question"}
_CALLED: dict[str, Any] = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"id": "call00000", "type": "function", "function": {"name": "f", "arguments": {}}}],
}
_CONVERSATIONS: dict[str, list[dict[str, Any]]] = {  # one in which each role may speak
    "user": [_ASKED],
    "system": [{"role": "system"}, _ASKED],
    "developer": [{"role": "developer"}, _ASKED],
    "assistant": [_ASKED, {"role": "assistant"}, _ASKED],
    "tool": [_ASKED, _CALLED, {"role": "tool", "name": "f", "tool_call_id": "call00000"}],
}


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered conversation."""

    ids: list[int]
    text: str
    defused: int  # control tokens that messages spelled, encoded as text


class Renderer:
    """One chat template and its tokenizer."""

    def __init__(self, tokenizer: Tokenizer, chat_template: str | None = None):
        """chat_template: instead of the model's own. Raises ModelError where a template is not Jinja."""
        self._tokenizer = tokenizer
        sources = {"default": chat_template} if chat_template else tokenizer.templates
        self._sources = sources
        self._templates = {name: compile_template(source) for name, source in sources.items()}
        self._every = _Spelling(tokenizer.control)
        self._special = _Spelling(tokenizer.special, edges=[t for t in tokenizer.control if t not in tokenizer.special])
        self._variables = {
            name: text
            for name in _ROLES_OF_TEMPLATES
            if isinstance(text := tokenizer.named(name), str)
        }  # fmt: skip
        self._takes_parts = {name: self._roles_of_parts(name) for name in sources}

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> Prompt:
        """Ids of a conversation. Raises RequestError where the template refuses it."""
        for key in template_kwargs or ():
            if key in _GIVEN:
                where = f"chat_template_kwargs.{key}"
                raise RequestError(f"{where}: what a template gets under this name is the server's to say", param=where)
        name = self._name(bool(tools))
        if name not in self._templates:
            raise RequestError(
                "this model has no chat template; give one with --chat-template, or use /v1/completions",
                param="messages",
            )
        request = [messages, tools, dict(template_kwargs or {}), self._sources[name]]
        sentinel = unused_character(request)
        if continue_final_message:
            end = unused_character([*request, sentinel])
            messages = _with_end(messages, f"{end} ")
        mark = partial(self._every.mark, sentinel=sentinel)
        given = {
            "tools": _changed(tools, mark),
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            **self._variables,
            **_changed(dict(template_kwargs or {}), mark),
        }
        text = self._rendered(name, messages, given, sentinel)
        if continue_final_message:
            text = _cut_at(text, end)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise RequestError(
                "the model's chat template makes half a character (a lone surrogate) of these messages",
                param="messages",
            ) from None
        return self._encoded(text, sentinel)

    def source(self, *, tools: bool) -> str:
        """The template that requests get, with tools or without; "" where there is none."""
        return self._sources.get(self._name(tools), "")

    def _name(self, tools: bool) -> str:
        return "tool_use" if tools and "tool_use" in self._templates else "default"

    def _rendered(self, name: str, messages: list[dict[str, Any]], given: dict[str, Any], sentinel: str) -> str:
        """Templates want a tool call's arguments as an object, and no content where there is none. Those that cannot
        do with that, or do not show the call, get arguments as text, or other content."""
        tried: list[Any] = []
        fair: tuple[list[dict[str, Any]], str] | None = None  # the first that renders
        refused: RequestError | None = None
        for parsed, empty in _FORMS:
            shown = [self._message(m, i, name, sentinel, parsed, empty) for i, m in enumerate(messages)]
            if shown in tried:
                continue
            tried.append(shown)
            try:
                text = render(self._templates[name], {"messages": shown, **given})
            except RequestError as error:
                refused = refused or error
                continue
            fair = fair or (shown, text)
            if all(name in text or json.dumps(name)[1:-1] in text for name in _called(shown)):
                fair = (shown, text)
                break
        if fair is None:
            assert refused is not None
            raise refused
        return self._covered(name, fair[0], given, sentinel, fair[1])

    def _covered(self, name: str, shown: list[dict[str, Any]], given: dict[str, Any], sentinel: str, text: str) -> str:
        """`text` with as many sentinels as the template bears without another outcome."""
        cover = partial(self._every.cover, sentinel=sentinel)
        thorough = [m if m["role"] == "assistant" else {**_changed(m, cover), "role": m["role"]} for m in shown]
        if thorough != shown:
            with contextlib.suppress(RequestError):
                covered = render(self._templates[name], {"messages": thorough, **given})
                if "".join(_pieces(covered, sentinel)) == "".join(_pieces(text, sentinel)):
                    return covered
        return text

    def _roles_of_parts(self, name: str) -> frozenset[str]:
        """The roles whose content the template takes as a list of parts: it shows their texts, and no more of them."""
        parts = [{"type": "text", "text": text, "unread": "quire-unread"} for text in ("quire-first", "quire-second")]

        def shown(role: str) -> str:
            messages = [{**m, "content": parts} if m["role"] == role else m for m in _CONVERSATIONS[role]]
            try:
                return render(self._templates[name], {**self._variables, "messages": messages})
            except RequestError:
                return "quire-unread"

        def taken(text: str) -> bool:
            return "quire-unread" not in text and all(part["text"] in text for part in parts)

        return frozenset(role for role in _CONVERSATIONS if taken(shown(role)))

    def _message(
        self, message: dict[str, Any], i: int, name: str, sentinel: str, parsed: bool, empty: str
    ) -> dict[str, Any]:
        """One message as templates expect it, its control tokens marked. What is null is left out. parsed: arguments
        of tool calls become objects; empty: what no content becomes, "absent", "filled", or "null" beside calls."""
        message = {key: value for key, value in message.items() if value is not None}
        role = message.get("role")
        content = message.get("content", "" if empty == "filled" else None)
        if isinstance(content, list):
            texts = [_text_of(part, f"messages[{i}].content[{j}]") for j, part in enumerate(content)]
            parts = [{"type": "text", "text": text} for text in texts]
            content = parts if role in self._takes_parts[name] else "\n".join(texts)
        if content is not None:
            message["content"] = content
        if message.get("tool_calls"):
            message["tool_calls"] = [_call(call, parsed) for call in message["tool_calls"]]
            if empty == "null" and not content:
                message["content"] = None
        reasoning = next((message[key] for key in _REASONING if key in message), None)
        if reasoning is not None:
            message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
        spelling = self._special if role == "assistant" else self._every
        return {**_changed(message, partial(spelling.mark, sentinel=sentinel)), "role": role}

    def _encoded(self, marked: str, sentinel: str) -> Prompt:
        """Ids of rendered text: control tokens as such where the template put them, as text where a message did."""
        tokenizer = self._tokenizer
        pieces = _pieces(marked, sentinel)
        text = "".join(pieces)
        places = list(accumulate(map(len, pieces[:-1])))
        controls: list[tuple[int, int]] = []
        forged = at = 0
        for begin, end in self._every.find(text):
            if begin < at or text[begin:end] not in tokenizer.control:
                continue
            if _any_inside(places, begin, end):
                forged += 1
                continue
            controls.append((begin, end))
            at = end
        if not forged:
            ids = tokenizer.encode(text, add_special_tokens=False)
            # Normalization may have made control tokens of what looks like them.
            if tokenizer.controls_in(ids) == [tokenizer.control[text[begin:end]] for begin, end in controls]:
                return Prompt(ids, text, 0)
        return Prompt(tokenizer.encode_between(text, controls), text, forged)


class _Spelling:
    """Finds a set of control tokens in text, and marks them."""

    def __init__(self, tokens: Iterable[str], edges: Iterable[str] = ()):
        """edges: text that stays unmarked, and at which a template may cut."""
        self._tokens = frozenset(map(str.casefold, tokens))
        self._sizes = sorted({len(t) for t in self._tokens}, reverse=True)
        self._heads = {t[:n] for t in self._tokens for n in range(1, len(t))}
        self._tails = {t[n:] for t in self._tokens for n in range(1, len(t))}
        self._begins = {c for t in self._tokens for c in (t[0], t[0].upper())}
        self._ends = {c for t in self._tokens for c in (t[-1], t[-1].upper())}
        self._first = re.compile("|".join(map(re.escape, self._begins))) if self._begins else None
        self._edges = re.compile(f"({'|'.join(map(re.escape, edges))})") if edges else None

    def find(self, text: str) -> Iterable[tuple[int, int]]:
        """(begin, end) of each control token in upper or lower case, overlapping ones too; the longest first of those
        that begin together."""
        if self._first is None:
            return
        for match in self._first.finditer(text):
            begin = match.start()
            for size in self._sizes:
                if text[begin : begin + size].casefold() in self._tokens and begin + size <= len(text):
                    yield begin, begin + size

    def mark(self, text: str, sentinel: str) -> str:
        """A sentinel inside every control token, and behind what begins or before what ends one at the edges."""
        if self._edges is None:
            return self._mark(text, sentinel)
        pieces = self._edges.split(text)
        pieces[::2] = [self._mark(piece, sentinel) for piece in pieces[::2]]
        return "".join(pieces)

    def cover(self, text: str, sentinel: str) -> str:
        """A sentinel behind every character that begins a control token and before every one that ends one."""
        return text.translate(
            {
                ord(c): (sentinel if c in self._ends else "") + c + (sentinel if c in self._begins else "")
                for c in self._begins | self._ends
            }
        )

    def _mark(self, text: str, sentinel: str) -> str:
        if not self._sizes or not text:
            return text
        places = {begin + (end - begin > 1) for begin, end in self.find(text)}
        for n in range(min(self._sizes[0] - 1, len(text)), 0, -1):
            if text[len(text) - n :].casefold() in self._heads:
                places.add(len(text) if n == 1 else len(text) - n + 1)
            if text[:n].casefold() in self._tails:
                places.add(0 if n == 1 else n - 1)
        for place in sorted(places, reverse=True):
            text = text[:place] + sentinel + text[place:]
        return text


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    """A copy of any JSON value with every string changed, keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(str(key)): _changed(item, change) for key, item in value.items()}
    if isinstance(value, list):
        return [_changed(item, change) for item in value]
    return value


def _pieces(marked: str, sentinel: str) -> list[str]:
    """What stands between the sentinels of rendered text."""
    return marked.replace(_escaped(sentinel), sentinel).split(sentinel)


def _any_inside(places: list[int], begin: int, end: int) -> bool:
    """Whether one of the places, in order, is inside of what stands from begin to end, or before its only character."""
    at = bisect_left(places, begin + (end - begin > 1))
    return at < len(places) and places[at] < end


def unused_character(values: list[Any]) -> str:
    """A private-use character that occurs nowhere in the request or the template, neither as it is nor escaped."""
    text = json.dumps(values, ensure_ascii=False, default=str)
    used = set(text)
    text = text.lower()  # JSON's escapes may stand in capitals
    for c in map(chr, range(0xE000, 0xF900)):
        if c not in used and _escaped(c) not in text:
            return c
    raise RequestError("the messages use every private-use character of Unicode; one must be free", param="messages")


def _escaped(character: str) -> str:
    """As JSON in ASCII and Python's repr write it."""
    return f"\\u{ord(character):04x}"


def _text_of(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind not in ("text", "input_text", "refusal"):
        raise RequestError(f"{where}.type is {kind!r}; this model takes text only", param=f"{where}.type")
    text = part.get("text", part.get("refusal"))
    if not isinstance(text, str):
        raise RequestError(f"{where}.text is {text!r}; expected a string", param=f"{where}.text")
    return text


def _called(messages: list[dict[str, Any]]) -> list[str]:
    """The functions that are called in a conversation."""
    calls = [call for message in messages for call in message.get("tool_calls") or []]
    return [str(call["function"].get("name")) for call in calls if isinstance(call.get("function"), dict)]


def _call(call: dict[str, Any], parsed: bool) -> dict[str, Any]:
    """A tool call of the history. On the wire its arguments are JSON in a string; parsed: as an object."""
    function = call.get("function")
    if not isinstance(function, dict) or "arguments" not in function:
        return call
    arguments = function["arguments"]
    if parsed and isinstance(arguments, str):
        with contextlib.suppress(ValueError):
            found = json.loads(arguments or "{}")
            json.dumps(found, ensure_ascii=False).encode()  # an escape may be half a character, which is no text
            arguments = found if isinstance(found, dict) else arguments
    elif not parsed and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def _with_end(messages: list[dict[str, Any]], end: str) -> list[dict[str, Any]]:
    """The same messages, the text of the last one with a mark behind it."""
    content = messages[-1].get("content") if messages else None
    if isinstance(content, str):
        return [*messages[:-1], {**messages[-1], "content": content + end}]
    if isinstance(content, list) and content:
        text = _text_of(content[-1], f"messages[{len(messages) - 1}].content[{len(content) - 1}]")
        return [*messages[:-1], {**messages[-1], "content": [*content[:-1], text + end]}]
    raise RequestError("continue_final_message needs a last message with text", param="messages")


def _cut_at(text: str, end: str) -> str:
    """End the prompt right after the last message's text, so that the model goes on with it."""
    shown, found, rest = text.rpartition(end)
    if not found:
        raise RequestError(
            "continue_final_message: the chat template does not show the last message as it is", param="messages"
        )
    return shown if rest.startswith(" ") else shown.rstrip()  # where the template strips text, strip it too
