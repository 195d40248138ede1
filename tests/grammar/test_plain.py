"""Which grammars are plain, and so have a process that no other holds up."""

from __future__ import annotations

import itertools
import json

import pytest

from quire.clients.bench.bound import DOCUMENT, FUNCTIONS
from quire.clients.bench.hostile import HOSTILE, hostile
from quire.engine.grammar.plain import DEEPEST, LONGEST, REFERENCES, is_plain
from quire.engine.grammar.spec import GrammarSpec

PERSON = {
    "$defs": {"Pet": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}},
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 120},
        "born": {"type": "string", "format": "date"},
        "mail": {"anyOf": [{"type": "string", "format": "email"}, {"type": "null"}], "default": None},
        "kind": {"enum": ["private", "company"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "pets": {"type": "array", "items": {"$ref": "#/$defs/Pet"}, "maxItems": 20},
        "address": {"$ref": "#/$defs/Pet"},
    },
    "required": ["name"],
    "additionalProperties": False,
}


def schema(found: object) -> GrammarSpec:
    return GrammarSpec(kind="json_schema", text=json.dumps(found))


def nested(levels: int) -> object:
    found: object = {"type": "integer"}
    for _ in range(levels):
        found = {"items": found}
    return found


PLAIN = {
    "only thoughts": None,
    "any object": GrammarSpec(kind="json_object"),
    "a document": schema(DOCUMENT),
    "a person": schema(PERSON),
    "functions": schema({"anyOf": [tool["parameters"] for tool in FUNCTIONS]}),
    "a few words": GrammarSpec(kind="choice", text='["yes", "no"]'),
    "a tag": GrammarSpec(
        kind="structural_tag",
        text=json.dumps({"structures": [{"begin": "<a>", "schema": PERSON, "end": "</a>"}], "triggers": ["<a"]}),
    ),
    "the server's own": GrammarSpec(kind="lark", text="start: /[^<]*/", ours=True),
    "no white space": GrammarSpec(kind="json_object", whitespace=""),
    "levels": schema(nested(DEEPEST - 1)),
}
OTHER = {
    "an expression": GrammarSpec(kind="regex", text="a"),
    "somebody's lark": GrammarSpec(kind="lark", text="start: /[^<]*/"),
    "gbnf": GrammarSpec(kind="gbnf", text='root ::= "a"'),
    "another engine": GrammarSpec(kind="json_object", engine="outlines"),
    "white space of one's own": GrammarSpec(kind="json_object", whitespace="[ ]{0,3}"),
    "a pattern": schema({"type": "string", "pattern": "a"}),
    "a product": schema({"allOf": [{"type": "string"}]}),
    "a count": schema({"type": "string", "maxLength": 4000}),
    "levels": schema(nested(DEEPEST + 1)),
    "references": schema([{"$ref": "#"}] * (REFERENCES + 1)),
    "long": schema({"enum": ["x" * LONGEST]}),
    "the server's own, with a pattern of the tool's": GrammarSpec(
        kind="lark", text='start: %json {"properties": {"a": {"pattern": "b"}}}', ours=True
    ),
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_people_ask_for_is_plain(name):
    assert is_plain(PLAIN[name])


@pytest.mark.parametrize("name", OTHER)
def test_what_may_be_slow_is_not(name):
    assert not is_plain(OTHER[name])


def test_no_hostile_grammar_of_the_benchmark_is():
    for name, body in itertools.islice(hostile(3), 2 * len(HOSTILE)):
        if "response_format" in body:
            spec = schema(body["response_format"]["json_schema"]["schema"])
        elif "grammar" in body:
            spec = GrammarSpec(kind="gbnf", text=body["grammar"])
        else:
            spec = GrammarSpec(kind="regex", text=body["structured_outputs"]["regex"])
        assert not is_plain(spec), name
