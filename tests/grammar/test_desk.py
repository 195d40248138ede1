"""The desk: tokens before masks, what is slow aside, and one answer's failure its own."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from grammars import vocabulary

from quire.engine.errors import GrammarRefused
from quire.engine.grammar import desk as module
from quire.engine.grammar import wire
from quire.engine.grammar.desk import Desk
from quire.engine.grammar.spec import GrammarSpec
from quire.engine.grammar.vocabulary import members
from quire.engine.messages import ThoughtBudget

WORDS = "mistral-32k"
OBJECT = GrammarSpec(kind="json_schema", text='{"properties": {"a": {"const": 7}}, "required": ["a"]}', whitespace="")


@pytest.fixture(autouse=True)
def nothing_is_slow_by_chance(monkeypatch):
    monkeypatch.setattr(module, "SLOW", 60.0)


def desk(**options) -> Desk:
    words = vocabulary(WORDS)
    return Desk(lambda: words, words.size, **options)


def said(place: Desk, *messages: wire.ToDesk) -> list[wire.FromDesk]:
    """All that comes of them."""
    place.hear(messages)
    out: list[wire.FromDesk] = []
    while place.busy:
        out += place.work()
    return out


def allowed(mask: wire.Masks) -> set[bytes]:
    return {vocabulary(WORDS).pieces[t] for t in members(np.frombuffer(mask.bits[0], np.int32))}


def test_an_answer_from_its_grammar_to_its_end():
    place = desk()
    (ready,) = said(place, wire.Compile(1, OBJECT))
    assert ready == wire.Ready(1, ready.shortest)
    assert 0 < ready.shortest < 12
    (mask,) = said(place, wire.Open(answer=2, grammar=1, most=40), wire.Look(2, 0, []))
    assert (mask.answer, mask.place) == (2, 0)
    assert b"{" in allowed(mask)
    assert b"}" not in allowed(mask)
    (brace,) = vocabulary(WORDS).encode("{")
    follows, mask = said(place, wire.Took(2, 0, [brace], [0.5]))
    assert vocabulary(WORDS).spell([brace, *follows.forced]).startswith(b'{"a')
    assert (follows.guided.lowest, follows.guided.forced) == (0.5, len(follows.forced))
    assert mask.place == 1 + len(follows.forced)
    again = said(place, wire.Look(2, 0, []))
    assert [(one.place, b"{" in allowed(one)) for one in again] == [(0, True)]
    assert said(place, wire.Close(2), wire.Forget(1)) == []


def test_what_is_given_up_before_it_began_is_not_compiled():
    jobs = []
    place = desk(aside=jobs.append)
    place.hear([wire.Compile(1, OBJECT), wire.Compile(2, OBJECT), wire.Forget(1)])
    for job in jobs:
        job()
    assert [one.grammar for one in place.work()] == [2]
    place.hear([wire.Open(answer=3, grammar=2, most=40), wire.Look(3, 0, [])])
    assert len(place.work()) == 1


def test_tokens_are_taken_before_masks_are_filled():
    place = desk()
    said(place, wire.Compile(1, OBJECT))
    for answer in (2, 3, 4):
        said(place, wire.Open(answer=answer, grammar=1, most=40), wire.Look(answer, 0, []))
    (brace,) = vocabulary(WORDS).encode("{")
    out = said(place, wire.Look(4, 0, []), *(wire.Took(answer, 0, [brace], [1.0]) for answer in (2, 3)))
    assert [type(one).__name__ for one in out] == ["Follows", "Follows", "Masks", "Masks", "Masks"]


def test_what_no_grammar_can_be_is_told_with_its_reason():
    (refused,) = said(desk(), wire.Compile(1, GrammarSpec(kind="regex", text="(")))
    assert (refused.grammar, refused.code) == (1, "invalid_grammar")
    assert refused.message


def test_a_model_that_cannot_be_bound_says_so_to_each_that_asks():
    def load():
        raise GrammarRefused("no such vocabulary")

    place = Desk(load, 8)
    for number in (1, 2):
        (refused,) = said(place, wire.Compile(number, None))
        assert refused.message == "no such vocabulary"


def test_an_answer_that_only_has_a_budget_of_thought_is_free_until_it_is_spent():
    (close,) = vocabulary(WORDS).encode("]")
    budget = ThoughtBudget(tokens=2, ends=("]",), close=(close,), inside=True)
    place = desk()
    assert said(place, wire.Compile(1, None)) == [wire.Ready(1, None)]
    (mask,) = said(place, wire.Open(answer=2, grammar=None, most=9, thought=budget), wire.Look(2, 0, []))
    assert mask.bits == [None]
    (a,) = vocabulary(WORDS).encode("a")
    follows, mask = said(place, wire.Took(2, 0, [a], [1.0]))
    assert (follows.forced, mask.bits) == ([], [None])
    follows, _ = said(place, wire.Took(2, 1, [a], [1.0]))
    assert follows.forced == [close]


class Slow:
    """A grammar that is followed where a test lets it, and notes by which thread."""

    shortest = 1
    may_end = must_end = False

    def __init__(self):
        self.go = threading.Event()
        self.threads: list[threading.Thread] = []

    def matcher(self):
        return self

    def fill_mask(self, row, left=None):
        self.threads.append(threading.current_thread())
        assert self.go.wait(20)
        row[:] = -1

    def accept(self, tokens):
        return len(tokens)

    def rollback(self, count): ...

    def forced(self, left=None):
        return []


@pytest.fixture
def slow(monkeypatch):
    found = Slow()
    compile = module.compile_grammar
    monkeypatch.setattr(
        module, "compile_grammar",
        lambda spec, *rest, **more: found if spec.kind == "choice" else compile(spec, *rest, **more),
    )  # fmt: skip
    return found


def test_an_answer_that_takes_long_holds_up_itself_alone(slow):
    woken = threading.Event()

    def aside(job):
        threading.Thread(target=job, daemon=True).start()

    place = desk(wake=woken.set, aside=aside)
    place.hear([wire.Compile(1, GrammarSpec(kind="choice", text="x" * module.LARGE + "x")), wire.Compile(2, OBJECT)])
    ready: list[wire.FromDesk] = []
    while len(ready) < 2:
        ready += place.work()
    out = said(
        place, wire.Open(answer=3, grammar=1, most=9), wire.Open(answer=4, grammar=2, most=40), wire.Look(3, 0, []),
        wire.Look(4, 0, []),
    )  # fmt: skip
    assert [one.answer for one in out] == [4]
    woken.clear()
    slow.go.set()
    assert woken.wait(20)
    (mask,) = said(place)
    assert mask.answer == 3
    assert slow.threads != [threading.current_thread()]


def test_who_is_closed_while_it_is_aside_says_nothing_more(slow):
    jobs = []
    place = desk(aside=jobs.append)
    place.hear([wire.Compile(1, GrammarSpec(kind="choice", text="x" * module.LARGE + "x"))])
    jobs.pop()()
    assert said(place) == [wire.Ready(1, 1)]
    said(place, wire.Open(answer=3, grammar=1, most=9), wire.Look(3, 0, []))
    slow.go.set()
    jobs.pop()()
    assert said(place, wire.Close(3)) == []


@pytest.fixture
def followed(slow):
    """A desk with a grammar that one answer follows, at once until it was looked at, and then the jobs aside of it."""
    slow.go.set()
    jobs = []
    place = desk(aside=lambda job: jobs.append(job) if slow.threads else job())
    said(place, wire.Compile(1, GrammarSpec(kind="choice", text="x")))
    return place, jobs


def looked_at_aside(place, jobs) -> None:
    assert said(place, wire.Look(3, 0, [])) == []
    jobs.pop()()
    assert len(said(place)) == 1


def test_a_grammar_that_once_took_long_is_followed_aside_from_then_on(followed, monkeypatch):
    monkeypatch.setattr(module, "SLOW", 0.0)
    assert len(said(followed[0], wire.Open(answer=3, grammar=1, most=9), wire.Look(3, 0, []))) == 1
    looked_at_aside(*followed)


def test_a_grammar_that_took_long_to_begin_is_quick_again_later(followed, monkeypatch):
    place, jobs = followed
    monkeypatch.setattr(module, "HOPELESS", 1e15)
    monkeypatch.setattr(module, "SLOW", 1e-12)
    said(place, wire.Open(answer=3, grammar=1, most=9), wire.Look(3, 0, []))
    monkeypatch.setattr(module, "SLOW", 60.0)
    for _ in range(module.QUICK_AGAIN):
        looked_at_aside(place, jobs)
    assert len(said(place, wire.Look(3, 0, []))) == 1
    assert not jobs


def test_a_grammar_that_took_very_long_never_is(followed, monkeypatch):
    place, jobs = followed
    monkeypatch.setattr(module, "SLOW", 0.0)
    said(place, wire.Open(answer=3, grammar=1, most=9), wire.Look(3, 0, []))
    monkeypatch.setattr(module, "SLOW", 60.0)
    for _ in range(2 * module.QUICK_AGAIN):
        looked_at_aside(place, jobs)


def test_a_slow_grammar_is_followed_like_others_until_it_has_had_its_share(slow, monkeypatch):
    slow.go.set()
    jobs, long = [], []
    place = desk(aside=jobs.append, long=long.append)
    place.hear([wire.Compile(1, GrammarSpec(kind="choice", text="x" * module.LARGE + "x"))])
    long.pop()()
    said(place, wire.Open(answer=3, grammar=1, most=9))
    looked_at_aside(place, jobs)
    kept = place._grammars[1]
    kept.took(2 * module.BURST)
    looked_at_aside(place, long)
    monkeypatch.setattr(module, "SHARE", 1e9)  # in time it may again
    looked_at_aside(place, jobs)


def test_while_a_thread_follows_a_grammar_the_loop_does_not(followed):
    place, jobs = followed
    said(place, wire.Open(answer=3, grammar=1, most=9), wire.Look(3, 0, []))
    with place._grammars[1].lock:
        assert said(place, wire.Look(3, 0, [])) == []
    (job,) = jobs
    job()
    assert len(said(place)) == 1
    assert len(said(place, wire.Look(3, 0, []))) == 1, "it is quick, as it was"
