"""Work beside a loop, in threads: what is quick is quick, and what takes longer gives way to everybody."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable

QUICK = 0.02  # seconds that a job may take like others
NICE = 10  # of a job that takes longer
YOUNG, ALL = 2, 8  # jobs at once: of those that may be quick, and of both

Job = Callable[[], object]


class Aside:
    """Jobs in the order in which they come. What one raises is its own business. All methods may be called in any
    thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._due: deque[Job] = deque()
        self._long: deque[Job] = deque()
        self._young: dict[threading.Thread, float] = {}  # when it began
        self._running = 0

    def do(self, job: Job) -> None:
        with self._lock:
            self._due.append(job)
        self.turn()

    def do_long(self, job: Job) -> None:
        """A job that is known to take long: it gives way from the beginning on, and never takes the last places."""
        with self._lock:
            self._long.append(job)
        self.turn()

    def turn(self) -> float | None:
        """Let jobs begin, and make those give way that are no longer quick. -> seconds until this is to be called
        again, None: a new job or the end of one calls it."""
        with self._lock:
            now = time.monotonic()
            for thread, since in list(self._young.items()):
                if now - since > QUICK:
                    del self._young[thread]
                    _calm(thread)
            while self._due and len(self._young) < YOUNG and self._running < ALL:
                self._young[self._begin(self._due.popleft(), False)] = now
            while self._long and self._running < ALL - YOUNG:
                self._begin(self._long.popleft(), True)
            return max(0.0, min(self._young.values()) + QUICK - now) if self._young else None

    def _begin(self, job: Job, long: bool) -> threading.Thread:
        thread = threading.Thread(target=self._run, args=(job, long), daemon=True)
        self._running += 1
        thread.start()
        return thread

    def _run(self, job: Job, long: bool) -> None:
        try:
            if long:
                _calm(threading.current_thread())
            job()
        finally:
            with self._lock:
                self._young.pop(threading.current_thread(), None)
                self._running -= 1
            self.turn()


def _calm(thread: threading.Thread) -> None:
    """It takes what the others leave, from now on."""
    if thread.native_id is not None:
        with contextlib.suppress(AttributeError, OSError):  # it has ended, or a system that has no such thing
            os.setpriority(os.PRIO_PROCESS, thread.native_id, NICE)  # where there is no such class
            os.sched_setscheduler(thread.native_id, os.SCHED_IDLE, os.sched_param(0))
