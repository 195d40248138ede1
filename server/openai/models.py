"""GET /v1/models, /v1/models/{id}; POST /tokenize, /detokenize; GET /tokenizer_info."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from ...engine.errors import RequestError
from ..adapters import Adapter
from ..body import body_of
from ..calls import calls
from ..context import READ, Context, context
from ..history import modern
from .schema import DetokenizeRequest, TokenizeRequest

router = APIRouter()


@router.api_route("/v1/models", methods=READ)
@router.api_route("/v1/models/", methods=READ)
async def models(http: Request) -> dict[str, Any]:
    ctx = context(http)
    data = [_model(ctx, name) for name in ctx.config.served_model_names]
    data += [adapter_entry(ctx, adapter) for adapter in await ctx.adapters.all()]
    return {"object": "list", "data": data}


@router.api_route("/v1/models/{name:path}", methods=READ)
async def model(http: Request, name: str) -> dict[str, Any]:
    ctx = context(http)
    if name in ctx.config.served_model_names:
        return _model(ctx, name)
    if adapter := await ctx.adapters.find(name):
        return adapter_entry(ctx, adapter)
    raise ctx.adapters.unknown(name)


def _model(ctx: Context, name: str) -> dict[str, Any]:
    length = ctx.engine.info.max_model_len if ctx.engine.info else None
    return {
        "id": name,
        "object": "model",
        "created": ctx.started,
        "owned_by": "quire",
        "root": ctx.config.model_path,
        "parent": None,
        "max_model_len": length,
        "context_length": length,
    }


def adapter_entry(ctx: Context, adapter: Adapter) -> dict[str, Any]:
    """An adapter as /v1/models shows it, with what is known of it under a name of ours."""
    info = adapter.info
    return {
        **_model(ctx, adapter.name),
        "created": adapter.created,
        "root": adapter.folder or adapter.source,
        "parent": ctx.config.served_model_names[0],
        "quire": {
            "key": info.key if info else None,
            "kind": info.kind if info else None,
            "rank": info.rank if info else None,
            "bytes": info.bytes if info else None,
            "state": adapter.state,
            "pinned": adapter.pinned,
            "weight": adapter.weight,
            "error": adapter.error.message if adapter.error else None,
        },
    }


@router.post("/tokenize")
async def tokenize(http: Request) -> dict[str, Any]:
    ctx = context(http)
    body, raw = await body_of(http, TokenizeRequest)
    await ctx.model(body.model)
    if body.prompt is not None and body.messages is not None:
        raise RequestError("messages: they stand beside prompt; only one can", param="messages")
    calls(body.tools, "none", True)
    if body.messages is not None:
        rendered = await asyncio.to_thread(
            ctx.renderer.render,
            modern(raw["messages"]),
            tools=body.tools or None,
            add_generation_prompt=body.add_generation_prompt and not body.continue_final_message,
            continue_final_message=body.continue_final_message,
            template_kwargs=body.chat_template_kwargs,
        )
        ids = rendered.ids
    elif body.prompt is not None:
        ids = await asyncio.to_thread(ctx.tokenizer.encode, body.prompt, add_special_tokens=body.add_special_tokens)
    else:
        raise RequestError("prompt: it is missing; expected prompt or messages", param="prompt")
    info = ctx.engine.info
    found: dict[str, Any] = {"count": len(ids), "tokens": ids, "max_model_len": info.max_model_len if info else None}
    if body.return_token_strs:
        found["token_strs"] = [ctx.tokenizer.token_text(i) for i in ids]
    return found


@router.post("/detokenize")
async def detokenize(http: Request) -> dict[str, Any]:
    ctx = context(http)
    body, _ = await body_of(http, DetokenizeRequest)
    await ctx.model(body.model)
    for i, token in enumerate(body.tokens):
        if token >= ctx.tokenizer.vocab_size:
            raise RequestError(
                f"tokens[{i}] is {token}; the vocabulary has {ctx.tokenizer.vocab_size} ids", param="tokens"
            )
    text = await asyncio.to_thread(ctx.tokenizer.decode, body.tokens, skip_special_tokens=False)
    return {"prompt": text}


@router.api_route("/tokenizer_info", methods=READ)
async def tokenizer_info(http: Request) -> dict[str, Any]:
    tokenizer = context(http).tokenizer
    names = ("bos_token", "eos_token", "pad_token", "unk_token")
    return {
        "tokenizer_class": tokenizer.settings.get("tokenizer_class", "PreTrainedTokenizerFast"),
        "vocab_size": tokenizer.vocab_size,
        "chat_template": tokenizer.chat_template,
        "eos_token_ids": list(tokenizer.eos_ids),
        **{name: tokenizer.named(name) for name in names},
    }
