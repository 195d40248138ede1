"""Every kind through both engines: accept, roll back, end; control tokens never."""

from __future__ import annotations

import json
import random

import pytest
from grammars import compiled, vocabulary, walk

from quire.engine.grammar import ENGINES, KINDS, Compiled
from quire.engine.grammar.errors import GrammarRefused
from quire.engine.grammar.vocabulary import members

pytestmark = pytest.mark.usefixtures("shared")
WORDS = "mistral-32k"
TAGS = {
    "structures": [
        {
            "begin": "<f=a>",
            "schema": {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]},
            "end": "</f>",
        },
        {"begin": "<f=b>", "schema": {"type": "array"}, "end": "</f>"},
    ],
    "triggers": ["<f="],
}
CALCULATOR = """
root ::= sum  # the whole
sum ::= product (("+" | "-") product)*
product ::= value ("*" value)*
value ::= [0-9]+ | "(" sum ")"
"""
CASES = [  # kind, text, what can be written, what cannot
    ("json_object", "", ['{"a": [1, 2.5e3, null]}', "{}"], ["[]", '{"a": 1,}', "{} "]),
    ("json_schema", '{"enum": ["a", 1, null]}', ['"a"', "1", "null"], ['"b"', "2", ""]),
    ("json_schema", r'{"type": "string", "pattern": "^[^\"]$"}', ['"a"', r'"\n"', r'"\\"', '"é"'], [r'"\""', '""']),
    (
        "json_schema",
        '{"type": "number", "exclusiveMinimum": 0.99, "exclusiveMaximum": 1}',
        ["0.995", "0.999999999999999", "0.9900000000000010"],
        ["1", "0.99", "0.9999999999999999", "0.9900000000000009"],
    ),
    ("json_schema", '{"const": 1e-7}', ["0.0000001"], ["1e-7", "1e-07", "0.0"]),
    (
        "json_schema",
        '{"enum": [1e16, [-2.5e-10, "1e-7"], 1e-05, 9007199254740994]}',
        ["10000000000000000", '[-0.00000000025, "1e-7"]', "0.00001", "9007199254740994"],
        ["1e16", "10000000000000001"],
    ),
    ("json_schema", '{"properties": {"v": {"const": 1e-7}}}', ['{"v": 0.0000001}', "{}"], ['{"v": 0.0}']),
    (
        "json_schema",
        r'{"type": "object", "patternProperties": {"^[^\\\\]$": {"const": 1}}, "additionalProperties": {"const": 2}}',
        [r'{"a": 1, "\"": 1}', r'{"\\": 2, "ab": 2}'],
        ['{"a": 2}', r'{"\\": 1}', r'{"\"": 2}'],
    ),
    ("regex", '[^"]{2}', ["a\\", "\x01\n"], ['a"', "a"]),
    ("regex", "[0-9]{3}-[0-9]{4}", ["123-4567"], ["123-456", "1234567"]),
    ("regex", "a|bc?", ["a", "b", "bc"], ["ac", ""]),
    ("regex", "x.{0,900}(y|zz.{3,9}\\.)", ["xy", "xzzabc.", "x y"], ["x", "xzzab.", "xz"]),
    ("choice", '["a.b", "a*", "zwölf"]', ["a.b", "a*", "zwölf"], ["axb", "aa"]),
    ("lark", 'start: "x" %json {"type": "integer"}', ["x12"], ["x1.5", "12"]),
    ("gbnf", CALCULATOR, ["1+2*(3-4)", "7"], ["1+", "(1", "x"]),
    ("ebnf", 'root ::= "yes" | "no" [a-z]+ "ing"', ["yes", "nothing"], ["no", "noth"]),
    ("gbnf", 'root ::= [^\\n"]{2,3} "\\u00e9"?', ["abé", "abc"], ["a", "abcd"]),
    (
        "structural_tag",
        json.dumps(TAGS),
        ["hello", 'hi <f=a>{"x": 1}</f> <f=b>[]</f>!', ""],
        ["<f=c>", '<f=a>{"x": "s"}</f>', "<f="],
    ),
]
NAMES = [f"{kind}-{i}" for i, (kind, *_) in enumerate(CASES)]


@pytest.mark.parametrize(("kind", "text", "can", "cannot"), CASES, ids=NAMES)
def test_a_grammar_lets_through_what_it_holds_and_nothing_else(
    kind: str, text: str, can: list[str], cannot: list[str]
) -> None:
    grammar = compiled(WORDS, kind, text)
    for document in can:
        assert writes(grammar, document), document
    for document in cannot:
        assert not writes(grammar, document), document


def writes(grammar: Compiled, document: str) -> bool:
    tokens = vocabulary(WORDS).encode(document)
    matcher = grammar.matcher()
    return matcher.accept(tokens) == len(tokens) and matcher.may_end


@pytest.mark.parametrize(("kind", "text", "can", "cannot"), CASES, ids=NAMES)
def test_what_is_taken_back_leaves_no_trace(kind: str, text: str, can: list[str], cannot: list[str]) -> None:
    grammar = compiled(WORDS, kind, text)
    tokens = [*vocabulary(WORDS).encode(can[0]), 2]
    for count in range(1, len(tokens) + 1):
        matcher = grammar.matcher()
        assert matcher.accept(tokens) == len(tokens)
        assert matcher.must_end
        matcher.rollback(count)
        fresh = grammar.matcher()
        fresh.accept(tokens[:-count])
        for left in (None, 9):
            assert mask(matcher, left) == mask(fresh, left)
        assert (matcher.may_end, matcher.must_end, matcher.forced()) == (fresh.may_end, fresh.must_end, fresh.forced())
        assert matcher.accept(tokens[-count:]) == count
    with pytest.raises(ValueError, match="rollback"):
        matcher.rollback(len(tokens) + 1)


