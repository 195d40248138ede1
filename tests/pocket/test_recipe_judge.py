"""What evaluation counts as right."""

from __future__ import annotations

import pytest

from quire.pocket.recipe.judge import Verdict, calls_of, conforms, fields_of, is_json, judge_calls
from quire.pocket.recipe.speculation import accepted, lookup

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"enum": ["C", "F"]}},
                "required": ["city"],
            },
        },
    }
    for name in ("weather", "news")
]
WANTED = [{"name": "weather", "arguments": {"city": "Köln", "days": 2}}]


def call(body: str) -> str:
    return f"<tool_call>\n{body}\n</tool_call>"


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        (call('{"name": "weather", "arguments": {"days": 2, "city": "Köln"}}'), Verdict(True, True, True)),
        (call('{"name": "weather", "arguments": {"city": "Bonn"}}'), Verdict(True, True, False)),
        (call('{"name": "weather", "arguments": {"city": 3}}'), Verdict(True, False, False)),
        (call('{"name": "weather", "arguments": {"days": 2}}'), Verdict(True, False, False)),
        (call('{"name": "weather", "arguments": {"city": "Köln", "x": 1}}'), Verdict(True, False, False)),
        (call('{"name": "news", "arguments": {"city": "Köln"}}'), Verdict(False, False, False)),
        (call('{"name": "weather", "arguments": '), Verdict(False, False, False)),
        ("It is warm.", Verdict(False, False, False)),
    ],
)
def test_a_call_is_judged_by_tool_schema_and_arguments(text, verdict):
    assert judge_calls(text, TOOLS, WANTED) == verdict


def test_no_call_is_right_where_none_was_wanted():
    assert judge_calls("Sorry.", TOOLS, []) == Verdict(True, True, True)
    assert not judge_calls(call('{"name": "news", "arguments": {}}'), TOOLS, []).tool


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ('{"name": "Ada", "age": 9.0}', [True, True]),
        ('{"age": 9, "name": "Bob", "more": 1}', [False, True]),
        ('{"name": "Ada"}', [True, False]),
        ("[]", [False, False]),
        ('{"name": "Ada", "age": ', [False, False]),
    ],
)
def test_fields_are_judged_one_by_one(text, right):
    assert fields_of(text, {"name": "Ada", "age": 9}) == right


def test_a_call_without_an_end_is_broken():
    assert calls_of('<tool_call>\n{"name": "weather"') is None


def test_parallel_calls_may_come_in_any_order():
    both = [{"name": "news", "arguments": {"city": "A"}}, {"name": "weather", "arguments": {"city": "B"}}]
    text = "\n".join(
        call(f'{{"name": "{n}", "arguments": {{"city": "{c}"}}}}') for n, c in (("weather", "B"), ("news", "A"))
    )
    assert judge_calls(text, TOOLS, both).exact


@pytest.mark.parametrize(
    ("value", "schema", "fits"),
    [
        (1, {"type": "number"}, True),
        (True, {"type": "integer"}, False),
        (["a"], {"type": "array", "items": {"type": "integer"}}, False),
        ("F", {"enum": ["C", "F"]}, True),
        ({}, {"type": "object", "required": ["a"]}, False),
    ],
)
def test_values_are_held_to_the_schema(value, schema, fits):
    assert conforms(value, schema) is fits


def test_json_is_right_whatever_its_white_space():
    assert is_json('{"a":1, "b": [2]}', {"b": [2], "a": 1})
    assert not is_json('{"a": 1} and more', {"a": 1})


def test_drafts_count_as_verification_would_accept_them():
    known = [1, 2, 3, 4, 5, 6, 7, 8]
    assert accepted(lambda ids, n: known[len(ids) : len(ids) + n], [[1]], [known[1:]])["tokens_per_step"] == 3.5
    assert accepted(lambda ids, n: [0] * n, [[1]], [known[1:]]) == {"accepted": 0.0, "tokens_per_step": 1.0}
    assert accepted(lambda ids, n: [], [[1]], [known[1:]]) == {"accepted": 0.0, "tokens_per_step": 1.0}


def test_lookup_copies_what_followed_the_same_words_most_recently():
    assert lookup([5, 6, 1, 2, 7, 8, 1, 2, 9, 4, 1, 2], 2) == [9, 4]
    assert lookup([1, 2, 3], 4) == []
