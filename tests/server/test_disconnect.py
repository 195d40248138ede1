"""A client that leaves takes its request along, at once and once; one that stays to the end leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine

import httpx
import openai
import pytest
import uvicorn
from small_server import HELLO, MODEL, Caller, SmallServer

from quire.engine import messages as m

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


def silent(request: m.Generate):
    """An engine that never says a thing."""
    return []


def one_word(request: m.Generate):
    """An engine that says one word of each sequence, and then no more."""
    yield [m.TokenDelta(id=request.id, index=i, tokens=[64]) for i in range(request.n)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def body_for(path: str, stream: bool, prompts: int = 1) -> dict:
    if path == CHAT:
        return {**HELLO, "stream": stream, "n": 2}
    return {"model": MODEL, "prompt": ["a", "b", "c"][:prompts], "stream": stream, "n": 2}


def freed(server: SmallServer) -> None:
    """Each request that came to the engine was aborted, once, and nothing is kept of it."""
    assert server.engine.aborted == [request.id for request in server.engine.requests] != []
    assert server.engine.pending == 0


CASES = [(CHAT, 1), (COMPLETIONS, 1), (COMPLETIONS, 3)]


@pytest.mark.parametrize(("path", "prompts"), CASES)
@pytest.mark.parametrize("stream", [True, False])
def test_leaving_before_the_first_token_aborts_once(fresh_server, path, prompts, stream):
    async def scene() -> None:
        fresh_server.engine.script = silent
        caller = Caller(fresh_server.app, path, body_for(path, stream, prompts))
        await until(lambda: fresh_server.engine.pending == prompts)
        await caller.leave()
        freed(fresh_server)

    fresh_server.run(scene())


@pytest.mark.parametrize(("path", "prompts"), CASES)
@pytest.mark.parametrize("stream", [True, False])
def test_leaving_in_mid_answer_aborts_once(fresh_server, path, prompts, stream):
    async def scene() -> None:
        fresh_server.engine.script = one_word
        caller = Caller(fresh_server.app, path, body_for(path, stream, prompts))
        if stream:
            await caller.until('"a"')
        await until(lambda: len(fresh_server.engine.requests) == prompts)
        await asyncio.sleep(0.01)
        await caller.leave()
        freed(fresh_server)
        assert "[DONE]" not in caller.text

    fresh_server.run(scene())
    metrics = fresh_server.metrics()
    assert metrics['quire:request_success_total{finished_reason="abort"}'] == prompts * 2
    assert metrics["quire:e2e_request_latency_seconds_count"] == 1
    assert metrics["quire:prompts_in_flight"] == 0


@pytest.mark.parametrize(("path", "prompts"), CASES)
def test_leaving_before_the_first_event_is_sent_aborts_once(fresh_server, path, prompts):
    async def scene() -> None:
        fresh_server.engine.script = one_word
        caller = Caller(fresh_server.app, path, body_for(path, True, prompts))
        caller.reads.clear()
        await until(lambda: len(fresh_server.engine.requests) == prompts)
        await asyncio.sleep(0.01)
        await caller.leave()
        freed(fresh_server)

    fresh_server.run(scene())
    assert fresh_server.metrics()["quire:e2e_request_latency_seconds_count"] == 1


def test_leaving_in_mid_body_is_no_fault(fresh_server, caplog):
    async def scene() -> None:
        caller = Caller(fresh_server.app, CHAT, HELLO, whole=False)
        await caller.leave()
        assert caller.sent == []

    fresh_server.run(scene())
    assert caplog.records == []
    assert fresh_server.engine.requests == []


@pytest.mark.parametrize("stream", [True, False])
def test_a_request_cut_off_by_the_server_is_aborted_once(fresh_server, stream):
    async def scene() -> None:
        fresh_server.engine.script = one_word
        caller = Caller(fresh_server.app, CHAT, body_for(CHAT, stream))
        await until(lambda: fresh_server.engine.pending == 1)
        await asyncio.sleep(0.01)
        caller.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await caller.task
        freed(fresh_server)

    fresh_server.run(scene())


@pytest.mark.parametrize("stream", [True, False])
def test_what_has_ended_is_not_aborted(fresh_server, stream):
    fresh_server.says("hello", "ab")
    assert fresh_server.post(CHAT, body_for(CHAT, stream)).status_code == 200
    assert fresh_server.engine.aborted == []


@pytest.mark.parametrize("stream", [True, False])
def test_a_stop_string_aborts_what_the_engine_would_go_on_with(fresh_server, stream):
    """The engine knows no text; it is told when no choice is left that wants more."""
    fresh_server.says("hello world, hello world", "ab")
    answer = fresh_server.post(CHAT, {**body_for(CHAT, stream), "stop": [" w"]})
    assert answer.status_code == 200
    freed(fresh_server)


@pytest.mark.parametrize("stream", [True, False])
def test_the_others_do_not_notice(fresh_server, stream):
    async def scene() -> str:
        gate = asyncio.Event()

        def script(request: m.Generate):
            yield [m.TokenDelta(id=request.id, index=i, tokens=[64]) for i in range(request.n)]
            yield gate
            yield [m.TokenDelta(id=request.id, index=i, tokens=[65], finish="length") for i in range(request.n)]

        fresh_server.engine.script = script
        stays, leaves = (Caller(fresh_server.app, CHAT, body_for(CHAT, stream)) for _ in range(2))
        await until(lambda: fresh_server.engine.pending == 2)
        await leaves.leave()
        gate.set()
        await asyncio.wait_for(stays.task, 10)
        return stays.text

    text = fresh_server.run(scene())
    assert ("[DONE]" in text) == stream
    assert text.count('"finish_reason":"length"') == 2


# ---------------------------------------------------------------- over a real socket


@contextlib.asynccontextmanager
async def listening(server: SmallServer) -> AsyncIterator[str]:
    """The app under uvicorn, on a free port."""
    live = uvicorn.Server(uvicorn.Config(server.app, port=0, log_level="error", lifespan="off"))
    live.capture_signals = contextlib.nullcontext
    task = asyncio.create_task(live.serve())
    await until(lambda: live.started)
    try:
        yield f"http://127.0.0.1:{live.servers[0].sockets[0].getsockname()[1]}"
    finally:
        live.should_exit = True
        await task


def over_socket(server: SmallServer, scene: Callable[[str, httpx.AsyncClient], Coroutine]) -> None:
    async def run() -> None:
        async with listening(server) as url, httpx.AsyncClient(base_url=url, trust_env=False, timeout=10) as client:
            await scene(url, client)

    server.run(run())


def test_a_closed_socket_aborts_a_stream(fresh_server):
    async def scene(url: str, client: httpx.AsyncClient) -> None:
        fresh_server.engine.script = one_word
        async with client.stream("POST", CHAT, json=body_for(CHAT, True)) as response:
            lines = response.aiter_lines()
            while '"a"' not in await anext(lines):
                pass
            assert fresh_server.engine.pending == 1
        await until(lambda: fresh_server.engine.pending == 0)
        freed(fresh_server)

    over_socket(fresh_server, scene)


def test_a_closed_socket_aborts_a_plain_request(fresh_server):
    async def scene(url: str, client: httpx.AsyncClient) -> None:
        fresh_server.engine.script = one_word
        task = asyncio.create_task(client.post(CHAT, json=body_for(CHAT, False)))
        await until(lambda: fresh_server.engine.pending == 1)
        task.cancel()
        await until(lambda: fresh_server.engine.pending == 0)
        freed(fresh_server)

    over_socket(fresh_server, scene)


def test_events_leave_one_by_one_and_are_not_gathered(fresh_server):
    async def scene(url: str, client: httpx.AsyncClient) -> None:
        gates = [asyncio.Event() for _ in range(3)]

        def script(request: m.Generate):
            for i, gate in enumerate(gates):
                yield [m.TokenDelta(id=request.id, index=0, tokens=[64 + i], finish="length" if i == 2 else None)]
                yield gate

        fresh_server.engine.script = script
        body = {"model": MODEL, "prompt": "x", "stream": True}
        async with client.stream("POST", COMPLETIONS, json=body) as response:
            assert response.headers["cache-control"].startswith("no-")
            assert response.headers["x-accel-buffering"] == "no"
            lines = response.aiter_lines()
            for gate, text in zip(gates, "abc", strict=True):  # each comes before the engine may say the next
                line = await anext(lines)
                assert json.loads(line.removeprefix("data: "))["choices"][0]["text"] == text
                assert await anext(lines) == ""
                gate.set()
            assert [line async for line in lines] == ["data: [DONE]", ""]

    over_socket(fresh_server, scene)


def test_the_sdk_reads_streams_errors_and_answers(fresh_server):
    async def scene(url: str, client: httpx.AsyncClient) -> None:
        sdk = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=client)
        fresh_server.says("hello world")
        whole = await sdk.chat.completions.create(**HELLO)
        assert whole.choices[0].message.content == "hello world"
        stream = await sdk.chat.completions.create(**HELLO, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "hello world"
        async with sdk.chat.completions.stream(**HELLO) as gathered:
            assert (await gathered.get_final_completion()).choices[0].message.content == "hello world"

        def fails(request: m.Generate):
            yield [m.TokenDelta(id=request.id, index=0, tokens=[64])]
            yield [m.Failed(id=request.id, code="engine_failed", message="the step failed")]

        fresh_server.engine.script = fails
        with pytest.raises(openai.APIError, match="the step failed"):
            async for _ in await sdk.chat.completions.create(**HELLO, stream=True):
                pass
        with pytest.raises(openai.BadRequestError) as refused:
            await sdk.chat.completions.create(**HELLO, temperature=-1)
        assert refused.value.param == "temperature"

    over_socket(fresh_server, scene)
