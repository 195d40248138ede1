"""The adapters that requests may name: what each name means, who runs under it, and what the engine has been told.

The engine keeps names too; this registry is what it is told them from, at the start, at run time, on first use, and
again after a restart. Requests hold the adapters they run with, so that one is forgotten only when nobody does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
import uuid
from collections import OrderedDict
from collections.abc import Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..engine.client import EngineClient
from ..engine.errors import ConfigError, EngineFailed, ModelNotFound, QuireError, RequestError
from ..engine.messages import AdapterInfo, AdapterLoaded, LoadAdapter, UnloadAdapter
from .adapter_files import LONGEST_NAME, folder_of, found_in, in_thread, is_hub_name, is_name, names_in
from .config import ServerConfig
from .stream import Usage

log = logging.getLogger("quire")

RETRY = 10.0  # seconds after which one that failed is tried again
PENALTY = 600.0  # the same, where the engine died of it
MAX_DEATHS = 2  # engines that died while they loaded one; it is then loaded again only when an operator says so
KEPT_FAILURES = 256  # of first uses
FETCHES = 2  # downloads at a time
SHOWN = 20  # names in an error


@dataclass(slots=True, eq=False)
class Adapter:
    """One name. The registry alone changes it."""

    name: str
    source: str  # the folder or hub name that was asked for
    folder: str = ""  # where it is read from; "": not known yet
    pinned: bool = False
    weight: float = 1.0  # of its turns
    found: bool = False  # by a request, on first use
    kept: bool = False  # it stays listed where it cannot be loaded
    created: int = field(default_factory=lambda: int(time.time()))
    info: AdapterInfo | None = None  # the engine's last word
    error: QuireError | None = None  # why it cannot be used
    failed_at: float = 0.0  # monotonic
    deaths: int = 0  # of engines, while they loaded it
    loading: asyncio.Task[None] | None = None
    load_seconds: float = 0.0
    running: int = 0  # requests
    requests: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # of whoever replaces it

    @property
    def state(self) -> str:
        """device | memory | disk | loading | failed"""
        if self.loading is not None and not self.loading.done():
            return "loading"
        if self.error is not None:
            return "failed"
        if self.info is None:
            return "disk" if self.found and self.loading is None else "loading"
        return self.info.state

    @contextlib.contextmanager
    def held(self, usage: Usage) -> Iterator[None]:
        """A request runs under it; what the request used is counted at its end."""
        self.running += 1
        self.requests += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.running -= 1
            self.prompt_tokens += usage.prompt_tokens
            self.generated_tokens += usage.completion_tokens
            if not self.running:
                self.idle.set()

    async def settled(self) -> None:
        """Wait until it is loaded or has failed. Who stops waiting stops no load."""
        while self.loading is not None and not self.loading.done():
            await asyncio.wait({self.loading})


class Adapters:
    """Names -> adapters. All methods belong to the engine client's event loop."""

    def __init__(self, engine: EngineClient, config: ServerConfig):
        """Raises ConfigError for --lora-modules or a --lora-dir that cannot be."""
        self._engine = engine
        self._served = config.served_model_names
        self._hub = config.lora_hub
        self._dir = _directory(config.lora_dir)
        self._known: dict[str, Adapter] = {}
        self._leaving: dict[str, Adapter] = {}  # forgotten; requests still run under them
        self._missed: OrderedDict[str, tuple[float, QuireError]] = OrderedDict()  # first uses: until when, and why
        self._blamed = -1  # the last restart that an adapter was blamed for
        self._fetching = asyncio.Semaphore(FETCHES)
        self._tasks: set[asyncio.Task[None]] = set()
        for module in config.lora_modules:
            self._check_module(module.name, module.base_model_name)
            self._known[module.name] = Adapter(module.name, module.path, weight=module.weight, kept=True)
        engine.on_ready = self._load_all
        engine.on_adapters = self._told

    # ------------------------------------------------------------ what is there

    @property
    def known(self) -> list[Adapter]:
        """Those that have been loaded, or are to be."""
        return list(self._known.values())

    async def find(self, name: str) -> Adapter | None:
        """The adapter of a name, as it is; loads nothing. One that lies on the disk is given as it would begin."""
        if adapter := self._known.get(name):
            return adapter
        if name in self._leaving or name in self._served:
            return None
        folder = await asyncio.to_thread(found_in, self._dir, name) if self._dir else None
        return self._known.get(name) or (self._on_disk(name, str(folder)) if folder else None)

    async def all(self) -> list[Adapter]:
        """Those that are known and those that lie in --lora-dir."""
        names = await asyncio.to_thread(names_in, self._dir) if self._dir else []
        taken = {*self._known, *self._leaving, *self._served}
        found = [self._on_disk(name, str(self._dir / name)) for name in names if name not in taken] if self._dir else []
        return [*self._known.values(), *found]

    def _on_disk(self, name: str, folder: str) -> Adapter:
        adapter = Adapter(name, folder, folder, found=True)
        adapter.error = self._missed_lately(name)
        return adapter

    def unknown(self, name: str, param: str = "model") -> ModelNotFound:
        """The 404, which says what there is."""
        names = [*self._served, *self._known]
        more = f" and {len(names) - SHOWN} more (GET /v1/models)" if len(names) > SHOWN else ""
        there = ", ".join(names[:SHOWN])
        what = "the model" if param == "model" else f"{param}: the adapter"
        return ModelNotFound(f"{what} {name!r:.300} is not served here; there is: {there}{more}", param=param)

    # ------------------------------------------------------------ requests

    async def take(self, name: str, held: contextlib.ExitStack, usage: Usage, param: str) -> Adapter:
        """Hold an adapter for a request and wait until it can be used. param: the field that names it. Raises
        QuireError: it is not known, or cannot be loaded."""
        adapter = self._known.get(name) or await self._first_use(name, param)
        held.enter_context(adapter.held(usage))
        await adapter.settled()
        retry = adapter.deaths < MAX_DEATHS and time.monotonic() > adapter.failed_at + RETRY
        if retry and adapter.state == "failed":
            self._begin(adapter)
            await adapter.settled()
        if adapter.error:
            raise _told_again(adapter.error, f"the adapter {name!r} cannot be used: ", param)
        return adapter

    async def _first_use(self, name: str, param: str) -> Adapter:
        if name in self._leaving or name in self._served or not is_name(name):
            raise self.unknown(name, param)
        if error := self._missed_lately(name):
            raise _told_again(error, f"the adapter {name!r} cannot be used: ", param)
        folder = await asyncio.to_thread(found_in, self._dir, name) if self._dir else None
        if found := self._known.get(name):  # by another request, meanwhile
            return found
        if name in self._leaving or not (folder or (self._hub and is_hub_name(name))):
            raise self.unknown(name, param)
        adapter = Adapter(name, str(folder or name), str(folder or ""), found=True)
        self._known[name] = adapter
        self._begin(adapter)
        return adapter

    def _missed_lately(self, name: str) -> QuireError | None:
        until, error = self._missed.get(name, (0.0, None))
        return error if time.monotonic() < until else None

    # ------------------------------------------------------------ operators

    async def load(self, name: str, path: str, *, in_place: bool, pinned: bool, weight: float = 1.0) -> Adapter:
        """Make `name` mean what lies at `path`; returns when it can be used. Raises QuireError; a name that was known
        then means what it did. A caller that is cancelled stops nothing."""
        if not is_name(name):
            raise RequestError(
                f"lora_name is {name!r:.300}; expected at most {LONGEST_NAME} letters, digits and _ . : @ + - in parts "
                "between slashes",
                param="lora_name",
            )
        if name in self._served:
            raise RequestError(f"lora_name: {name!r} is the name of the base model", param="lora_name")
        if leaving := self._leaving.get(name):
            raise RequestError(
                f"lora_name: {name!r} is being unloaded; {leaving.running} of its requests still run", param="lora_name"
            )
        adapter = self._known.get(name)
        if adapter is None:
            adapter = self._known[name] = Adapter(name, path, pinned=pinned, weight=weight)
            self._begin(adapter)
            await adapter.settled()
            if adapter.error:
                raise _told_again(adapter.error, "", "lora_path")
        elif in_place:
            await asyncio.shield(self._task(self._replace(adapter, path, pinned, weight)))
        else:
            how = "could not be loaded" if adapter.state == "failed" else f"is taken ({adapter.source})"
            raise RequestError(f"lora_name: {name!r} {how}; load_inplace: true replaces it", param="lora_name")
        return adapter

    async def unload(self, name: str) -> None:
        """Forget a name at once; returns when the requests that run under it have ended and the engine has forgotten
        it too. Raises ModelNotFound. A caller that is cancelled stops nothing."""
        adapter = self._known.pop(name, None)
        if adapter is None:
            raise self.unknown(name, "lora_name")
        self._leaving[name] = adapter
        await asyncio.shield(self._task(self._forget(adapter)))

    async def loaded(self) -> None:
        """Wait until all that are known are loaded. Raises QuireError, saying which one is not."""
        for adapter in self.known:
            await adapter.settled()
            if adapter.error:
                raise _told_again(adapter.error, f"--lora-modules {adapter.name}={adapter.source}: ", None)

    async def _replace(self, adapter: Adapter, path: str, pinned: bool, weight: float) -> None:
        async with adapter.lock:
            try:
                folder = await self._folder(path)  # requests go on with what is there
            except QuireError as error:
                raise _told_again(error, "", "lora_path") from None
            await adapter.settled()
            if self._known.get(adapter.name) is not adapter:
                raise RequestError(
                    f"lora_name: {adapter.name!r} went meanwhile: it was unloaded, or failed to load", param="lora_name"
                )
            began = time.perf_counter()
            reply = self._engine.call(_message(adapter.name, folder, pinned))

            async def swap() -> None:
                self._now(adapter, await reply, began)
                adapter.source, adapter.folder, adapter.pinned = path, folder, pinned
                adapter.found, adapter.kept, adapter.weight = False, True, weight

            adapter.loading = self._task(swap())  # whoever comes now waits for the new one
            try:
                await adapter.loading
            except QuireError as error:
                raise _told_again(error, "", "lora_path") from None

    async def _forget(self, adapter: Adapter) -> None:
        await adapter.settled()
        while adapter.running:
            await adapter.idle.wait()
        try:
            if self._engine.state == "ready":
                await self._engine.call(UnloadAdapter(_id(), adapter.name))
        except ModelNotFound:
            pass  # it never came to be loaded
        except QuireError:
            if self._engine.state == "ready":
                raise
        finally:  # an engine that died has forgotten it, and its successor is not told of it
            del self._leaving[adapter.name]

    # ------------------------------------------------------------ loading

    def _load_all(self) -> None:
        """A new engine knows nothing. It is told before any request can reach it."""
        for adapter in self.known:
            if (adapter.loading is None or adapter.loading.done()) and adapter.deaths < MAX_DEATHS:
                self._begin(adapter)

    def _begin(self, adapter: Adapter) -> None:
        """Load what it is to mean, from here on. Where the folder is known the engine has heard of it on return."""
        began = time.perf_counter()
        reply = None
        if adapter.folder and self._engine.state == "ready":
            reply = self._engine.call(_message(adapter.name, adapter.folder, adapter.pinned))
        adapter.loading = self._task(self._load(adapter, reply, began))

    async def _load(self, adapter: Adapter, reply: asyncio.Future[AdapterLoaded] | None, began: float) -> None:
        try:
            if reply is None:
                adapter.folder = adapter.folder or await self._folder(adapter.source)
                await self._engine.wait_ready()
                reply = self._engine.call(_message(adapter.name, adapter.folder, adapter.pinned))
            loaded = await reply
            if adapter.info is not None and loaded.info.key != adapter.info.key:
                adapter.kept = True  # or it would be found anew, as something else
                raise EngineFailed("its folder has changed since it was loaded; load_inplace: true takes what is there")
            self._now(adapter, loaded, began)
            adapter.kept = adapter.kept or not adapter.found
        except QuireError as error:
            if adapter.info is not None and isinstance(error, RequestError):  # no fault of who names it
                error = EngineFailed(error.message)
            self._failed(adapter, error)
        except Exception as error:
            log.exception("loading the adapter %s failed", adapter.name)
            self._failed(adapter, EngineFailed(f"{type(error).__name__}; the server's log says more"))

    def _now(self, adapter: Adapter, loaded: AdapterLoaded, began: float) -> None:
        adapter.info, adapter.error, adapter.deaths = loaded.info, None, 0
        adapter.load_seconds = time.perf_counter() - began
        adapter.created = int(time.time())

    def _failed(self, adapter: Adapter, error: QuireError) -> None:
        log.warning("the adapter %s (%s) cannot be used: %s", adapter.name, adapter.source, error.message)
        adapter.error, adapter.failed_at = error, time.monotonic()
        pause = RETRY
        died = isinstance(error, EngineFailed) and self._engine.state != "ready"
        if died and self._blamed != self._engine.restarts:  # of several, the one that was being loaded comes first
            self._blamed = self._engine.restarts
            adapter.deaths += 1
            pause = PENALTY
        if adapter.kept or self._known.get(adapter.name) is not adapter:
            return
        del self._known[adapter.name]
        if adapter.found:
            self._missed[adapter.name] = adapter.failed_at + pause, error
            if len(self._missed) > KEPT_FAILURES:
                self._missed.popitem(last=False)

    def _told(self, infos: Iterable[AdapterInfo]) -> None:
        """The engine's news of all it knows."""
        for info in infos:
            if (adapter := self._known.get(info.name)) and adapter.info and adapter.info.key == info.key:
                adapter.info = info

    async def _folder(self, source: str) -> str:
        async with self._fetching:
            return await in_thread(partial(folder_of, source, hub=self._hub))

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _check_module(self, name: str, base: str | None) -> None:
        flag = "--lora-modules"
        if not is_name(name):
            raise ConfigError(flag, f"names {name!r:.300}", "letters, digits and _ . : @ + -, in parts between slashes")
        if name in self._served:
            raise ConfigError(flag, f"names {name!r}, as the base model is called", "another name")
        if name in self._known:
            raise ConfigError(flag, f"names {name!r} twice", "each name once")
        if base is not None and base not in self._served:
            raise ConfigError(flag, f"has the base_model_name {base!r:.300}", " | ".join(self._served))


def _directory(path: str | None) -> Path | None:
    """--lora-dir as a real path."""
    if path is None:
        return None
    try:
        folder = Path(path).expanduser().resolve(strict=True)
        if folder.is_dir():
            os.listdir(folder)  # may it be read?
            return folder
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError("--lora-dir", f"{path} cannot be read ({error})", "a folder of adapters") from None
    raise ConfigError("--lora-dir", f"{path} is a file", "a folder of adapters")


def _message(name: str, folder: str, pinned: bool) -> LoadAdapter:
    return LoadAdapter(id=_id(), name=name, path=folder, pinned=pinned)


def _id() -> str:
    return f"adapter-{uuid.uuid4().hex}"


def _told_again(error: QuireError, before: str, param: str | None) -> QuireError:
    """The same error for another who meets it: an exception object belongs to whom it was raised for."""
    again = type(error)(before + error.message)
    again.code, again.param = error.code, param
    return again
