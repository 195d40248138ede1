"""Recorded traffic: everyone is served, in fair time, and pages hold tokens."""

from __future__ import annotations

import statistics

import pytest
from replay import Arrival, read_trace, replay

from quire.engine.state import Limits, State


def served(arrivals: list[Arrival], pool_tokens: int, prefix_caching: bool = True):
    state = State(Limits(1 << 18, 256, 2048, max_waiting=1 << 20), pool_tokens // 16, prefix_caching)
    report = replay(arrivals, state, step_ms=8.0, token_us=20.0, check=500)
    assert report.finished == report.wanted
    assert state.prompt_tokens == sum(len(a.prompt(i)) for i, a in enumerate(arrivals))
    assert state.generated_tokens == sum(a.answer_tokens for a in arrivals)
    assert len(state.pool.free) == state.pool.size
    return report


@pytest.fixture
def traces(shared):
    return shared / "traces"


def test_conversations_hardly_queue_and_waste_no_pages(traces):
    report = served(list(read_trace(traces / "azure2023_conv.csv"))[:1500], 1_000_000)
    assert statistics.quantiles(report.queued, n=100)[98] < 1.0
    assert statistics.fmean(report.waste) < 0.04
    assert report.hit_rate == 0


def test_prompts_that_begin_alike_are_computed_once(traces):
    """No more hits than the trace has repeated blocks, and with room for all of them nearly that many."""
    arrivals = list(read_trace(traces / "mooncake_conversation.jsonl.gz"))[:250]
    seen: set[int] = set()
    repeated = 0
    for one in arrivals:
        whole = one.blocks[: one.prompt_tokens // 512]
        repeated += 512 * sum(1 for block in whole if block in seen)
        seen.update(whole)
    report = served(arrivals, 8_000_000)
    hits = report.hit_rate * sum(a.prompt_tokens for a in arrivals)
    # A last block that is not full may be shared as well: pages are of 16 tokens, the trace's names of 512.
    assert 0.9 * repeated <= hits <= repeated + 512 * len(arrivals)


def test_a_pool_too_small_for_all_preempts_and_still_serves_everyone(traces):
    arrivals = [Arrival(0.0, a.prompt_tokens, a.answer_tokens) for a in read_trace(traces / "azure2023_conv.csv")][:150]
    report = served(arrivals, 20_000)
    assert report.preemptions > 0
