"""Adapters of a SmallServer: folders that look like some, and how they are loaded and asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fake_engine import Answer, frames
from small_server import END, VOCAB, SmallServer, error_of

from quire.engine import messages as m

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
HERE = {"host": "localhost"}
ADMIN = {"authorization": "Bearer open sesame"}


def make(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_text("")
    return folder


@contextmanager
def serving(**config: Any) -> Iterator[SmallServer]:
    server = SmallServer(**config)
    server.says("hello")
    try:
        yield server
    finally:
        server.close()


def load(server: SmallServer, name: str, path: str, status: int = 200, **more: Any) -> dict[str, Any]:
    response = server.post(LOAD, {"lora_name": name, "lora_path": path, **more}, headers=ADMIN)
    assert response.status_code == status, response.text
    return response.json() if status == 200 else error_of(response, status)


def unload(server: SmallServer, name: str, status: int = 200) -> dict[str, Any]:
    response = server.post(UNLOAD, {"lora_name": name}, headers=ADMIN)
    assert response.status_code == status, response.text
    return response.json() if status == 200 else error_of(response, status)


def named(server: SmallServer) -> dict[str, dict[str, Any]]:
    return {one["id"]: one for one in server.get("/v1/models").json()["data"]}


def refusing(error: m.Failed | str):
    """An engine that loads nothing."""

    def answer(call: m.LoadAdapter | m.UnloadAdapter):
        yield [m.Failed(id=call.id, code="invalid_value", message=str(error), param="path")]

    return answer


async def eventually(found: Any) -> None:
    for _ in range(5000):
        if found():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it never came")


def held_stream(server: SmallServer) -> asyncio.Event:
    """Answers that begin and end when the event is set."""
    gate = asyncio.Event()

    def script(request: m.Generate):
        yield [m.TokenDelta(id=request.id, index=0, tokens=[64])]
        yield gate
        yield from frames(request, [Answer((END,), True)], VOCAB)

    server.engine.script = script
    return gate
