"""Answers end complete at every budget from the shortest up: with control tokens, free text, rules that nest."""

from __future__ import annotations

import functools
import json
import random
from typing import Any

import pytest
from grammars import FOLDERS, vocabulary
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vocabularies import template, templates, vocabulary_of

from quire.engine.grammar import Compiled, GrammarSpec, compile
from quire.engine.grammar.items import Choice, Control, Reach, Rule, Sequence, Times, Word
from quire.engine.grammar.lark_rules import read
from quire.engine.grammar.symbols import Symbols, fewest
from quire.engine.grammar.vocabulary import Vocabulary, members
from quire.server.binding import bind
from quire.server.calls import calls
from quire.server.dialect import Dialect
from quire.server.tools import choose

pytestmark = pytest.mark.usefixtures("shared")
WORDS = "stories-512"
CONTROLS = (0, 1)  # of that vocabulary: control tokens that end nothing
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Köln", 'a"b']}, "days": {"type": "integer"}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "ping", "parameters": {"type": "object"}}},
]
CALCULATOR = 'root ::= sum\nsum ::= product ("+" product)*\nproduct ::= [0-9] | "(" sum ")"'
LIST = 'root ::= "[" list? "]"\nlist ::= item | item "," list\nitem ::= [a-z]{2} | "(" list ")" | "<" item ">"'
LATE = 'root ::= open | closed\nopen ::= "(" open | "x"\nclosed ::= "(" closed ")" | "y"'  # "y" asks for every ")"
TAGS = {
    "structures": [
        {"begin": "<f=a>", "schema": {"type": "object", "properties": {"x": {"type": "integer"}}}, "end": "</f>"},
        {"begin": "<f=b>", "schema": {}, "end": "</f>"},
    ],
    "triggers": ["<f="],
}


def drawn(
    grammar: Compiled, words: Vocabulary, pick: random.Random, budget: int, likes: str = ""
) -> tuple[list[int], bool]:
    """Random tokens through the masks: (those, whether the answer is complete). likes: characters of tokens that are
    taken half the time they may be."""
    matcher = grammar.matcher()
    row = words.mask([])
    taken: list[int] = []
    for left in range(budget, 0, -1):
        if matcher.must_end:
            break
        matcher.fill_mask(row, left)
        allowed = members(row)
        assert allowed, f"nothing may follow {words.spell(taken)!r} with {left} left"
        liked = [t for t in allowed if words.pieces[t] and set(words.pieces[t].decode(errors="replace")) <= set(likes)]
        token = pick.choice(liked if liked and pick.random() < 0.5 else allowed)
        assert matcher.accept([token]) == 1
        if token in words.eos_ids:
            break
        taken.append(token)
    return taken, matcher.may_end


def check(grammar: Compiled, words: Vocabulary, budgets: range, likes: str = "") -> None:
    for budget in budgets:
        tokens, complete = drawn(grammar, words, random.Random(budget), budget, likes)
        assert complete, f"budget {budget}: {b''.join(map(words.written, tokens))!r}"
        again = grammar.matcher()
        assert again.accept(tokens) == len(tokens)
        assert again.may_end


# ---------------------------------------------------------------- random grammars with control tokens

LITERALS = ["a", "ab", "<x>", "\n", '"q"', "name: ", " b c"]


