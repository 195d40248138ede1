"""`quire serve`: find the model, spawn the engine, listen, announce, and end well."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import pocket
from ..engine.client import EngineClient
from ..engine.config import EngineConfig
from ..engine.errors import ConfigError, ModelError, QuireError
from .config import ServerConfig
from .flags import ENGINE, SERVER, resolve, template_text

if TYPE_CHECKING:
    from .adapters import Adapters

# Seconds that an idle connection stays open: longer than proxies and clients keep theirs (mostly 60), for who ends it
# while a request is on its way breaks that request.
KEEP_ALIVE = 75
MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
NOT_MODEL = ["consolidated*", "*/*.safetensors"]  # the same weights once more, in other forms


def serve(given: Mapping[str, Any], environ: Mapping[str, str]) -> int:
    """Serve until told to stop; returns the exit status. Raises QuireError for what cannot be started."""
    server_flags = resolve(SERVER, given, environ)
    engine_flags = resolve(ENGINE, given, environ)
    wanted = given.get("model") or environ.get("QUIRE_MODEL")
    folder = find_model(wanted, environ) if wanted else embedded()
    template = template_text(server_flags.pop("chat_template"))
    names = server_flags.pop("served_model_names") or (name_of(wanted),)
    config = ServerConfig(**server_flags, served_model_names=names, model_path=str(folder))
    engine = EngineClient(EngineConfig(model=str(folder), **engine_flags))
    listener = listen(config.host, config.port)
    engine.spawn()  # it imports torch and reads the weights while this process imports and reads its own things
    try:
        from .app import create_app
        from .check_template import summary
        from .prompt import Renderer
        from .tokenizer import Tokenizer

        tokenizer = Tokenizer.load(folder)
        renderer = Renderer(tokenizer, template)
        app = create_app(config, engine, tokenizer, renderer)
        chat = bool(template or tokenizer.chat_template)
        told = summary(renderer, tokenizer, app.state.quire.dialects.for_request(tools=True)) if chat else ""
        asyncio.run(_run(app, config, engine, listener, chat, told))
        return 0
    finally:
        engine.close()
        listener.close()


def embedded() -> Path:
    """The folder of pocket, the model in the package. Raises ModelError where a file of it is damaged."""
    pocket.verify(pocket.FOLDER)
    return pocket.FOLDER


def name_of(wanted: str | None) -> str:
    """What clients call a model: a folder by its last part, a GGUF file without its ending, a hub name as it is."""
    if not wanted:
        return "pocket"
    folder = Path(wanted).expanduser()
    if not folder.exists():
        return wanted
    return folder.resolve().name if folder.is_dir() else folder.stem


def find_model(wanted: str, environ: Mapping[str, str] | None = None) -> Path:
    """The folder of a model: itself, a hub name's download, or what is written of a GGUF file into the user's cache,
    whose place `environ` may name. Neither folder nor file touches the network."""
    folder = Path(wanted).expanduser()
    try:
        if folder.is_dir():
            names = os.listdir(folder)
            if "config.json" in names:
                return folder.resolve()
            found = sorted(name for name in names if name.endswith(".gguf"))
            if not found:
                raise ModelError(f"{folder}: no config.json; expected a Hugging Face model folder, or a GGUF file")
            if len(found) > 1:
                raise ModelError(f"{folder}: has {len(found)} .gguf files; expected one of them to be named")
            return _unpacked(folder / found[0], environ)
        if folder.suffix == ".gguf" and folder.exists():
            return _unpacked(folder, environ)
        if folder.exists():
            raise ModelError(
                f"{folder} is a file; expected a model folder (with config.json and *.safetensors) or a .gguf file"
            )
    except OSError as error:
        raise ModelError(f"{folder}: cannot be read ({error.strerror}); expected a model folder") from None
    if wanted.count("/") != 1 or wanted.startswith((".", "/", "~")):
        raise ModelError(f"{wanted}: no such folder, and not a hub name (owner/model)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    print(f"quire: looking for {wanted} on the hub", file=sys.stderr, flush=True)
    try:
        return Path(snapshot_download(wanted, allow_patterns=MODEL_FILES, ignore_patterns=NOT_MODEL))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(f"{wanted}: no such folder here, and the hub did not give it: {error}") from None


def _unpacked(file: Path, environ: Mapping[str, str] | None) -> Path:
    from .gguf import folder_of

    return folder_of(file, environ or {})


def listen(host: str, port: int) -> socket.socket:
    """Bind before anything expensive starts, so that a taken port is an error at once."""
    if not 0 <= port <= 65535:
        raise ConfigError("--port", f"is {port}", "0 to 65535")
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError("--host/--port", f"{host}:{port} cannot be used ({reason})", "a free address") from None
    return listener


async def _run(
    app: Any, config: ServerConfig, engine: EngineClient, listener: socket.socket, chat: bool, template: str
) -> None:
    """Listen at once, announce when the model is there, and leave when told, letting open streams finish. Raises
    QuireError where the model or an adapter of --lora-modules cannot be loaded."""
    import uvicorn

    from .banner import ready_block

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield  # signals are handled below: the listener stays open while streams finish

    server = Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=5,
            timeout_keep_alive=KEEP_ALIVE,
        )
    )
    leaving = asyncio.Event()

    def leave() -> None:
        if leaving.is_set():  # asked twice: at once
            server.force_exit = server.should_exit = True
        leaving.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, leave)

    await engine.start()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    loading = asyncio.create_task(_come_up(engine, app.state.quire.adapters))
    asked = asyncio.create_task(leaving.wait())
    await asyncio.wait({loading, asked, serving}, return_when=asyncio.FIRST_COMPLETED)
    failure = loading.result() if loading.done() else None
    loading.cancel()
    if failure is None and engine.info is not None and not leaving.is_set():
        gc.collect()
        gc.freeze()  # what is loaded stays: to look through it takes 35 ms, in which no stream gets a token
        url = url_of(listener, config.host)
        print(ready_block(engine.info, config, url=url, chat=chat, template=template), flush=True)
        await asyncio.wait({asked, serving}, return_when=asyncio.FIRST_COMPLETED)
    app.state.quire.draining = True
    await engine.stop(0 if server.force_exit else config.drain_timeout)
    server.should_exit = True
    await serving
    asked.cancel()
    if failure is not None:
        raise failure


async def _come_up(engine: EngineClient, adapters: Adapters) -> QuireError | None:
    """Show the load, then wait for the adapters of --lora-modules. What cannot be loaded, if anything."""
    from .banner import follow_load

    await follow_load(engine)
    if engine.state != "ready":
        return engine.error
    try:
        await adapters.loaded()
    except QuireError as error:
        return error
    return None


def url_of(listener: socket.socket, host: str) -> str:
    """Where the listener can be reached from this machine."""
    port = listener.getsockname()[1]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}"
