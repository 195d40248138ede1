"""Random weights with a budget for their thoughts, through the whole engine: the thought ends where it should, the same
alone, in a crowd, in small pools, and the answer behind it is what was asked for."""

from __future__ import annotations

import re

import pytest
from engine_place import Place, local_runner, vocabulary_of

from quire.engine.errors import RequestError
from quire.engine.grammar import desk
from quire.engine.grammar.spec import GrammarSpec
from quire.engine.intake import Intake
from quire.engine.messages import Generate, SamplingParams, ThoughtBudget

BEGIN, END = 0, 1  # control tokens of the tiny vocabulary; 2 ends its texts
DIGITS = GrammarSpec(kind="regex", text="[0-9]{4}")


@pytest.fixture(scope="module")
def runner(tiny_model):
    return local_runner(tiny_model)


@pytest.fixture(scope="module")
def line(runner):
    return tuple(vocabulary_of(runner).encode("\n"))


def budget(tokens: int, **more) -> ThoughtBudget:
    known = {"ends": ("<|im_start|>",), "close": (END,), "begin": "<|endoftext|>", "inside": True}
    return ThoughtBudget(tokens=tokens, **{**known, **more})


BIAS = {"logit_bias": {BEGIN: -100.0, END: -100.0, 2: -100.0}}  # a model that would think for ever


@pytest.mark.parametrize("tokens", [0, 1, 2, 17])
def test_a_thought_has_no_more_tokens_than_it_may_and_the_answer_goes_on(runner, line, tokens):
    place = Place(runner)
    for seed in range(3):
        place.add(f"a{seed}", None, 40, seed=seed, thought=budget(tokens, newline=line), **BIAS)
        place.add(f"free{seed}", None, 40, seed=seed, **BIAS)
    place.run()
    for seed in range(3):
        answer, free = place.answers[f"a{seed}", 0], place.answers[f"free{seed}", 0]
        at = answer.index(END)
        assert answer[:tokens] == free[:tokens]  # it thinks what it would have thought
        own_line = not vocabulary_of(runner).spell(answer[:tokens]).endswith(b"\n")
        assert tokens + len(line) * own_line <= at <= tokens + 4 + len(line)
        assert answer.count(END) == 1
        assert len(answer) == 40
        assert place.ends[f"a{seed}", 0].guided.forced == len(line) * own_line + 1
        assert place.ends[f"free{seed}", 0].guided is None


def test_an_answer_shorter_than_the_budget_is_what_it_was(runner):
    place = Place(runner)
    place.add("short", None, 10, thought=budget(500), **BIAS)
    place.add("free", None, 10, **BIAS)
    place.run()
    assert place.answers["short", 0] == place.answers["free", 0]
    assert place.ends["short", 0].finish == "length"


@pytest.mark.parametrize("options", [{}, {"logprobs": 1}, {"mirostat": 2}, {"temperature": 0.0}], ids=str)
def test_the_grammar_begins_behind_the_end_that_was_forced(runner, line, options):
    place = Place(runner)
    for seed in range(3):
        more = {"seed": seed, "thought": budget(5, newline=line), "grammar_after": (END,), **BIAS, **options}
        place.add(f"a{seed}", DIGITS, 60, n=2, **more)
    place.run()
    for (name, index), answer in place.answers.items():
        text = vocabulary_of(runner).spell(answer[answer.index(END) + 1 : -1]).decode()
        assert re.fullmatch(r"[0-9]{4}", text), (name, index)
        assert place.ends[name, index].finish == "stop"
        told = [x for delta in place.deltas[name, index] for x in delta.logprobs or []]
        assert len(told) == (len(answer) if "logprobs" in options else 0)


def test_a_thought_that_the_model_begins_itself_is_counted_from_there(runner):
    place = Place(runner)
    more = {"thought": budget(6, inside=False), "temperature": 0.0}
    place.add("thinks", None, 40, **more, logit_bias={END: -100.0, 2: -100.0, BEGIN: 100.0})
    place.add("does not", None, 40, **more, **BIAS)
    place.run()
    answer = place.answers["thinks", 0]
    assert answer[0] == BEGIN
    assert answer.index(END) in range(7, 12)
    assert END not in place.answers["does not", 0]


