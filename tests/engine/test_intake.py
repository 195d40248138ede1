"""Nobody waits for another's grammar; a grammar that cannot be is told to its own request."""

from __future__ import annotations

import threading
import time

import pytest

from quire.engine import intake as module
from quire.engine import messages as m
from quire.engine.errors import GrammarRefused, RequestError
from quire.engine.grammar.spec import GrammarSpec
from quire.engine.intake import Intake


class Compiled:
    def __init__(self, shortest: int | None = 1):
        self.shortest = shortest


def request(id_: str, text: str | None = None, **options) -> m.Generate:
    grammar = GrammarSpec(kind="regex", text=text) if text is not None else None
    params = m.SamplingParams(**{"max_tokens": 9, "seed": 0, "grammar": grammar, **options})
    return m.Generate(id=id_, prompt=[1], params=params, n=2)


def intake(compile) -> Intake:
    return Intake(compile, lambda compiled, after, thought: (compiled, after, thought))


def leaving(place: Intake, count: int = 1) -> dict:
    """Wait for so many to leave; by id, what gives their guides."""
    out = {}
    until = time.monotonic() + 20
    while len(out) < count:
        out |= {one.id: guides for one, guides in place.leave()}
        assert time.monotonic() < until
        time.sleep(0.001)
    return out


def test_who_has_no_grammar_goes_on_at_once_and_in_order():
    place = intake(None)
    for id_ in "abc":
        place.enter(request(id_))
    assert place.waits
    left = place.leave()
    assert [one.id for one, _ in left] == ["a", "b", "c"]
    assert all(made() == ([], None) for _, made in left)
    assert not place.waits


def test_a_slow_grammar_holds_up_its_own_request_alone():
    go = threading.Event()

    def compile(spec):
        if spec.text == "slow":
            assert go.wait(20)
        return Compiled()

    place = intake(compile)
    place.enter(request("slow", "slow"))
    place.enter(request("free"))
    place.enter(request("quick", "quick"))
    assert set(leaving(place, 2)) == {"free", "quick"}
    assert place.waits
    go.set()
    (guides,) = leaving(place).values()
    assert len(guides()[0]) == 2


def test_equal_grammars_are_compiled_once():
    seen = []
    place = intake(lambda spec: seen.append(spec) or Compiled())
    for id_ in "abc":
        place.enter(request(id_, "same"))
    leaving(place, 3)
    assert len(seen) == 1


def test_every_kept_grammar_can_be_replaced(monkeypatch):
    monkeypatch.setattr(module, "KEPT", 2)
    seen = []
    place = intake(lambda spec: seen.append(spec.text) or Compiled())
    for text in ("a", "b", "a", "c", "a", "b"):
        place.enter(request(text, text))
        leaving(place)
    assert seen == ["a", "b", "c", "b"]


def test_what_is_wrong_with_a_grammar_is_raised_for_its_request():
    def compile(spec):
        raise GrammarRefused("no such thing", path="/a") if spec.text == "bad" else ZeroDivisionError("oh")

    place = intake(compile)
    place.enter(request("refused", "bad"))
    place.enter(request("broken", "worse"))
    left = leaving(place, 2)
    with pytest.raises(GrammarRefused, match=r"no such thing \(at /a\)"):
        left["refused"]()
    with pytest.raises(GrammarRefused, match="ZeroDivisionError: oh"):
        left["broken"]()


def test_a_grammar_that_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.05)
    go = threading.Event()
    place = intake(lambda spec: go.wait(20) and Compiled())
    place.enter(request("slow", "slow"))
    (guides,) = leaving(place).values()
    with pytest.raises(GrammarRefused, match="to compile"):
        guides()
    go.set()


def test_who_left_does_not_come_out():
    go = threading.Event()
    place = intake(lambda spec: go.wait(20) and Compiled())
    place.enter(request("gone", "x"))
    place.forget("gone")
    go.set()
    assert not place.waits
    assert place.leave() == []


def test_a_budget_that_the_shortest_answer_does_not_fit_is_refused_at_once():
    place = intake(lambda spec: Compiled(shortest=10))
    place.enter(request("short", "x", max_tokens=9))
    place.enter(request("enough", "x", max_tokens=10))
    place.enter(request("thinks", "x", max_tokens=10, grammar_after=(5,)))
    place.enter(request("later", "x", max_tokens=11, grammar_after=(5,)))
    left = leaving(place, 4)
    with pytest.raises(RequestError, match="shortest answer that the grammar allows has 10") as caught:
        left["short"]()
    assert caught.value.param == "max_tokens"
    with pytest.raises(RequestError, match="has 10, behind the 1 that end its thought"):
        left["thinks"]()
    assert len(left["enough"]()) == len(left["later"]()) == 2
