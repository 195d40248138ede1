"""The wire between the API process and the engine process: frames of messages over one ZMQ pair.

The API process listens before it spawns the engine, so no message is lost at start; each engine process gets an
address of its own, so nothing of a dead one can reach its successor.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable

import zmq

from . import messages as m


def new_address() -> str:
    """A fresh endpoint only this user can reach (a socket in a private folder)."""
    return f"ipc://{os.path.join(tempfile.mkdtemp(prefix='quire-'), 'engine')}"


def forget_address(address: str) -> None:
    """Remove what `new_address` made."""
    path = address.removeprefix("ipc://")
    with contextlib.suppress(OSError):
        os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(path))


class EngineChannel:
    """The engine's end: blocking where it may wait, never blocking where it sends."""

    def __init__(self, address: str):
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.LINGER, 1000)
        self._socket.connect(address)

    def receive(self, wait: int = 0) -> list[m.ToEngine]:
        """All messages that have come. wait: milliseconds to sleep until there is one; -1: as long as it takes."""
        found: list[m.ToEngine] = []
        if wait and not self._socket.poll(wait):
            return found
        while True:
            try:
                found += m.decode_to_engine(self._socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                return found

    def send(self, out: Iterable[m.FromEngine]) -> None:
        self._socket.send(m.encode(list(out)))

    def close(self) -> None:
        self._socket.close()