def test_an_end_spelled_by_plain_tokens_is_closed_too_and_seen_if_the_model_writes_it(runner):
    encode = vocabulary_of(runner).encode
    end = "ee"
    close = tuple(encode(end))
    spelled = budget(8, ends=(end,), close=close)
    place = Place(runner)
    for seed in range(6):
        place.add(
            f"a{seed}", None, 60, seed=seed, thought=spelled, logit_bias={**BIAS["logit_bias"], encode("e")[0]: 3.0}
        )
    place.run()
    for seed in range(6):
        answer, spell = place.answers[f"a{seed}", 0], vocabulary_of(runner).spell
        before = next(n for n in range(61) if end.encode() in spell(answer[:n]))
        assert before <= 8 + len(end) + 4
        by_itself = place.ends[f"a{seed}", 0].guided.forced == 0
        assert by_itself or answer[before - len(close) : before] == list(close)
        assert place.ends[f"a{seed}", 0].guided.forced in (0, len(close))


@pytest.mark.parametrize("room", [{"pages": 12}, {"budget": 16}, {"pages": 12, "budget": 16}])
def test_answers_are_the_same_in_small_pools_and_chunks(runner, line, room):
    def fill(place: Place) -> Place:
        for seed in range(6):
            place.add(f"s{seed}", DIGITS, 100, seed=seed, n=2, thought=budget(60), grammar_after=(END,), **BIAS)
            place.add(f"t{seed}", None, 90, seed=seed, thought=budget(30, newline=line), **BIAS)
            place.add(f"free{seed}", None, 20, seed=seed)
        return place.run()

    roomy, small = fill(Place(runner)), fill(Place(runner, **room))
    assert small.answers == roomy.answers
    if "pages" in room:
        assert small.state.preemptions > 0


def test_pages_of_a_thought_that_was_ended_are_found_again(runner):
    place = Place(runner)
    place.add("first", None, 50, thought=budget(20), **BIAS)
    place.run()
    whole = [3, 5, 8, *place.answers["first", 0]]
    place.add("again", None, 10, prompt=whole, thought=budget(3, inside=False), **BIAS)
    place.add("plain", None, 10, prompt=whole, **BIAS)
    place.run()
    assert place.deltas["again", 0][0].cached_tokens == 48
    assert place.answers["again", 0] == place.answers["plain", 0]


def test_a_budget_without_a_grammar_waits_for_the_vocabulary_alone(runner):
    intake = Intake(runner.guides)
    params = SamplingParams(max_tokens=9, seed=0, thought=budget(3))
    for id_ in "ab":
        intake.enter(Generate(id=id_, prompt=[1], params=params, n=2))
    out = []
    while len(out) < 2:
        out += intake.leave()
    made = [guide for _, guides in out for guide in guides()[0]]
    assert [(guide.grammar, guide.after, guide.thought) for guide in made] == [(None, (), params.thought)] * 4


class TooMuch:
    """A grammar that gives up at its third token."""

    shortest = 1

    def matcher(self):
        return self

    may_end = must_end = False
    seen = 0

    def fill_mask(self, row, left=None):
        row[:] = -1
        if self.seen == 2:
            raise RequestError("too many states", code="invalid_grammar", param="guided_regex")

    def accept(self, tokens):
        self.seen += len(tokens)
        return len(tokens)

    def rollback(self, count):
        self.seen -= count

    def forced(self, left=None):
        return []


def test_a_grammar_that_fails_in_mid_answer_is_its_requests_own_error_and_nobody_elses(runner, monkeypatch, caplog):
    place = Place(runner)
    place.add("alone", None, 12, seed=4, **BIAS)
    place.run()
    monkeypatch.setattr(desk, "compile_grammar", lambda spec, vocabulary, engines: TooMuch())
    place.add("failing", GrammarSpec(kind="regex", text="[0-9]{3,99}"), 12, **BIAS)
    place.add("fine", None, 12, seed=4, **BIAS)
    place.run()
    failed = place.failed["failing"]
    assert (failed.code, failed.param, failed.message) == ("invalid_grammar", "guided_regex", "too many states")
    assert len(place.answers["failing", 0]) == 2
    assert place.answers["fine", 0] == place.answers["alone", 0]
    assert not caplog.records  # a person's grammar is no trouble of the engine


def test_what_leaves_no_token_is_the_requests_own_error(runner):
    place = Place(runner)
    place.add("none", DIGITS, 12, allowed_token_ids=(3,))
    place.run()
    assert place.failed["none"].code == "invalid_value"


def test_figures_are_known_from_the_first_token_on(runner):
    place = Place(runner)
    place.add("a", GrammarSpec(kind="regex", text="ab[0-9]{9}c"), 40)
    place.add("free", None, 10)
    place.run()
    told = [delta.guided for delta in place.deltas["a", 0]]
    assert None not in told
    lows, forced = [one.lowest for one in told], [one.forced for one in told]
    assert lows == sorted(lows, reverse=True)
    assert forced == sorted(forced)
    assert all(delta.guided is None for delta in place.deltas["free", 0])
