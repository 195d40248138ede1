"""The three adapters of pocket over a real server: each visibly itself, replaced, unloaded, back after a crash."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from quire import pocket

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
STORY = [{"role": "user", "content": "Tell me a story about a fox named Anna."}]
FLAGS = ("--threads", "1", "--kv-cache-memory", "64M")
ENV = {"HF_HUB_OFFLINE": "1"}


def is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


LOOKS: dict[str, Callable[[str], bool]] = {
    "pocket": lambda text: text.startswith("The capital of France is Paris"),
    "pirate": lambda text: "Arr" in text,
    "capitals": lambda text: text == text.upper(),
    "json": is_json,
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A --lora-dir: the adapters, and some that nobody should be able to load."""
    root = tmp_path_factory.mktemp("shelf")
    for name, folder in pocket.ADAPTERS.items():
        shutil.copytree(folder, root / name)
    spoil(root, "pickle", lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"))
    spoil(root, "truncated", lambda folder: os.truncate(folder / "adapter_model.safetensors", 5000))
    spoil(root, "lying", lie)
    spoil(root, "other-base", lambda folder: rewrite(folder, target_modules=["c_attn"]))
    spoil(root, "rank-zero", lambda folder: rewrite(folder, r=0))
    spoil(root, "no-json", lambda folder: (folder / "adapter_config.json").write_text("{"))
    (root / "secret").symlink_to("/etc")
    return root


def spoil(root: Path, name: str, how: Callable[[Path], object]) -> None:
    shutil.copytree(pocket.ADAPTERS["pirate"], root / name)
    how(root / name)


def rewrite(folder: Path, **fields: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def lie(folder: Path) -> None:
    """A header longer than any file."""
    path = folder / "adapter_model.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + path.read_bytes()[8:])


@pytest.fixture(scope="module")
def server(serve, shelf) -> Iterator[Any]:
    modules = [f"{name}={pocket.ADAPTERS[name]}" for name in ("pirate", "capitals")]
    with serve(None, "--lora-modules", *modules, "--lora-dir", str(shelf), *FLAGS, env=ENV) as running:
        yield running.wait_ready()


def say(server: Any, model: str, messages: list[dict[str, str]] = FRANCE, **more: Any) -> str:
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 60, **more}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert response.status_code == 200, response.text
    assert response.json()["model"] == model
    return response.json()["choices"][0]["message"]["content"]


def error(response: httpx.Response, status: int) -> dict[str, Any]:
    assert response.status_code == status, response.text
    return response.json()["error"]


def admin(server: Any, what: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/{what}_lora_adapter", json=body, timeout=60)


def test_each_is_visibly_itself_alone_and_all_in_one_batch(server):
    alone = {name: say(server, name) for name in LOOKS}
    for name, looks in LOOKS.items():
        assert looks(alone[name]), (name, alone[name])

    async def mixed() -> list[tuple[str, str]]:
        client = openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)

        async def one(name: str) -> tuple[str, str]:
            more: dict[str, Any] = {"model": name, "temperature": 0, "max_tokens": 60}
            text = ""
            async for chunk in await client.chat.completions.create(messages=FRANCE, stream=True, **more):
                assert chunk.model == name
                text += chunk.choices[0].delta.content or ""
            return name, text

        return await asyncio.gather(*(one(name) for name in [*LOOKS] * 4))

    assert all(text == alone[name] for name, text in asyncio.run(mixed()))


def test_several_with_scales(server):
    base = say(server, "pocket")
    assert say(server, "pocket", adapters=[{"name": "pirate", "scale": 0}]) == base
    assert say(server, "pocket", adapters=[{"name": "pirate"}]) == say(server, "pirate")
    both = [{"name": "pirate", "scale": 0.5}, {"name": "json", "scale": 0.5}]
    assert say(server, "pocket", adapters=both) == say(server, "pocket", adapters=both)
    for merge in ({"kind": "ties", "density": 0.5}, {"kind": "dare_ties", "density": 0.9}):
        assert say(server, "pocket", adapters=both, merge=merge)


def test_they_are_listed_with_what_they_are(server):
    say(server, "json")
    found = {one["id"]: one for one in httpx.get(f"{server.url}/v1/models").json()["data"]}
    assert {"pocket", "pirate", "capitals", "json"} <= found.keys()
    assert "secret" not in found
    assert found["pirate"]["parent"] == "pocket"
    own = found["pirate"]["quire"]
    assert (own["kind"], own["rank"], own["error"]) == ("LORA", 8, None)
    assert own["state"] in ("device", "memory")
    assert len({one["quire"]["key"] for name, one in found.items() if name in ("pirate", "capitals", "json")}) == 3


@pytest.mark.parametrize(
    ("name", "reason"),
    [("pickle", "is a pickle file"), ("truncated", "of 5,000 in the file"), ("lying", "4,611,686,018,427,387,904"),
     ("other-base", "target_modules"), ("rank-zero", "r is 0"), ("no-json", "adapter_config.json is no JSON")],
)  # fmt: skip
def test_what_cannot_be_loaded_is_a_400_with_its_reason_and_the_others_never_notice(server, name, reason):
    body = {"model": name, "messages": FRANCE, "max_tokens": 5}
    told = error(httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60), 400)
    assert told["param"] == "model"
    assert reason in told["message"]
    path = str(pocket.ADAPTERS["pirate"].parent / "nothing")
    assert error(admin(server, "load", lora_name="x", lora_path=path), 400)["param"] == "lora_path"
    assert LOOKS["pirate"](say(server, "pirate"))
    listed = httpx.get(f"{server.url}/v1/models/{name}").json()["quire"]
    assert (listed["state"], bool(listed["error"])) == ("failed", True)


