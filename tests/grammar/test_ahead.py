"""What is left to write is told from the grammar alone: the same texts as the engine underneath lets through, byte by
byte, and the shortest way to an end from wherever one stands."""

from __future__ import annotations

import functools
import json
import random
import re
from typing import Any

import numpy as np
import pytest
from grammars import limits, vocabulary
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_schemas import complaint, random_schema, random_tools
from vocabularies import byte_level

from quire.engine.errors import GrammarRefused
from quire.engine.grammar import GrammarSpec, compile, llguidance_, probe
from quire.engine.grammar.ahead import Course
from quire.engine.grammar.ahead import course as course_
from quire.engine.grammar.ahead.course import FAR, NOWHERE
from quire.engine.grammar.ahead.letters import Alphabet, Letters, Work
from quire.engine.grammar.ahead.numerals import Numerals
from quire.engine.grammar.ahead.writing import Place, Writing, order
from quire.engine.grammar.beginning import takes
from quire.engine.grammar.errors import GrammarFailed
from quire.engine.grammar.lower import plain_number
from quire.engine.grammar.nodes import Number, is_within
from quire.engine.grammar.regexes import parse
from quire.engine.grammar.vocabulary import Vocabulary, members
from quire.server.binding import bind
from quire.server.calls import calls
from quire.server.dialect import Dialect
from quire.server.tools import PARSERS, load

pytestmark = pytest.mark.usefixtures("shared")
WORDS = "stories-512"
END = 256
LIKED = b'"{}[],:<>()=0'


