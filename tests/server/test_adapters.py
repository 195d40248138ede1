"""Adapters over HTTP: loaded, named by requests, listed, counted and unloaded."""

from __future__ import annotations

import asyncio

import pytest
from adapters_over_http import (
    ADMIN,
    CHAT,
    COMPLETIONS,
    LOAD,
    UNLOAD,
    held_stream,
    load,
    make,
    named,
    refusing,
    serving,
    unload,
)
from fake_engine import adapter_info, loaded
from prometheus_client.parser import text_string_to_metric_families
from small_server import HELLO, MODEL, Caller, error_of, events

from quire.engine import messages as m

# ---------------------------------------------------------------- load and unload


def test_an_adapter_is_loaded_used_listed_and_unloaded(server, pirate):
    found = load(server, "pirate", pirate)
    assert found["id"] == "pirate"
    assert (found["parent"], found["root"]) == (MODEL, pirate)
    assert found["quire"] == {"key": f"key of {pirate}", "kind": "LORA", "rank": 8, "bytes": 1000, "state": "memory",
                              "pinned": False, "weight": 1.0, "error": None}  # fmt: skip
    assert found["max_model_len"] == 256
    assert named(server)["pirate"] == server.get("/v1/models/pirate").json() == found
    assert server.chat(model="pirate")["model"] == "pirate"
    assert server.engine.requests[-1].adapters == (m.Use("pirate", 1.0),)
    assert server.complete(model="pirate", prompt=["a", "b"])["model"] == "pirate"
    assert [r.adapters for r in server.engine.requests[-2:]] == [(m.Use("pirate"),)] * 2
    assert unload(server, "pirate") == {"id": "pirate", "object": "model", "deleted": True}
    assert list(named(server)) == [MODEL, "team/small"]
    error = error_of(server.post(CHAT, {**HELLO, "model": "pirate"}), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert [type(call) for call in server.engine.calls] == [m.LoadAdapter, m.UnloadAdapter]


def test_streams_carry_the_adapters_name(server, pirate):
    load(server, "pirate", pirate)
    chunks = events(server.post(CHAT, {**HELLO, "model": "pirate", "stream": True}))
    assert {chunk["model"] for chunk in chunks} == {"pirate"}


def test_the_weight_of_turns_is_that_of_the_name(server, pirate, parrot):
    assert load(server, "pirate", pirate, weight=4)["quire"]["weight"] == 4
    load(server, "bird", parrot)
    for model, weight in (("pirate", 4), ("bird", 1), (MODEL, 1)):
        server.chat(model=model)
        assert server.engine.requests[-1].weight == weight
    assert load(server, "pirate", pirate, load_inplace=True)["quire"]["weight"] == 1


def test_pinned_reaches_the_engine(server, pirate):
    assert load(server, "pirate", pirate, pinned=True)["quire"]["pinned"] is True
    assert server.engine.calls[-1].pinned is True


def test_states_are_the_engines_last_word(server, pirate):
    load(server, "pirate", pirate)
    server.engine.say(m.Adapters([adapter_info("pirate", pirate, state="device"), adapter_info("other", "x")]))
    assert named(server)["pirate"]["quire"]["state"] == "device"
    assert "other" not in named(server)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "lora_name"),
        ({"lora_name": "x"}, "lora_path"),
        ({"lora_name": "x", "lora_path": ""}, "lora_path"),
        ({"lora_name": "x", "lora_path": 5}, "lora_path"),
        ({"lora_name": "x", "lora_path": "/no/such/folder"}, "lora_path"),
        ({"lora_name": "x", "lora_path": "a\0b"}, "lora_path"),
        ({"lora_name": "x", "lora_path": "x" * 5000}, "lora_path"),
        ({"lora_name": "x", "lora_path": "owner/name"}, "lora_path"),
        ({"lora_name": 5, "lora_path": "/tmp"}, "lora_name"),
        ({"lora_name": "", "lora_path": "/tmp"}, "lora_name"),
        ({"lora_name": "..", "lora_path": "/tmp"}, "lora_name"),
        ({"lora_name": "a/../b", "lora_path": "/tmp"}, "lora_name"),
        ({"lora_name": "/a", "lora_path": "/tmp"}, "lora_name"),
        ({"lora_name": "a b", "lora_path": "/tmp"}, "lora_name"),
        ({"lora_name": "a\n", "lora_path": "/tmp"}, "lora_name"),
        ({"lora_name": "x" * 201, "lora_path": "/tmp"}, "lora_name"),
        ({"lora_name": MODEL, "lora_path": "/tmp"}, "lora_name"),
        ({"lora_name": "team/small", "lora_path": "/tmp", "load_inplace": True}, "lora_name"),
        ({"lora_name": "x", "lora_path": "/tmp", "load_inplace": "yes"}, "load_inplace"),
        ({"lora_name": "x", "lora_path": "/tmp", "pinned": 1}, "pinned"),
        ({"lora_name": "x", "lora_path": "/tmp", "weight": 0}, "weight"),
        ({"lora_name": "x", "lora_path": "/tmp", "base_model_name": "other"}, "base_model_name"),
        ({"lora_name": "x", "lora_path": "/tmp", "is_3d_lora_weight": True}, "is_3d_lora_weight"),
    ],
)
def test_a_load_that_cannot_be_names_its_field(server, body, param):
    error = error_of(server.post(LOAD, body, headers=ADMIN))
    assert error["param"] == param
    assert list(named(server)) == [MODEL, "team/small"]


