"""Random schemas, random tokens: what the masks let through is valid, at every budget from the shortest document up."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import numpy as np
import pytest
from grammars import compiled, parsed, random_schema, recursive_schema, vocabulary, walk

from quire.engine.grammar import Compiled
from quire.engine.grammar.errors import GrammarRefused
from quire.engine.grammar.vocabulary import members

pytestmark = pytest.mark.usefixtures("shared")
WORDS = "stories-512"


def grammar_for(seed: int) -> tuple[random.Random, dict[str, Any], Compiled]:
    pick = random.Random(seed)
    schema = random_schema(pick) if seed % 5 else recursive_schema(pick)
    try:
        return pick, schema, compiled(WORDS, "json_schema", json.dumps(schema))
    except GrammarRefused as refused:
        pytest.skip(f"refused: {refused}")


def is_valid(schema: dict[str, Any], value: Any) -> bool:
    judge = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)
    return bool(judge.is_valid(value))


@pytest.mark.parametrize("seed", range(60))
def test_an_answer_is_valid_json_at_every_budget_from_the_shortest_up(seed: int) -> None:
    pick, schema, grammar = grammar_for(seed)
    assert grammar.shortest is not None
    for budget in [*range(grammar.shortest, grammar.shortest + 4), grammar.shortest + pick.randint(5, 40)]:
        tokens, _ = walk(grammar, vocabulary(WORDS), pick, budget)
        value = parsed(vocabulary(WORDS), tokens)
        assert is_valid(schema, value), f"{value} for {schema}"


@pytest.mark.parametrize("seed", range(200, 220))
def test_what_a_mask_allows_does_not_depend_on_how_one_came_there(seed: int) -> None:
    """An answer that is preempted is computed again from its tokens; drafts are taken and taken back."""
    pick, _, grammar = grammar_for(seed)
    words = vocabulary(WORDS)
    assert grammar.shortest is not None
    budget = grammar.shortest + pick.randint(0, 8)
    walked = grammar.matcher()
    row, other = (words.mask([]) for _ in range(2))
    taken: list[int] = []
    for left in range(budget, 0, -1):
        walked.fill_mask(row, left)
        again = grammar.matcher()
        again.accept(taken)
        again.fill_mask(other, left)
        assert np.array_equal(row, other), f"after {words.spell(taken)!r} with {left} left"
        draft = pick.choice(members(row))
        walked.rollback(walked.accept([draft]))
        walked.fill_mask(other, left)
        assert np.array_equal(row, other), f"after {words.spell(taken)!r} and a draft with {left} left"
        taken.append(pick.choice(members(row)))
        walked.accept(taken[-1:])
        if walked.must_end:
            break


@pytest.mark.parametrize("seed", range(8))
def test_budgets_hold_with_a_real_vocabulary_too(seed: int) -> None:
    pick = random.Random(seed)
    schema = random_schema(pick) if seed % 3 else recursive_schema(pick)
    grammar = compiled("mistral-32k", "json_schema", json.dumps(schema))
    assert grammar.shortest is not None
    for budget in (grammar.shortest, grammar.shortest + pick.randint(1, 12)):
        tokens, _ = walk(grammar, vocabulary("mistral-32k"), pick, budget)
        assert is_valid(schema, parsed(vocabulary("mistral-32k"), tokens))


@pytest.mark.parametrize("seed", range(100, 160))
def test_a_changed_document_that_is_invalid_cannot_be_written(seed: int) -> None:
    pick, schema, grammar = grammar_for(seed)
    assert grammar.shortest is not None
    for _ in range(6):
        tokens, _ = walk(grammar, vocabulary(WORDS), pick, grammar.shortest + 12)
        changed = change(pick, parsed(vocabulary(WORDS), tokens))
        if is_valid(schema, changed):
            continue
        for text in (
            json.dumps(changed, ensure_ascii=False),
            json.dumps(changed, separators=(",", ":"), ensure_ascii=False),
        ):
            written = vocabulary(WORDS).encode(text)
            matcher = grammar.matcher()
            assert not (matcher.accept(written) == len(written) and matcher.may_end), f"{text} for {schema}"


def change(pick: random.Random, value: Any) -> Any:
    """The same with something else somewhere."""
    if isinstance(value, dict) and value and pick.random() < 0.8:
        name = pick.choice(list(value))
        match pick.randint(0, 2):
            case 0:
                return {n: v for n, v in value.items() if n != name}
            case 1:
                return value | {"more": pick.choice([0, "x", None])}
        return value | {name: change(pick, value[name])}
    if isinstance(value, list) and pick.random() < 0.8:
        if value and pick.random() < 0.5:
            at = pick.randrange(len(value))
            return [*value[:at], change(pick, value[at]), *value[at + 1 :]]
        return value[:-1] if pick.random() < 0.5 else [*value, pick.choice([0, "x", None, {}])]
    if isinstance(value, str) and pick.random() < 0.6:
        return value[1:] if pick.random() < 0.5 else value + pick.choice("a0-é")
    if isinstance(value, int | float) and not isinstance(value, bool) and pick.random() < 0.6:
        return value + pick.choice([-1000, -1, 0.5, 1, 10_000])
    return pick.choice([None, True, 0, -7, 2.5, "", "text", [], [1], {}, {"a": 1}])