@pytest.fixture(autouse=True)
def far_from_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Walks ask for every symbol at each place, which no answer does, and try copies of one matcher."""
    monkeypatch.setattr(probe, "LIMITS", limits(1_000_000))


def grammar_of(kind: str, text: str, words: Vocabulary, **more: Any) -> llguidance_.Compiled:
    found = compile(GrammarSpec(kind=kind, text=text, **more), words)  # type: ignore[arg-type]
    assert isinstance(found, llguidance_.Compiled)
    return found


def compare(grammar: llguidance_.Compiled, pick: random.Random, walks: int, steps: int) -> None:
    """Walk symbol by symbol; at each place both let the same come, may end or not alike, and what is said to be the
    shortest way to an end is one, and the shortest."""
    course = grammar._course
    assert course is not None
    course._work.left = 10**9  # of all symbols at each place, which no answer asks for
    size = END + 1 + len(grammar.symbols.controls)
    for _ in range(walks):
        matcher, place, text = grammar.in_symbols.first.deep_copy(), course.start, []
        for _ in range(steps):
            mask = matcher.compute_bitmask()
            assert not matcher.is_error()
            theirs = {s for s in range(size) if s != END and mask[s >> 3] >> (s & 7) & 1}
            ours = {s: to for s in range(size) if s != END and (to := course.step(place, s)) != NOWHERE}
            assert theirs == set(ours), f"behind {bytes(s for s in text if s < END)!r}"
            assert matcher.is_accepting() == (course.length(place) == 0)
            check_ending(course, place, ours)
            way = grammar.symbols.spell(course.ending(place))
            trial = matcher.deep_copy()
            assert takes(trial, way, 1)
            assert trial.is_accepting()
            if not ours:
                break
            liked = [s for s in ours if s > END or s in LIKED]
            symbol = pick.choice(liked if liked and pick.random() < 0.6 else sorted(ours))
            assert matcher.consume_token(symbol)
            place = ours[symbol]
            text.append(symbol)


def check_ending(course: Course, place: int, further: dict[int, int]) -> None:
    """Bellman's equation: no symbol leads to a shorter way, and the way goes on with the first of those that lead to as
    short a one. Its first token leads to where one token less is left."""
    way = course._symbols.spell(course.ending(place))
    if way:
        lengths = {symbol: 1 + course.length(to) for symbol, to in further.items()}
        assert min(lengths.values()) == len(way) == course.length(place)
        assert way[0] == min((s for s, n in lengths.items() if n == len(way)), key=order)
        first = course.ending(place)[0]
        assert course.left(course.take(place, first)) == course.left(place) - 1


def compare_documents(seeds: range, walks: int, steps: int, **more: Any) -> None:
    """Of those schemas that are served, which are most of them."""
    refused = 0
    for seed in seeds:
        pick = random.Random(seed)
        try:
            grammar = grammar_of("json_schema", json.dumps(random_schema(pick)), vocabulary(WORDS), **more)
        except GrammarRefused:
            refused += 1
            continue
        compare(grammar, pick, walks, steps)
    assert refused <= len(seeds) / 2


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_documents_are_those_of_the_engine_underneath(first: int) -> None:
    compare_documents(range(first, first + 10), 2, 40)


@pytest.mark.parametrize(("low", "high"), [(-5, 5), (-12, 0), (-1, 300), (-5, -1), (0, 7), (None, 4), (-3, None)])
def test_whole_numbers_between_bounds_are_those_of_the_engine_underneath(low: int | None, high: int | None) -> None:
    schema = {"type": "integer", "minimum": low, "maximum": high}
    text = json.dumps({key: value for key, value in schema.items() if value is not None})
    compare(grammar_of("json_schema", text, vocabulary(WORDS)), random.Random(0), 8, 6)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1_000, 3_000, 100))
def test_thousands_of_documents_are_those_of_the_engine_underneath(first: int) -> None:
    compare_documents(range(first, first + 100), 6, 60)


@pytest.mark.parametrize("whitespace", ["", " ?", r"[ \n\t]*", r"\n {2,4}"])
def test_white_space_is_that_of_the_engine_underneath(whitespace: str) -> None:
    compare_documents(range(4), 3, 40, whitespace=whitespace)


# ---------------------------------------------------------------- calls


def tags(name: str) -> tuple[str, ...]:
    shape = load(name)
    texts = [shape.opens[0], shape.closes[0], shape.tail]
    return tuple(dict.fromkeys(part for text in texts for part in text.strip().split("\n") if part.endswith(">")))


@functools.cache
def setting(name: str, controls: bool) -> tuple[Dialect, Vocabulary]:
    words = byte_level(tags(name) if controls else ())
    return Dialect.of("", words.ours, name, "none"), Vocabulary(words.description, words.ours.eos_ids)


def compare_calls(name: str, controls: bool, seed: int, walks: int, steps: int) -> bool:
    """Whether there was something to compare: tools may be refused, and calls that may be left out need no grammar."""
    pick = random.Random(seed)
    dialect, words = setting(name, controls)
    tools = random_tools(pick)
    named = {"type": "function", "function": {"name": tools[0]["function"]["name"]}}
    try:
        binding = bind(None, calls(tools, pick.choice(["required", "auto", named]), True), dialect, "")
        if binding.spec is None:
            return False
        grammar = compile(binding.spec, words)
    except GrammarRefused:
        return False
    assert isinstance(grammar, llguidance_.Compiled)
    compare(grammar, pick, walks, steps)
    return True


@pytest.mark.parametrize("controls", [False, True], ids=["text", "tokens"])
@pytest.mark.parametrize("name", PARSERS)
def test_calls_are_those_of_the_engine_underneath(name: str, controls: bool) -> None:
    compared = [compare_calls(name, controls, seed, 1, 40) for seed in range(2)]
    assert any(compared)


@pytest.mark.slow
@pytest.mark.parametrize("controls", [False, True], ids=["text", "tokens"])
@pytest.mark.parametrize("name", PARSERS)
def test_hundreds_of_calls_are_those_of_the_engine_underneath(name: str, controls: bool) -> None:
    assert sum(compare_calls(name, controls, seed, 3, 120) for seed in range(100, 140)) > 10


def test_structural_tags_are_those_of_the_engine_underneath() -> None:
    structures = [
        {"begin": "<f=a>", "schema": {"type": "object", "properties": {"x": {"type": "integer"}}}, "end": "</f>"},
        {"begin": "<f=b>", "schema": {}, "end": "</f>"},
    ]
    text = json.dumps({"structures": structures, "triggers": ["<f="]})
    compare(grammar_of("structural_tag", text, vocabulary(WORDS)), random.Random(1), 4, 60)
    ends_in_digits = json.dumps({"structures": [{**structures[1], "end": "0"}], "triggers": ["<f="]})
    assert grammar_of("structural_tag", ends_in_digits, vocabulary(WORDS))._course is None


# ---------------------------------------------------------------- budgets


def drawn(grammar: llguidance_.Compiled, words: Vocabulary, pick: random.Random, budget: int) -> list[int]:
    matcher = grammar.matcher()
    row = words.mask([])
    taken: list[int] = []
    while len(taken) < budget:
        left = budget - len(taken)
        matcher.fill_mask(row, left)
        allowed = members(row)
        assert allowed, f"nothing may follow {words.spell(taken)!r} with {left} left"
        liked = [t for t in allowed if words.pieces[t][:1] in b'"{}[],:' and words.pieces[t]]
        token = pick.choice(liked if liked and pick.random() < 0.5 else allowed)
        if token in words.eos_ids:
            break
        taken.append(token)
        assert matcher.accept([token]) == 1
        if pick.random() < 0.3:
            forced = matcher.forced(budget - len(taken))
            assert matcher.accept(forced) == len(forced)
            taken += forced
    assert len(taken) <= budget
    assert matcher.may_end, words.spell(taken)
    return taken


@pytest.mark.parametrize("name", [WORDS, "qwen-152k"])
def test_answers_are_whole_at_every_budget(name: str) -> None:
    words = vocabulary(name)
    seeds = (*range(6), 200) if name == WORDS else (0, 200)  # 200: cut once, where sight of the end was lost
    for seed in seeds:
        schema = random_schema(random.Random(seed))
        try:
            grammar = grammar_of("json_schema", json.dumps(schema), words)
        except GrammarRefused:
            continue
        for more in (0, 1, 2, 5, 12, 45):
            tokens = drawn(grammar, words, random.Random(more), grammar.shortest + more)
            assert not (why := complaint(schema, words.spell(tokens).decode())), why


def test_what_may_come_is_a_matter_of_the_text_and_the_budget_alone() -> None:
    """Not of where the answer was watched from, or of what other answers asked."""
    words = vocabulary(WORDS)
    row, again = (words.mask([]) for _ in range(2))
    for seed in range(12):
        pick = random.Random(seed)
        text = json.dumps(random_schema(pick))
        try:
            grammar, fresh = (grammar_of("json_schema", text, words) for _ in range(2))
        except GrammarRefused:
            continue
        tokens = drawn(grammar, words, pick, grammar.shortest + 10)
        watched, budget = grammar.matcher(), grammar.shortest + 10
        for count, token in enumerate(tokens):
            watched.fill_mask(row, budget - count)
            unwatched = fresh.matcher()
            unwatched.accept(tokens[:count])
            unwatched.fill_mask(again, budget - count)
            assert np.array_equal(row, again)
            watched.accept([token])


def test_what_is_left_behind_each_token_is_what_a_walk_finds() -> None:
    words = vocabulary(WORDS)
    grammar = grammar_of("json_object", "", words)
    course = grammar._course
    assert course is not None
    allowed = np.ones(words.size, dtype=np.bool_)
    for text in ('{"a": [1', '{"name": "x', '{"name": "x\\', "{", '{"é": {"b": tr'):
        place = course.start
        for token in words.encode(text):
            place = course.take(place, token)
        behind = course.behind(place, lambda: allowed).left
        assert len(set(behind.tolist())) > 1
        for token in range(words.size):
            expected = course.left(course.take(place, token)) if words.pieces[token] else FAR
            assert behind[token] == expected, words.pieces[token]


def test_many_answers_share_a_course_until_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llguidance_, "PLACES", 40)
    words = vocabulary(WORDS)
    grammar = grammar_of("json_schema", json.dumps({"type": "string", "minLength": 30, "maxLength": 60}), words)
    first = grammar._course
    for seed in range(3):
        assert 30 <= len(json.loads(words.spell(drawn(grammar, words, random.Random(seed), 70)))) <= 60
    assert grammar._course is not first


def test_where_nothing_fits_any_more_the_answer_goes_to_its_end_by_the_shortest_way() -> None:
    """A thought may have taken what the answer needs."""
    words = vocabulary(WORDS)
    grammar = grammar_of("json_schema", json.dumps({"const": {"name": [1, 2, 3]}}), words)
    matcher, row = grammar.matcher(), words.mask([])
    for left in range(3, 0, -1):
        matcher.fill_mask(row, left)
        before = grammar._course.left(matcher._watch._place())  # type: ignore[union-attr]
        assert matcher.accept([members(row)[0]]) == 1
        assert grammar._course.left(matcher._watch._place()) == before - 1  # type: ignore[union-attr]


def test_the_first_masks_of_a_large_grammar_are_made_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = json.dumps({"enum": [f"value {i}" for i in range(50)]})
    plain = grammar_of("json_schema", schema, vocabulary(WORDS))
    monkeypatch.setattr(llguidance_, "LARGE", 100)
    rehearsed = grammar_of("json_schema", schema, vocabulary(WORDS))
    places = [len(grammar._course) for grammar in (plain, rehearsed) if grammar._course is not None]
    assert places[1] > places[0]
    assert (rehearsed.matcher().forced(), rehearsed.shortest) == (plain.matcher().forced(), plain.shortest)


def test_a_long_answer_is_followed_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its characters is a place of its own."""
    monkeypatch.setattr(course_, "WALKING", 20_000)
    monkeypatch.setattr(llguidance_, "PLACES", 0)
    node = {"t": {"type": "string", "maxLength": 2000}, "n": {"$ref": "#/$defs/n"}}
    schema = {"type": "object", "properties": node, "required": ["t"], "additionalProperties": False}
    words = vocabulary(WORDS)
    matcher = grammar_of("json_schema", json.dumps({"$defs": {"n": schema}, "$ref": "#/$defs/n"}), words).matcher()
    row = words.mask([])
    tokens = words.encode(f'{{"t":"{"a cat " * 300}","n":{{"t":"{"a dog " * 300}"}}}}')
    for left, token in zip(range(len(tokens) + 5, 0, -1), tokens, strict=False):
        matcher.fill_mask(row, left)
        assert int(row[token >> 5]) >> (token & 31) & 1
        assert matcher.accept([token]) == 1
    assert matcher.may_end


