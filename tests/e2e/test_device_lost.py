"""A device that fails takes its engine along and no more: requests end with an error, and a new engine serves. Where
none comes up any more, /health says so."""

from __future__ import annotations

import os
import time
from pathlib import Path

import httpx
import pytest

# Put into the engine process alone: once the seed was asked for, every step fails as CUDA's do, like all that follow.
SPOILED = """
import os, sys
if "quire.engine.process" in sys.orig_argv:
    import torch
    from quire.engine import runner
    sound, state = runner.Runner.execute, {}
    def execute(self, plan):
        seeds = [piece.seq.params.seed for piece in plan.slices]
        if 666 in seeds or (state and plan.slices):
            state["lost"] = True
            raise torch.AcceleratorError(
                "CUDA error: an illegal memory access was encountered\\nCUDA kernel errors might be reported later")
        if 667 in seeds and len(plan.slices) + plan.num_tokens > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\\nAnd more.")
        return sound(self, plan)
    runner.Runner.execute = execute
    if os.path.exists(os.environ["TEST_GONE"]):
        os._exit(1)
"""


def ask(server, **more) -> httpx.Response:
    body = {"model": "stories", "prompt": [1], "temperature": 0, **more}
    return httpx.post(f"{server.url}/v1/completions", json=body, timeout=60)


def until(condition, seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def spoiled(serve, stories, tmp_path: Path):
    """A server whose engine can be made to fail, and the file that keeps it from starting."""
    (tmp_path / "sitecustomize.py").write_text(SPOILED)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    env = {"PYTHONPATH": path, "TEST_GONE": str(tmp_path / "gone")}
    with serve(stories, "--served-model-name", "stories", env=env) as server:
        yield server.wait_ready(), tmp_path / "gone"


def test_the_engine_ends_with_its_device_and_is_started_again_until_it_cannot_be(spoiled, golden):
    server, gone = spoiled
    first = server.engine_pid()
    failed = ask(server, max_tokens=5, seed=666)
    assert failed.status_code == 500
    assert "ended because its device failed" in failed.json()["error"]["message"]
    until(lambda: httpx.get(f"{server.url}/ready").status_code == 200)
    assert server.engine_pid() != first
    lines = [line for line in server.lines if line.startswith("engine: the device failed")]
    assert lines == [
        "engine: the device failed, and the engine ends: CUDA error: an illegal memory access was encountered\n"
    ]
    assert "Traceback" in server.output, "where it was seen"
    assert ask(server, max_tokens=200).json()["choices"][0]["text"] == golden["text"]

    # Memory that is short ends nobody.
    assert ask(server, max_tokens=20, seed=667, prompt=[1] * 40).status_code == 200
    assert "memory is short for a step" in server.output

    gone.touch()
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok"}
    assert ask(server, max_tokens=5, seed=666).status_code == 500
    assert httpx.get(f"{server.url}/health").status_code == 200, "it is being started again"
    until(lambda: httpx.get(f"{server.url}/health").status_code == 503)
    told = httpx.get(f"{server.url}/health").json()
    assert told == {
        "status": "failed",
        "error": "the engine process ended with exit code 1 before it was ready, 3 times",
    }
    assert httpx.get(f"{server.url}/ready").status_code == 503
    assert ask(server, max_tokens=5).status_code == 503
