"""The engine process: `python -m quire.engine.process`, spawned by the supervisor (child.py says how)."""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import sys

from . import messages as m
from .channel import Channel, engine_channel
from .child import DEVICE_LOST, begin
from .config import EngineConfig, Start
from .errors import ModelError, QuireError

log = logging.getLogger("quire.engine")

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
SWITCH = 0.0005  # seconds until a thread that reads an adapter lets the loop go on; 5 ms is Python's own


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="engine: %(message)s", stream=sys.stderr)
    start = begin(Start)
    channel = engine_channel(start.wire)
    try:
        serve(start.config, channel)
    except QuireError as error:
        channel.send([m.LoadFailed(error.code or "", error.message)])
        return 1
    except Exception as error:
        leave_if_lost(error, channel)
        raise
    finally:
        channel.close()
    return 0


def serve(config: EngineConfig, channel: Channel[m.ToEngine, m.FromEngine]) -> None:
    """Load the model, say so, and run the loop. Raises QuireError where the model or the settings cannot be served."""
    from . import faults
    from .core import Engine  # torch is imported from here on: the wire is up first
    from .runner import Runner
    from .state import State

    try:
        runner = Runner(config, lambda done, total: channel.send([m.Loading(done, total)]))
    except Exception as error:
        if not faults.short_of_memory(error):
            raise
        said = str(error).strip().partition("\n")[0]
        raise ModelError(f"{config.model}: memory ran out while the model was loaded ({said})") from error
    ready = runner.ready()
    state = State(runner.limits(), ready.num_blocks, config.prefix_caching)
    settle()
    runner.guides.warm()
    channel.send([ready])
    Engine(runner, state, channel).run()


def leave_if_lost(error: Exception, channel: Channel[m.ToEngine, m.FromEngine]) -> None:
    """Where an error means that the device is lost: end the process, with an exit code that says so. Every later step
    would fail as this one did, while a new process may use the device."""
    from . import faults

    if (why := faults.lost(error)) is None:
        return
    log.critical("the device failed, and the engine ends: %s", why, exc_info=error)
    channel.close()
    sys.stderr.flush()
    os._exit(DEVICE_LOST)  # to take down a broken device in good order may hang, or abort


def settle() -> None:
    """What is loaded stays: no collection looks at it again, and working memory is kept from step to step.

    glibc gives blocks of a few MB back to the system when they are freed; to get them again costs a fault a page, in
    every step (measured: 1.6 to 0.2 ms for one RMSNorm of 512 rows). It is told to keep them.
    """
    gc.collect()
    gc.freeze()
    sys.setswitchinterval(SWITCH)
    try:
        libc = ctypes.CDLL(None)
        mallopt, trim = libc.mallopt, libc.malloc_trim
    except (AttributeError, OSError, TypeError):
        return  # another C library
    trim(0)  # what loading and quantizing left
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


if __name__ == "__main__":
    sys.exit(main())