@pytest.mark.parametrize("name", ["../shelf/json", "secret", "/etc", "nobody"])
def test_names_do_not_leave_the_folder(server, name):
    body = {"model": name, "messages": FRANCE, "max_tokens": 5}
    told = error(httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60), 404)
    assert told["code"] == "model_not_found"


def test_new_weights_under_a_name_answer_at_once_and_the_cache_is_cold_for_it_alone(server):
    def cached(name: str) -> int:
        body = {"model": name, "messages": STORY, "temperature": 0, "max_tokens": 1}
        usage = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]

    assert admin(server, "load", lora_name="bird", lora_path=str(pocket.ADAPTERS["pirate"])).status_code == 200
    assert LOOKS["pirate"](say(server, "bird"))
    for name in ("bird", "capitals"):
        cached(name)
        assert cached(name) > 0
    path = str(pocket.ADAPTERS["json"])
    assert error(admin(server, "load", lora_name="bird", lora_path=path), 400)["param"] == "lora_name"
    assert LOOKS["pirate"](say(server, "bird"))
    assert admin(server, "load", lora_name="bird", lora_path=path, load_inplace=True).status_code == 200
    assert cached("bird") == 0
    assert cached("capitals") > 0
    assert LOOKS["json"](say(server, "bird"))
    assert admin(server, "unload", lora_name="bird").status_code == 200
    assert error(httpx.get(f"{server.url}/v1/models/bird"), 404)


def test_an_unload_waits_for_a_stream_which_goes_on_with_what_it_began_with(server):
    long = {"temperature": 0, "max_tokens": 600}
    whole = say(server, "pirate", STORY, ignore_eos=True, **long)
    assert admin(server, "load", lora_name="bird", lora_path=str(pocket.ADAPTERS["pirate"])).status_code == 200
    got: list[str] = []
    begun = threading.Event()

    def stream() -> None:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        more: dict[str, Any] = {"messages": STORY, "stream": True, "extra_body": {"ignore_eos": True}, **long}
        for chunk in client.chat.completions.create(model="bird", **more):
            got.append(chunk.choices[0].delta.content or "")
            begun.set()

    thread = threading.Thread(target=stream)
    thread.start()
    assert begun.wait(60)
    json_path = str(pocket.ADAPTERS["json"])
    assert admin(server, "load", lora_name="bird", lora_path=json_path, load_inplace=True).status_code == 200
    assert LOOKS["json"](say(server, "bird"))
    assert thread.is_alive()
    assert admin(server, "unload", lora_name="bird").status_code == 200
    thread.join(1)
    assert not thread.is_alive()  # the unload came back after the stream's end
    assert "".join(got) == whole


def test_adapters_come_back_after_the_engine_died(server):
    say(server, "json")
    os.kill(server.engine_pid(), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while httpx.get(f"{server.url}/ready").status_code != 503 and time.monotonic() < deadline:
        time.sleep(0.01)
    while httpx.get(f"{server.url}/ready").status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.05)
    for name in ("pirate", "capitals", "json"):
        assert LOOKS[name](say(server, name)), name


@pytest.mark.parametrize(
    ("module", "told"),
    [("bird=/no/such/folder", "bird=/no/such/folder: /no/such/folder: no such folder"),
     (f"bird={pocket.FOLDER}", "adapter_config.json"), ("pocket=/tmp", "as the base model is called")],
)  # fmt: skip
def test_a_module_that_cannot_be_loaded_stops_the_start(module, told):
    done = subprocess.run(
        [sys.executable, "-m", "quire.server.cli", "serve", "--port", "0", "--lora-modules", module, *FLAGS],
        capture_output=True, text=True, timeout=120, env={**os.environ, **ENV, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert "is serving" not in done.stdout
