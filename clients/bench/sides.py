"""The servers that are compared: one that runs already, or a command that is started for its turn and stopped after.

Only one of them has the machine at a time, and no process of the other is left.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from .load import BenchError

STOP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Side:
    """One server of a comparison."""

    name: str
    base: str  # address with /v1
    command: str | None = None  # None: it runs already
    model: str = ""  # "": the first of /v1/models


@contextmanager
def running(side: Side, log: Path, seconds: float) -> Iterator[None]:
    """Within it the server answers. Raises BenchError if it does not come up in `seconds`, with the end of its log."""
    if side.command is None:
        yield
        return
    with log.open("ab") as sink:
        process = subprocess.Popen(
            shlex.split(side.command), stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
        )
    try:
        wait_ready(side, process, log, seconds)
        yield
    finally:
        stop(process)


def wait_ready(side: Side, process: subprocess.Popen[bytes], log: Path, seconds: float) -> None:
    root = side.base.rstrip("/").removesuffix("/v1")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{root}/health", timeout=5).status_code == 200 and _ready(root):
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    tail = log.read_bytes()[-600:].decode(errors="replace")
    raise BenchError(f"{side.name} did not come up ({side.command}); the end of {log}:\n{tail}")


def _ready(root: str) -> bool:
    """Servers that tell being alive from being ready say so at /ready; others have no such path."""
    return httpx.get(f"{root}/ready", timeout=5).status_code in (200, 404, 405)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the whole process group, gently first."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(STOP_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def first_model(base: str) -> str:
    try:
        found = httpx.get(f"{base.rstrip('/')}/models", timeout=30)
        return str(found.raise_for_status().json()["data"][0]["id"])
    except (httpx.HTTPError, LookupError, ValueError) as error:
        raise BenchError(f"{base}/models does not name a model ({error}); name one with --model") from error
