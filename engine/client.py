"""The engine as the server sees it: `generate` streams deltas, whatever happens to the process behind it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from typing import Any, Literal, overload

from . import messages as m
from .config import EngineConfig
from .errors import EngineFailed, EngineUnavailable, QuireError, from_code
from .supervisor import EngineProcess

log = logging.getLogger("quire")

EngineState = Literal["starting", "ready", "restarting", "failed", "stopped"]

MAX_FAILED_STARTS = 3  # in a row, after which the engine is given up
LAST_WORDS = 0.1  # seconds that what a process said last may still be on the way
RESTART_PAUSE = 0.5  # seconds before a second try in a row; doubles


class EngineClient:
    """Open requests by id, and the engine process that answers them.

    When the process dies, every open request ends with EngineFailed, and a new process is started; until it is ready
    new requests are refused with EngineUnavailable. All methods belong to one event loop, except `spawn`.
    """

    def __init__(self, config: EngineConfig):
        self.config = config
        self.state: EngineState = "starting"
        self.info: m.Ready | None = None
        self.stats: m.StepStats | None = None
        self.loading: m.Loading | None = None
        self.error: QuireError | None = None  # why the state is "failed"
        self.restarts = 0
        self.on_waited: Callable[[float], None] = lambda seconds: None  # hears how long each request queued
        self.on_ready: Callable[[], None] = lambda: None  # called before a new engine can be sent any request
        self.on_adapters: Callable[[list[m.AdapterInfo]], None] = lambda known: None  # all that the engine knows
        self.last_progress = time.monotonic()
        self._engine: EngineProcess | None = None
        self._open: dict[str, asyncio.Queue[list[m.TokenDelta] | QuireError]] = {}
        self._calls: dict[str, asyncio.Future[Any]] = {}
        self._changed = asyncio.Event()  # state or loading changed
        self._task: asyncio.Task[None] | None = None

    @property
    def pending(self) -> int:
        """Requests in flight."""
        return len(self._open)

    @property
    def pid(self) -> int | None:
        """Process id of the engine, if one runs."""
        return self._engine.process.pid if self._engine else None

    def unavailable(self) -> EngineUnavailable:
        """Why nothing can be sent, and whether to wait for it."""
        if self.error is not None:
            lost = EngineUnavailable(f"the engine has failed and will not be started again: {self.error.message}")
            lost.retry_after = None
            return lost
        return EngineUnavailable(f"the engine is {self.state}; try again shortly")

    def spawn(self) -> None:
        """Start the process; needs no event loop. `start` does it if this was not called."""
        if self._engine is None:
            self._engine = EngineProcess(self.config)

    async def start(self) -> None:
        """Begin to watch the process. Returns at once; `wait_ready` waits for the model."""
        self.spawn()
        self._task = asyncio.create_task(self._supervise())

    async def wait_ready(self) -> m.Ready:
        """Wait until the engine serves; raises the reason if it never will."""
        while self.state in ("starting", "restarting"):
            await self.wait_change()
        if self.state != "ready" or self.info is None:
            raise self.error or EngineUnavailable("the engine is stopped")
        return self.info

    async def wait_change(self) -> None:
        """Wait until `state` or `loading` changed."""
        self._changed.clear()
        await self._changed.wait()

    async def stop(self, drain: float = 0.0) -> None:
        """Let open requests finish for at most `drain` seconds, then end the process and what is still open."""
        deadline = time.monotonic() + drain
        while self._open and self.state == "ready" and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        self._become("stopped")
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.close()
        self._fail_open("the server is shutting down")

    def close(self) -> None:
        """End the process now; needs no event loop. Harmless when it has ended."""
        if self._engine:
            self._engine.kill()
            self._engine = None

    async def generate(self, request: m.Generate) -> AsyncGenerator[list[m.TokenDelta], None]:
        """Deltas of all the request's sequences, in batches as they come, until each has finished.

        Leaving the iterator early aborts the request: its pages are free before the engine's next step. Raises
        QuireError if the engine refuses it, fails or dies.
        """
        if self.state != "ready" or self._engine is None:
            raise self.unavailable()
        if not self._open:
            self.last_progress = time.monotonic()  # idle until now: the clock of "no progress" starts here
        queue: asyncio.Queue[list[m.TokenDelta] | QuireError] = asyncio.Queue()
        self._open[request.id] = queue
        left = request.n
        try:
            self._engine.send([request])
            while left:
                news = await queue.get()
                if isinstance(news, QuireError):
                    left = 0
                    raise news
                while not queue.empty():
                    more = queue.get_nowait()
                    if isinstance(more, QuireError):
                        queue.put_nowait(more)  # after what came before it
                        break
                    news = news + more
                left -= sum(delta.finish is not None for delta in news)
                yield news
        finally:
            self._open.pop(request.id, None)
            if left and self._engine is not None and self.state == "ready":
                self._engine.send([m.Abort(request.id)])

    @overload
    def call(self, message: m.LoadAdapter) -> asyncio.Future[m.AdapterLoaded]: ...
    @overload
    def call(self, message: m.UnloadAdapter) -> asyncio.Future[m.AdapterGone]: ...
    def call(self, message: m.LoadAdapter | m.UnloadAdapter) -> asyncio.Future[Any]:
        """The reply. The message has been sent on return. Raises QuireError at once where there is no engine, and from
        the future where the engine refuses it, fails or dies."""
        if self.state != "ready" or self._engine is None:
            raise self.unavailable()
        reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._calls[message.id] = reply
        reply.add_done_callback(lambda _: self._calls.pop(message.id, None))
        self._engine.send([message])
        return reply

    # ------------------------------------------------------------ the process behind it

    async def _supervise(self) -> None:
        """Serve one engine process after the other until stopped or hopeless."""
        failed_starts = 0
        while True:
            assert self._engine is not None
            await self._serve(self._engine)
            ended = self._engine.how_it_ended()
            failed_starts = 0 if self.state == "ready" else failed_starts + 1
            self._engine.kill()
            self._engine = None
            if self.error is None and failed_starts >= MAX_FAILED_STARTS:
                self.error = EngineFailed(f"the engine process {ended} before it was ready, {failed_starts} times")
            if self.error is not None:
                self._become("failed")
                self._fail_open(self.error.message)
                return
            log.error("the engine process %s; starting it again", ended)
            self.stats = self.loading = None  # those of the dead
            self._become("restarting")
            self._fail_open(f"the engine process {ended} while this request ran; it is being started again")
            self.restarts += 1
            if failed_starts:
                await asyncio.sleep(RESTART_PAUSE * 2 ** (failed_starts - 1))
            self.spawn()

    async def _serve(self, engine: EngineProcess) -> None:
        """Hand out what one process says, until it ends."""
        gone = asyncio.Event()
        engine.watch(gone.set)
        engine.listen(self._deliver)
        await gone.wait()
        await asyncio.sleep(LAST_WORDS)
        engine.hear()

    def _deliver(self, frame: list[m.FromEngine]) -> None:
        self.last_progress = time.monotonic()
        deltas: defaultdict[str, list[m.TokenDelta]] = defaultdict(list)
        for message in frame:
            match message:
                case m.TokenDelta():
                    deltas[message.id].append(message)
                case m.StepStats():
                    self.stats = message
                    for seconds in message.waited:
                        self.on_waited(seconds)
                case m.Failed():
                    error = from_code(message.code, message.message, message.param)
                    if batch := deltas.pop(message.id, None):  # what came before it
                        self._put(message.id, batch)
                    self._put(message.id, error)
                    self._reply(message.id, error)
                case m.AdapterLoaded() | m.AdapterGone():
                    self._reply(message.id, message)
                case m.Adapters():
                    self.on_adapters(message.known)
                case m.Ready():
                    self.info = message
                    self._become("ready")
                    self.on_ready()
                case m.Loading():
                    self.loading = message
                    self._changed.set()
                case m.LoadFailed():
                    self.error = QuireError(message.message, code=message.code)
        for request, rest in deltas.items():
            self._put(request, rest)

    def _put(self, request: str, news: list[m.TokenDelta] | QuireError) -> None:
        if queue := self._open.get(request):
            queue.put_nowait(news)

    def _reply(self, call: str, news: m.AdapterLoaded | m.AdapterGone | QuireError) -> None:
        reply = self._calls.get(call)
        if reply is None or reply.done():
            return
        if isinstance(news, QuireError):
            reply.set_exception(news)
        else:
            reply.set_result(news)

    def _fail_open(self, why: str) -> None:
        for queue in self._open.values():
            queue.put_nowait(EngineFailed(why))
        for call in list(self._calls):
            self._reply(call, EngineFailed(why))

    def _become(self, state: EngineState) -> None:
        self.state = state
        self.last_progress = time.monotonic()
        self._changed.set()
