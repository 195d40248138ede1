"""A real server: `quire serve` in its own process, on a free port."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx

START_SECONDS = 120


class RunningServer:
    """`quire serve [MODEL] FLAGS`: `url` once it is ready, `output` all it said."""

    def __init__(self, model: Path | str | None, *flags: str, env: dict[str, str] | None = None):
        named = [] if model is None else [str(model)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "quire.server.cli", "serve", *named, "--port", "0", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "2", **(env or {})},
        )
        self.lines: list[str] = []
        self.url = ""
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.match(r"\s+url\s+(http://\S+)/v1", line):
                self.url = found[1]
            if line.lstrip().startswith("try "):
                self._ready.set()
        self._ready.set()

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def wait_ready(self) -> RunningServer:
        assert self._ready.wait(START_SECONDS), f"not ready in {START_SECONDS} s:\n{self.output}"
        assert self.url, f"ended before it was ready:\n{self.output}"
        return self

    def engine_pid(self) -> int:
        """The engine process: the server's only child."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        assert len(children) == 1, children
        return int(children[0])

    def grammar_pids(self) -> list[int]:
        """The processes that follow grammars, the engine's only children: of plain ones, and of others if there were
        any."""
        engine = self.engine_pid()
        return [int(child) for child in Path(f"/proc/{engine}/task/{engine}/children").read_text().split()]

    def metric(self, name: str) -> float:
        """One value of /metrics, the labels left out."""
        text = httpx.get(f"{self.url}/metrics").text
        found = re.search(rf"^{re.escape(name)}(?:{{[^}}]*}})? ([-+.\dena]+)$", text, re.MULTILINE)
        assert found, f"no {name} in:\n{text}"
        return float(found[1])

    def terminate(self) -> int:
        """SIGTERM, and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def close(self) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.terminate()
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def running(model: Path | str, *flags: str, env: dict[str, str] | None = None) -> Iterator[RunningServer]:
    server = RunningServer(model, *flags, env=env)
    try:
        yield server
    finally:
        server.close()
