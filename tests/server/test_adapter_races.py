"""Loads, unloads and requests at the same time."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from adapters_over_http import (
    CHAT,
    COMPLETIONS,
    eventually,
    held_stream,
    load,
    named,
    serving,
    unload,
)
from fake_engine import loaded
from small_server import HELLO, MODEL, Caller, error_of

from quire.engine import messages as m
from quire.engine.errors import RequestError
from quire.server import adapters as registry


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fields", [{"model": "bird"}, {"adapters": [{"name": "other"}, {"name": "bird"}]}])
def test_an_unload_waits_for_what_runs_and_new_requests_are_404_at_once(server, pirate, stream, fields):
    load(server, "bird", pirate)
    load(server, "other", pirate)

    async def scene() -> None:
        gate = held_stream(server)
        running = Caller(server.app, CHAT, {**HELLO, **fields, "stream": stream})
        await eventually(lambda: server.engine.requests)
        leaving = asyncio.ensure_future(server.context.adapters.unload("bird"))
        await asyncio.sleep(0.02)
        assert not leaving.done()
        late = Caller(server.app, CHAT, {**HELLO, "model": "bird"})
        await asyncio.wait_for(late.task, 10)
        assert late.sent[0]["status"] == 404
        assert not any(isinstance(call, m.UnloadAdapter) for call in server.engine.calls)
        with pytest.raises(RequestError, match="is being unloaded; 1 of its requests"):
            await server.context.adapters.load("bird", pirate, in_place=True, pinned=False)
        gate.set()
        await asyncio.wait_for(running.task, 10)
        await asyncio.wait_for(leaving, 10)
        assert running.sent[0]["status"] == 200
        assert isinstance(server.engine.calls[-1], m.UnloadAdapter)

    server.run(scene())
    load(server, "bird", pirate)
    server.says("hello")
    assert server.chat(model="bird")["model"] == "bird"


@pytest.mark.parametrize("how", ["leaves", "fails", "is refused"])
def test_a_request_lets_go_however_it_ends(server, pirate, how):
    load(server, "bird", pirate)
    body = {**HELLO, "model": "bird", "stream": True}

    async def leaves() -> None:
        server.engine.script = lambda request: [[m.TokenDelta(id=request.id, index=0, tokens=[64])]]
        caller = Caller(server.app, CHAT, body)
        await caller.until("content")
        assert server.context.adapters.known[0].running == 1
        await caller.leave()

    if how == "leaves":
        server.run(leaves())
    elif how == "fails":
        server.engine.script = lambda request: [[m.Failed(id=request.id, code="engine_failed", message="x")]]
        error_of(server.post(CHAT, body), 500)
    else:
        error_of(server.post(CHAT, {**body, "max_tokens": 10**6}))
        error_of(server.post(CHAT, {**body, "logit_bias": {"x": 1}}))
    assert server.context.adapters.known[0].running == 0
    unload(server, "bird")


def test_an_unload_goes_on_when_its_caller_leaves(server, pirate):
    load(server, "bird", pirate)

    async def scene() -> None:
        gate = held_stream(server)
        running = Caller(server.app, CHAT, {**HELLO, "model": "bird", "stream": True})
        await running.until("content")
        admin = asyncio.ensure_future(server.context.adapters.unload("bird"))
        await asyncio.sleep(0.01)
        admin.cancel()
        await asyncio.sleep(0.01)
        gate.set()
        await asyncio.wait_for(running.task, 10)
        await eventually(lambda: isinstance(server.engine.calls[-1], m.UnloadAdapter))

    server.run(scene())


def test_two_unloads_of_a_name_are_one(server, pirate):
    load(server, "bird", pirate)

    async def scene() -> list[Any]:
        unloads = [server.context.adapters.unload("bird") for _ in range(2)]
        return await asyncio.gather(*unloads, return_exceptions=True)

    first, second = server.run(scene())
    assert first is None
    assert second.status == 404
    assert len(server.engine.calls) == 2


def test_a_replacement_is_for_the_next_request_and_the_running_one_goes_on(server, pirate, parrot):
    load(server, "bird", pirate)

    async def scene() -> None:
        gate = held_stream(server)
        running = Caller(server.app, CHAT, {**HELLO, "model": "bird", "stream": True})
        await running.until("content")
        await server.context.adapters.load("bird", parrot, in_place=True, pinned=False)
        assert not running.task.done()
        after = Caller(server.app, CHAT, {**HELLO, "model": "bird"})
        await eventually(lambda: len(server.engine.requests) == 2)
        order = [type(message).__name__ for message in server.engine.sent]
        assert order == ["LoadAdapter", "Generate", "LoadAdapter", "Generate"]
        gate.set()
        await asyncio.wait_for(asyncio.gather(running.task, after.task), 10)
        assert '"stop"' in running.text
        assert server.context.adapters.known[0].running == 0

    server.run(scene())


def test_requests_wait_for_a_load_and_others_do_not(server, pirate):
    async def scene() -> None:
        gate = asyncio.Event()

        def slow(call: m.LoadAdapter):
            yield gate
            yield from loaded(call)

        server.engine.adapters = slow
        admin = asyncio.ensure_future(server.context.adapters.load("bird", pirate, in_place=False, pinned=False))
        await asyncio.sleep(0)
        cold = Caller(server.app, CHAT, {**HELLO, "model": "bird"})
        other = Caller(server.app, CHAT, HELLO)
        await asyncio.wait_for(other.task, 10)
        assert not cold.task.done()
        assert server.context.adapters.known[0].state == "loading"
        with pytest.raises(RequestError, match="load_inplace"):
            await server.context.adapters.load("bird", pirate, in_place=False, pinned=False)
        gate.set()
        await asyncio.wait_for(asyncio.gather(admin, cold.task), 10)
        assert cold.sent[0]["status"] == 200

    server.run(scene())


def test_those_that_wait_for_an_adapter_count_as_in_flight(pirate):
    with serving(max_requests=3) as server:

        async def scene() -> list[int]:
            gate = asyncio.Event()
            server.engine.adapters = lambda call: [gate, *loaded(call)]
            admin = asyncio.ensure_future(server.context.adapters.load("bird", pirate, in_place=False, pinned=False))
            cold = [Caller(server.app, CHAT, {**HELLO, "model": "bird"}) for _ in range(3)]
            await eventually(lambda: server.context.open == 3)
            more = Caller(server.app, CHAT, HELLO)
            await asyncio.wait_for(more.task, 10)
            gate.set()
            await asyncio.gather(admin, *(caller.task for caller in cold))
            return [caller.sent[0]["status"] for caller in (more, *cold)]

        assert server.run(scene()) == [429, 200, 200, 200]
        assert server.context.open == 0


def test_what_is_refused_anyway_loads_nothing(shelf):
    with serving(lora_dir=str(shelf)) as server:
        error_of(server.post(CHAT, {**HELLO, "model": "a", "audio": {"voice": "x"}}))
        error_of(server.post(CHAT, {**HELLO, "model": "a", "top_logprobs": 1}))
        error_of(server.post(COMPLETIONS, {"prompt": "x", "model": "a", "suffix": "x", "echo": True}))
        assert server.engine.sent == []


def test_replacements_of_one_name_come_one_after_the_other(server, pirate, parrot):
    load(server, "bird", pirate)

    async def scene() -> str:
        loads = [
            server.context.adapters.load("bird", path, in_place=True, pinned=False) for path in [pirate, parrot] * 5
        ]
        await asyncio.gather(*loads)
        return server.context.adapters.known[0].folder

    folder = server.run(scene())
    assert folder == server.engine.calls[-1].path
    assert named(server)["bird"]["quire"]["key"] == f"key of {folder}"


def test_what_is_unloaded_while_it_is_replaced_stays_away(server, pirate, monkeypatch):
    load(server, "bird", pirate)
    go = threading.Event()

    def slow(*_: Any, **__: Any) -> str:
        assert go.wait(10)
        return pirate

    monkeypatch.setattr(registry, "folder_of", slow)

    async def scene() -> Any:
        replace = asyncio.ensure_future(server.context.adapters.load("bird", pirate, in_place=True, pinned=False))
        await asyncio.sleep(0.01)
        await server.context.adapters.unload("bird")
        go.set()
        return (await asyncio.gather(replace, return_exceptions=True))[0]

    assert "went meanwhile" in server.run(scene()).message
    assert list(named(server)) == [MODEL, "team/small"]


def test_loads_unloads_and_requests_in_any_order_end_well(server, pirate, parrot):
    """Many at once: every request is answered or 404, nothing is left held, and the engine's names are the server's."""

    async def scene() -> list[int]:
        adapters = server.context.adapters

        async def change(i: int) -> None:
            for j in range(6):
                await asyncio.sleep(0.001 * ((i * 7 + j * 3) % 5))
                work = (
                    adapters.unload("bird")
                    if (i + j) % 3 == 0
                    else adapters.load("bird", (pirate, parrot)[j % 2], in_place=bool(i % 2), pinned=False)
                )
                await asyncio.gather(work, return_exceptions=True)

        async def ask(i: int) -> int:
            await asyncio.sleep(0.0007 * i)
            caller = Caller(server.app, CHAT, {**HELLO, "model": "bird", "stream": bool(i % 2)})
            await asyncio.wait_for(caller.task, 20)
            return caller.sent[0]["status"]

        asks = [ask(i) for i in range(40)]
        found = await asyncio.wait_for(asyncio.gather(*asks, *(change(i) for i in range(6))), 60)
        await asyncio.sleep(0.01)
        assert all(adapter.running == 0 for adapter in adapters.known)
        assert not adapters._leaving
        return found[:40]

    assert set(server.run(scene())) <= {200, 404}
    names: set[str] = set()
    for message in server.engine.sent:  # as the engine sees it, no request comes under a name that it does not know
        match message:
            case m.LoadAdapter(name=name):
                names.add(name)
            case m.UnloadAdapter(name=name):
                names.discard(name)
            case m.Generate(adapters=uses):
                assert {use.name for use in uses} <= names
    assert names == {adapter.name for adapter in server.context.adapters.known}
