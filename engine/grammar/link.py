"""The engine's end of the wire to a process that follows grammars; that is spawned where it is needed."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from .. import child
from ..channel import Channel
from ..channel import wait_for as _wait_for
from . import wire

ENDING = 1.0  # seconds from the end of what a process says to its own


class Gone(Exception):
    """The process ended; all that it knew went with it. Its message says how."""


class Link(Protocol):
    """What the engine says it to. channel: by which answers come, None: they are there at once, or nobody asked."""

    channel: Channel[wire.FromDesk, wire.ToDesk] | None

    def send(self, messages: Iterable[wire.ToDesk]) -> None: ...

    def receive(self) -> list[wire.FromDesk]:
        """What has come. Raises Gone, once."""


def wait_for(links: Iterable[Link], wait: int) -> None:
    """Until one of them has something to receive, or is gone. wait: milliseconds, at most."""
    channels = [link.channel for link in links if link.channel is not None]
    if channels:
        _wait_for(channels, wait)


class ProcessLink:
    """One process at a time."""

    def __init__(self, model: Path, vocab_size: int, engines: dict[str, str]):
        self._start: Callable[[int], wire.Start] = lambda number: wire.Start(number, str(model), vocab_size, engines)
        self.channel: Channel[wire.FromDesk, wire.ToDesk] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def send(self, messages: Iterable[wire.ToDesk]) -> None:
        if self.channel is None:
            self._process, ours = child.spawn("quire.engine.grammar.process", self._start)
            self.channel = Channel(ours, wire.decode_from_desk, wire.encode)
        self.channel.send(messages)

    def receive(self) -> list[wire.FromDesk]:
        if self.channel is None or self._process is None:
            return []
        found = self.channel.receive()
        if found or not self.channel.ended:
            return found
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING)
        how = child.how_it_ended(self._process)
        self.close()
        raise Gone(how)

    def close(self) -> None:
        if self._process is not None:
            child.end(self._process)
        if self.channel is not None:
            self.channel.close(linger=0)
        self.channel = self._process = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at the interpreter's end nothing is sure
            self.close()
