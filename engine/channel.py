"""The wire between a process and its child: frames of messages over a pair of sockets.

Each child is born with one end in its hands: nothing needs an address, nothing of a dead one can reach its successor,
and what is said before it listens waits for it. A frame is its length in 4 bytes, little-endian, then what `encode`
made.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from . import messages as m

LINGER = 1000  # ms that what was said last may take to leave
BUFFER = 1 << 22  # bytes that are asked of the system for what was said and not yet heard
PIECE = 1 << 18  # bytes that are read at once
HEAD = 4
In = TypeVar("In")
Out = TypeVar("Out")


class Channel(Generic[In, Out]):
    """One end of a wire: blocking where it may wait, never blocking where it sends."""

    def __init__(
        self, wire: socket.socket, decode: Callable[[memoryview], list[In]], encode: Callable[[list[Out]], bytes]
    ):
        wire.setblocking(False)
        with contextlib.suppress(OSError):
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self._wire, self._decode, self._encode = wire, decode, encode
        self._room = bytearray(PIECE)
        self._coming = bytearray()  # a frame that is not whole yet
        self._poller = select.poll()
        self._poller.register(wire, select.POLLIN)
        self._sending = threading.Lock()  # of what follows
        self._leaving: deque[memoryview] = deque()  # what the system has no room for: a thread sends it
        self._sender: threading.Thread | None = None
        self.ended = False  # the other end is gone, and all that it said was received

    def heed(self, file: int) -> None:
        """A waiting `receive` also returns where a file can be read."""
        self._poller.register(file, select.POLLIN)

    def fileno(self) -> int:
        """Readable where something has come, and where the other end is gone."""
        return self._wire.fileno()

    # ------------------------------------------------------------ what comes

    def receive(self, wait: int = 0) -> list[In]:
        """All messages that have come. wait: milliseconds to sleep until there is one; -1: as long as it takes."""
        if wait:
            self._poller.poll(wait)
        while not self.ended:
            try:
                size = self._wire.recv_into(self._room)
            except BlockingIOError:
                break
            except OSError:  # the other end was closed before it had heard all
                size = 0
            if not size:
                self.ended = True
                self._poller.unregister(self._wire)
                break
            self._coming += memoryview(self._room)[:size]
            if size < PIECE:
                break
        return self._whole() if self._coming else []

    def _whole(self) -> list[In]:
        """What is in the frames that have come."""
        found: list[In] = []
        coming, at = self._coming, 0
        with memoryview(coming) as said:
            while len(said) >= at + HEAD:
                end = at + HEAD + int.from_bytes(said[at : at + HEAD], "little")
                if len(said) < end:
                    break
                found += self._decode(said[at + HEAD : end])
                at = end
        del coming[:at]
        return found

    # ------------------------------------------------------------ what leaves

    def send(self, out: Iterable[Out]) -> None:
        said = self._encode(list(out))
        frame = memoryview(len(said).to_bytes(HEAD, "little") + said)
        with self._sending:
            if not self._leaving:
                frame = frame[self._sent(frame) :]
            if frame:
                self._leaving.append(frame)
                if self._sender is None:
                    self._sender = threading.Thread(target=self._send_all, daemon=True)
                    self._sender.start()

    def _sent(self, frame: memoryview) -> int:
        """How much of it has left; all where nobody is there who could hear it."""
        try:
            return self._wire.send(frame)
        except BlockingIOError:
            return 0
        except OSError:
            return len(frame)

    def _send_all(self) -> None:
        """In a thread: whatever is still to leave, as the system takes it."""
        room = select.poll()
        try:
            room.register(self._wire, select.POLLOUT)
        except ValueError:  # closed meanwhile
            return
        while True:
            room.poll()
            with self._sending:
                frame = self._leaving.popleft()
                if rest := frame[self._sent(frame) :]:
                    self._leaving.appendleft(rest)
                if not self._leaving:
                    self._sender = None
                    return

    def close(self, linger: int = LINGER) -> None:
        """linger: milliseconds that what was said last may take to leave. What has left is heard by the other end."""
        if (sender := self._sender) is not None and linger:
            sender.join(linger / 1e3)
        with contextlib.suppress(OSError):  # a thread that still waits to send wakes by this
            self._wire.shutdown(socket.SHUT_RDWR)
        self._wire.close()


def wait_for(channels: Iterable[Channel[In, Out]], wait: int) -> None:
    """Until one of them has something to receive. wait: milliseconds, at most."""
    poller = select.poll()
    for channel in channels:
        if not channel.ended:
            poller.register(channel, select.POLLIN)
    poller.poll(wait)


def engine_channel(wire: int) -> Channel[m.ToEngine, m.FromEngine]:
    """The engine's end of the wire to the API process. wire: the number of its socket."""
    return Channel(socket.socket(fileno=wire), m.decode_to_engine, m.encode)
