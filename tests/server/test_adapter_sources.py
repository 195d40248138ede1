"""Where adapters come from: a folder on first use, the hub, the start, and again after the engine died."""

from __future__ import annotations

import asyncio
from typing import Any

import huggingface_hub
import pytest
from adapters_over_http import (
    CHAT,
    eventually,
    load,
    make,
    named,
    refusing,
    serving,
    unload,
)
from fake_engine import adapter_info, loaded
from small_server import HELLO, MODEL, Caller, SmallServer, error_of

from quire.engine import messages as m
from quire.engine.errors import ConfigError, EngineFailed, EngineUnavailable, ModelNotFound, RequestError
from quire.server import adapters as registry
from quire.server.config import LoraModule

# ---------------------------------------------------------------- first use


def test_what_lies_in_the_folder_is_listed_and_loaded_on_first_use(shelf):
    with serving(lora_dir=str(shelf)) as server:
        models = named(server)
        assert list(models) == [MODEL, "team/small", "a", "b"]
        assert models["a"]["quire"]["state"] == "disk"
        assert models["a"]["root"] == str(shelf / "a")
        assert server.get("/v1/models/b").json()["quire"]["state"] == "disk"
        assert server.engine.calls == []
        assert server.chat(model="a")["model"] == "a"
        server.chat(model="a")
        assert [(call.name, call.path) for call in server.engine.calls] == [("a", str(shelf / "a"))]
        assert {name: one["quire"]["state"] for name, one in named(server).items() if "quire" in one} == {
            "a": "memory", "b": "disk"}  # fmt: skip
        make(shelf / "c")
        assert server.chat(adapters=[{"name": "c"}, {"name": "b"}])
        error_of(server.post(CHAT, {**HELLO, "model": "../shelf/a"}), 404)


def test_many_first_uses_are_one_load(shelf):
    with serving(lora_dir=str(shelf)) as server:

        async def scene() -> list[int]:
            callers = [Caller(server.app, CHAT, {**HELLO, "model": "a"}) for _ in range(20)]
            await asyncio.gather(*(caller.task for caller in callers))
            return [caller.sent[0]["status"] for caller in callers]

        assert server.run(scene()) == [200] * 20
        assert len(server.engine.calls) == 1


def test_a_first_use_that_fails_is_told_and_tried_again_later(shelf, monkeypatch):
    with serving(lora_dir=str(shelf)) as server:
        server.engine.adapters = refusing("rank is 0")
        for _ in range(3):
            error = error_of(server.post(CHAT, {**HELLO, "model": "a"}))
            assert error["param"] == "model"
            assert "'a'" in error["message"]
            assert "rank is 0" in error["message"]
        error = error_of(server.post(CHAT, {**HELLO, "adapters": [{"name": "a"}]}))
        assert error["param"] == "adapters[0].name"
        assert len(server.engine.calls) == 1
        assert named(server)["a"]["quire"]["state"] == "failed"
        assert "rank is 0" in named(server)["a"]["quire"]["error"]
        server.engine.adapters = loaded
        clock = registry.time.monotonic
        monkeypatch.setattr(registry.time, "monotonic", lambda: clock() + registry.RETRY)
        assert server.chat(model="a")["model"] == "a"


def test_failures_that_are_remembered_are_few(shelf, monkeypatch):
    monkeypatch.setattr(registry, "KEPT_FAILURES", 5)
    with serving(lora_dir=str(shelf)) as server:
        server.engine.adapters = refusing("no")
        for i in range(12):
            make(shelf / f"x{i}")
            error_of(server.post(CHAT, {**HELLO, "model": f"x{i}"}))
        assert len(server.context.adapters._missed) == 5


def test_what_was_unloaded_is_read_again_on_its_next_use(shelf):
    with serving(lora_dir=str(shelf), admin_keys=("open sesame",)) as server:
        server.chat(model="a")
        unload(server, "a")
        assert named(server)["a"]["quire"]["state"] == "disk"
        server.chat(model="a")
        assert [type(call).__name__ for call in server.engine.calls] == ["LoadAdapter", "UnloadAdapter", "LoadAdapter"]
        unload(server, "b", 404)


