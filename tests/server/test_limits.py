"""Who may come in, how much, and when: keys, origins, body size, the queue, and an engine that is not there."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from small_server import HELLO, MODEL, Caller, SmallServer, error_of

from quire.engine import messages as m
from quire.engine.errors import ModelError
from quire.server import auth

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
POSTS = [CHAT, COMPLETIONS, "/tokenize", "/detokenize"]
GETS = ["/", "/health", "/ready", "/metrics", "/v1/models", f"/v1/models/{MODEL}", "/tokenizer_info"]
ORIGIN = {"origin": "http://page.example"}


@pytest.fixture
def server():
    server = SmallServer(max_body_bytes=2000, max_requests=2)
    server.says("hello")
    yield server
    server.close()


@pytest.fixture
def guarded():
    server = SmallServer(api_keys=("sesame", "open up"))
    server.says("hello")
    yield server
    server.close()


# ---------------------------------------------------------------- keys


def test_keys_guard_all_but_the_open_routes(guarded):
    for path in POSTS:
        error = error_of(guarded.post(path, HELLO), 401)
        assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_api_key")
    for path in [*GETS, "/no/such/route", "/v1/models/other", "/health/", "/HEALTH"]:
        assert guarded.get(path).status_code == (200 if path in ("/", "/health") else 401), path


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": "Bearer sesame"}, 200),
        ({"authorization": "bearer  sesame "}, 200),
        ({"authorization": "Bearer open up"}, 200),
        ({"x-api-key": "sesame"}, 200),
        ({"api-key": "sesame"}, 200),
        ({"authorization": "Bearer ", "x-api-key": "sesame"}, 200),
        ({"authorization": "Basic c2VzYW1l"}, 401),
        ({"authorization": "sesame"}, 401),
        ({"authorization": "Bearer"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": "Bearer sesam"}, 401),
        ({"authorization": "Bearer sesame2"}, 401),
        ({"authorization": "Bearer SESAME"}, 401),
        ({"authorization": "Bearer wrong", "x-api-key": "sesame"}, 401),
        ({"x-api-key": "s\xe9same"}, 401),
        ({}, 401),
    ],
)
def test_the_key_may_come_in_three_headers(guarded, headers, status):
    response = guarded.post(CHAT, HELLO, headers={k: v.encode("latin-1") for k, v in headers.items()})
    assert response.status_code == status
    if status == 401:
        assert response.headers["www-authenticate"] == "Bearer"
        assert "sesame" not in response.text


@pytest.mark.parametrize("header", ["Bearer ", "Bearer", "", "Bearer anything"])
def test_without_keys_any_bearer_will_do(server, header):
    assert server.post(CHAT, HELLO, headers={"authorization": header}).status_code == 200


def test_keys_are_compared_in_constant_time_and_all_of_them(monkeypatch):
    compared = []
    monkeypatch.setattr(auth.hmac, "compare_digest", lambda a, b: compared.append(b) or a == b)
    assert auth.matches("one", ("one", "two", "three"))
    assert compared == [b"one", b"two", b"three"]


# ---------------------------------------------------------------- origins


def test_preflight_is_open_and_echoes_the_headers_asked_for(guarded):
    asked = {**ORIGIN, "access-control-request-method": "POST",
             "access-control-request-headers": "authorization,content-type,x-stainless-os"}  # fmt: skip
    for path in POSTS:
        response = guarded.request("OPTIONS", path, headers=asked)
        assert response.status_code == 200
        assert response.headers["access-control-allow-headers"] == asked["access-control-request-headers"]
        assert response.headers["access-control-allow-origin"] == "*"
        assert "POST" in response.headers["access-control-allow-methods"]


def test_errors_carry_the_cors_headers_too(server, guarded):
    def fault(request):
        raise RuntimeError("secret insides")

    refused = [
        guarded.post(CHAT, HELLO, headers=ORIGIN),
        server.post(CHAT, {}, headers=ORIGIN),
        server.post(CHAT, {**HELLO, "model": "other"}, headers=ORIGIN),
        server.post(CHAT, {**HELLO, "x": "x" * 3000}, headers=ORIGIN),
        server.get("/no/such/route", headers=ORIGIN),
        server.get(CHAT, headers=ORIGIN),
    ]
    server.engine.state = "restarting"
    refused.append(server.post(CHAT, HELLO, headers=ORIGIN))
    server.engine.state = "ready"
    server.context.renderer.render = fault
    refused.append(server.post(CHAT, HELLO, headers=ORIGIN))
    assert [r.status_code for r in refused] == [401, 400, 404, 413, 404, 405, 503, 500]
    for response in refused:
        error_of(response, None)
        assert response.headers["access-control-allow-origin"] == "*", response.status_code
    assert "secret" not in refused[-1].text


def test_origins_can_be_told():
    server = SmallServer(cors_origins=("http://mine.example",))
    assert "access-control-allow-origin" not in server.get("/health", headers=ORIGIN).headers
    mine = server.get("/health", headers={"origin": "http://mine.example"}).headers
    assert mine["access-control-allow-origin"] == "http://mine.example"
    server.close()


# ---------------------------------------------------------------- size


def sized(size: int) -> bytes:
    start = b'{"model": "small", "messages": [{"role": "user", "content": "x"}], "x": "'
    return start + b"x" * (size - len(start) - 2) + b'"}'


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize(("size", "status"), [(2000, 200), (2001, 413), (100_000, 413)])
def test_a_body_above_the_limit_is_refused_announced_or_not(server, size, status, announced):
    async def chunks() -> AsyncIterator[bytes]:
        whole = sized(size)
        for i in range(0, size, 300):
            yield whole[i : i + 300]

    response = server.request("POST", CHAT, content=sized(size) if announced else chunks())
    assert ("content-length" in response.request.headers) == announced
    assert response.status_code == status
    if status == 413:
        error = error_of(response, 413)
        assert error["code"] == "request_too_large"
        assert "2000" in error["message"]


def test_a_body_above_the_limit_is_not_read_on(server):
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while taken < 10**6:
            taken += 1000
            yield b"x" * 1000

    error_of(server.request("POST", CHAT, content=endless()), 413)
    assert taken <= 5000


# ---------------------------------------------------------------- the queue


@pytest.mark.parametrize("stream", [True, False])
def test_a_full_queue_is_429_before_anything_is_read(server, stream):
    async def scene() -> list[Caller]:
        server.engine.script = lambda request: []
        first = [Caller(server.app, CHAT, HELLO) for _ in range(2)]
        while server.engine.pending < 2:
            await asyncio.sleep(0.001)
        more = Caller(server.app, CHAT, {"not": "valid", "stream": stream})
        await asyncio.wait_for(more.task, 10)
        for caller in first:
            await caller.leave()
        return [more]

    (refused,) = server.run(scene())
    head = {k.decode(): v.decode() for k, v in refused.sent[0]["headers"]}
    assert refused.sent[0]["status"] == 429
    assert int(head["retry-after"]) >= 1
    assert '"rate_limit_error"' in refused.text
    server.says("hello")
    assert server.chat()["choices"][0]["message"]["content"] == "hello"


def test_prompts_of_one_request_are_one_request_in_flight(server):
    async def scene() -> list[int]:
        server.engine.script = lambda request: []
        first = Caller(server.app, COMPLETIONS, {"prompt": ["a", "b"]})
        while server.engine.pending < 2:
            await asyncio.sleep(0.001)
        second = Caller(server.app, CHAT, HELLO)
        while server.engine.pending < 3:
            await asyncio.sleep(0.001)
        more = Caller(server.app, CHAT, HELLO)
        await asyncio.wait_for(more.task, 10)
        for caller in (first, second):
            await caller.leave()
        return [more.sent[0]["status"], server.context.open]

    assert server.run(asyncio.wait_for(scene(), 10)) == [429, 0]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("path", "fields", "param", "told"),
    [
        (COMPLETIONS, {"prompt": ["x"] * 3}, "prompt", "there are 3; a request may have 2"),
        (COMPLETIONS, {"prompt": [[1]] * 400}, "prompt", "there are 400; a request may have 2"),
        (COMPLETIONS, {"prompt": ["x"] * 2, "n": 4}, "prompt", "2 prompts with n 4 are 8 answers; 7 can queue"),
        (COMPLETIONS, {"prompt": "x", "n": 8}, "n", "it is 8; 7 can queue"),
        (CHAT, {**HELLO, "n": 8}, "n", "it is 8; 7 can queue"),
    ],
)  # fmt: skip
def test_what_can_never_queue_is_a_400_before_any_work(server, monkeypatch, path, fields, param, told, stream):
    monkeypatch.setattr(server.engine, "config", msgspec.structs.replace(server.engine.config, max_waiting=7))
    monkeypatch.setattr(server.tokenizer, "encode", None)
    error = error_of(server.post(path, {**fields, "stream": stream}))
    assert error["param"] == param
    assert told in error["message"]
    assert server.context.open == 0


def test_what_is_the_same_for_all_prompts_is_made_once(server, monkeypatch):
    looks = []
    spelled = server.tokenizer.encode_content
    monkeypatch.setattr(server.tokenizer, "encode_content", lambda *a, **k: looks.append(a) or spelled(*a, **k))
    server.complete(prompt=["a", "b"], bad_words=["x"])
    assert len(looks) == 2  # with a space before it and without
    first, second = (request.params for request in server.engine.requests)
    assert first.bad_words == second.bad_words
    assert first.seed != second.seed


@pytest.mark.parametrize(
    ("path", "body"),
    [(CHAT, HELLO), (COMPLETIONS, {"prompt": "hello"}), ("/tokenize", HELLO), ("/tokenize", {"prompt": "hello"})],
)
def test_a_prompt_that_takes_long_to_read_holds_up_nobody(server, monkeypatch, path, body):
    go = threading.Event()
    encode = server.tokenizer.encode

    def slow(*args: Any, **more: Any) -> list[int]:
        assert go.wait(10)
        return encode(*args, **more)

    monkeypatch.setattr(server.tokenizer, "encode", slow)

    async def scene() -> list[int]:
        long = Caller(server.app, path, body)
        await asyncio.sleep(0.01)
        look = Caller(server.app, "/health", {}, method="GET")
        await asyncio.wait_for(look.task, 10)
        go.set()
        await asyncio.wait_for(long.task, 10)
        return [look.sent[0]["status"], long.sent[0]["status"]]

    assert server.run(scene()) == [200, 200]


def test_a_server_that_drains_while_a_prompt_is_read_refuses_it(server, monkeypatch):
    render = server.context.renderer.render

    def last(*args: Any, **more: Any) -> Any:
        server.context.draining = True
        return render(*args, **more)

    monkeypatch.setattr(server.context.renderer, "render", last)
    assert error_of(server.post(CHAT, HELLO), 503)["code"] == "engine_unavailable"
    assert server.engine.requests == []


# ---------------------------------------------------------------- the engine


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("state", ["starting", "restarting", "failed", "stopped"])
def test_without_an_engine_it_is_503_and_a_time_to_come_back(server, path, state):
    server.engine.state = state
    response = server.post(path, HELLO)
    error = error_of(response, 503)
    assert (error["type"], error["code"]) == ("service_unavailable_error", "engine_unavailable")
    assert state in error["message"]
    assert int(response.headers["retry-after"]) >= 1


def test_a_draining_server_refuses_what_is_new(server):
    server.context.draining = True
    assert error_of(server.post(CHAT, HELLO), 503)["code"] == "engine_unavailable"
    assert server.get("/ready").status_code == 503
    assert server.get("/ready").json()["status"] == "draining"
    assert server.get("/health").status_code == 200


@pytest.mark.parametrize("state", ["starting", "restarting", "failed", "stopped"])
def test_health_is_of_the_server_and_ready_of_the_engine(server, state):
    assert server.get("/ready").status_code == 200
    assert server.get("/ready").json()["status"] == "ready"
    server.engine.state = state
    assert server.get("/health").status_code == (503 if state == "failed" else 200)  # nobody starts that one again
    response = server.get("/ready")
    assert response.status_code == 503
    assert response.json()["status"] == state


def test_ready_tells_how_far_the_loading_is_and_why_it_failed(server):
    server.engine.state = "starting"
    server.engine.say(m.Loading(3, 10))
    found = server.get("/ready").json()
    assert (found["loaded_bytes"], found["total_bytes"]) == (3, 10)
    server.engine.state = "failed"
    server.engine.error = ModelError("model.safetensors: is cut short")
    assert server.get("/ready").json()["error"] == "model.safetensors: is cut short"


def test_an_engine_that_stands_still_is_not_ready_only_while_work_is_pending(server):
    async def scene() -> tuple[int, int]:
        server.engine.script = lambda request: []
        caller = Caller(server.app, CHAT, HELLO)
        while not server.engine.pending:
            await asyncio.sleep(0.001)
        server.engine.last_progress = time.monotonic() - 1000
        looks = [Caller(server.app, "/ready", {}, method="GET") for _ in range(2)]
        await looks[0].task
        server.engine.say()  # a sign of life
        looks[1] = Caller(server.app, "/ready", {}, method="GET")
        await looks[1].task
        await caller.leave()
        return looks[0].sent[0]["status"], looks[1].sent[0]["status"]

    assert server.run(scene()) == (503, 200)
    server.engine.last_progress = time.monotonic() - 1000
    assert server.get("/ready").status_code == 200


# ---------------------------------------------------------------- routes


@pytest.mark.parametrize(
    "path", ["/v1", "/v2/chat/completions", "/v1/chat", "/docs", "/openapi.json", "/redoc", "/%00"]
)
def test_an_unknown_path_is_404_in_the_shape_of_all_errors(server, path):
    error = error_of(server.get(path), 404)
    assert error["code"] == "unknown_url"
    assert "GET" in error["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [(method, path) for path in POSTS for method in ("GET", "PUT", "DELETE", "PATCH")]
    + [(method, path) for path in GETS for method in ("POST", "PUT", "DELETE")],
)
def test_a_wrong_method_is_405_in_the_shape_of_all_errors(server, method, path):
    response = server.request(method, path)
    error = error_of(response, 405)
    assert method in error["message"]
    assert set(response.headers["allow"].split(", ")) in ({"GET", "HEAD"}, {"POST"})
    assert error["code"] == "method_not_allowed"
    assert error["message"].endswith(f"this route has {response.headers['allow']}")
