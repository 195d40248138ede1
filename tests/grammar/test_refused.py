"""What is not enforced is refused, by keyword and place; what is hostile is refused, or done, soon."""

from __future__ import annotations

import json
from typing import Any

import pytest
from grammars import compiled, vocabulary

from quire.engine.grammar.errors import GrammarRefused
from quire.engine.grammar.keywords import ANNOTATIONS, ENFORCED, REFUSED

pytestmark = pytest.mark.usefixtures("shared")
WORDS = "stories-512"


def refusal(schema: Any) -> GrammarRefused:
    with pytest.raises(GrammarRefused) as caught:
        compiled(WORDS, "json_schema", schema if isinstance(schema, str) else json.dumps(schema))
    return caught.value


@pytest.mark.parametrize(
    "keyword", [k for k in REFUSED if k != "uniqueItems"] + ["uniqueItems", "made-up", "required "]
)
def test_a_keyword_that_is_not_enforced_is_refused_with_its_pointer(keyword: str) -> None:
    error = refusal({"type": "object", "properties": {"a/b": {"type": "string", keyword: True}}})
    assert error.status == 400
    assert error.code == "invalid_grammar"
    assert error.path == f"#/properties/a~1b/{keyword}"
    assert keyword in error.message


def test_no_keyword_stands_in_two_tables() -> None:
    assert not (
        ENFORCED.keys() & REFUSED.keys() | ENFORCED.keys() & ANNOTATIONS.keys() | REFUSED.keys() & ANNOTATIONS.keys()
    )


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ({"type": "string", "format": "made-up"}, "#/format"),
        ({"type": "string", "pattern": "(?=a)"}, "#/pattern"),
        ({"type": "string", "pattern": "\\bword"}, "#/pattern"),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "#/oneOf"),
        ({"oneOf": [{"required": ["a"]}, {"required": ["b"]}]}, "#/oneOf"),
        ({"$ref": "http://example.com/x.json"}, "#/$ref"),
        ({"$ref": "#/$defs/none"}, "#/$defs/none"),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "$ref": "#/definitions/a",
                "type": "object",
                "definitions": {"a": {}},
            },
            "#/$ref",
        ),
        (
            {"$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}, {"type": "object"}]}}, "$ref": "#/$defs/a"},
            "#/$defs/a/allOf/1",
        ),
        ({"allOf": [{"$ref": "#/allOf/\u00b2"}]}, "#/allOf/\u00b2"),
        ({"$defs": {"%": {}}, "$ref": "#/$defs/%2525"}, "#/$defs/%25"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": [{}]}, "#/prefixItems"),
        ({"$schema": "https://json-schema.org/draft/2019-09/schema", "prefixItems": [{}]}, "#/prefixItems"),
        ({"$schema": "https://json-schema.org/draft/2020-12/schema", "items": [{}]}, "#/items"),
        ({"properties": {"a": {"$id": "x"}}}, "#/properties/a/$id"),
        ({"type": "number", "multipleOf": 0}, "#/multipleOf"),
        ({"type": "integer", "minimum": 10**18}, "#/minimum"),
        ({"type": "number", "minimum": 1e-300, "maximum": 2e-300}, "#/minimum"),
        ({"type": "number", "maximum": 0.9999999999999999}, "#/maximum"),
        ({"type": "string", "minLength": -1}, "#/minLength"),
        ({"type": "array", "maxItems": 10**7}, "#/maxItems"),
        ({"type": "list"}, "#/type"),
        *(({k: None}, f"#/{k}") for k in ENFORCED if k not in ("const", "additionalItems")),
        ({"type": [{}]}, "#/type"),
        ({"type": "string", "format": ["date"]}, "#/format"),
        ({"enum": ["\u0001"]}, "#/enum/0"),
        ({"const": 2**53 + 1}, "#/const"),
        ({"enum": [0, {"a": [-(2**53) - 1]}]}, "#/enum/1/a/0"),
        ({"const": 2**63 - 1}, "#/const"),
        ({"const": 1e20}, "#/const"),
        ({"enum": [-1e300]}, "#/enum/0"),
        ({"properties": {"a\u0000": {}}}, "#/properties/a\u0000"),
        ({"anyOf": []}, "#/anyOf"),
        ({"properties": {"a": {"minProperties": 1, "properties": {"b": {}, "c": {}}}}}, "#/properties/a/minProperties"),
        ({"maxProperties": 1, "properties": {"b": {}, "c": {}}}, "#/maxProperties"),
        ({"patternProperties": {"^a": {}, "b$": {"type": "null"}}}, "#/patternProperties"),
        ({"multipleOf": 12345678901}, "#/multipleOf"),
        ({"multipleOf": 2000003}, "#/multipleOf"),
        ({"properties": {"a": {"type": "number", "multipleOf": 0.07}}}, "#/properties/a/multipleOf"),
        ({"multipleOf": 0.0003}, "#/multipleOf"),
        ({"required": "a"}, "#/required"),
        ([], "#"),
    ],
)
def test_what_cannot_be_enforced_is_refused_with_its_place(schema: Any, path: str) -> None:
    assert refusal(schema).path == path


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 6},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"$ref": "#"},
        {"enum": [1], "type": "string"},
        {"type": "string", "const": '"', "pattern": '^[^"]$'},
        {"enum": ["a\\b"], "type": "string", "pattern": "^[^/\\\\]+$"},
        {"type": "array", "minItems": 2, "maxItems": 1},
        False,
    ],
)
def test_a_schema_that_nothing_satisfies_is_refused(schema: Any) -> None:
    assert "no document" in refusal(schema).message


