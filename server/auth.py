"""API keys, in any of the headers clients use, compared in constant time."""

from __future__ import annotations

import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ..engine.errors import Unauthorized
from .errors import error_response

OPEN = frozenset({"/", "/health"})


def sent_key(headers: Headers) -> str | None:
    """The key a client sent: Authorization: Bearer, x-api-key or api-key."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key") or headers.get("api-key")


def matches(sent: str | None, keys: tuple[str, ...]) -> bool:
    """Whether it is one of them; looks at all, so that time tells nothing."""
    given = (sent or "").encode()
    return sum(hmac.compare_digest(given, key.encode()) for key in keys) > 0


class KeyGuard:
    """ASGI middleware: with keys set, everything but OPEN and preflight requests needs one."""

    def __init__(self, app: ASGIApp, keys: tuple[str, ...]):
        self.app = app
        self.keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.keys and scope["path"] not in OPEN and scope["method"] != "OPTIONS":
            sent = sent_key(Headers(scope=scope))
            if not matches(sent, self.keys):
                told = "the API key is not known" if sent else "an API key is needed: Authorization: Bearer KEY"
                await error_response(Unauthorized(told))(scope, receive, send)
                return
        await self.app(scope, receive, send)