def test_a_base_name_hides_a_folder(shelf):
    make(shelf / MODEL)
    with serving(lora_dir=str(shelf)) as server:
        assert named(server)[MODEL]["parent"] is None
        server.chat(model=MODEL)
        assert server.engine.requests[-1].adapters == ()


@pytest.mark.parametrize("path", ["nowhere", "a\0b"])
def test_a_lora_dir_that_cannot_be_is_named(tmp_path, path):
    with pytest.raises(ConfigError, match="--lora-dir"):
        SmallServer(lora_dir=str(tmp_path / path))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--lora-dir"):
        SmallServer(lora_dir=str(tmp_path / "file"))


# ---------------------------------------------------------------- the hub


@pytest.fixture
def hub(monkeypatch, tmp_path) -> list[str]:
    """A hub with owner/bird; the names that were asked for."""
    asked: list[str] = []
    there = str(make(tmp_path / "cache"))

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        asked.append(name)
        if name != "owner/bird":
            raise OSError("offline")
        return there

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return asked


def test_hub_names_are_taken_only_where_allowed(hub, tmp_path):
    with serving(admin_keys=("open sesame",)) as server:
        error_of(server.post(CHAT, {**HELLO, "model": "owner/bird"}), 404)
        assert "--lora-hub" in load(server, "bird", "owner/bird", 400)["message"]
        assert hub == []
    with serving(admin_keys=("open sesame",), lora_hub=True) as server:
        assert server.chat(model="owner/bird")["model"] == "owner/bird"
        server.chat(model="owner/bird")
        assert load(server, "bird", "owner/bird")["root"] == str(tmp_path / "cache")
        assert hub == ["owner/bird"] * 2
        for name in ("owner", "a/b/c", "/bird", "../bird", "owner/..", "owner/bird/"):
            error_of(server.post(CHAT, {**HELLO, "model": name}), 404)
        assert hub == ["owner/bird"] * 2
        error = error_of(server.post(CHAT, {**HELLO, "model": "owner/other"}), 503)
        assert (error["code"], error["param"]) == ("hub_unavailable", "model")
        error_of(server.post(CHAT, {**HELLO, "model": "owner/other"}), 503)
        assert hub[2:] == ["owner/other"]
        assert "owner/other" not in named(server)


# ---------------------------------------------------------------- the start, and the engine's death


def modules(*paths: str) -> tuple[LoraModule, ...]:
    return tuple(LoraModule(f"m{i}", path) for i, path in enumerate(paths))


def test_modules_are_told_to_each_engine_before_any_request(pirate, parrot):
    with serving(lora_modules=modules(pirate, parrot)) as server:
        server.engine.state = "starting"
        assert named(server)["m0"]["quire"]["state"] == "loading"

        async def scene() -> None:
            server.engine.start_again()
            await asyncio.wait_for(server.context.adapters.loaded(), 10)

        server.run(scene())
        assert server.chat(model="m1")["model"] == "m1"
        assert named(server)["m0"]["quire"]["state"] == "memory"

        async def again() -> int:
            server.engine.die()
            await asyncio.sleep(0.01)
            server.engine.sent.clear()
            server.engine.start_again()
            caller = Caller(server.app, CHAT, {**HELLO, "model": "m0"})
            await asyncio.wait_for(caller.task, 10)
            return caller.sent[0]["status"]

        assert server.run(again()) == 200
        assert [type(message).__name__ for message in server.engine.sent] == ["LoadAdapter"] * 2 + ["Generate"]


def test_a_module_that_cannot_be_loaded_is_named(pirate):
    with serving(lora_modules=modules(pirate, "/no/such/folder")) as server:

        async def scene() -> None:
            server.engine.start_again()
            await asyncio.wait_for(server.context.adapters.loaded(), 10)

        with pytest.raises(RequestError, match=r"--lora-modules m1=/no/such/folder: .*no such folder"):
            server.run(scene())


