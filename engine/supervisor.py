"""One engine process at a time: spawned, watched, spawned again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

import zmq
import zmq.asyncio

from . import child
from . import messages as m
from .channel import forget_address, new_address
from .config import EngineConfig, Start


class EngineProcess:
    """A spawned engine and the API process's end of its wire. Used once; a successor is a new object.

    The constructor returns at once, before any event loop is needed, so that the engine imports torch while the API
    process imports its own things.
    """

    def __init__(self, config: EngineConfig):
        self.address = new_address()
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(self.address)
        self.process = child.spawn("quire.engine.process", Start(self.address, config))

    def watch(self, on_exit: Callable[[], None]) -> None:
        """Call `on_exit` in the running event loop once the process has ended, however it ended."""
        loop = asyncio.get_running_loop()

        def wait() -> None:
            self.process.wait()
            with contextlib.suppress(RuntimeError):  # the loop has closed meanwhile
                loop.call_soon_threadsafe(on_exit)

        threading.Thread(target=wait, daemon=True).start()

    async def receive(self) -> list[m.FromEngine]:
        return m.decode_from_engine(await self._socket.recv())

    def send(self, out: list[m.ToEngine]) -> None:
        """Never blocks: the queue is bounded by the number of open requests, which the server bounds."""
        self._socket.send(m.encode(out), flags=zmq.NOBLOCK)

    def how_it_ended(self) -> str:
        return child.how_it_ended(self.process)

    def kill(self) -> None:
        """End the process now and close the wire. Harmless when it is gone already."""
        child.end(self.process)
        self._socket.close()
        self._context.term()
        forget_address(self.address)
