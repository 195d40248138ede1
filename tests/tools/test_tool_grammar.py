"""Whatever is drawn under the grammar of calls, the parser of the same format reads valid calls of the tools in it."""

from __future__ import annotations

import functools
import json
import random
import re
from typing import Any

import jsonschema
import pytest
from vocabularies import template, templates, vocabulary_of

from quire.engine.errors import GrammarRefused, RequestError
from quire.engine.grammar import compile
from quire.engine.grammar.vocabulary import Vocabulary, members
from quire.server.binding import Binding, bind
from quire.server.calls import calls
from quire.server.dialect import Dialect
from quire.server.grammars import constraint
from quire.server.tools import choose
from quire.server.tools.events import Arguments, CallEnd, CallStart, Content, Event

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"enum": ["Köln", 'a"b']},
                    "days": {"type": "integer", "maximum": 9, "minimum": 0},
                },
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "ping", "parameters": {"properties": {}, "additionalProperties": False}}},
]
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
DOCUMENT = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}
EVERY = templates() or [pytest.param("", marks=pytest.mark.skip("shared/data/chat-templates is not beside this"))]
WRITTEN = [n for n in templates() if choose(template(n))] or EVERY
SOME = [*WRITTEN[::7], *[n for n in WRITTEN if (f := choose(template(n))) and f.name == "openai"][:1]]


@functools.cache
def dialect(name: str) -> Dialect:
    return Dialect.of(template(name), vocabulary_of(name).ours, "auto", "auto")


@functools.cache
def words(name: str) -> Vocabulary:
    return Vocabulary(vocabulary_of(name).description, vocabulary_of(name).ours.eos_ids)


def prompt(name: str) -> str:
    """The end of one before the answer: behind a thought, where only drawing its text could end it."""
    of = dialect(name)
    return "" if of.spelling.ids(of.reasoning.end) else of.reasoning.end


def drawn(name: str, binding: Binding, pick: random.Random, budget: int = 400, likes: tuple[int, ...] = ()) -> str:
    """A text drawn under a binding's grammar. likes: tokens that are taken half the time they may be."""
    assert binding.spec is not None
    likes += dialect(name).spelling.ids(dialect(name).reasoning.end)
    known, matcher = words(name), compile(binding.spec, words(name)).matcher()
    row = known.mask([])
    out: list[int] = []
    for left in range(budget, 0, -1):
        if matcher.must_end:
            break
        matcher.fill_mask(row, left)
        allowed = members(row)
        liked = [t for t in allowed if t in likes]
        token = pick.choice(liked if liked and pick.random() < 0.5 else allowed)
        assert matcher.accept([token]) == 1
        if token in known.eos_ids:
            break
        out.append(token)
        if forced := matcher.forced():
            assert matcher.accept(forced) == len(forced)
            out += [t for t in forced if t not in known.eos_ids]
    text = b"".join(known.controls[t].encode() if t in known.controls else known.pieces[t] for t in out)
    return text.decode(errors="replace")


def read(name: str, text: str, tools: list[dict[str, Any]] = TOOLS, given: str = "") -> list[Event]:
    reader = dialect(name).reader(given or prompt(name), tools)
    assert reader is not None
    return [*reader.feed(text), *reader.finish()]


def calls_of(events: list[Event]) -> list[tuple[str, Any]]:
    """(name, arguments) of the calls, each of which must be whole."""
    found: dict[int, list[str]] = {}
    for event in events:
        if isinstance(event, CallStart):
            found[event.index] = [event.name, ""]
        elif isinstance(event, Arguments):
            found[event.index][1] += event.text
    assert sum(isinstance(event, CallEnd) for event in events) == len(found)
    return [(name, json.loads(arguments)) for name, arguments in found.values()]


def is_cut(event: Event, events: list[Event]) -> bool:
    """Whether an event is of a call that does not end."""
    return isinstance(event, CallStart | Arguments) and CallEnd(event.index) not in events


def content_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, Content)).strip()


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("choice", ["required", "ping"])
def test_a_call_that_must_be_is_one_of_a_declared_name_with_valid_arguments(name: str, choice: str) -> None:
    asked = choice if choice == "required" else {"type": "function", "function": {"name": choice}}
    binding = bind(None, calls(TOOLS, asked, True), dialect(name), prompt(name))
    for seed in range(4):
        text = drawn(name, binding, random.Random(seed))
        events = read(name, text)
        found = calls_of(events)
        assert found, text
        assert content_of(events) == "", text
        for called, arguments in found:
            assert choice in ("required", called)
            jsonschema.validate(arguments, SCHEMAS[called])
        if choice != "required":
            assert len(found) == 1


