"""Nobody waits for another's grammar; a grammar that cannot be is told to its own request."""

from __future__ import annotations

import time
from concurrent.futures import Future

import pytest

from quire.engine import intake as module
from quire.engine import messages as m
from quire.engine.errors import GrammarRefused, RequestError
from quire.engine.grammar.spec import GrammarSpec
from quire.engine.guides import End, Grammar
from quire.engine.intake import Intake


class Compiler:
    """Gives the same future for equal grammars; a test settles them."""

    def __init__(self, **shortest: int | None):
        self.futures: dict[str, Future[Grammar]] = {}
        self.heard = 0
        self.given_up: list[Future[Grammar]] = []
        for text, tokens in shortest.items():
            self.ready(text, tokens)

    def compile(self, spec: GrammarSpec) -> Future[Grammar]:
        return self.futures.setdefault(spec.text, Future())

    def give_up(self, compiled: Future[Grammar]) -> None:
        self.given_up.append(compiled)

    def hear(self) -> None:
        self.heard += 1

    def ready(self, text: str, shortest: int | None = 1) -> None:
        self.futures.setdefault(text, Future()).set_result(Grammar(0, shortest, End(None)))


def request(id_: str, text: str | None = None, **options) -> m.Generate:
    grammar = GrammarSpec(kind="regex", text=text) if text is not None else None
    params = m.SamplingParams(**{"max_tokens": 9, "seed": 0, "grammar": grammar, **options})
    return m.Generate(id=id_, prompt=[1], params=params, n=2)


def leaving(place: Intake) -> dict:
    """Who leaves; by id, what gives their guides."""
    return {one.id: guides for one, guides in place.leave()}


def test_who_has_no_grammar_goes_on_at_once_and_in_order():
    place = Intake(Compiler())
    for id_ in "abc":
        place.enter(request(id_))
    assert place.waits
    left = place.leave()
    assert [one.id for one, _ in left] == ["a", "b", "c"]
    assert all(made() == ([], None) for _, made in left)
    assert not place.waits


def test_a_slow_grammar_holds_up_its_own_request_alone():
    compiler = Compiler(quick=1)
    place = Intake(compiler)
    place.enter(request("slow", "slow"))
    place.enter(request("free"))
    place.enter(request("quick", "quick"))
    assert set(leaving(place)) == {"free", "quick"}
    assert place.waits
    assert leaving(place) == {}
    assert compiler.heard == 2
    compiler.ready("slow")
    (guides,) = leaving(place).values()
    assert len(guides()[0]) == 2


def test_what_is_wrong_with_a_grammar_is_raised_for_its_request():
    compiler = Compiler()
    place = Intake(compiler)
    place.enter(request("refused", "bad"))
    compiler.futures["bad"].set_exception(GrammarRefused("no such thing", path="/a"))
    left = leaving(place)
    with pytest.raises(GrammarRefused, match=r"no such thing \(at /a\)"):
        left["refused"]()


def test_a_grammar_that_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.0)
    place = Intake(Compiler())
    place.enter(request("slow", "slow"))
    time.sleep(0.001)
    (guides,) = leaving(place).values()
    with pytest.raises(GrammarRefused, match="to compile"):
        guides()


def test_who_left_does_not_come_out():
    compiler = Compiler()
    place = Intake(compiler)
    place.enter(request("gone", "x"))
    place.forget("gone")
    compiler.ready("x")
    assert not place.waits
    assert place.leave() == []


def test_a_grammar_is_given_up_with_the_last_who_waits_for_it(monkeypatch):
    compiler = Compiler(done=1)
    place = Intake(compiler)
    for id_, text in (("a", "slow"), ("b", "slow"), ("c", "done"), ("d", None)):
        place.enter(request(id_, text))
    for id_ in ("a", "c", "d", "nobody"):
        place.forget(id_)
    assert compiler.given_up == []
    place.forget("b")
    assert compiler.given_up == [compiler.futures["slow"]]
    monkeypatch.setattr(module, "SECONDS", 0.0)
    for id_ in "ef":
        place.enter(request(id_, "slower"))
    time.sleep(0.001)
    assert len(place.leave()) == 2
    assert set(compiler.given_up) == {compiler.futures["slow"], compiler.futures["slower"]}


def test_a_budget_that_the_shortest_answer_does_not_fit_is_refused_at_once():
    place = Intake(Compiler(x=10))
    place.enter(request("short", "x", max_tokens=9))
    place.enter(request("enough", "x", max_tokens=10))
    place.enter(request("thinks", "x", max_tokens=10, grammar_after=(5,)))
    place.enter(request("later", "x", max_tokens=11, grammar_after=(5,)))
    left = leaving(place)
    with pytest.raises(RequestError, match="shortest answer that the grammar allows has 10") as caught:
        left["short"]()
    assert caught.value.param == "max_tokens"
    with pytest.raises(RequestError, match="has 10, behind the 1 that end its thought"):
        left["thinks"]()
    assert len(left["enough"]()[0]) == len(left["later"]()[0]) == 2