@pytest.mark.parametrize(
    ("body", "param", "status"),
    [({}, "lora_name", 400), ({"lora_name": 5}, "lora_name", 400), ({"lora_name": "x"}, "lora_name", 404),
     ({"lora_name": MODEL}, "lora_name", 404), ({"lora_name": "x", "lora_int_id": 1}, "lora_int_id", 400)],
)  # fmt: skip
def test_an_unload_that_cannot_be_names_its_field(server, body, param, status):
    assert error_of(server.post(UNLOAD, body, headers=ADMIN), status)["param"] == param


def test_nulls_mean_left_out(server, pirate):
    load(server, "pirate", pirate, load_inplace=None, pinned=None, base_model_name=None)
    assert server.post(UNLOAD, {"lora_name": "pirate", "lora_int_id": None}, headers=ADMIN).status_code == 200


def test_a_base_that_is_served_may_be_named(server, pirate):
    assert load(server, "pirate", pirate, base_model_name="team/small")["parent"] == MODEL


def test_what_the_engine_refuses_is_a_400_with_its_reason_and_leaves_nothing(server, pirate):
    server.engine.adapters = refusing("tensor x has the shape [1]; expected [2]")
    error = load(server, "pirate", pirate, 400)
    assert error["param"] == "lora_path"
    assert "tensor x has the shape" in error["message"]
    assert list(named(server)) == [MODEL, "team/small"]
    error_of(server.post(CHAT, {**HELLO, "model": "pirate"}), 404)
    server.engine.adapters = loaded
    load(server, "pirate", pirate)


def test_a_taken_name_needs_load_inplace(server, pirate, parrot):
    load(server, "bird", pirate)
    error = load(server, "bird", parrot, 400)
    assert error["param"] == "lora_name"
    assert "load_inplace" in error["message"]
    assert named(server)["bird"]["root"] == pirate
    found = load(server, "bird", parrot, load_inplace=True, pinned=True)
    assert (found["root"], found["quire"]["key"], found["quire"]["pinned"]) == (parrot, f"key of {parrot}", True)
    assert load(server, "new", parrot, load_inplace=True)["id"] == "new"


def test_a_replacement_that_fails_leaves_what_was_there(server, pirate, parrot):
    before = load(server, "bird", pirate)
    assert load(server, "bird", "/no/such/folder", 400, load_inplace=True)["param"] == "lora_path"
    server.engine.adapters = refusing("wrong base")
    assert "wrong base" in load(server, "bird", parrot, 400, load_inplace=True)["message"]
    assert named(server)["bird"] == before
    assert server.chat(model="bird")["model"] == "bird"


# ---------------------------------------------------------------- what a request may name


