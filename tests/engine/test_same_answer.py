"""The promise: a request gives the same tokens alone, in a crowd, in chunks, on a cache hit and after a preemption.

On a trained model, so that the tokens mean something and near ties happen as they do in life.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quire.engine import messages as m
from quire.engine import scheduler
from quire.engine.config import EngineConfig
from quire.engine.runner import Runner
from quire.engine.state import Limits, State

NAMES = ("Lily", "Tom", "Sue", "Max", "Mia")
PLACES = ("the park", "a big house", "the zoo", "a red car", "the sea", "a farm", "the shop", "bed", "a tree", "school")
MAX_TOKENS = 24


class Bench:
    """The engine without its process: one runner, and a fresh State for each run."""

    def __init__(self, folder: Path):
        from tokenizers import Tokenizer

        torch.set_num_threads(1)
        self.runner = Runner(
            EngineConfig(model=str(folder), kv_cache_memory=2**26, threads=1), lambda done, total: None
        )
        encode = Tokenizer.from_file(str(folder / "tokenizer.json")).encode
        self.prompts = [
            [1, *encode(f"{name} went to {place}. " * (1 + i % 4), add_special_tokens=False).ids]
            for i, (name, place) in enumerate((n, p) for n in NAMES for p in PLACES)
        ]

    def request(self, i: int) -> m.Generate:
        """Every second prompt greedy, the others sampled from their own seed."""
        params = m.SamplingParams(max_tokens=MAX_TOKENS, seed=1000 + i, temperature=1.0 if i % 2 else 0.0)
        return m.Generate(id=str(i), prompt=self.prompts[i], params=params)

    def run(
        self,
        which: list[int],
        *,
        at_once: int,
        budget: int = 2048,
        pages: int = 512,
        cache: bool = True,
        state: State | None = None,
    ) -> dict:
        """Tokens of each request, `at_once` of them running together; also the State, for its counters."""
        limits = Limits(max_model_len=512, max_num_seqs=at_once, max_num_batched_tokens=budget, max_waiting=1000)
        state = state or State(limits, pages, cache)
        for i in which:
            scheduler.add(state, self.request(i))
        tokens: dict[int, list[int]] = {i: [] for i in which}
        while state.has_work():
            plan = scheduler.schedule(state)
            for delta in scheduler.commit(state, plan, self.runner.execute(plan)):
                assert isinstance(delta, m.TokenDelta), delta
                tokens[int(delta.id)] += delta.tokens
            state.check()
        self.state = state
        return tokens


@pytest.fixture(scope="module")
def bench(stories):
    return Bench(stories)


@pytest.fixture(scope="module")
def alone(bench):
    return bench.run(list(range(50)), at_once=1, cache=False)


def test_the_answers_are_not_all_alike(alone):
    assert len({tuple(t) for t in alone.values()}) > 25


@pytest.mark.parametrize("at_once", [2, 3, 7, 16, 32])
def test_a_crowd_changes_nothing(bench, alone, at_once):
    assert bench.run(list(range(50)), at_once=at_once, cache=False) == alone


@pytest.mark.parametrize("budget", [16, 19, 33])
def test_chunks_change_nothing(bench, alone, budget):
    assert bench.run(list(range(50)), at_once=8, budget=budget, cache=False) == alone


def test_a_cache_hit_changes_nothing(bench, alone):
    bench.run(list(range(50)), at_once=8)
    assert bench.run(list(range(50)), at_once=8, state=bench.state) == alone
    assert bench.state.gauges()["prefix_hits"] > 500


def test_a_preemption_changes_nothing(bench, alone):
    assert bench.run(list(range(50)), at_once=16, pages=24) == alone
    assert bench.state.gauges()["preemptions"] > 0


def test_the_order_of_arrival_changes_nothing(bench, alone):
    assert bench.run(list(reversed(range(50))), at_once=13) == alone
