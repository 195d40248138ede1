"""Every error leaves as `{"error": {"message", "type", "param", "code"}}` with its own status."""

from __future__ import annotations

import logging
from typing import Any

import pydantic
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from ..engine.errors import Overloaded, QuireError, RequestError

log = logging.getLogger("quire")

LONGEST = 2000  # characters of a message


def error_body(error: QuireError) -> dict[str, Any]:
    message = error.message if len(error.message) <= LONGEST else error.message[:LONGEST] + " ..."
    return {"error": {"message": message, "type": error.type, "param": error.param, "code": error.code}}


def error_response(error: QuireError) -> JSONResponse:
    headers = {}
    if isinstance(error, Overloaded):
        headers["retry-after"] = str(error.retry_after)
    elif error.status == 503:
        headers["retry-after"] = "2"
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
    message = {404: f"{where}: there is no such route", 405: f"{where}: this route has other methods"}.get(
        error.status_code, f"{where}: {error.detail}"
    )
    body = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": "unknown_url"}}
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def on_unexpected(request: Request, error: Exception) -> JSONResponse:
    """A fault of ours: logged whole, told without its insides."""
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return error_response(QuireError("quire failed on this request; its log says why", code="internal_error"))


def from_validation(error: pydantic.ValidationError) -> RequestError:
    """The first thing that is wrong with a body, by the name of its field."""
    problems = error.errors(include_url=False, include_context=False)
    # In a union each branch complains; the deepest complaint is about the branch that was meant.
    first = max(problems, key=lambda p: (p["loc"][:1] == problems[0]["loc"][:1], len(p["loc"])))
    steps = [s for s in first["loc"] if isinstance(s, int) or "[" not in str(s)]
    where = ""
    for step in steps:
        if isinstance(step, int):
            where += f"[{step}]"
        elif step not in ("str", "int", "float", "bool") or not where:
            where += f".{step}" if where else str(step)
    found = repr(first["input"])
    found = found if len(found) <= 100 else found[:100] + " ..."
    what = f"it is {found}" if first["type"] != "missing" else "it is missing"
    return RequestError(f"{where}: {first['msg']}; {what}", param=where)