def part(depth: int) -> st.SearchStrategy[str]:
    leaves = st.one_of(
        st.sampled_from(LITERALS).map(lambda text: json.dumps(text)),
        st.sampled_from([f"<[{c}]>" for c in CONTROLS]),
        st.just("/[0-9]{1,3}/ <[0]>"),
        st.just("TEXT <[1]>"),
        st.sampled_from(
            [
                '%json {"type": "object", "properties": {"k": {"type": "boolean"}}, "required": ["k"]}',
                '%json {"enum": ["one", 2, [null]]}',
                '%json {"type": "object"}',
            ]
        ),
    )
    if not depth:
        return leaves
    inner = part(depth - 1)
    return st.one_of(
        leaves,
        st.lists(inner, min_size=1, max_size=3).map(" ".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda options: f"({' | '.join(options)})"),
        st.tuples(inner, st.sampled_from(["?", "*", "{1,2}"])).map(lambda pair: f"(<[1]> {pair[0]}){pair[1]}"),
    )


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(part(2), st.integers(0, 20))
def test_random_grammars_with_control_tokens_end_at_every_budget(items: str, more: int) -> None:
    text = f"TEXT: /(?s:.*)/\nstart: <[0]> {items}"
    words = vocabulary(WORDS)
    grammar = compile(GrammarSpec(kind="lark", text=text, controls=CONTROLS), words)
    assert grammar.shortest is not None
    for budget in (grammar.shortest, grammar.shortest + more):
        tokens, complete = drawn(grammar, words, random.Random(more), budget)
        assert complete, f"{text!r}, budget {budget}: {b''.join(map(words.written, tokens))!r}"


@pytest.mark.parametrize("bounds", [{"exclusiveMaximum": 0}, {"minimum": 0}, {"minimum": 10, "maximum": 99}])
def test_many_numbers_within_bounds_end_at_every_budget(bounds: dict[str, int]) -> None:
    words = vocabulary(WORDS)
    schema = {"type": "array", "items": {"type": "integer", **bounds}, "minItems": 100, "maxItems": 100}
    grammar = compile(GrammarSpec(kind="json_schema", text=json.dumps(schema)), words)
    assert grammar.shortest is not None
    check(grammar, words, range(grammar.shortest, grammar.shortest + 40, 8))


# ---------------------------------------------------------------- calls that are forced

FORMATS = {f.name: n for n in templates() if (f := choose(template(n))) is not None and f.style == "json"}
NONE = [pytest.param("", marks=pytest.mark.skip("shared/data/chat-templates is not beside this"))]


@functools.cache
def dialect(name: str) -> tuple[Dialect, Vocabulary]:
    ours = vocabulary_of(FORMATS[name])
    return Dialect.of(template(FORMATS[name]), ours.ours, "auto", "auto"), Vocabulary(
        ours.description, ours.ours.eos_ids
    )


@pytest.mark.parametrize("name", list(FORMATS) or NONE)
def test_forced_calls_are_complete_at_every_budget(name: str) -> None:
    known, words = dialect(name)
    for choice in ("required", {"function": {"name": "ping"}}):
        binding = bind(None, calls(TOOLS, choice, True), known, "")
        assert binding.spec is not None
        grammar = compile(binding.spec, words)
        assert grammar.shortest is not None
        check(grammar, words, range(grammar.shortest, grammar.shortest + 21, 10))


@pytest.mark.parametrize("name", list(FORMATS) or NONE)
def test_calls_that_may_be_are_not_begun_where_they_cannot_end(name: str) -> None:
    known, words = dialect(name)
    binding = bind(None, calls(TOOLS, "auto", True), known, "")
    if binding.spec is None:
        pytest.skip("its calls cannot be told from text")
    grammar = compile(binding.spec, words)
    assert grammar.shortest is not None
    check(grammar, words, range(grammar.shortest, grammar.shortest + 41, 20))


@pytest.mark.parametrize("name", ["gpt2-50k", "qwen-152k"])
def test_a_forced_call_is_complete_with_a_real_vocabulary(name: str) -> None:
    """gpt2's only control token ends texts; one more is added."""
    folder, eos = FOLDERS[name]
    parts = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    control = max(token["id"] for token in parts["added_tokens"]) + 1
    parts["added_tokens"].append({**parts["added_tokens"][0], "id": control, "content": "<|call|>", "special": True})
    words = Vocabulary(json.dumps(parts), eos)
    schema = json.dumps(TOOLS[0]["function"]["parameters"])
    call = f'<[{control}]> "\\n{{\\"name\\": \\"get_weather\\", \\"arguments\\": " a "}}" <[{control}]>'
    text = f"start: ({call}){{1,2}}\na: %json {schema}"
    grammar = compile(GrammarSpec(kind="lark", text=text, controls=(control,)), words)
    assert grammar.shortest is not None
    check(grammar, words, range(grammar.shortest, grammar.shortest + 12, 4))


