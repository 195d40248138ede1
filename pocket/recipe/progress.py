"""How a run shows that it moves: a bar with loss, speed and time left on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

LINE_SECONDS = 20.0


class Progress:
    def __init__(self, name: str):
        self._name = name
        self._bar: Bar | None = None
        self._said = 0.0
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[news]}"),
            )
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(name, total=1.0, news="")

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, done: float, loss: float, tokens: int, seconds: float) -> None:
        """done: share of the run; seconds: of training so far."""
        done = min(done, 1.0)
        left = seconds * (1 - done) / done if done else 0.0
        speed = tokens / max(seconds, 1e-9)
        news = f"loss {loss:.3f}  {speed:,.0f} tokens/s  {tokens / 1e6:.1f}M tokens  {clock(left)} left"
        if self._bar:
            self._bar.update(self._task, completed=done, news=news)
        elif time.monotonic() - self._said > LINE_SECONDS or done == 1:
            self._said = time.monotonic()
            print(f"{self._name}: {done:6.1%}  {news}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
