"""GET /, /health, /ready, /metrics: for people and for what watches the server."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from .. import __version__
from .context import READ, Context, context

router = APIRouter()


@router.api_route("/", methods=READ)
async def hello() -> PlainTextResponse:
    return PlainTextResponse(f"quire {__version__}. The API is at /v1; see /v1/models.\n")


@router.api_route("/health", methods=READ)
async def health(http: Request) -> JSONResponse:
    """The server process lives, and its engine does or is started again. Whether it can answer is /ready's to say; 503
    only where it never will again."""
    engine = context(http).engine
    if engine.state != "failed":
        return JSONResponse({"status": "ok"})
    error = engine.error.message if engine.error else "the engine has failed"
    return JSONResponse({"status": "failed", "error": error}, status_code=503)


@router.api_route("/ready", methods=READ)
async def ready(http: Request) -> JSONResponse:
    """200 while requests are answered: the engine serves, and moves forward where work is pending."""
    ctx = context(http)
    state, detail = readiness(ctx)
    return JSONResponse({"status": state, **detail}, status_code=200 if state == "ready" else 503)


def readiness(ctx: Context) -> tuple[str, dict[str, Any]]:
    engine = ctx.engine
    detail: dict[str, Any] = {"pending": engine.pending, "restarts": engine.restarts}
    if ctx.draining:
        return "draining", detail
    if engine.state != "ready":
        if engine.state == "starting" and engine.loading:
            detail["loaded_bytes"], detail["total_bytes"] = engine.loading.done, engine.loading.total
        if engine.error:
            detail["error"] = engine.error.message
        return engine.state, detail
    still = time.monotonic() - engine.last_progress
    if engine.pending and still > ctx.config.stale_seconds:
        return "stalled", {**detail, "seconds_without_progress": round(still, 1)}
    return "ready", detail


@router.api_route("/metrics", methods=READ)
async def metrics(http: Request) -> Response:
    return Response(context(http).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
