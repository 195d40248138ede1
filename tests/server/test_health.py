"""/health is about the process: 200 while its engine serves, loads or is started again; 503 once it never will."""

from __future__ import annotations

import pytest
from small_server import HELLO, error_of

from quire.engine.errors import EngineFailed


@pytest.mark.parametrize("state", ["starting", "ready", "restarting", "stopped"])
def test_a_server_that_may_serve_again_is_healthy(server, state):
    server.engine.state = state
    answer = server.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize("error", [None, EngineFailed("the engine process ended with exit code 1, 3 times")])
def test_one_whose_engine_was_given_up_is_not(server, error):
    server.engine.state, server.engine.error = "failed", error
    answer = server.get("/health")
    assert answer.status_code == 503
    assert answer.json() == {"status": "failed", "error": error.message if error else "the engine has failed"}
    assert server.get("/ready").status_code == 503
    response = server.post("/v1/chat/completions", HELLO)
    assert ("retry-after" in response.headers) is (error is None)
    told = error_of(response, 503)["message"]
    assert "try again" not in told or error is None
    assert (error.message if error else "the engine is failed") in told
