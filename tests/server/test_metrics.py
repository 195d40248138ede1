"""/metrics: the names are there from the first scrape on, and the counts are those of what happened."""

from __future__ import annotations

import asyncio

import pytest
from fake_engine import Answer, frames
from prometheus_client.parser import text_string_to_metric_families
from small_server import END, HELLO, MODEL, VOCAB

from quire.engine import messages as m

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
STATS = m.StepStats(
    running=3, waiting=4, blocks_used=25, blocks_total=100, steps=7, prompt_tokens=1000, generated_tokens=200,
    prefix_queries=900, prefix_hits=450, preemptions=2, schedule_seconds=0.25, step_seconds=1.5, waited=[0.5, 0.25],
    drafted={"ngram": [9, 4], "prediction": [2]}, accepted={"ngram": [5, 1], "prediction": [1]},
    captures=6, replays=90, eager=24,
)  # fmt: skip
OF_THE_ENGINE = {
    "quire:num_requests_running": 3,
    "quire:num_requests_waiting": 4,
    "quire:kv_cache_usage_perc": 0.25,
    "quire:prompt_tokens_total": 1000,
    "quire:generation_tokens_total": 200,
    "quire:prefix_cache_queries_total": 900,
    "quire:prefix_cache_hits_total": 450,
    "quire:num_preemptions_total": 2,
    "quire:engine_steps_total": 7,
    "quire:spec_decode_num_draft_tokens_total": 15,
    "quire:spec_decode_num_accepted_tokens_total": 7,
    "quire:engine_schedule_seconds_total": 0.25,
    "quire:engine_step_seconds_total": 1.5,
    "quire:cuda_graph_captures_total": 6,
    "quire:cuda_graph_replays_total": 90,
    "quire:cuda_graph_eager_steps_total": 24,
}
OF_THE_SERVER = ["time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds",
                 "request_queue_time_seconds"]  # fmt: skip


def test_every_name_is_there_before_anything_has_run(fresh_server):
    found = fresh_server.metrics()
    assert {name: found.get(name) for name in OF_THE_ENGINE} == dict.fromkeys(OF_THE_ENGINE, 0)
    for name in OF_THE_SERVER:
        assert found[f"quire:{name}_count"] == 0
    assert found["quire:engine_ready"] == 1
    assert found["quire:prompts_in_flight"] == 0


def test_the_text_is_what_prometheus_reads(fresh_server):
    response = fresh_server.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(response.text))
    assert {"quire:num_requests_running", "quire:generation_tokens"} <= {family.name for family in families}
    assert all(family.documentation for family in families)


def test_gauges_and_counters_are_the_engines_last_word(fresh_server):
    fresh_server.engine.say(STATS)
    found = fresh_server.metrics()
    assert {name: found[name] for name in OF_THE_ENGINE} == OF_THE_ENGINE
    assert found["quire:request_queue_time_seconds_sum"] == 0.75
    assert found["quire:request_queue_time_seconds_count"] == 2
    fresh_server.engine.state = "restarting"
    assert fresh_server.metrics()["quire:engine_ready"] == 0


@pytest.mark.parametrize("stream", [True, False])
def test_counts_add_up(fresh_server, stream):
    """Three requests that end well, one that fails, one that is refused, one whose client leaves."""
    fresh_server.says("hello world", "ab")  # 5 tokens and 2
    fresh_server.post(CHAT, {**HELLO, "n": 2, "stream": stream})
    fresh_server.says("hello", stop=False)  # 1 token each
    fresh_server.post(COMPLETIONS, {"model": MODEL, "prompt": ["a", "b", "c"], "stream": stream})
    fresh_server.says("hello world", "hello w")
    fresh_server.post(CHAT, {**HELLO, "stop": [" w"], "n": 2, "stream": stream})

    def fails(request: m.Generate):
        yield [m.TokenDelta(id=request.id, index=0, tokens=[64])]
        yield [m.Failed(id=request.id, code="engine_failed", message="the step failed")]

    fresh_server.engine.script = fails
    fresh_server.post(CHAT, {**HELLO, "stream": stream})
    fresh_server.post(CHAT, {**HELLO, "temperature": -1, "stream": stream})
    found = fresh_server.metrics()
    ended = {reason: found.get(f'quire:request_success_total{{finished_reason="{reason}"}}', 0)
             for reason in ("stop", "length", "error", "abort")}  # fmt: skip
    assert ended == {"stop": 4, "length": 3, "error": 1, "abort": 0}
    assert found["quire:e2e_request_latency_seconds_count"] == 4
    assert found["quire:time_to_first_token_seconds_count"] == 4
    # Between the tokens of each sequence: 4 and 1; none; 1 up to the stop string, twice.
    assert found["quire:inter_token_latency_seconds_count"] == (4 + 1) + 0 + (1 + 1)
    assert found["quire:prompts_in_flight"] == 0


def test_latency_between_tokens_is_that_of_one_sequence(fresh_server):
    """Prompts of one request are sequences of their own."""
    answers = [Answer((64, 65, END), True)]
    fresh_server.engine.script = lambda request: frames(request, answers, VOCAB)
    fresh_server.complete(prompt=["a", "b", "c", "d"])
    assert fresh_server.metrics()["quire:inter_token_latency_seconds_count"] == 4 * 2


def test_time_stands_in_the_histograms_in_seconds(fresh_server):
    async def wait(gate: asyncio.Event) -> None:
        await asyncio.sleep(0.02)
        gate.set()

    def script(request: m.Generate):
        gate = asyncio.Event()
        fresh_server.waiting = asyncio.ensure_future(wait(gate))
        yield gate
        yield [m.TokenDelta(id=request.id, index=0, tokens=[64], finish="length")]

    fresh_server.engine.script = script
    answer = fresh_server.chat()
    found = fresh_server.metrics()
    assert found["quire:e2e_request_latency_seconds_sum"] >= found["quire:time_to_first_token_seconds_sum"] >= 0.02
    assert answer["timings"]["prompt_ms"] >= 20
