"""`quire bench`: it counts what was sent, takes turns, and says what went wrong."""

from __future__ import annotations

import json
import subprocess
import sys

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.clients.bench.load import Answer, BenchError, Prompts, Server, Work, percentile, summarize

USAGE = {"prompt_tokens": 130, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 16}}
EVENTS = [
    {"choices": [{"text": "a"}]},
    {"choices": [{"text": "", "finish_reason": None}]},
    {"choices": [{"text": "bc"}]},
    {"choices": [{"text": "", "finish_reason": "length"}]},
    {"choices": [], "usage": USAGE},
]  # fmt: skip


def streaming(events: list[dict], status: int = 200) -> httpx.MockTransport:
    body = "".join(f"data: {json.dumps(e)}\n\n" for e in events) + "data: [DONE]\n\n"
    return httpx.MockTransport(lambda request: httpx.Response(status, text=body if status == 200 else "no room"))


async def measured(events: list[dict], work: Work, status: int = 200):
    async with httpx.AsyncClient(transport=streaming(events, status)) as client:
        return await Server(client, "http://there/v1", "m").measure(work)


async def test_tokens_are_the_servers_count_where_it_gives_one():
    found = await measured(EVENTS, Work(concurrency=2, requests=4))
    assert (found.requests, found.output_tokens_mean, found.prompt_tokens_mean) == (4, 5, 130)
    assert found.cached_tokens == 64
    assert found.output_tok_s == pytest.approx(20 / found.wall_s)


async def test_tokens_are_the_pieces_of_text_where_it_gives_none():
    assert (await measured(EVENTS[:4], Work(concurrency=1, requests=1))).output_tokens_mean == 2


@pytest.mark.parametrize(
    ("events", "status", "said"),
    [([], 200, "without any text"), ([], 503, "HTTP 503"), ([{"error": {"message": "gone"}}], 200, "gone")],
)
async def test_a_failure_is_never_counted_as_speed(events, status, said):
    with pytest.raises(BenchError, match=said):
        await measured(events, Work(concurrency=1, requests=1), status)


def test_times_are_of_the_first_text_and_between_texts():
    answers = [Answer(1.0, [1.5, 1.6, 1.8], output_tokens=3), Answer(2.0, [2.1], output_tokens=1)]
    found = summarize(Work(1, 2), answers, 2.0)
    assert found.ttft_ms_p50 == pytest.approx(300)
    assert found.itl_ms_p50 == pytest.approx(150)
    assert found.output_tok_s == 2


@given(st.lists(st.floats(0, 1e6), min_size=1), st.floats(0, 100))
def test_percentile_lies_among_its_values(values, p):
    assert min(values) <= percentile(values, p) <= max(values)
    assert percentile(values, 0) == min(values)
    assert percentile(values, 100) == max(values)


def test_prompts_differ_where_they_should():
    work = Work(1, 2, prompt_tokens=100, shared_tokens=40)
    prompts = iter(Prompts(work, 1.0))
    a, b = next(prompts).split(), next(prompts).split()
    assert a[:40] == b[:40]
    assert a[40] != b[40]


@pytest.mark.parametrize("argv", [[], ["http://x/v1", "--side", "a", "http://y/v1"], ["--side", "alone"]])
def test_neither_a_server_nor_sides_is_an_error_of_usage(argv):
    done = subprocess.run([sys.executable, "-m", "quire.clients.bench", *argv], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--side NAME URL" in done.stderr


def test_a_side_that_does_not_come_up_is_said_with_its_log():
    command = f"{sys.executable} -c \"raise SystemExit('no such model')\""
    done = subprocess.run(
        [sys.executable, "-m", "quire.clients.bench", "--side", "a", "http://127.0.0.1:9/v1", command],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "a did not come up" in done.stderr
    assert "no such model" in done.stderr


def test_two_sides_of_one_real_server(tiny_model, tmp_path):
    """A B A B: started for each turn and stopped after it, on one port."""
    port = "18431"
    serve = f"{sys.executable} -m quire.server.cli serve {tiny_model} --port {port}"
    sides = [x for name in "ab" for x in ("--side", name, f"http://127.0.0.1:{port}/v1", serve)]
    done = subprocess.run(
        [sys.executable, "-m", "quire.clients.bench", *sides, "--rounds", "1", "--concurrency", "1", "2", "--requests",
         "2", "--prompt-tokens", "40", "--max-tokens", "5", "--ignore-eos", "--json", str(tmp_path / "out.json")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [(r["side"], r["concurrency"], r["output_tokens_mean"]) for r in rows] == [
        ("a", 1, 5), ("a", 2, 5), ("b", 1, 5), ("b", 2, 5)
    ]  # fmt: skip
    assert "a / side" in done.stdout