@pytest.mark.parametrize(
    ("given", "told"),
    [((LoraModule(MODEL, "x"),), "base model"), ((LoraModule("a", "x"), LoraModule("a", "y")), "twice"),
     ((LoraModule("../a", "x"),), "names '../a'"), ((LoraModule("a", "x", "other"),), "base_model_name 'other'")],
)  # fmt: skip
def test_modules_that_cannot_be_stop_the_start(given, told):
    with pytest.raises(ConfigError, match=told):
        SmallServer(lora_modules=given)


def test_what_fails_after_a_restart_is_told_to_requests_and_others_go_on(server, pirate, parrot, monkeypatch):
    load(server, "bird", pirate)
    load(server, "other", parrot)

    def some(call: m.LoadAdapter):
        return refusing("the file is gone")(call) if call.name == "bird" else loaded(call)

    async def restart() -> None:
        server.engine.die()
        await asyncio.sleep(0.01)
        server.engine.adapters = some
        server.engine.start_again()
        await eventually(lambda: all(one.state != "loading" for one in server.context.adapters.known))

    server.run(restart())
    error = error_of(server.post(CHAT, {**HELLO, "model": "bird"}), 500)
    assert "the file is gone" in error["message"]
    assert named(server)["bird"]["quire"] == {**named(server)["bird"]["quire"], "state": "failed",
                                              "error": "the file is gone"}  # fmt: skip
    assert server.chat(model="other")["model"] == "other"
    assert len(server.engine.calls) == 4
    server.engine.adapters = loaded
    load(server, "bird", pirate, 400)
    load(server, "bird", pirate, load_inplace=True)
    assert server.chat(model="bird")["model"] == "bird"
    assert named(server)["bird"]["quire"]["error"] is None


def test_a_folder_that_changed_is_not_taken_by_a_restart(shelf, pirate, monkeypatch):
    def changed(call: m.LoadAdapter | m.UnloadAdapter):
        assert isinstance(call, m.LoadAdapter)
        info = adapter_info(call.name, call.path, key="another")
        yield [m.AdapterLoaded(call.id, info), m.Adapters(known=[info])]

    with serving(lora_dir=str(shelf), admin_keys=("open sesame",)) as server:
        load(server, "bird", pirate)
        server.chat(model="a")

        async def restart() -> None:
            server.engine.die()
            await asyncio.sleep(0.01)
            server.engine.adapters = changed
            server.engine.start_again()
            await eventually(lambda: all(one.state == "failed" for one in server.context.adapters.known))

        server.run(restart())
        clock = registry.time.monotonic
        for name in ("bird", "a"):
            for later in (0, registry.RETRY):
                monkeypatch.setattr(registry.time, "monotonic", lambda later=later: clock() + later)
                error = error_of(server.post(CHAT, {**HELLO, "model": name}), 500)
                assert "its folder has changed since it was loaded; load_inplace" in error["message"]
        load(server, "bird", pirate, load_inplace=True)
        assert server.chat(model="bird")["model"] == "bird"


def test_one_that_failed_is_tried_again_after_a_while_by_one_request(server, pirate, monkeypatch):
    load(server, "bird", pirate)

    async def restart() -> None:
        server.engine.die()
        await asyncio.sleep(0.01)
        server.engine.adapters = refusing("not now")
        server.engine.start_again()
        await eventually(lambda: server.context.adapters.known[0].state == "failed")

    server.run(restart())
    server.engine.adapters = loaded
    clock = registry.time.monotonic
    monkeypatch.setattr(registry.time, "monotonic", lambda: clock() + registry.RETRY)

    async def scene() -> list[int]:
        callers = [Caller(server.app, CHAT, {**HELLO, "model": "bird"}) for _ in range(5)]
        await asyncio.gather(*(caller.task for caller in callers))
        return [caller.sent[0]["status"] for caller in callers]

    assert server.run(scene()) == [200] * 5
    assert len(server.engine.calls) == 3