@pytest.mark.parametrize(("kind", "text", "can", "cannot"), CASES, ids=NAMES)
def test_a_mask_holds_the_tokens_that_are_taken_and_no_control_tokens(
    kind: str, text: str, can: list[str], cannot: list[str]
) -> None:
    words = vocabulary(WORDS)
    matcher = compiled(WORDS, kind, text).matcher()
    pick = random.Random(1)
    for token in words.encode(can[0]):
        allowed = mask(matcher)
        assert token in allowed
        assert all(words.pieces[t] or t == 2 for t in allowed)
        assert (2 in allowed) == matcher.may_end
        others = [*pick.sample(range(words.size), 100), *pick.sample(sorted(allowed), min(50, len(allowed)))]
        for other in others:
            taken = matcher.accept([other])
            assert taken == (other in allowed), words.pieces[other]
            matcher.rollback(taken)
        assert matcher.accept([token]) == 1


def mask(matcher: object, left: int | None = None) -> set[int]:
    row = vocabulary(WORDS).mask([])
    matcher.fill_mask(row, left)  # type: ignore[attr-defined]
    return set(members(row))


def test_accepting_stops_at_the_first_token_that_is_not_allowed() -> None:
    words = vocabulary(WORDS)
    matcher = compiled(WORDS, "choice", '["ab"]').matcher()
    tokens = [*words.encode("a"), *words.encode("x"), *words.encode("b")]
    assert matcher.accept(tokens) == 1
    assert matcher.accept(words.encode("b")) == 1
    assert matcher.accept([2, 2]) == 1
    assert matcher.accept([-1]) == 0


@pytest.mark.parametrize("text", ["[a-c]{2,5}x?", "yes|no", "\\d+(\\.\\d{2})?"])
def test_both_engines_of_a_regex_allow_the_same(text: str) -> None:
    words = vocabulary(WORDS)
    one, two = (compiled(WORDS, "regex", text, engine=engine).matcher() for engine in ENGINES)
    pick = random.Random(2)
    for _ in range(6):
        assert mask(one) == mask(two)
        token = pick.choice(sorted(mask(one)))
        assert one.accept([token]) == two.accept([token]) == 1
        assert one.may_end == two.may_end
        if token in words.eos_ids:
            break


def test_an_engine_that_does_not_serve_a_kind_says_so() -> None:
    with pytest.raises(GrammarRefused, match="outlines does not serve json_object"):
        compiled(WORDS, "json_object", engine="outlines")
    with pytest.raises(GrammarRefused, match="no engine"):
        compiled(WORDS, "json_object", engine="another")
    assert set(KINDS.values()) == set(ENGINES)


def test_a_control_token_comes_only_where_the_server_let_a_grammar_name_it() -> None:
    text = 'start: "a" <[3]> "b"'
    with pytest.raises(GrammarRefused, match="control tokens"):
        compiled(WORDS, "lark", text)
    matcher = compiled(WORDS, "lark", text, controls=(3,)).matcher()
    words = vocabulary(WORDS)
    assert matcher.accept([*words.encode("a"), 3, *words.encode("b"), 2]) == 4


def test_white_space_is_bounded_and_can_be_set() -> None:
    assert writes(compiled(WORDS, "json_object"), json.dumps({"a": [1, {"b": None}]}, indent=4))
    assert not writes(compiled(WORDS, "json_object"), '{"a":  1}')
    assert not writes(compiled(WORDS, "json_object"), '{"a":\n\n1}')
    assert writes(compiled(WORDS, "json_object", whitespace="[ \\t]{0,3}"), '{"a":\t  1}')
    assert not writes(compiled(WORDS, "json_object", whitespace="[ \\t]{0,3}"), '{"a":\n1}')
    assert not writes(compiled(WORDS, "json_object", whitespace=""), '{"a": 1}')
    with pytest.raises(GrammarRefused, match="whitespace_pattern"):
        compiled(WORDS, "json_object", whitespace="[ x]")


def test_two_names_for_one_string_cannot_be_written() -> None:
    """`"\\u0061"` is `"a"`: if it could be written, what is listed under "a" would be let out."""
    grammar = compiled(WORDS, "json_schema", '{"type": "object", "properties": {"a": {"type": "integer"}}}')
    assert not writes(grammar, '{"\\u0061": "text"}')
    assert writes(grammar, '{"a": 1, "b": "text"}')


@pytest.mark.parametrize(("kind", "text", "can", "cannot"), [c for c in CASES if c[0] != "structural_tag"])
def test_every_kind_ends_within_its_budget(kind: str, text: str, can: list[str], cannot: list[str]) -> None:
    grammar = compiled("stories-512", kind, text)
    words = vocabulary("stories-512")
    assert grammar.shortest is not None
    for budget in range(grammar.shortest, grammar.shortest + 8):
        tokens, _ = walk(grammar, words, random.Random(budget), budget)
        matcher = grammar.matcher()
        assert matcher.accept(tokens) == len(tokens)
        assert matcher.may_end
