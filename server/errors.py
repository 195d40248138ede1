"""Every error leaves as `{"error": {"message", "type", "param", "code"}}` with its own status."""

from __future__ import annotations

import logging
import re
import reprlib
from typing import Any

import pydantic
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..engine.errors import EngineUnavailable, Overloaded, QuireError, RequestError

log = logging.getLogger("quire")

LONGEST = 2000  # characters of a message


class _Short(reprlib.Repr):
    """Values in a few characters, in the words of JSON."""

    def repr_bool(self, value: bool, level: int) -> str:
        return "true" if value else "false"

    def repr_NoneType(self, value: None, level: int) -> str:
        return "null"


_short = _Short()
_short.maxstring = _short.maxlong = _short.maxother = 80


def shown(value: Any) -> str:
    """What was found, for a message."""
    return _short.repr(value)


def error_body(error: QuireError) -> dict[str, Any]:
    message = error.message if len(error.message) <= LONGEST else error.message[:LONGEST] + " ..."
    return {"error": {"message": message, "type": error.type, "param": error.param, "code": error.code}}


def error_response(error: QuireError) -> JSONResponse:
    headers = {}
    if isinstance(error, Overloaded | EngineUnavailable) and error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    elif error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error_body(error), status_code=error.status, headers=headers)


async def on_quire_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, QuireError)
    return error_response(error)


async def on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Unknown routes and methods, in the same shape."""
    assert isinstance(error, HTTPException)
    where = f"{request.method} {request.url.path}"
    allowed = (error.headers or {}).get("Allow", "other methods")
    message = {404: f"{where}: there is no such route", 405: f"{where}: this route has {allowed}"}.get(
        error.status_code, f"{where}: {error.detail}"
    )
    code = "method_not_allowed" if error.status_code == 405 else "unknown_url"
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}}
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


def unexpected() -> QuireError:
    """A fault of ours, told without its insides."""
    return QuireError("quire failed on this request; its log says why", code="internal_error")


class Unexpected:
    """ASGI middleware: a fault of ours is logged whole and answered in the shape of all errors. Starlette's own place
    for this is outside all middleware, where no CORS headers are added."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except ClientDisconnect:  # in mid-body; nobody is left to be told
            return
        except Exception:
            if started:
                raise
            log.exception("%s %s failed", scope["method"], scope["path"])
            await error_response(unexpected())(scope, receive, send)


async def on_recursion(request: Request, error: Exception) -> JSONResponse:
    """Only a body can be as deep as that."""
    return error_response(RequestError("the body is nested too deeply", code="invalid_json"))


def from_validation(error: pydantic.ValidationError) -> RequestError:
    """The first thing that is wrong with a body, by the name of its field."""
    problems = error.errors(include_url=False, include_context=False)
    same = [problem for problem in problems if problem["loc"][:1] == problems[0]["loc"][:1]]
    first = max(same, key=_progress)
    steps = [s for s in first["loc"] if isinstance(s, int) or "[" not in str(s)]
    where = ""
    for step in steps:
        if isinstance(step, int):
            where += f"[{step}]"
        elif step not in ("str", "int", "float", "bool") or not where:
            where += f".{step}" if where else str(step)
    told = re.sub(r"a valid dictionary( or instance of \w+)?", "an object", first["msg"])
    what = f"it is {shown(first['input'])}" if first["type"] != "missing" else "it is missing"
    return RequestError(f"{where}: {told}; {what}", param=where)


def _progress(problem: Any) -> tuple[int, bool, int]:
    """In a union each branch complains. The branch that was meant came furthest: deeper, past the type, past more
    items."""
    *_, last = problem["loc"]
    return len(problem["loc"]), not problem["type"].endswith("_type"), last if isinstance(last, int) else -1
