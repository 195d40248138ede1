"""One engine process: spawned, heard, watched until it ends. What is done then is client.py's."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

from . import child
from . import messages as m
from .channel import Channel
from .config import EngineConfig, Start


class EngineProcess:
    """A spawned engine and the API process's end of its wire. Used once; a successor is a new object.

    The constructor returns at once, before any event loop is needed, so that the engine imports torch while the API
    process imports its own things.
    """

    def __init__(self, config: EngineConfig):
        self.process, wire = child.spawn("quire.engine.process", lambda wire: Start(wire, config))
        self._channel = Channel(wire, m.decode_from_engine, m.encode)
        self._loop: asyncio.AbstractEventLoop | None = None  # that listens

    def watch(self, on_exit: Callable[[], None]) -> None:
        """Call `on_exit` in the running event loop once the process has ended, however it ended."""
        loop = asyncio.get_running_loop()

        def wait() -> None:
            self.process.wait()
            with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
                loop.call_soon_threadsafe(on_exit)

        threading.Thread(target=wait, daemon=True).start()

    def listen(self, deliver: Callable[[list[m.FromEngine]], None]) -> None:
        """Call `deliver` in the running event loop with what the process says, until `kill`."""
        self._loop, self._deliver = asyncio.get_running_loop(), deliver
        self._loop.add_reader(self._channel.fileno(), self.hear)
        self.hear()

    def hear(self) -> None:
        """Deliver what has come."""
        if self._loop is None:
            return
        said = self._channel.receive()
        if self._channel.ended:
            self._loop.remove_reader(self._channel.fileno())
        if said:
            self._deliver(said)

    def send(self, out: list[m.ToEngine]) -> None:
        """Never blocks: the queue is bounded by the number of open requests, which the server bounds."""
        self._channel.send(out)

    def how_it_ended(self) -> str:
        return child.how_it_ended(self.process)

    def kill(self) -> None:
        """End the process now and close the wire. Harmless when it is gone already."""
        child.end(self.process)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._channel.fileno())
        self._loop = None
        self._channel.close(linger=0)