def test_one_option_that_nothing_satisfies_does_not_lead_astray() -> None:
    endless = {"type": "object", "properties": {"a": {"$ref": "#/$defs/e"}}, "required": ["a"]}
    grammar = compiled(
        WORDS, "json_schema", json.dumps({"$defs": {"e": endless}, "anyOf": [{"$ref": "#/$defs/e"}, {"type": "null"}]})
    )
    assert vocabulary(WORDS).spell(grammar.matcher().forced()) == b"null"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1,]",
        "nul",
        '{"type": NaN}',
        '{"type": "string", "type": "null"}',
        "[" * 100_000,
        '"\\ud800"',
        '{"const": 1e999}',
        '{"minLength": 1e999}',
    ],
)
def test_text_that_is_no_schema_is_refused(text: str) -> None:
    refusal(text)


def nested(depth: int, **more: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema, **more}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        nested(100),
        nested(3, minItems=5000),
        {"enum": [f"value {i} of very many" for i in range(20_000)]},
        {"type": "array", "minItems": 5000},
        {"allOf": [{"anyOf": [{"required": [f"{j}{i}"]} for i in range(10)]} for j in range(6)]},
        {
            "$defs": {
                **{f"d{i}": nested(1, prefixItems=[{"$ref": f"#/$defs/d{i + 1}"}] * 9, minItems=9) for i in range(20)},
                "d20": {},
            },
            "$ref": "#/$defs/d0",
        },
        {"type": "object", "properties": {f"property {i}": {} for i in range(5000)}},
    ],
)
def test_a_schema_that_would_take_too_much_is_refused(schema: Any) -> None:
    refusal(schema)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("regex", "(a{1,1000}){1,1000}"),
        ("regex", "(a|b)*a(a|b){30}"),
        ("regex", "(a+)+$"),
        ("regex", ".{0,3000}"),
        ("choice", json.dumps([f"choice {i}" for i in range(5000)])),
        ("json_schema", '{"type": "string", "pattern": "^(a{1,1000}){1,1000}$"}'),
        ("json_schema", '{"type": "string", "minLength": 5000}'),
        ("json_schema", '{"type": "array", "minItems": 1000, "items": {"type": "integer", "minimum": 5}}'),
        ("gbnf", 'root ::= root root | "a" | ""'),
    ],
)
def test_what_is_large_but_finite_is_served_all_the_same(kind: str, text: str) -> None:
    assert compiled(WORDS, kind, text).shortest is not None


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("regex", "(" * 5000 + "a" + ")" * 5000),
        ("regex", "[^\\x00-\\U0010ffff]"),
        ("regex", "a{1,99999}"),
        ("regex", "(a)\\1"),
        ("choice", "[]"),
        ("choice", '["a", 1]'),
        ("choice", '{"a": 1}'),
        ("gbnf", 'root ::= "\\U00110000"'),
        ("lark", 'start: /[a-z]+/ "ing"'),
        ("lark", "start: <[3]>"),
        ("lark", 'start: %json {"not": {}}'),
        ("lark", "start[temperature=2]: /a/"),
        ("lark", "begin: /a/"),
        ("gbnf", "root ::= " + "(" * 3000 + '"a"' + ")" * 3000),
        ("gbnf", "\n".join(["root ::= r0", *(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(40)), 'r40 ::= "a"'])),
        ("gbnf", 'root ::= root "a"'),
        ("structural_tag", "{}"),
    ],
)
def test_other_grammars_that_cannot_be_followed_are_refused(kind: str, text: str) -> None:
    with pytest.raises(GrammarRefused):
        compiled(WORDS, kind, text)


def deep(depth: int, value: Any) -> dict[str, Any]:
    schema: dict[str, Any] = {"const": value}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


WIDE = {
    "type": "object",
    "properties": {f"p{i}": {"type": "string"} for i in range(1500)},
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("kind", "text", "why"),
    [
        ("gbnf", 'root ::= root "a"', "no answer can end: a rule"),
        ("gbnf", 'root ::= "a" | "\\uD800"', "U+D800 is half of a surrogate pair"),
        ("gbnf", 'root ::= "a" | [a-\\U00FFFFFF]', "beyond the last character"),
        ("lark", 'start: %json {"const": ' + "1" * 5000 + "}", "5000 digits; at most 400"),
        ("json_schema", json.dumps({"const": json.loads("[" * 200 + "]" * 200)}), "in more than 64 lists and objects"),
        ("json_schema", json.dumps(deep(62, 1)), "nested too deeply"),
        ("json_schema", json.dumps(deep(60, [[[[[[1]]]]]])), "nested too deeply"),
        ("json_schema", json.dumps(WIDE), "some 1,000 optional properties"),
        ("json_schema", '{"type": "object", "properties": {"a": {"type": {}}}}', "type {} is none; these are: null"),
    ],
)
def test_a_refusal_says_what_was_found_in_words_of_its_own(kind: str, text: str, why: str) -> None:
    with pytest.raises(GrammarRefused) as caught:
        compiled(WORDS, kind, text)
    assert why in caught.value.message