def test_a_grammar_that_is_too_much_to_follow_ends_its_own_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    words = vocabulary(WORDS)
    grammar = grammar_of("json_schema", json.dumps({"type": "string", "pattern": "^(a|b)*a(a|b){12}$"}), words)
    monkeypatch.setattr(course_, "WALKING", 10)
    monkeypatch.setattr(llguidance_, "PLACES", 0)  # so that its next course is one of so little work
    matcher = grammar.matcher()
    row = words.mask([])
    matcher.accept(words.encode('"abab'))
    matcher.fill_mask(row, 1_000)
    with pytest.raises(GrammarFailed, match="too much"):
        matcher.fill_mask(row, 20)


# ---------------------------------------------------------------- expressions

LEAVES = st.sampled_from(["a", "b", "[a-c]", "[^b]", "é", "(?:ab)", ""])
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "?", "{2}", "{1,3}"])).map(lambda pair: f"(?:{pair[0]}){pair[1]}"),
    ),
    max_leaves=6,
)


def follow(letters: Alphabet, of: Letters, text: str) -> Letters:
    for character in text:
        of = letters.after(of, ord(character))
    return of


@settings(max_examples=150, deadline=None, derandomize=True)
@given(EXPRESSIONS, EXPRESSIONS, st.text("abcé", max_size=5))
def test_derivatives_match_what_the_expressions_do(one: str, other: str, text: str) -> None:
    letters = Alphabet(Work(10**6))
    first, second = (letters.of(parse(pattern, whole=True)) for pattern in (one, other))
    matches = [re.fullmatch(pattern, text) is not None for pattern in (one, other)]
    for of, expected in (
        (first, matches[0]),
        (letters.other(first), not matches[0]),
        (letters.both([first, second]), all(matches)),
        (letters.both([first, letters.other(second)]), matches[0] and not matches[1]),
        (letters.either([first, second]), any(matches)),
    ):
        assert follow(letters, of, text).ends is expected


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(EXPRESSIONS, EXPRESSIONS, st.booleans(), st.integers(0, 99))
def test_the_way_to_an_end_is_the_shortest_from_each_place(one: str, other: str, json_: bool, seed: int) -> None:
    letters = Alphabet(Work(10**6))
    first, second = (letters.of(parse(pattern, whole=True)) for pattern in (one, other))
    writing = Writing(letters, json=json_)
    place = Place(letters.both([first, letters.other(second)]))
    assume(writing.rest(place) is not None)
    pick = random.Random(seed)
    for _ in range(6):
        rest = writing.rest(place)
        assert rest is not None
        further = {byte: to for byte in range(256) if (to := writing.step(place, byte)) is not None}
        assert (rest == b"") is writing.ends(place)
        if rest:
            lengths = {byte: 1 + len(writing.rest(to) or b"") for byte, to in further.items()}
            assert len(rest) == min(lengths.values())
            assert rest[0] == min((b for b, n in lengths.items() if n == len(rest)), key=order)
        if not further:
            break
        place = further[pick.choice(sorted(further))]


