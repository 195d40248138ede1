"""The promise of --deterministic on a GPU: a request gives the same tokens alone, in a crowd, in chunks, on a cache
hit, after a preemption and with speculation."""

from __future__ import annotations

import pytest
from on_gpu import CUDA, Place, asked

from quire.engine.config import Speculation

PROMPT, ANSWER = (300, 24) if CUDA else (40, 4)


@pytest.fixture(scope="module", params=["bfloat16", "fp8 pages", "int4"] if CUDA else ["bfloat16"])
def fields(request):
    """As the model is, with pages of 8 bits, and with weights of 4."""
    more = {"fp8 pages": {"kv_cache_dtype": "fp8"}, "int4": {"quantization": "int4"}}.get(request.param, {})
    return {"deterministic": True} | more


@pytest.fixture(scope="module")
def place(small, fields):
    return Place(small, **fields)


@pytest.fixture(scope="module")
def requests(count):
    return asked(count, PROMPT, ANSWER)


@pytest.fixture(scope="module")
def alone(place, requests):
    return place.run(requests, at_once=1, cache=False)


def test_the_answers_are_not_all_alike(alone):
    assert len({tuple(tokens) for tokens in alone.values()}) > len(alone) // 2


@pytest.mark.parametrize("at_once", [2, 3, 7, 16, 32, 64] if CUDA else [3])
def test_a_crowd_changes_nothing(at_once, place, requests, alone):
    assert place.run(requests, at_once=at_once, cache=False) == alone


@pytest.mark.parametrize("budget", [16, 19, 133] if CUDA else [17])
def test_chunks_change_nothing(budget, place, requests, alone):
    assert place.run(requests, at_once=8, budget=budget, cache=False) == alone


def test_a_cache_hit_changes_nothing(place, requests, alone):
    place.run(requests, at_once=8)
    assert place.run(requests, at_once=8, state=place.state) == alone
    assert place.state.gauges()["prefix_hits"] > 0


def test_a_preemption_changes_nothing(place, requests, alone):
    pages = 2 * -(-(PROMPT + ANSWER) // 16)
    assert place.run(requests, at_once=16, pages=pages) == alone
    assert not CUDA or place.state.gauges()["preemptions"] > 0


def test_the_order_of_arrival_changes_nothing(place, requests, alone):
    assert place.run(requests[::-1], at_once=13) == alone


def test_speculation_changes_nothing(small, fields, requests, alone):
    """Predictions of the answers, of which every fifth token is wrong, so that drafts are taken and thrown away."""
    place = Place(small, **fields, speculative_config=Speculation(method="ngram", adaptive=False))
    given = []
    for request in requests:
        guess = tuple(3 if i % 5 == 2 else token for i, token in enumerate(alone[request.id]))
        given.append(request.__class__(id=request.id, prompt=request.prompt, params=request.params, prediction=guess))
    assert place.run(given, at_once=8) == alone
    made = place.runner.speculator.tally
    drafted, right = (sum(map(sum, by.values())) for by in (made.drafted, made.accepted))
    assert 0 < right < drafted