@pytest.mark.parametrize("name", WRITTEN)
def test_free_text_goes_on_as_a_call_behind_what_opens_one(name: str) -> None:
    found = bind(None, calls(TOOLS, "auto", True), dialect(name), prompt(name))
    format = dialect(name).format
    assert format is not None
    if found.spec is None:
        assert format.content  # what opens a call opens content too
        return
    opening, *_ = dialect(name).spelling.split(format.openings[0])
    likes = (opening,) if isinstance(opening, int) else tuple(words(name).encode(opening))
    for seed in range(6):
        events = read(name, drawn(name, found, random.Random(seed), 60, likes))
        for called, arguments in calls_of([event for event in events if not is_cut(event, events)]):
            jsonschema.validate(arguments, SCHEMAS[called])


@pytest.mark.parametrize("name", WRITTEN)
def test_beside_tools_that_may_be_called_the_rest_is_the_document(name: str) -> None:
    binding = bind(constraint(DOCUMENT), calls(TOOLS, "auto", False), dialect(name), prompt(name))
    kinds = set()
    for seed in range(8):
        text = drawn(name, binding, random.Random(seed))
        events = read(name, text)
        found = calls_of(events)
        assert len(found) < 2
        kinds.add(bool(found))
        if found:
            jsonschema.validate(found[0][1], SCHEMAS[found[0][0]])
        else:
            assert set(json.loads(content_of(events))) == {"ok"}
    assert kinds


JOINED: list[tuple[dict[str, Any], str]] = [
    ({"guided_regex": "(yes|no)( sir)?"}, r"(yes|no)( sir)?"),
    ({"grammar": 'root ::= "yes" | "(" root ")"'}, r"\(*yes\)*"),
    ({"grammar": 'root ::= [a-c]{2,3} "!"'}, r"[a-c]{2,3}!"),
    ({"guided_grammar": 'start: pair+ END\npair: /[0-9]/ ","\nEND: "."\n'}, r"([0-9],)+\."),
]


@pytest.mark.parametrize(("fields", "matches"), JOINED, ids=["regex", "gbnf", "flat gbnf", "lark"])
@pytest.mark.parametrize("name", SOME)
def test_a_regex_or_a_grammar_may_stand_beside_tools_or_behind_a_thought(name: str, fields: Any, matches: str) -> None:
    of = dialect(name)
    for tools in (TOOLS, []):
        binding = bind(constraint(fields), calls(tools, "auto", False), of, prompt(name))
        for seed in range(4):
            text = drawn(name, binding, random.Random(seed))
            events = read(name, text, tools) if of.reader(prompt(name), tools) else [Content(text)]
            if found := calls_of(events):
                jsonschema.validate(found[0][1], SCHEMAS[found[0][0]])
            else:
                assert re.fullmatch(matches, content_of(events)), text


def test_what_is_about_a_whole_grammar_is_refused_beside_tools_by_its_name() -> None:
    name = SOME[0]
    for text, why in (
        ('start: "a"\n%ignore " "\n', "%ignore"),
        ("start: INT\n%import common.INT\n", "%import"),
        ("begin: /a/\n", "start"),
    ):
        binding = bind(constraint({"guided_grammar": text}), calls(TOOLS, "auto", True), dialect(name), prompt(name))
        with pytest.raises(GrammarRefused, match=why) as refused:
            compile(binding.spec, words(name))
        assert binding.told(refused.value).param == "guided_grammar"
    tag = {"structural_tag": {"structures": [{"begin": "<a>", "schema": {}, "end": "</a>"}], "triggers": ["<a>"]}}
    with pytest.raises(RequestError, match="structural_tag"):
        bind(constraint(tag), calls(TOOLS, "auto", True), dialect(name), prompt(name))


@pytest.mark.parametrize("name", [n for n in EVERY if isinstance(n, str) and n])
def test_a_document_may_stand_behind_a_thought(name: str) -> None:
    of = dialect(name)
    binding = bind(constraint(DOCUMENT), calls([], "auto", True), of, prompt(name))
    for seed in range(4):
        text = drawn(name, binding, random.Random(seed))
        if (reader := of.reader(prompt(name), [])) is not None:
            text = content_of([*reader.feed(text), *reader.finish()])
        assert set(json.loads(text)) == {"ok"}
