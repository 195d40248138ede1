"""How large a body may be."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..engine.errors import TooLarge
from .errors import error_response


class _Exceeded(Exception):
    pass


class BodyLimit:
    """ASGI middleware: a body above `limit` bytes is answered 413, whether its length was announced or not."""

    def __init__(self, app: ASGIApp, limit: int):
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = error_response(TooLarge(f"the body is larger than {self.limit} bytes"))
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdigit() and int(announced) > self.limit:
            await refusal(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self.limit:
                raise _Exceeded
            return message

        try:
            await self.app(scope, counted, send)
        except _Exceeded:
            await refusal(scope, receive, send)