def test_an_engine_that_dies_of_an_adapter_is_not_killed_by_it_for_ever(server, pirate, parrot, monkeypatch):
    """The one that was being loaded is to blame, not those that queued behind it."""
    load(server, "good", parrot)
    load(server, "bad", pirate)

    def deadly(call: m.LoadAdapter):
        if call.name == "bad":
            yield asyncio.Event()  # the death comes instead of an answer
        yield from loaded(call)

    async def scene() -> None:
        server.engine.adapters = deadly
        for _ in range(registry.MAX_DEATHS):
            server.engine.die()
            await asyncio.sleep(0.01)
            server.engine.start_again()
            await eventually(lambda: server.context.adapters.known[0].state == "memory")
            assert server.context.adapters.known[1].state == "loading"
        server.engine.die()
        await asyncio.sleep(0.01)
        server.engine.calls.clear()
        server.engine.start_again()
        await eventually(lambda: server.context.adapters.known[0].state == "memory")

    server.run(scene())
    assert [call.name for call in server.engine.calls] == ["good"]
    clock = registry.time.monotonic
    monkeypatch.setattr(registry.time, "monotonic", lambda: clock() + 10 * registry.RETRY)
    assert "was killed" in error_of(server.post(CHAT, {**HELLO, "model": "bad"}), 500)["message"]
    assert server.chat(model="good")
    server.engine.adapters = loaded
    load(server, "bad", pirate, load_inplace=True)
    assert server.chat(model="bad")


def test_a_load_whose_engine_dies_is_an_error_and_leaves_nothing(server, pirate):
    async def scene() -> Any:
        server.engine.adapters = lambda call: [asyncio.Event()]
        admin = asyncio.ensure_future(server.context.adapters.load("bird", pirate, in_place=False, pinned=False))
        await eventually(lambda: server.engine.calls)
        server.engine.die()
        return (await asyncio.gather(admin, return_exceptions=True))[0]

    assert isinstance(server.run(scene()), EngineFailed)
    assert server.context.adapters.known == []


def test_an_unload_whose_engine_dies_is_done(server, pirate):
    load(server, "bird", pirate)

    async def scene() -> None:
        server.engine.adapters = lambda call: [asyncio.Event()]
        admin = asyncio.ensure_future(server.context.adapters.unload("bird"))
        await eventually(lambda: isinstance(server.engine.calls[-1], m.UnloadAdapter))
        server.engine.die()
        await asyncio.wait_for(admin, 10)
        server.engine.start_again()
        await asyncio.sleep(0.01)

    server.run(scene())
    assert not any(isinstance(call, m.LoadAdapter) for call in server.engine.calls[1:])
    assert not server.context.adapters._leaving


@pytest.mark.parametrize(
    ("code", "kind"),
    [("model_not_found", ModelNotFound), ("invalid_value", RequestError), ("engine_failed", EngineFailed)],
)
def test_a_call_gives_the_reply_or_the_error_of_the_engine(server, code, kind):
    async def scene() -> tuple[Any, Any]:
        reply = await server.engine.call(m.LoadAdapter(id="1", name="a", path="p", pinned=True))
        server.engine.adapters = lambda call: [[m.Failed(id=call.id, code=code, message="no", param="path")]]
        with pytest.raises(kind, match="no") as raised:
            await server.engine.call(m.UnloadAdapter("2", "a"))
        server.engine.state = "restarting"
        with pytest.raises(EngineUnavailable):
            server.engine.call(m.UnloadAdapter("3", "a"))
        assert server.engine._calls == {}
        return reply, raised.value

    reply, error = server.run(scene())
    assert reply == m.AdapterLoaded("1", adapter_info("a", "p", pinned=True))
    assert error.param == "path"
    assert [call.id for call in server.engine.calls] == ["1", "2"]


def test_a_call_that_nobody_waits_for_any_more_harms_nobody(server):
    async def scene() -> None:
        server.engine.adapters = lambda call: [asyncio.Event()]
        reply = server.engine.call(m.UnloadAdapter("1", "a"))
        reply.cancel()
        await asyncio.sleep(0)
        server.engine.say(m.AdapterGone("1"), m.Failed(id="1", code="x", message="late"), m.AdapterGone("never asked"))
        waits = server.engine.call(m.UnloadAdapter("2", "a"))
        await server.engine.stop()
        with pytest.raises(EngineFailed, match="shutting down"):
            await waits

    server.engine.close = lambda: None
    server.run(scene())
