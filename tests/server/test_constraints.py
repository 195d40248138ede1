"""Every field that binds an answer reaches the engine as what it says, or is refused by its name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_engine import Answer, frames
from small_server import END, HELLO, MODEL, NONE_PREDICTED, VOCAB, error_of, events

from quire.engine import messages as m
from quire.engine.grammar.spec import GrammarSpec
from quire.server.grammars import FIELDS

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
SCHEMA = {"type": "object", "properties": {"ö": {"type": "integer"}}, "required": ["ö"]}
TEXT = json.dumps(SCHEMA, ensure_ascii=False)
TAGS = {"structures": [{"begin": "<a>", "schema": SCHEMA, "end": "</a>"}], "triggers": ["<a"]}


def spec(kind: Any, text: str = "", **more: Any) -> GrammarSpec:
    return GrammarSpec(kind=kind, text=text, **more)


ASKED: list[tuple[dict[str, Any], GrammarSpec | None]] = [
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "json_object"}}, spec("json_object")),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, spec("json_schema", TEXT)),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
     spec("json_schema", TEXT)),
    ({"response_format": {"type": "json_schema", "json_schema": {
        "name": "x", "description": None, "strict": False, "schema": SCHEMA}}}, spec("json_schema", TEXT)),
    ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, spec("json_schema", TEXT)),
    ({"response_format": {"type": "regex", "pattern": "a+"}}, spec("regex", "a+")),
    ({"response_format": {"type": "grammar", "grammar": 'root ::= "a"'}}, spec("gbnf", 'root ::= "a"')),
    ({"response_format": {"type": "structural_tag", **TAGS}},
     spec("structural_tag", json.dumps(TAGS, ensure_ascii=False))),
    ({"structured_outputs": {}}, None),
    ({"structured_outputs": {"json": SCHEMA, "regex": None}}, spec("json_schema", TEXT)),
    ({"structured_outputs": {"json": TEXT}}, spec("json_schema", TEXT)),
    ({"structured_outputs": {"json_object": True}}, spec("json_object")),
    ({"structured_outputs": {"json_object": False}}, None),
    ({"structured_outputs": {"regex": "[a-z]"}}, spec("regex", "[a-z]")),
    ({"structured_outputs": {"choice": ["yes", "nö"]}}, spec("choice", '["yes", "nö"]')),
    ({"structured_outputs": {"grammar": 'start: "a"'}}, spec("lark", 'start: "a"')),
    ({"structured_outputs": {"grammar": 'root ::= "a"'}}, spec("ebnf", 'root ::= "a"')),
    ({"structured_outputs": {"structural_tag": json.dumps({"type": "structural_tag", **TAGS})}},
     spec("structural_tag", json.dumps(TAGS, ensure_ascii=False))),
    ({"structured_outputs": {"json_object": True, "whitespace_pattern": "[ ]?"}},
     spec("json_object", whitespace="[ ]?")),
    ({"structured_outputs": {"json_object": True, "disable_any_whitespace": True, "disable_fallback": True}},
     spec("json_object", whitespace="", only=True)),
    ({"guided_json": SCHEMA}, spec("json_schema", TEXT)),
    ({"guided_json": TEXT, "guided_whitespace_pattern": " ?"}, spec("json_schema", TEXT, whitespace=" ?")),
    ({"guided_json": True}, spec("json_schema", "{}")),
    ({"guided_regex": "a"}, spec("regex", "a")),
    ({"guided_choice": ["a", "b"]}, spec("choice", '["a", "b"]')),
    ({"guided_grammar": 'start: "a"'}, spec("lark", 'start: "a"')),
    ({"grammar": 'root ::= "a"'}, spec("gbnf", 'root ::= "a"')),
    ({"grammar": ""}, None),
    ({"json_schema": SCHEMA}, spec("json_schema", TEXT)),
    ({"json_schema": TEXT}, spec("json_schema", TEXT)),
    ({"regex": "a"}, spec("regex", "a")),
    ({"ebnf": 'root ::= "a"'}, spec("ebnf", 'root ::= "a"')),
    ({"structural_tag": TAGS}, spec("structural_tag", json.dumps(TAGS, ensure_ascii=False))),
    ({"response_format": {"type": "text"}, "guided_regex": "a", "grammar": ""}, spec("regex", "a")),
]  # fmt: skip

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"response_format": "json"}, "response_format"),
    ({"response_format": {}}, "response_format.type"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": ["json_object"]}}, "response_format.type"),
    ({"response_format": {"type": "json_object", "json_schema": {"schema": SCHEMA}}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format.json_schema.schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": 5}}},
     "response_format.json_schema.schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA, "strict": 1}}},
     "response_format.json_schema.strict"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}, "schema": SCHEMA}},
     "response_format.schema"),
    ({"response_format": {"type": "regex", "pattern": 5}}, "response_format.pattern"),
    ({"response_format": {"type": "regex"}}, "response_format.pattern"),
    ({"response_format": {"type": "regex", "pattern": ""}}, "response_format.pattern"),
    ({"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
    ({"structured_outputs": 5}, "structured_outputs"),
    ({"structured_outputs": {"xml": "a"}}, "structured_outputs.xml"),
    ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
    ({"structured_outputs": {"json_object": "yes"}}, "structured_outputs.json_object"),
    ({"structured_outputs": {"choice": []}}, "structured_outputs.choice"),
    ({"structured_outputs": {"choice": ["a", 5]}}, "structured_outputs.choice[1]"),
    ({"structured_outputs": {"choice": ["a", ""]}}, "structured_outputs.choice[1]"),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
    ({"structured_outputs": {"regex": "a", "whitespace_pattern": " "}}, "structured_outputs.whitespace_pattern"),
    ({"structured_outputs": {"whitespace_pattern": " "}}, "structured_outputs.whitespace_pattern"),
    ({"structured_outputs": {"json_object": True, "whitespace_pattern": 5}}, "structured_outputs.whitespace_pattern"),
    ({"structured_outputs": {"json_object": True, "disable_any_whitespace": 1}},
     "structured_outputs.disable_any_whitespace"),
    ({"structured_outputs": {"structural_tag": "{"}}, "structured_outputs.structural_tag"),
    ({"structured_outputs": {"structural_tag": {"type": "x"}}}, "structured_outputs.structural_tag.type"),
    ({"structural_tag": {"type": "structural_tag", "format": {}}}, "structural_tag.format"),
    ({"guided_json": 5}, "guided_json"),
    ({"guided_json": False}, "guided_json"),
    ({"guided_json": "["}, "guided_json"),
    ({"guided_json": '{"type": "string", "type": "null"}'}, "guided_json"),
    ({"guided_json": '{"enum": ["\\ud800"]}'}, "guided_json"),
    ({"json_schema": '{"const": "\\ud800"}'}, "json_schema"),
    ({"json_schema": '{"properties": {"\\udfff": {}}}'}, "json_schema"),
    ({"json_schema": '{"const": ' + "1" * 5000 + "}"}, "json_schema"),
    ({"json_schema": '{"const": 1e999}'}, "json_schema"),
    ({"structured_outputs": {"json": '{"const": "\\ud800"}'}}, "structured_outputs.json"),
    ({"structured_outputs": {"structural_tag": '{"triggers": ["\\ud800"], "structures": []}'}},
     "structured_outputs.structural_tag"),
    ({"guided_regex": 5}, "guided_regex"),
    ({"guided_choice": "a"}, "guided_choice"),
    ({"guided_grammar": []}, "guided_grammar"),
    ({"guided_whitespace_pattern": " "}, "guided_whitespace_pattern"),
    ({"guided_decoding_backend": "xgrammar"}, "guided_decoding_backend"),
    ({"grammar": 5}, "grammar"),
    ({"json_schema": []}, "json_schema"),
    ({"regex": 5}, "regex"),
    ({"ebnf": {}}, "ebnf"),
    ({"guided_json": SCHEMA, "guided_regex": "a"}, "guided_regex"),
    ({"response_format": {"type": "json_object"}, "grammar": "root ::= x"}, "grammar"),
    ({"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}}, "structured_outputs.regex"),
    ({"guided_regex": "a", "min_tokens": 2}, "min_tokens"),
]  # fmt: skip


def bodies(fields: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(CHAT, {**HELLO, **fields}), (COMPLETIONS, {"model": MODEL, "prompt": "x", **fields})]


@pytest.mark.parametrize(("fields", "wanted"), ASKED, ids=str)
def test_what_is_asked_for_reaches_the_engine(greeter, fields, wanted):
    for path, body in bodies(fields):
        assert greeter.post(path, body).status_code == 200
        params = greeter.engine.requests[-1].params
        assert params.grammar == wanted
        assert params.grammar_after == ()


def test_every_field_is_tried():
    assert {key for fields, _ in ASKED for key in fields} >= set(FIELDS)


@pytest.mark.parametrize(("fields", "param"), WRONG, ids=str)
def test_what_cannot_be_is_refused_by_its_field(greeter, fields, param):
    before = len(greeter.engine.requests)
    for path, body in bodies(fields):
        error = error_of(greeter.post(path, body))
        assert error["param"] == param
        assert param in error["message"]
    assert len(greeter.engine.requests) == before


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ('{"a": 1, "a": 2}', '"a" stands twice'),
        ('{"const": ' + "1" * 5000 + "}", "5000 digits; at most 400"),
        ('{"const": "\\ud800"}', "U+D800, half of a surrogate pair"),
        ('{"const": 1e999}', "1e999 is larger than any double"),
        ("[" * 100_000, "nested too deeply"),
    ],
    ids=["twice", "digits", "half", "large", "deep"],
)
def test_what_is_wrong_with_a_schema_in_a_string_is_said(server, schema, why):
    assert why in error_of(server.post(CHAT, {**HELLO, "json_schema": schema}))["message"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_grammar_that_the_engine_refuses_is_a_400_that_names_the_field(greeter, stream):
    def script(request):
        yield [
            m.Failed(id=request.id, code="invalid_grammar", message="uniqueItems is not enforced (at /properties/a)")
        ]

    greeter.engine.script = script
    fields = {"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}, "stream": stream}
    for path, body in bodies(fields):
        error = error_of(greeter.post(path, body))
        assert (error["param"], error["code"]) == ("response_format.json_schema.schema", "invalid_grammar")
        assert error["message"].endswith("uniqueItems is not enforced (at /properties/a)")
    greeter.says("hello")


def test_what_ends_a_text_stays_where_a_grammar_must_end(greeter):
    greeter.chat(ignore_eos=True, guided_regex="a")
    assert END in greeter.engine.requests[-1].params.stop_token_ids
    greeter.chat(ignore_eos=True)
    assert END not in greeter.engine.requests[-1].params.stop_token_ids


def test_what_a_grammar_did_is_told_once_in_the_answer(greeter):
    answers = [Answer((64, END), True, m.Guided(0.25, 0.5, 3)), Answer((65, 66, END), True, m.Guided(0.5, 0.75, 1))]
    greeter.engine.script = lambda request: frames(request, answers, VOCAB)
    told = {"grammar": {"lowest": 0.25, "mean": 0.625}}
    for path, body in bodies({"n": 2, "guided_regex": "a"}):
        plain = greeter.post(path, body).json()
        assert plain["quire"] == told
        assert plain["usage"]["completion_tokens_details"] == {
            "reasoning_tokens": 0,
            "forced_tokens": 4,
            **NONE_PREDICTED,
        }
        options = {"stream": True, "stream_options": {"include_usage": True}}
        *chunks, last = events(greeter.post(path, {**body, **options}))
        assert [chunk.get("quire") for chunk in chunks] == [None] * (len(chunks) - 1) + [told]
        assert last["usage"] == plain["usage"]
    greeter.says("hello")
    assert "quire" not in greeter.chat()
