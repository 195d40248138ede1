"""API keys, in any of the headers clients use, compared in constant time, and who may change the server."""

from __future__ import annotations

import hmac
import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ..engine.errors import Forbidden, Unauthorized
from .config import ServerConfig
from .errors import error_response

OPEN = frozenset({"/", "/health"})
FORWARDED = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")  # what proxies add
HOW = "start the server with --admin-key (or QUIRE_ADMIN_KEY) and send that key"


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


def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, is of this machine alone."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_admin(headers: Headers, config: ServerConfig) -> None:
    """May this request change what is served? Raises Unauthorized or Forbidden.

    With admin keys it needs one. Without, it may where the server has no keys at all and listens on this machine only,
    and the request comes from a program on it: not from a web page (a browser says so, and pages of anyone may send
    requests to this machine), not through a proxy.
    """
    if config.admin_keys:
        sent = sent_key(headers)
        if matches(sent, config.admin_keys):
            return
        if matches(sent, config.api_keys):
            raise Forbidden("this needs an admin key; the key that was sent is none")
        told = "the admin key is not known" if sent else "an admin key is needed: Authorization: Bearer KEY"
        raise Unauthorized(told)
    if config.api_keys:
        raise Forbidden(f"this needs an admin key, and the server has none: {HOW}")
    if not is_loopback(config.host):
        raise Forbidden(f"the server listens on {config.host}, where this needs an admin key: {HOW}")
    if "origin" in headers or headers.get("sec-fetch-site", "none") != "none":
        raise Forbidden(f"a web page may not do this without an admin key: {HOW}")
    if not is_loopback(_asked(headers)) or any(name in headers for name in FORWARDED):
        raise Forbidden(f"through a proxy this needs an admin key: {HOW}")


def _asked(headers: Headers) -> str:
    """The host that a client believes to talk to."""
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


class KeyGuard:
    """ASGI middleware: with keys set, everything but OPEN and preflight requests needs one. An admin key is one too."""

    def __init__(self, app: ASGIApp, config: ServerConfig):
        self.app = app
        self.keys = (*config.api_keys, *config.admin_keys) if config.api_keys else ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.keys and scope["path"] not in OPEN and scope["method"] != "OPTIONS":
            sent = sent_key(Headers(scope=scope))
            if not matches(sent, self.keys):
                told = "the API key is not known" if sent else "an API key is needed: Authorization: Bearer KEY"
                await error_response(Unauthorized(told))(scope, receive, send)
                return
        await self.app(scope, receive, send)
