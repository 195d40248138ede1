"""Answering: a plain JSON body or a stream of events from the same pieces, and a client that may leave at any time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec
from sse_starlette import EventSourceResponse
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ...engine.errors import QuireError
from ..errors import error_body, unexpected
from ..metrics import Stopwatch
from ..stream import Piece, Usage
from .schema import StreamOptions

log = logging.getLogger("quire")
T = TypeVar("T")
to_json = msgspec.json.encode
DONE = b"data: [DONE]\n\n"
MANY = 1000  # tokens of prompts whose logprobs are worded beside the loop


class Shape(Protocol):
    """How one surface words an answer."""

    options: StreamOptions

    def opening(self) -> list[dict[str, Any]]:
        """Chunks before any text."""
        ...

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]: ...

    def deltas(self, piece: Piece) -> list[dict[str, Any]]:
        """Choices of chunks, one each; of a piece that ends a choice at least one."""
        ...

    def whole(self, got: list[list[Piece]], usage: Usage, more: dict[str, Any]) -> dict[str, Any]:
        """The plain answer."""
        ...


class Gone(Exception):
    """The client has left."""


class _Events(EventSourceResponse):
    """Closes its sources at once when the client leaves, so that the request is aborted then and not later."""

    def __init__(self, events: AsyncGenerator[bytes, None], source: AsyncGenerator[list[Piece], None],
                 ended: Callable[[], None]):  # fmt: skip
        super().__init__(events, ping=15, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._events = events
        self._source = source
        self._ended = ended

    async def _send_with_timeout(self, send: Send, message: Message) -> None:
        """There is no timeout here, and a scope for it is a twelfth of what an event costs."""
        await send(message)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
            await self._source.aclose()  # a client may leave before the first event was asked for
            self._ended()


async def answer(
    http: Request, source: AsyncGenerator[list[Piece], None], shape: Shape, choices: int, usage: Usage,
    watch: Stopwatch, stream: bool,
) -> Response:  # fmt: skip
    """The response. What can be refused is refused before the first byte: the first piece is awaited here."""
    try:
        first = await _unless_gone(http, _next(source))
        if stream:
            reasons: list[str | None] = [None] * choices
            events = _events(source, first, shape, reasons, usage, watch)
            return _Events(events, source, lambda: watch.ended(reasons))
        got: list[list[Piece]] = [[] for _ in range(choices)]
        batch = first
        while batch is not None:
            for piece in batch:
                got[piece.index].append(piece)
            batch = await _unless_gone(http, _next(source))
    except Gone:
        await source.aclose()
        watch.ended([None] * choices)
        return Response(status_code=499)
    except BaseException as error:
        await source.aclose()
        watch.ended(["error" if isinstance(error, Exception) else None] * choices)
        raise
    watch.ended([pieces[-1].finish for pieces in got])
    more = {"timings": timings(watch, usage), **usage.extension()}
    body = await worded((pieces[0] for pieces in got), lambda: shape.whole(got, usage, more))
    return Response(to_json(body), media_type="application/json")


async def _events(
    source: AsyncGenerator[list[Piece], None],
    first: list[Piece] | None,
    shape: Shape,
    reasons: list[str | None],
    usage: Usage,
    watch: Stopwatch,
) -> AsyncGenerator[bytes, None]:
    """Every stream ends in [DONE], once; an error comes right before it. Fills `reasons`: how each choice ended."""

    def news(chunk: dict[str, Any]) -> bytes:
        return _event({**chunk, "usage": usage.as_json()} if shape.options.continuous_usage_stats else chunk)

    try:
        for chunk in shape.opening():
            yield news(chunk)
        batch = first
        while batch is not None:
            for piece in batch:
                reasons[piece.index] = piece.finish or reasons[piece.index]
                deltas = await worded([piece], partial(shape.deltas, piece))
                for delta in deltas[:-1]:
                    yield news(shape.chunk([delta]))
                ended = piece.finish and all(reasons)
                more = {"timings": timings(watch, usage), **usage.extension()} if ended else {}
                for delta in deltas[-1:]:
                    yield news(shape.chunk([delta], **more))
            batch = await _next(source)
        if shape.options.include_usage:
            yield _event(shape.chunk([], usage=usage.as_json()))
    except Exception as error:
        if not isinstance(error, QuireError):
            log.exception("a stream failed")
        reasons[:] = [reason or "error" for reason in reasons]
        yield _event(error_body(error if isinstance(error, QuireError) else unexpected()))
    yield DONE


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + to_json(chunk) + b"\n\n"


async def worded(pieces: Iterable[Piece], work: Callable[[], T]) -> T:
    """What `work` makes of these and others; in a thread where it is much: a long prompt's logprobs."""
    much = sum(len(piece.prompt_logprobs or ()) for piece in pieces) > MANY
    return await asyncio.to_thread(work) if much else work()


async def _next(source: AsyncIterator[list[Piece]]) -> list[Piece] | None:
    return await anext(source, None)


async def _unless_gone(http: Request, work: Awaitable[T]) -> T:
    """The result of `work`; raises Gone as soon as the client disconnects."""
    task: asyncio.Future[Any] = asyncio.ensure_future(work)
    left: asyncio.Future[Any] = asyncio.ensure_future(_disconnect(http))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        result: T = task.result()
        return result
    finally:
        for one in (task, left):
            if not one.done():
                one.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await one


async def _disconnect(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def timings(watch: Stopwatch, usage: Usage) -> dict[str, float | int]:
    """Speeds, under llama.cpp's names: front ends show them."""
    now = time.perf_counter()
    first = watch.first or now
    prompt_ms, predicted_ms = (first - watch.arrived) * 1e3, (now - first) * 1e3
    prompt_n, predicted_n = usage.prompt_tokens - usage.cached_tokens, usage.completion_tokens
    return {
        "cache_n": usage.cached_tokens,
        "prompt_n": prompt_n,
        "prompt_ms": prompt_ms,
        "prompt_per_second": prompt_n / max(prompt_ms, 1e-3) * 1e3,
        "predicted_n": predicted_n,
        "predicted_ms": predicted_ms,
        "predicted_per_second": max(predicted_n - 1, 0) / max(predicted_ms, 1e-3) * 1e3,
    }
