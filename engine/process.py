"""The engine process: `python -m quire.engine.process`, spawned by the supervisor.

One line of JSON on standard input says what to serve and where to connect. Standard input then stays open for as long
as the parent lives: when it closes, the parent is gone and so is this process.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import signal
import sys
import threading

import msgspec

from . import messages as m
from .channel import EngineChannel
from .config import EngineConfig
from .errors import QuireError

log = logging.getLogger("quire.engine")

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
SWITCH = 0.0005  # seconds until a thread that compiles a grammar lets the loop go on; 5 ms is Python's own


class Start(msgspec.Struct, frozen=True):
    """The line on standard input."""

    address: str
    config: EngineConfig


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="engine: %(message)s", stream=sys.stderr)
    # Ctrl-C reaches the whole process group; when to stop is the parent's word alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    start = msgspec.json.decode(sys.stdin.buffer.readline(), type=Start)
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    channel = EngineChannel(start.address)
    try:
        serve(start.config, channel)
    except QuireError as error:
        channel.send([m.LoadFailed(error.code or "", error.message)])
        return 1
    finally:
        channel.close()
    return 0


def serve(config: EngineConfig, channel: EngineChannel) -> None:
    """Load the model, say so, and run the loop. Raises QuireError where the model or the settings cannot be served."""
    from .core import Engine  # torch is imported from here on: the wire is up first
    from .runner import Runner
    from .state import Limits, State

    runner = Runner(config, lambda done, total: channel.send([m.Loading(done, total)]))
    ready = runner.ready()
    limits = Limits(
        max_model_len=ready.max_model_len,
        max_num_seqs=config.max_num_seqs,
        max_num_batched_tokens=runner.step_tokens,
        max_waiting=config.max_waiting,
        block_size=ready.block_size,
        max_loras=config.max_loras,
    )
    state = State(limits, ready.num_blocks, config.prefix_caching)
    settle()
    channel.send([ready])
    Engine(runner, state, channel).run()


def settle() -> None:
    """What is loaded stays: no collection looks at it again, and working memory is kept from step to step.

    glibc gives blocks of a few MB back to the system when they are freed; to get them again costs a fault a page, in
    every step (measured: 1.6 to 0.2 ms for one RMSNorm of 512 rows). It is told to keep them.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return  # another C library
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _leave_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
