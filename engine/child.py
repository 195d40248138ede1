"""Processes of the engine's own: one line of JSON on standard input says what to do, and by which of the sockets that
it was given it speaks with its parent (channel.py).

Standard input then stays open for as long as the parent lives: when it closes, the parent is gone and so is the child.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

import msgspec

Start = TypeVar("Start", bound=msgspec.Struct)

DEVICE_LOST = 3  # exit code of an engine whose device failed


def spawn(module: str, start: Callable[[int], msgspec.Struct]) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """`python -m module`, told what `start` makes of the number of its socket, and our end of that.

    It finds modules where this process does: `-m` alone would look into the current folder first, which may hold
    another quire."""
    ours, theirs = socket.socketpair()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", module],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
        stdin=subprocess.PIPE,
        pass_fds=(theirs.fileno(),),
        # A group of its own, as a Ctrl-C in the terminal is the server's business; not a session, to which Linux gives
        # as much of the machine as to any other, however little its threads ask for (man 7 sched, autogroups).
        process_group=0,
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # died at once: who waits for it tells
        process.stdin.write(msgspec.json.encode(start(theirs.fileno())) + b"\n")
        process.stdin.flush()
    theirs.close()
    return process, ours


def begin(kind: type[Start]) -> Start:
    """In the child: what it was told. It ends with its parent from now on."""
    # Ctrl-C reaches the whole process group; when to stop is the parent's word alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        sys.exit(1)  # it is gone already
    start = msgspec.json.decode(line, type=kind)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    return start


def end(process: subprocess.Popen[bytes]) -> None:
    """Now. Harmless when it is gone already."""
    if process.poll() is None:
        process.kill()
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()


def how_it_ended(process: subprocess.Popen[bytes]) -> str:
    code = process.poll()
    if code is None:
        return "is still running"
    if code == DEVICE_LOST:
        return "ended because its device failed"
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _leave_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)