def test_several_adapters_with_scales_and_a_merge(server, pirate, parrot):
    load(server, "pirate", pirate)
    load(server, "parrot", parrot)
    both = [{"name": "pirate", "scale": 0.5}, {"name": "parrot"}]
    for ask in (server.chat, server.complete):
        assert ask(adapters=both)["model"] == MODEL
        request = server.engine.requests[-1]
        assert request.adapters == (m.Use("pirate", 0.5), m.Use("parrot", 1.0))
        assert request.merge == m.Merge()
        assert ask(model="team/small", adapters=both)["model"] == "team/small"
        ask(adapters=both, merge={"kind": "ties", "density": 0.25, "majority_sign_method": "frequency"})
        assert server.engine.requests[-1].merge == m.Merge("ties", 0.25, "frequency")
        ask(adapters=both, merge={"kind": "dare_linear", "density": 1})
        assert server.engine.requests[-1].merge == m.Merge("dare_linear", 1.0)
        ask(adapters=[], merge=None)
        assert server.engine.requests[-1].adapters == ()
        ask(adapters=[{"name": "pirate", "scale": -100}, {"name": "parrot", "scale": None}])
        assert server.engine.requests[-1].adapters == (m.Use("pirate", -100.0), m.Use("parrot", 1.0))


@pytest.mark.parametrize(
    ("fields", "param", "status"),
    [
        ({"adapters": [{"name": "pirate"}], "model": "pirate"}, "adapters", 400),
        ({"adapters": [{"name": "pirate"}], "model": "nobody"}, "model", 404),
        ({"adapters": [{"name": "pirate"}, {"name": "nobody"}]}, "adapters[1].name", 404),
        ({"adapters": [{"name": "pirate"}, {"name": "../pirate"}]}, "adapters[1].name", 404),
        ({"adapters": [{"name": "pirate"}, {"name": "pirate", "scale": 0.5}]}, "adapters[1].name", 400),
        ({"adapters": [{"name": MODEL}]}, "adapters[0].name", 400),
        ({"adapters": [{"name": "pirate"}] * 9}, "adapters", 400),
        ({"adapters": [{"name": "pirate", "scale": 101}]}, "adapters[0].scale", 400),
        ({"adapters": [{"name": "pirate", "weight": 1}]}, "adapters[0].weight", 400),
        ({"adapters": [{"scale": 1}]}, "adapters[0].name", 400),
        ({"merge": {"kind": "ties"}}, "merge", 400),
        ({"merge": {"kind": "ties"}, "model": "pirate"}, "merge", 400),
        ({"adapters": [{"name": "pirate"}], "merge": {"density": 0.5}}, "merge", 400),
        ({"adapters": [{"name": "pirate"}], "merge": {"merge_strategy": "ties"}}, "merge.merge_strategy", 400),
        ({"adapters": [{"name": "pirate"}], "merge": {"kind": "dare_linear", "majority_sign_method": "total"}},
         "merge", 400),
        ({"model": "nobody"}, "model", 404),
        ({"model": "../pirate"}, "model", 404),
        ({"adapter_id": "pirate"}, "adapter_id", 400),
        ({"merged_adapters": {"ids": ["pirate"]}}, "merged_adapters", 400),
        ({"lora": [{"id": 0, "scale": 1}]}, "lora", 400),
    ],
)  # fmt: skip
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_what_cannot_be_named_is_refused_by_its_field(server, pirate, path, fields, param, status):
    load(server, "pirate", pirate)
    body = {**HELLO, **fields} if path == CHAT else {"model": MODEL, "prompt": "x", **fields}
    error = error_of(server.post(path, body), status)
    assert error["param"] == param
    assert param in error["message"]
    assert server.engine.requests == []


def test_the_404_says_what_there_is_and_not_too_much(server, pirate):
    for i in range(30):
        load(server, f"adapter-{i}", pirate)
    message = error_of(server.get("/v1/models/nobody"), 404)["message"]
    assert MODEL in message
    assert "adapter-3" in message
    assert "adapter-29" not in message
    assert "and 12 more" in message
    assert len(error_of(server.post(CHAT, {**HELLO, "model": "x" * 100_000}), 404)["message"]) < 1000


