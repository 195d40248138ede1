"""What a grammar is made of is freed with it: a collection that had to look for it would hold up all answers."""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Iterator

import pytest
from grammars import vocabulary

from quire.engine.grammar import ahead, compile
from quire.engine.grammar.errors import GrammarRefused
from quire.engine.grammar.spec import GrammarSpec, Limits
from quire.engine.grammar.vocabulary import Vocabulary, members

SCHEMA = {
    "$defs": {"n": {"type": "object", "properties": {"v": {"type": "string"}, "next": {"$ref": "#/$defs/n"}}}},
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9},
        "n": {"$ref": "#/$defs/n"},
        "size": {"type": "integer", "minimum": 2, "maximum": 40},
        "kind": {"anyOf": [{"const": "a"}, {"type": "array", "items": {"type": "boolean"}}]},
        "code": {"type": "string", "pattern": "^(ab|c)+d?$"},
    },
    "required": ["name", "size", "kind"],
}
SPECS = {
    "json_schema": json.dumps(SCHEMA),
    "regex": "(ab|c){2,5}[0-9]*",
    "lark": 'start: item+\nitem: "a" | "b" item "c"',
    "gbnf": 'root ::= "x" root? "y" | [a-c]{1,4}',
}


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _followed(spec: GrammarSpec, words: Vocabulary) -> None:
    """Answers from the beginning to their budget's end, each place of which asks for a way to it."""
    grammar = compile(spec, words, Limits())
    for seed in range(3):
        pick, matcher, row = random.Random(seed), grammar.matcher(), words.mask([])
        for left in range((grammar.shortest or 0) + 4, 0, -1):
            matcher.fill_mask(row, left)
            if matcher.must_end or not (allowed := members(row)):
                break
            matcher.accept([pick.choice(allowed)])
            matcher.forced(left - 1)


@pytest.mark.parametrize("kind", SPECS)
def test_a_grammar_that_nobody_has_any_more_leaves_nothing_to_a_collection(kind: str, uncollected: None) -> None:
    words = vocabulary("stories-512")
    spec = GrammarSpec(kind=kind, text=SPECS[kind])  # type: ignore[arg-type]
    _followed(spec, words)  # what is made once a vocabulary is there
    gc.collect()
    _followed(spec, words)
    assert gc.collect() <= 8


def test_nor_does_one_that_is_too_much(uncollected: None, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = GrammarSpec(kind="json_schema", text=SPECS["json_schema"])
    refused = 0
    for steps in (3, 30, 60, 100, 150, 200, 300, 400, 600):
        monkeypatch.setattr(ahead, "MAKING", steps)
        gc.collect()
        try:
            compile(spec, vocabulary("stories-512"))
        except GrammarRefused:
            refused += 1
        assert gc.collect() <= 8, steps
    assert refused
