"""What a lexer learns has a limit that all answers of a grammar reach together: none of them notices."""

from __future__ import annotations

import json
import random

import pytest
from grammars import limits, vocabulary

from quire.engine.grammar import Compiled, compile, probe
from quire.engine.grammar.errors import GrammarFailed, GrammarRefused
from quire.engine.grammar.spec import GrammarSpec
from quire.engine.grammar.vocabulary import members

WORDS = "stories-512"
NAMES = [f"p{i}" for i in range(6)]
SPECS = {
    "json_schema": json.dumps(
        {
            "type": "object",
            "properties": {name: {"type": "string", "maxLength": 300 + i} for i, name in enumerate(NAMES)},
            "required": NAMES,
            "additionalProperties": False,
        }
    ),
    "lark": "start: "
    + " | ".join(f'"{c}" {c.upper()} "."' for c in "abcdef")
    + "".join(f"\n{c.upper()}: /[g-z]{{2,{200 + i}}}[0-9]/" for i, c in enumerate("abcdef")),
    "lark that is searched": "start: "
    + " | ".join(f'"{c}" {c.upper()} "."' for c in "abcdef")
    + "".join(f"\n{c.upper()}: /[g-z]{{2,{200 + i}}}[0-9]/ & ~/(?s:.*)zz(?s:.*)/" for i, c in enumerate("abcdef")),
    "regex": "(" + "|".join(f"{c}[g-z]{{2,{200 + i}}}[0-9]" for i, c in enumerate("abcdef")) + ")",
}
LIMIT = 1_200  # states


def grammar(kind: str, states: int, monkeypatch: pytest.MonkeyPatch) -> Compiled:
    monkeypatch.setattr(probe, "LIMITS", limits(states))
    spec = GrammarSpec(kind=kind.split()[0], text=SPECS[kind])  # type: ignore[arg-type]
    return compile(spec, vocabulary(WORDS), engines={"regex": "llguidance"})


def answer(grammar: Compiled, seed: int, budget: int) -> list[tuple[list[int], list[int]]]:
    """At each place of a random one what may come, and what must. Some tokens are taken twice."""
    pick, words = random.Random(seed), vocabulary(WORDS)
    matcher, row, found = grammar.matcher(), words.mask([]), []
    left = budget
    while left and not matcher.must_end:
        matcher.fill_mask(row, left)
        allowed = members(row)
        assert allowed
        matcher.accept([pick.choice(allowed)])
        if pick.random() < 0.2:
            matcher.rollback(1)
            continue
        left -= 1
        found.append((allowed, matcher.forced(left) if left and not matcher.must_end else []))
    assert matcher.may_end
    return found


@pytest.mark.parametrize("kind", SPECS)
def test_answers_behind_the_limit_are_what_they_are_before_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the least limits that each of the answers stays within by itself."""
    roomy = grammar(kind, 1_000_000, monkeypatch)
    expected = [answer(roomy, seed, 90) for seed in range(12)]

    def within(states: int) -> bool:
        try:
            return all(answer(grammar(kind, states, monkeypatch), seed, 90) == expected[seed] for seed in range(12))
        except (GrammarFailed, GrammarRefused):
            return False

    least = next(states for states in range(20, 2_000, 20) if within(states))
    tight = grammar(kind, least, monkeypatch)
    first = tight.beginning.first  # type: ignore[attr-defined]
    for seed, wanted in enumerate(expected):
        found = answer(tight, seed, 90)
        assert [allowed for allowed, _ in found] == [allowed for allowed, _ in wanted]
        for (_, some), (_, all_) in zip(found, wanted, strict=True):  # what must come is told as far as it is known
            assert some == all_[: len(some)]
    assert tight.beginning.first is not first, "the limit was not met"  # type: ignore[attr-defined]


def test_answers_that_go_side_by_side_meet_it_together(monkeypatch: pytest.MonkeyPatch) -> None:
    tight, words = grammar("json_schema", LIMIT, monkeypatch), vocabulary(WORDS)
    begun = [words.encode('{"p0":"' + "x" * i) for i in range(8)]
    matchers = [tight.matcher() for _ in begun]
    rows = [words.mask([]) for _ in begun]
    for matcher, tokens in zip(matchers, begun, strict=True):
        assert matcher.accept(tokens) == len(tokens)
    (letter,) = words.encode("e")[-1:]
    for _ in range(150):
        for matcher, row in zip(matchers, rows, strict=True):
            matcher.fill_mask(row)
            assert letter in members(row)
            assert matcher.accept([letter]) == 1


def test_an_answer_that_is_too_much_by_itself_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    for states in (40, 80, 160):
        try:
            tight = grammar("json_schema", states, monkeypatch)
            break
        except GrammarRefused:
            continue
    matcher, words = tight.matcher(), vocabulary(WORDS)
    row = words.mask([])
    matcher.accept(words.encode('{"p0":"'))

    def write() -> None:
        for token in words.encode("e")[-1:] * 290:
            matcher.fill_mask(row)
            matcher.accept([token])

    with pytest.raises(GrammarFailed, match="too many"):
        write()


def test_an_answer_may_be_longer_than_what_a_lexer_can_learn() -> None:
    """Two strings of 4,900 characters: each has some nine states a character."""
    fields = {name: {"type": "string", "maxLength": 4_900 + i} for i, name in enumerate("ab")}
    schema = {"type": "object", "properties": fields, "required": ["a", "b"], "additionalProperties": False}
    words = vocabulary(WORDS)
    found = compile(GrammarSpec(kind="json_schema", text=json.dumps(schema)), words)
    first = found.beginning.first  # type: ignore[attr-defined]
    matcher, row = found.matcher(), words.mask([])
    (letter,) = words.encode("e")[-1:]
    for begin in ('{"a":"', '","b":"'):
        tokens = [*words.encode(begin), *[letter] * 4_900]
        for token in tokens:
            matcher.fill_mask(row, 20_000)
            assert token in members(row)
            assert matcher.accept([token]) == 1
    assert found.beginning.first is not first  # type: ignore[attr-defined]