@pytest.mark.parametrize(
    ("path", "body"),
    [("/tokenize", {"prompt": "hello"}), ("/detokenize", {"tokens": [64]}), ("/parse", {"text": "hello"})],
)
def test_the_small_routes_take_an_adapters_name_and_load_nothing(server, shelf, pirate, path, body):
    load(server, "pirate", pirate)
    assert server.post(path, {**body, "model": "pirate"}).status_code == 200
    error_of(server.post(path, {**body, "model": "a"}), 404)
    with serving(lora_dir=str(shelf)) as other:
        assert other.post(path, {**body, "model": "a"}).status_code == 200
        assert other.engine.calls == []


def test_a_dry_run_shows_the_adapters_and_loads_none(shelf):
    with serving(lora_dir=str(shelf)) as server:
        asked = {"adapters": [{"name": "a", "scale": 0.5}, {"name": "b"}], "merge": {"kind": "ties", "density": 0.5}}
        found = server.chat(dry_run=True, **asked)
        assert found["model"] == MODEL
        assert found["adapters"] == [{"name": "a", "scale": 0.5}, {"name": "b", "scale": 1.0}]
        assert found["merge"] == {"kind": "ties", "density": 0.5, "majority_sign_method": "total"}
        assert server.chat(dry_run=True, model="a")["adapters"] == [{"name": "a", "scale": 1.0}]
        assert server.chat(dry_run=True)["merge"] is None
        error_of(server.post(CHAT, {**HELLO, "model": "c", "dry_run": True}), 404)
        assert server.engine.sent == []


# ---------------------------------------------------------------- metrics


def test_metrics_by_adapter_are_those_of_what_happened_and_go_with_the_name(server, pirate):
    found = server.metrics()
    assert found["quire:lora_adapters"] == 0
    assert not any("adapter=" in name for name in found)
    load(server, "bird", pirate)
    server.says("hello world")  # 4 tokens and the end
    prompt = server.chat(model="bird")["usage"]["prompt_tokens"]
    server.post(CHAT, {**HELLO, "adapters": [{"name": "bird"}], "stream": True})
    server.complete(model="bird", prompt=["a", "b"])
    error_of(server.post(CHAT, {**HELLO, "model": "no-such-adapter"}), 404)
    found = server.metrics()
    own = '{adapter="bird"}'
    assert found["quire:lora_adapters"] == 1
    assert found[f"quire:lora_requests_total{own}"] == 3
    assert found[f"quire:lora_requests_running{own}"] == 0
    assert found[f"quire:lora_prompt_tokens_total{own}"] == 2 * prompt + 2
    per_answer = len(server.ids("hello world")) + 1
    assert found[f"quire:lora_generation_tokens_total{own}"] == 4 * per_answer
    assert found[f"quire:lora_load_seconds{own}"] >= 0
    assert found['quire:lora_state{adapter="bird",state="memory"}'] == 1
    assert not any("no-such-adapter" in name for name in found)
    unload(server, "bird")
    assert not any("adapter=" in name for name in server.metrics())


def test_the_text_is_what_prometheus_reads_whatever_the_name(shelf):
    make(shelf / "ünïcode:x@y+z")
    with serving(lora_dir=str(shelf)) as server:
        server.chat(model="ünïcode:x@y+z")
        families = list(text_string_to_metric_families(server.get("/metrics").text))
        labels = {s.labels["adapter"] for f in families for s in f.samples if "adapter" in s.labels}
        assert labels == {"ünïcode:x@y+z"}


def test_a_running_request_is_counted_while_it_runs(server, pirate):
    load(server, "bird", pirate)

    async def scene() -> tuple[str, str]:
        gate = held_stream(server)
        running = Caller(server.app, CHAT, {**HELLO, "model": "bird", "stream": True})
        await running.until("content")
        during = server.context.metrics.text().decode()
        gate.set()
        await asyncio.wait_for(running.task, 10)
        return during, server.context.metrics.text().decode()

    during, after = server.run(scene())
    assert 'quire:lora_requests_running{adapter="bird"} 1.0' in during
    assert 'quire:lora_requests_running{adapter="bird"} 0.0' in after
