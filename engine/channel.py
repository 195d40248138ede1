"""The wire between a process and its child: frames of messages over one ZMQ pair.

What is said before the other end is there waits for it; each child gets an address of its own, so nothing of a dead one
can reach its successor.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable
from typing import Generic, Self, TypeVar

import zmq

from . import messages as m

LINGER = 1000  # ms that what was said last may take to leave
In = TypeVar("In")
Out = TypeVar("Out")


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


class Channel(Generic[In, Out]):
    """One end of a wire: blocking where it may wait, never blocking where it sends."""

    def __init__(self, address: str, decode: Callable[[bytes], list[In]], encode: Callable[[list[Out]], bytes]):
        self._decode, self._encode = decode, encode
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.LINGER, LINGER)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._address = address

    def bind(self) -> Self:
        self._socket.bind(self._address)
        return self

    def connect(self) -> Self:
        self._socket.connect(self._address)
        return self

    def heed(self, file: int) -> None:
        """A waiting `receive` also returns where a file can be read."""
        self._poller.register(file, zmq.POLLIN)

    def fileno(self) -> int:
        """Becomes readable where something has come, once: `receive` until then, and after each `send`."""
        return int(self._socket.fileno())

    def receive(self, wait: int = 0) -> list[In]:
        """All messages that have come. wait: milliseconds to sleep until there is one; -1: as long as it takes."""
        found: list[In] = []
        if wait and not self._poller.poll(wait):
            return found
        while True:
            try:
                found += self._decode(self._socket.recv(zmq.NOBLOCK))
            except zmq.Again:
                return found

    def send(self, out: Iterable[Out]) -> None:
        with contextlib.suppress(zmq.Again):  # the other end is gone
            self._socket.send(self._encode(list(out)), zmq.NOBLOCK)

    def close(self, linger: int = LINGER) -> None:
        """linger: milliseconds that what was said last may take to leave."""
        self._socket.close(linger)


def wait_for(channels: Iterable[Channel[In, Out]], wait: int) -> None:
    """Until one of them has something to receive. wait: milliseconds, at most."""
    poller = zmq.Poller()
    for channel in channels:
        poller.register(channel._socket, zmq.POLLIN)
    poller.poll(wait)


def engine_channel(address: str) -> Channel[m.ToEngine, m.FromEngine]:
    """The engine's end of the wire to the API process."""
    return Channel(address, m.decode_to_engine, m.encode).connect()
