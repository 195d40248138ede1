"""Random JSON Schemas of what is enforced, documents for them, and walks through a matcher's masks."""

from __future__ import annotations

import functools
import json
import random
from typing import Any

import llguidance
from vocabularies import SHARED

from quire.engine.grammar import Compiled, GrammarSpec, compile
from quire.engine.grammar.vocabulary import Vocabulary, members

FOLDERS = {
    "stories-512": (SHARED / "stories260k", (2,)),
    "gpt2-50k": (SHARED / "tokenizers" / "gpt2-50k", (50256,)),
    "mistral-32k": (SHARED / "tokenizers" / "mistral-v3-32768", (2,)),
    "qwen-152k": (SHARED / "tokenizers" / "qwen-152k", (151643, 151645)),
}
NAMES = ["a", "id", "name", "tags", "é", "two words", 'quo"te', "value"]
PATTERNS = ["^[a-z]{2,4}$", "^\\d+-\\d+$", "x", "^(foo|bar)+$"]
FORMATS = ["date", "uuid", "ipv4", "ipv6"]


def limits(states: int) -> llguidance.LLParserLimits:
    """`probe.LIMITS` with another number of a lexer's states."""
    return llguidance.LLParserLimits(
        initial_lexer_fuel=1_000_000, step_lexer_fuel=200_000, step_max_items=50_000, max_items_in_row=4_000,
        max_lexer_states=states, max_grammar_size=200_000, precompute_large_lexemes=False, verbose_errors=False,
    )  # fmt: skip


@functools.cache
def vocabulary(name: str) -> Vocabulary:
    folder, eos = FOLDERS[name]
    return Vocabulary((folder / "tokenizer.json").read_text(encoding="utf-8"), eos)


def compiled(name: str, kind: str, text: str = "", **options: Any) -> Compiled:
    return compile(GrammarSpec(kind=kind, text=text, **options), vocabulary(name))  # type: ignore[arg-type]


def random_schema(pick: random.Random, depth: int = 3) -> dict[str, Any]:
    """A schema of keywords that are enforced; mostly satisfiable."""
    kinds = ["null", "boolean", "integer", "number", "string", "enum"] + (
        ["array", "object", "anyOf", "any"] * 2 if depth else []
    )
    match pick.choice(kinds):
        case "enum":
            return {
                "enum": pick.sample(
                    [None, True, 3, -1.5, "a", "long constant text", [], [1, "x"], {"k": 0}], pick.randint(1, 4)
                )
            }
        case "integer":
            return _maybe(
                pick,
                {"type": "integer"},
                minimum=pick.randint(-20, 5),
                maximum=pick.randint(6, 5000),
                multipleOf=pick.choice([2, 7]),
            )
        case "number":
            return _maybe(
                pick,
                {"type": "number"},
                minimum=pick.choice([-1.5, 0, 0.25]),
                exclusiveMaximum=pick.choice([2, 3.75, 100]),
            )
        case "string":
            return _string(pick)
        case "array":
            return _maybe(
                pick,
                {"type": "array", "items": random_schema(pick, depth - 1)},
                minItems=pick.randint(0, 3),
                maxItems=pick.randint(3, 5),
                prefixItems=[random_schema(pick, depth - 1) for _ in range(pick.randint(1, 2))],
            )
        case "object":
            return _object(pick, depth)
        case "anyOf":
            return {"anyOf": [random_schema(pick, depth - 1) for _ in range(pick.randint(1, 3))]}
        case "any":
            return {}
        case kind:
            return {"type": kind}


def _maybe(pick: random.Random, schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return schema | {name: value for name, value in more.items() if pick.random() < 0.4}


def _string(pick: random.Random) -> dict[str, Any]:
    way = pick.random()
    if way < 0.2:
        return {"type": "string", "pattern": pick.choice(PATTERNS)}
    if way < 0.35:
        return {"type": "string", "format": pick.choice(FORMATS)}
    return _maybe(pick, {"type": "string"}, minLength=pick.randint(0, 5), maxLength=pick.randint(5, 12))


def _object(pick: random.Random, depth: int) -> dict[str, Any]:
    names = pick.sample(NAMES, pick.randint(0, 4))
    schema: dict[str, Any] = {"type": "object", "properties": {n: random_schema(pick, depth - 1) for n in names}}
    schema["required"] = [n for n in names if pick.random() < 0.5]
    if pick.random() < 0.6:
        schema["additionalProperties"] = pick.choice([False, random_schema(pick, 0)])
    if pick.random() < 0.2:
        schema["patternProperties"] = {"^x_": random_schema(pick, 0)}
    return schema


def recursive_schema(pick: random.Random) -> dict[str, Any]:
    """One that refers to itself."""
    node = {"type": "object", "properties": {"v": random_schema(pick, 1), "next": {"$ref": "#/$defs/n"}}}
    node["required"] = pick.choice([[], ["v"]])
    node["additionalProperties"] = False
    return {"$defs": {"n": node}, "anyOf": [{"$ref": "#/$defs/n"}, {"type": "array", "items": {"$ref": "#/$defs/n"}}]}


def walk(
    grammar: Compiled, words: Vocabulary, pick: random.Random, budget: int, *, eager: float = 0.5
) -> tuple[list[int], bool]:
    """Random tokens through the masks: (tokens without the end, whether the end was chosen). eager: how often a token
    is drawn from all that are allowed rather than from the shorter half, which ends documents sooner."""
    matcher = grammar.matcher()
    row = words.mask([])
    taken: list[int] = []
    for left in range(budget, 0, -1):
        matcher.fill_mask(row, left)
        allowed = members(row)
        assert allowed, f"nothing is allowed after {words.spell(taken)!r} with {left} tokens left"
        token = pick.choice(
            allowed
            if pick.random() < eager
            else sorted(allowed, key=lambda t: len(words.pieces[t]))[: len(allowed) // 2 + 1]
        )
        assert matcher.accept([token]) == 1, (
            f"{words.pieces[token]!r} was allowed after {words.spell(taken)!r} and not taken"
        )
        if token in words.eos_ids:
            return taken, True
        taken.append(token)
    return taken, False


def parsed(words: Vocabulary, tokens: list[int]) -> Any:
    return json.loads(words.spell(tokens).decode())
