"""Adapters by name: where they are read from, what of them is in memory, and what is under way.

From disk to memory (`Raw`), and from there to the device (`Adapter`), in threads: a request that names a cold adapter
waits for it, and nobody else does. What nobody has used for long leaves first, where the memory that adapters may take
is full; what runs is kept by its sequences.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from threading import Lock, get_native_id
from typing import Generic, TypeVar

import msgspec

from .. import faults
from .. import messages as m
from ..errors import EngineFailed, ModelNotFound, QuireError, RequestError
from .adapter import Adapter, Raw
from .slots import Slots

log = logging.getLogger("quire.engine")

THREADS = 2
SECONDS = 0.5  # between two reports that only say where the weights are
# Of the threads: they give way to a step's. (To all others, as SCHED_IDLE would, they must not: now and then they hold
# Python's lock, and a step would wait for who has to wait.)
NICE = 10
HUB = "models--"  # begins a folder of the hub's cache, models--OWNER--NAME/snapshots/HASH

Recipe = tuple[tuple[tuple[str, float], ...], m.Merge]  # keys of raws with their scales, and how they become one


K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass(slots=True)
class Shelf(Generic[K, T]):
    """Things by key, the least recently used leaving where they are more than `room` bytes. Any thread may use it."""

    room: int
    _things: OrderedDict[K, tuple[T, int]] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)
    bytes: int = 0
    changes: int = 0

    def get(self, key: K) -> T | None:
        with self._lock:
            if key not in self._things:
                return None
            self._things.move_to_end(key)
            return self._things[key][0]

    def peek(self, key: K) -> T | None:
        """As get, but that is no use of it."""
        with self._lock:
            return self._things[key][0] if key in self._things else None

    def drop(self, key: K) -> None:
        with self._lock:
            if key in self._things:
                self.bytes -= self._things.pop(key)[1]
                self.changes += 1

    def put(self, key: K, thing: T, size: int, pinned: Container[K]) -> None:
        """pinned: keys of things that stay, whatever they take."""
        with self._lock:
            self.bytes -= self._things.pop(key)[1] if key in self._things else 0
            self._things[key] = thing, size
            self.bytes += size
            self.changes += 1
            for old in [k for k in self._things if k not in pinned and k != key]:
                if self.bytes <= self.room:
                    break
                self.bytes -= self._things.pop(old)[1]

    def all(self) -> list[K]:
        """The keys."""
        with self._lock:
            return list(self._things)


@dataclass(slots=True)
class _Known:
    """A name."""

    path: Path
    pinned: bool
    raw: Future[Raw] | None  # of the first reading, until it is done
    info: m.AdapterInfo | None = None  # once it is done

    @property
    def failed(self) -> bool:
        """It could not be read the first time."""
        return self.raw is not None and self.raw.done() and self.raw.exception() is not None


@dataclass(slots=True)
class _Load:
    id: str
    name: str
    known: _Known
    before: _Known | None  # what the name meant


class Library:
    """read: a folder's adapter in host memory; ready: one or several of them, with scales, as one on the device. Both
    raise QuireError and are called in threads. memory: bytes of either kind that are kept. base: the model's folder.
    All methods belong to one thread.
    """

    def __init__(
        self,
        read: Callable[[Path], Raw],
        ready: Callable[[Sequence[tuple[Raw, float]], m.Merge], Adapter],
        memory: int,
        base: Path | None = None,
    ):
        self._base = base
        self._read = read
        self._ready = ready
        self._names: dict[str, _Known] = {}
        self._loads: list[_Load] = []
        self._raws: Shelf[str, Raw] = Shelf(memory)
        self._adapters: Shelf[Recipe, Adapter] = Shelf(memory)
        self._making: dict[Recipe, Future[Adapter]] = {}
        self._pool = ThreadPoolExecutor(THREADS, "adapter", initializer=_give_way)
        self._news: list[m.FromEngine] = []
        self._stand = (0, 0, 0)  # what had changed
        self._told = 0.0  # when `Adapters` was said last

    @property
    def waits(self) -> bool:
        """Whether a load is under way that somebody asked for."""
        return bool(self._loads)

    def tell(self, message: m.LoadAdapter | m.UnloadAdapter) -> None:
        """What comes of it is in `news`, now or later."""
        if isinstance(message, m.UnloadAdapter):
            if (gone := self._names.pop(message.name, None)) is None:
                self._news.append(_failed(message.id, _unknown(message.name, self._names), "lora_name"))
                return
            self._let_go(gone)
            self._news.append(m.AdapterGone(id=message.id))
            return
        path = Path(message.path)
        known = _Known(path, message.pinned, self._pool.submit(self._read, path))
        self._loads.append(_Load(message.id, message.name, known, self._names.get(message.name)))
        self._names[message.name] = known

    def want(self, uses: Iterable[m.Use], merge: m.Merge) -> Future[Adapter]:
        """One adapter made of what these names mean now. The future raises QuireError where there is none."""
        found: Future[Adapter] = Future()
        entries: list[tuple[_Known, float]] = []
        for use in uses:
            known = self._names.get(use.name)
            if known is None:
                found.set_exception(_unknown(use.name, self._names))
                return found
            entries.append((known, use.scale))
        recipe = _recipe(entries, merge)
        if recipe is None:  # one of them is read for the first time
            return self._pool.submit(self._make, entries, merge)
        if (there := self._adapters.get(recipe)) is not None:
            for key, _ in recipe[0]:
                self._raws.get(key)  # it was used
            found.set_result(there)
            return found
        making = self._making.get(recipe)
        if making is None or making.done():
            making = self._making[recipe] = self._pool.submit(self._make, entries, merge)
        return making

    def news(self, slots: Slots) -> list[m.FromEngine]:
        """What has been loaded or failed since and, where it changed, how all adapters stand. Of mere moves between
        the tiers that is told now and then."""
        for load in self._loads[:]:
            if load.known.raw is None or load.known.raw.done():
                self._loads.remove(load)
                self._finish(load)
        if self._making:
            self._making = {recipe: made for recipe, made in self._making.items() if not made.done()}
        now, stand = time.monotonic(), (self._raws.changes, self._adapters.changes, slots.changes)
        if self._news or (stand != self._stand and now - self._told > SECONDS):
            self._stand, self._told = stand, now
            self._news.append(m.Adapters(known=self._infos(slots)))
        news, self._news = self._news, []
        return news

    def _finish(self, load: _Load) -> None:
        known = load.known
        assert known.raw is not None
        try:
            raw = known.raw.result()
        except Exception as error:
            if self._names.get(load.name) is known:
                del self._names[load.name]
                if load.before is not None and not load.before.failed:
                    self._names[load.name] = load.before
            self._news.append(_failed(load.id, _as_quire(error), "lora_path"))
            return
        known.info = _info(load.name, known, raw)
        if self._base is not None and raw.base_name is not None and not is_called(self._base, raw.base_name):
            log.warning("adapter %s was made for %.200r; it is used with %s", load.name, raw.base_name, self._base)
        self._keep(raw)
        known.raw = None
        if load.before is not None:
            self._let_go(load.before)
        self._news.append(m.AdapterLoaded(id=load.id, info=known.info))

    def _let_go(self, gone: _Known) -> None:
        """Nobody will ask for what a name meant, unless another name means the same."""
        key = _key(gone)
        if key is None or key in self._keys():
            return
        self._raws.drop(key)
        for recipe in self._adapters.all():
            if key in _parts(recipe):
                self._adapters.drop(recipe)

    def _make(self, entries: list[tuple[_Known, float]], merge: m.Merge) -> Adapter:
        """In a thread. Raises EngineFailed where it is not the adapter that is wrong, as where memory is short, and the
        error itself where the device is lost: that ends the engine, and nothing else may."""
        try:
            return self._made(entries, merge)
        except Exception as error:
            if isinstance(error, QuireError) or faults.lost(error) is not None:
                raise
            names = " and ".join(repr(known.info.name if known.info else known.path.name) for known, _ in entries)
            log.exception("the adapter %s cannot be put on the device", names)
            raise EngineFailed(f"the adapter {names} cannot be put on the device: {faults.words(error)}") from error

    def _made(self, entries: list[tuple[_Known, float]], merge: m.Merge) -> Adapter:
        parts = [(self._raw(known), scale) for known, scale in entries]
        recipe = tuple((raw.key, scale) for raw, scale in parts), merge
        if (there := self._adapters.get(recipe)) is not None:
            return there
        adapter = self._ready(parts, merge)
        pinned = self._keys(pinned=True)
        kept = [known for known in self._adapters.all() if set(_parts(known)) <= pinned]
        self._adapters.put(recipe, adapter, adapter.bytes, kept)
        return adapter

    def _raw(self, known: _Known) -> Raw:
        """In a thread. Raises EngineFailed where the folder is not what it was: only a load gives new weights."""
        if (first := known.raw) is not None:
            return first.result()
        assert known.info is not None
        if (there := self._raws.get(known.info.key)) is not None:
            return there
        name, lost = known.info.name, "since it was loaded; load_inplace: true takes what is there"
        try:
            raw = self._read(known.path)
        except QuireError as error:  # not of the client, who named what could be used
            raise EngineFailed(f"the adapter {name!r} was lost ({error.message}) {lost}") from error
        if raw.key != known.info.key:
            raise EngineFailed(f"the folder of the adapter {name!r} has changed {lost}")
        self._keep(raw)
        return raw

    def _keep(self, raw: Raw) -> None:
        self._raws.put(raw.key, raw, raw.bytes, self._keys(pinned=True))

    def _keys(self, pinned: bool = False) -> set[str]:
        """Of all that have a name, or of the pinned ones."""
        return {key for known in list(self._names.values()) if known.pinned >= pinned and (key := _key(known))}

    def _infos(self, slots: Slots) -> list[m.AdapterInfo]:
        if not self._names:
            return []
        in_memory = set(self._raws.all())
        device: set[str] = set()
        for recipe in self._adapters.all():
            if (adapter := self._adapters.peek(recipe)) is not None and adapter.key in slots:
                device.update(_parts(recipe))
        found = []
        for known in self._names.values():
            if (info := known.info) is not None:
                state = "device" if info.key in device else "memory" if info.key in in_memory else "disk"
                found.append(msgspec.structs.replace(info, state=state))
        return found


def _info(name: str, known: _Known, raw: Raw) -> m.AdapterInfo:
    return m.AdapterInfo(
        name=name, path=str(known.path), key=raw.key, kind=raw.kind, rank=raw.rank, bytes=raw.bytes,
        base=raw.base_name, pinned=known.pinned, state="memory",
    )  # fmt: skip


def is_called(base: Path, name: str) -> bool:
    """Whether the model in a folder may be what an adapter's config names: a folder, or a name of the hub. A GGUF file
    tells no name."""
    parts = PurePath(name).parts
    last = next((part for part in parts if part.startswith(HUB)), parts[-1] if parts else "")
    known = {part.lower().rpartition("--")[2] for part in base.parts}
    return last.lower().rpartition("--")[2] in known or any(base.glob("*.gguf"))


def _parts(recipe: Recipe) -> list[str]:
    return [key for key, _ in recipe[0]]


def _give_way() -> None:
    with contextlib.suppress(AttributeError, OSError):  # a system that has no such thing
        os.setpriority(os.PRIO_PROCESS, get_native_id(), NICE)


def _recipe(entries: list[tuple[_Known, float]], merge: m.Merge) -> Recipe | None:
    keys = [(known.info.key, scale) for known, scale in entries if known.info is not None]
    return (tuple(keys), merge) if len(keys) == len(entries) else None


def _key(known: _Known) -> str | None:
    return known.info.key if known.info is not None else None


def _unknown(name: str, names: Iterable[str]) -> ModelNotFound:
    some = sorted(names)[:10]
    return ModelNotFound(f"there is no adapter {name!r}; there is: {', '.join(some) or 'none'}", param="model")


def _as_quire(error: Exception) -> QuireError:
    if isinstance(error, QuireError):
        return error
    return RequestError(f"the adapter cannot be read: {type(error).__name__}: {error}")


def _failed(id_: str, error: QuireError, param: str) -> m.Failed:
    return m.Failed(id=id_, code=error.code or "", message=error.message, param=error.param or param)
