"""POST /parse: a raw text as the message that it would be, by the parsers that answers go through."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from ...engine.errors import RequestError
from ..body import body_of
from ..calls import calls
from ..context import Context, context
from ..history import modern
from ..stream import Piece
from .message import events_of, message
from .schema import ParseRequest

router = APIRouter()
_ASKED = [{"role": "user", "content": "question"}]


@router.post("/parse")
async def parse(http: Request) -> dict[str, Any]:
    ctx = context(http)
    body, raw = await body_of(http, ParseRequest)
    model = await ctx.model(body.model)
    tools = calls(body.tools, "auto", True).tools
    dialect = ctx.dialects.for_request(tools=bool(tools))
    if tools and dialect.format is None:
        raise RequestError("tools: no format of calls is known of this model; see --tool-call-parser", param="tools")
    prompt = await asyncio.to_thread(_prompt, ctx, body, raw)
    reader = dialect.reader(prompt, tools, special=not body.skip_special_tokens, thoughts=body.include_reasoning)
    piece = Piece(0, text=body.text, finish="stop")
    if reader is not None:
        piece.events = await asyncio.to_thread(lambda: [*reader.feed(body.text), *reader.finish()])
        piece.finish = reader.ended_as("stop")
    return {"model": model, **dialect.names, "message": message(events_of([piece])), "finish_reason": piece.finish}


def _prompt(ctx: Context, body: ParseRequest, raw: dict[str, Any]) -> str:
    """What the text answers; its end tells whether that begins in a thought."""
    if body.messages is None and not ctx.renderer.source(tools=bool(body.tools)):
        return ""
    messages = _ASKED if body.messages is None else modern(raw["messages"])
    rendered = ctx.renderer.render(messages, tools=body.tools or None, template_kwargs=body.chat_template_kwargs)
    return rendered.text