# ---------------------------------------------------------------- free text and rules that nest


@pytest.mark.parametrize("text", [CALCULATOR, LIST, LATE])
def test_rules_that_nest_end_at_every_budget(text: str) -> None:
    words = vocabulary(WORDS)
    grammar = compile(GrammarSpec(kind="gbnf", text=text), words)
    assert grammar.shortest is not None
    check(grammar, words, range(grammar.shortest, grammar.shortest + 21), likes="([<")
    check(grammar, words, range(90, 93), likes="([<")


def test_a_trigger_is_not_written_where_its_structure_cannot_end() -> None:
    words = vocabulary(WORDS)
    grammar = compile(GrammarSpec(kind="structural_tag", text=json.dumps(TAGS)), words)
    assert grammar.shortest == 0
    check(grammar, words, range(1, 30, 4), likes="<f=ab>")


def test_free_text_near_the_end_keeps_every_token_that_is_text() -> None:
    words = vocabulary("qwen-152k")
    grammar = compile(GrammarSpec(kind="structural_tag", text=json.dumps(TAGS)), words)
    matcher = grammar.matcher()
    row, near = (words.mask([]) for _ in range(2))
    matcher.accept(words.encode("Some text <f"))
    matcher.fill_mask(row)
    matcher.fill_mask(near, 5)
    lost = [words.pieces[t] for t in set(members(row)) - set(members(near))]
    assert lost
    assert all(piece.startswith(b"=") or b"<f=" in piece or _is_cut(piece) for piece in lost)


def _is_cut(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return True
    return False


# ---------------------------------------------------------------- what it rests on


def test_fewest_tokens_from_every_place_are_those_of_the_vocabulary() -> None:
    words = vocabulary(WORDS)
    text = 'the "little" cat, ünd so'.encode()
    found = fewest(words, text)
    assert [len(words.fewest_tokens(text[at:]) or []) for at in range(len(text) + 1)] == list(found)


def test_ways_and_tokens_spell_each_other() -> None:
    words = vocabulary(WORDS)
    symbols = Symbols(words, CONTROLS)
    tokens = [0, *words.encode("once"), 1, 1, *words.encode("a b")]
    way = tuple(symbols.spell(tokens))
    back = symbols.tokens(way)
    assert back is not None
    assert symbols.spell(back) == list(way)
    assert [t for t in back if t in CONTROLS] == [0, 1, 1]
    assert symbols.text(tokens) == b"a b"


def test_a_grammar_is_read_as_it_is_written() -> None:
    rules = read('start: a ("x" | <[3]>)* b?\na: "y"  // more\nb: a\n | "z"{2,}', {})
    assert rules == {
        "start": Sequence((Rule("a"), Times(Choice((Word("x"), Control(3))), 0, None), Times(Rule("b"), 0, 1))),
        "a": Word("y"),
        "b": Choice((Rule("a"), Times(Word("z"), 2, None))),
    }


def test_bounds_of_rules() -> None:
    def bounds(text: str) -> Any:
        return Reach(read(text, {}), lambda text: [*range(len(text), -1, -1)]).bounds("start")

    assert bounds('start: "abc" <[1]> "d"').flat == 5
    assert bounds('start: "a" start | "bcd"').flat == 4  # the end is always its own
    assert bounds('start: start "+" "n" | "n"').flat == 2
    nested = bounds('start: "(" start ")" | "x"')
    assert nested.flat is None
    assert nested.openers == (b"(",)
    assert bounds('start: /[0-9]/ start ")" | "x"') is None  # nothing that can be counted stands before
