"""Grammars in a process of their own: the same answers as without, and a death that ends nothing but what it knew."""

from __future__ import annotations

import json
import os
import signal

import pytest
from engine_place import Place, local_runner

from quire.engine import guides as guides_
from quire.engine import scheduler
from quire.engine.config import EngineConfig
from quire.engine.errors import GrammarRefused
from quire.engine.grammar import wire
from quire.engine.grammar.link import Gone, ProcessLink, wait_for
from quire.engine.grammar.spec import GrammarSpec
from quire.engine.runner import Runner

SPEC = GrammarSpec(
    kind="json_schema",
    text=json.dumps(
        {
            "type": "object",
            "properties": {"name": {"type": "string", "minLength": 12}, "n": {"type": "integer"}},
            "required": ["name", "n"],
        }
    ),
)


@pytest.fixture(scope="module")
def runner(tiny_model):
    return Runner(EngineConfig(model=str(tiny_model), kv_cache_memory=1 << 22, threads=1), lambda done, total: None)


def asked(place: Place) -> Place:
    for n in range(6):
        place.add(f"bound {n}", SPEC, 40, seed=n)
        place.add(f"free {n}", None, 20, seed=n)
    return place


def test_answers_are_those_that_are_followed_in_the_same_process(tiny_model, runner):
    alone = asked(Place(local_runner(tiny_model))).run()
    beside = asked(Place(runner)).run()
    assert beside.answers == alone.answers
    assert {key: end.guided for key, end in beside.ends.items()} == {k: end.guided for k, end in alone.ends.items()}


def test_answers_are_the_same_where_nobody_ever_waits_for_a_mask(tiny_model, runner, monkeypatch):
    alone = asked(Place(local_runner(tiny_model))).run()
    monkeypatch.setattr(guides_, "PATIENCE", 0.0)
    monkeypatch.setattr(guides_, "ALONE", 0.0)
    hasty = asked(Place(runner))
    steps = 0
    while hasty.state.has_work() and steps < 100_000:
        plan = scheduler.schedule(hasty.state)
        hasty.take_in(scheduler.commit(hasty.state, plan, runner.execute(plan)))
        hasty.state.check()
        steps += 1
    assert steps > 40, "nobody sat a step out"
    assert hasty.answers == alone.answers


def test_where_it_dies_its_answers_end_with_an_error_and_the_others_go_on(runner):
    place = asked(Place(runner))
    while not place.answers:
        plan = scheduler.schedule(place.state)
        place.take_in(scheduler.commit(place.state, plan, runner.execute(plan)))
    os.kill(runner.guides._plain.link._process.pid, signal.SIGKILL)
    place.run()
    assert set(place.failed) == {f"bound {n}" for n in range(6)}
    assert {failed.code for failed in place.failed.values()} == {"engine_unavailable"}
    assert all("killed by signal 9" in failed.message for failed in place.failed.values())
    assert all(len(place.answers[f"free {n}", 0]) == 20 for n in range(6))
    again = Place(runner)
    again.add("again", SPEC, 40, seed=1)
    again.run()
    assert set(json.loads(again.text("again"))) >= {"name", "n"}


def test_a_second_process_begins_with_the_first_grammar_that_is_not_plain_and_dies_alone(tiny_model):
    """Both are waited for at once; with one gone, the answers of the other end as they would have."""
    mine = Runner(EngineConfig(model=str(tiny_model), kv_cache_memory=1 << 22, threads=1), lambda done, total: None)
    expression = GrammarSpec(kind="regex", text="[a-f]{30,40}")
    alone = Place(local_runner(tiny_model))
    place = Place(mine)
    for one in (alone, place):
        one.add("plain", SPEC, 40, seed=1)
    mine.guides.compiled(SPEC)
    other = mine.guides._other.link
    assert other.channel is None, "nobody needed it yet"
    for one in (alone, place):
        one.add("other", expression, 60, seed=2)
    assert mine.guides.compiled(expression).end.link is other
    place.run()
    assert place.answers == alone.run().answers

    place = Place(mine)
    place.add("plain", SPEC, 40, seed=1)
    place.add("other", expression, 60, seed=2)
    while len(place.answers.get(("other", 0), [])) < 3:
        plan = scheduler.schedule(place.state)
        place.take_in(scheduler.commit(place.state, plan, mine.execute(plan)))
    os.kill(other._process.pid, signal.SIGKILL)
    place.run()
    assert set(place.failed) == {"other"}
    assert place.answers["plain", 0] == alone.answers["plain", 0]


def test_what_cannot_be_compiled_says_why(runner):
    with pytest.raises(GrammarRefused, match="type"):
        runner.guides.compiled(GrammarSpec(kind="json_schema", text='{"type": "nothing"}'))


def test_it_ends_with_who_needs_it(tiny_model):
    mine = Runner(EngineConfig(model=str(tiny_model), kv_cache_memory=1 << 22, threads=1), lambda done, total: None)
    mine.guides.compiled(SPEC)
    process = mine.guides._plain.link._process
    # No interrupt of the terminal reaches it, and what gives way there gives way to the server.
    assert os.getpgid(process.pid) == process.pid
    assert os.getsid(process.pid) == os.getsid(0)
    mine.guides._plain.link.close()
    process.wait(20)
    assert process.returncode is not None


def test_nothing_said_to_a_process_that_is_gone_or_not_there_yet_holds_anybody_up(tiny_model):
    link = ProcessLink(tiny_model, 600, {})
    try:
        for _ in range(200):
            link.send([wire.Compile(1, SPEC)])
        process = link._process
        while not link.receive():
            wait_for([link], 100)
        process.kill()
        process.wait()
        for _ in range(200):
            link.send([wire.Compile(1, SPEC)])
        with pytest.raises(Gone, match="signal 9"):
            heard_on(link)
    finally:
        link.close()


def heard_on(link: ProcessLink) -> None:
    while True:
        link.receive()
        wait_for([link], 100)
