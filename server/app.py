"""The one place of wiring: routes, middleware and error handlers over one engine client."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from .. import __version__
from ..engine.client import EngineClient
from ..engine.errors import QuireError
from . import admin
from .adapters import Adapters
from .auth import KeyGuard
from .config import ServerConfig
from .context import Context
from .dialect import Dialects
from .errors import Unexpected, on_http_error, on_quire_error, on_recursion
from .held import Holds
from .limits import BodyLimit
from .metrics import Metrics
from .openai import adapters as adapter_routes
from .openai import chat, completions, models, parse
from .openai.params import ParamsMaker, model_defaults
from .prompt import Renderer
from .tokenizer import Tokenizer


def create_app(config: ServerConfig, engine: EngineClient, tokenizer: Tokenizer, renderer: Renderer) -> FastAPI:
    """The application. It starts nothing: whoever calls it owns the engine's life."""
    app = FastAPI(title="quire", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    defaults = model_defaults(Path(config.model_path), config.generation_config == "auto")
    adapters = Adapters(engine, config)
    app.state.quire = Context(
        config=config,
        engine=engine,
        tokenizer=tokenizer,
        renderer=renderer,
        dialects=Dialects(renderer, tokenizer, config.tool_call_parser, config.reasoning_parser),
        params=ParamsMaker(tokenizer, defaults, config.seed),
        metrics=Metrics(engine, adapters),
        adapters=adapters,
    )
    routers = (admin, models, adapter_routes, chat, completions, parse)
    for module in routers:
        app.include_router(module.router)
    app.add_exception_handler(QuireError, on_quire_error)
    app.add_exception_handler(HTTPException, on_http_error)
    app.add_exception_handler(RecursionError, on_recursion)
    # The last added is the first to see a request: errors of all others carry the CORS headers too.
    app.add_middleware(Holds)
    app.add_middleware(BodyLimit, limit=config.max_body_bytes)
    app.add_middleware(KeyGuard, config=config)
    app.add_middleware(Unexpected)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(config.cors_origins),
        allow_methods=["*"],
        allow_headers=["*"],
        allow_credentials=False,
        expose_headers=["*"],
    )
    return app