# ---------------------------------------------------------------- numbers


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.booleans(),
    st.one_of(st.none(), st.integers(-300, 300)),
    st.one_of(st.none(), st.integers(0, 400)),
    st.one_of(st.none(), st.sampled_from(["3", "7", "10", "0.5", "0.01"])),
    st.integers(0, 99),
)
def test_numbers_come_to_the_nearest_of_their_values(integer, low, size, multiple, seed) -> None:
    from decimal import Decimal

    assume(low is not None or size is not None or multiple is not None)
    high = None if size is None else size + (low or 0)
    option = Number(
        integer,
        None if low is None else Decimal(low),
        False,
        None if high is None else Decimal(high),
        False,
        None if multiple is None else Decimal(multiple),
    )
    numerals = Numerals(option, plain_number(option))
    text, pick = b"", random.Random(seed)
    assume(numerals.rest(b"") is not None)
    for _ in range(7):
        rest = numerals.rest(text)
        assert rest is not None
        assert is_within(option, Decimal((text + rest).decode()))
        further = [byte for byte in b"-.0123456789eE" if numerals.may_come(text, byte)]
        if rest:
            lengths = {byte: 1 + len(numerals.rest(text + bytes([byte])) or b"") for byte in further}
            assert len(rest) == min(lengths.values())
            assert rest[0] == min((b for b, n in lengths.items() if n == len(rest)), key=order)
        if not further:
            break
        text += bytes([pick.choice(further)])
