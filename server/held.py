"""What a request holds while it lasts, let go when it is through, however it ended."""

from __future__ import annotations

import contextlib

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

_KEY = "quire.held"


class Holds:
    """ASGI middleware: gives each request an exit stack. It is unwound after the last byte of the answer, a stream's
    too, after an error, and after the client left."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.ExitStack() as stack:
            scope[_KEY] = stack
            await self.app(scope, receive, send)


def held(http: Request) -> contextlib.ExitStack:
    """The request's stack."""
    stack: contextlib.ExitStack = http.scope[_KEY]
    return stack
