"""Forced tokens are what the tokenizer would write, and nothing else may come in their place."""

from __future__ import annotations

import json
import random

import pytest
from grammars import compiled, vocabulary

from quire.engine.grammar.vocabulary import members

pytestmark = pytest.mark.usefixtures("shared")
CALL = {
    "type": "object",
    "properties": {
        "location": {"type": "string"},
        "temperature_unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["location", "temperature_unit", "days"],
    "additionalProperties": False,
}
VALUES = {"location": "Zürich, Straße 5", "temperature_unit": "fahrenheit", "days": 3}
CASES = [
    ("json_schema", json.dumps(CALL), json.dumps(VALUES, ensure_ascii=False)),
    ("json_schema", json.dumps(CALL), json.dumps(VALUES, ensure_ascii=False, separators=(",", ":"))),
    ("regex", "https://example\\.com/[a-z]+", "https://example.com/abc"),
    ("choice", '["the first of them all", "the second of them"]', "the second of them"),
    ("gbnf", 'root ::= "hello world, this is " [a-z]+ | "hello"', "hello world, this is quire"),
    (
        "lark",
        'start: "call(" %json {"type": "object", "properties": {"name": {"const": "x"}}, "required": ["name"]} ")"',
        'call({"name":"x"})',
    ),
]


@pytest.mark.parametrize("words", ["gpt2-50k", "mistral-32k", "qwen-152k"])
@pytest.mark.parametrize(("kind", "text", "document"), CASES)
def test_forced_tokens_are_the_canonical_ones_of_every_document(
    words: str, kind: str, text: str, document: str
) -> None:
    tokens = vocabulary(words).encode(document)
    matcher = compiled(words, kind, text).matcher()
    at = 0
    while at < len(tokens):
        forced = matcher.forced()
        assert forced == tokens[at : at + len(forced)]
        step = max(1, len(forced))
        assert matcher.accept(tokens[at : at + step]) == step
        at += step
    assert matcher.may_end


@pytest.mark.parametrize(("kind", "text", "document"), CASES)
def test_where_tokens_are_forced_the_mask_allows_only_pieces_of_their_text(kind: str, text: str, document: str) -> None:
    words = vocabulary("mistral-32k")
    matcher = compiled("mistral-32k", kind, text).matcher()
    row = words.mask([])
    seen = 0
    for token in words.encode(document):
        if forced := words.spell(matcher.forced()):
            seen += 1
            matcher.fill_mask(row)
            for allowed in members(row):
                piece = words.pieces[allowed]
                assert forced.startswith(piece) or piece.startswith(forced)
        matcher.accept([token])
    assert seen


def test_compact_schemas_force_their_keys() -> None:
    words = vocabulary("qwen-152k")
    matcher = compiled("qwen-152k", "json_schema", json.dumps(CALL), whitespace="").matcher()
    assert words.spell(matcher.forced()).startswith(b'{"location')
    forced = 0
    tokens = words.encode(json.dumps(VALUES, ensure_ascii=False, separators=(",", ":")))
    for token in tokens:
        forced += matcher.forced()[:1] == [token]
        matcher.accept([token])
    assert forced >= len(tokens) // 4


def test_nothing_is_forced_where_the_answer_may_end() -> None:
    matcher = compiled("mistral-32k", "regex", "a(bcd)?").matcher()
    matcher.accept(vocabulary("mistral-32k").encode("a"))
    assert matcher.may_end
    assert matcher.forced() == []


def test_forced_tokens_and_rollback_agree() -> None:
    words = vocabulary("mistral-32k")
    matcher = compiled("mistral-32k", "json_schema", json.dumps(CALL), whitespace="").matcher()
    pick = random.Random(3)
    for _ in range(10):
        before = matcher.forced()
        count = matcher.accept(before)
        assert count == len(before)
        matcher.rollback(count)
        assert matcher.forced() == before
        row = words.mask([])
        matcher.fill_mask(row)
        matcher.accept([pick.choice([t for t in members(row) if t not in words.eos_ids])])
