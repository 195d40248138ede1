"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ...engine.errors import RequestError
from ...engine.messages import Generate
from ..body import body_of
from ..context import context, new_id
from ..metrics import Stopwatch
from ..stream import Entry, Piece, Usage, pieces
from ..tokenizer import Tokenizer
from . import refused
from .adapters import choose
from .logprobs import finite, prompt_logprobs
from .message import deltas, events_of, message
from .prediction import tokens_of
from .prepare import prepare, shown
from .schema import ChatRequest
from .sse import answer

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat(http: Request) -> Response:
    ctx = context(http)
    info = ctx.admit()
    watch = Stopwatch(ctx.metrics)
    body, raw = await body_of(http, ChatRequest)
    refused.check(raw, ChatRequest.model_fields)
    if body.top_logprobs and not body.logprobs:
        raise RequestError("top_logprobs needs logprobs: true", param="top_logprobs")
    if body.stream and body.prompt_logprobs is not None:
        raise RequestError("prompt_logprobs: chunks have no place for them; stream: false has", param="prompt_logprobs")
    ctx.enter(http, 1, body.n)
    usage = Usage()
    chosen = await choose(http, ctx, body, usage, load=not body.dry_run)
    asked = await prepare(ctx, body, raw, info)
    if body.dry_run:
        return JSONResponse(shown(chosen, asked))
    id_ = new_id("chatcmpl")
    request = Generate(
        id=id_, prompt=asked.prompt.ids, params=asked.params, n=body.n, priority=body.priority,
        cache_salt=body.cache_salt, adapters=chosen.uses, merge=chosen.merge,
        weight=chosen.weight, prediction=await tokens_of(body.prediction, ctx.tokenizer, info),
    )  # fmt: skip
    shape = ChatShape(id_, chosen.model, body, ctx.tokenizer, asked.prompt.ids)
    source = pieces(ctx.engine, request, ctx.tokenizer, asked.options, usage, watch)
    return await answer(http, source, shape, body.n, usage, watch, body.stream)


class ChatShape:
    """Chunks and bodies of chat completions."""

    def __init__(self, id_: str, model: str, body: ChatRequest, tokenizer: Tokenizer, prompt_ids: list[int]):
        self.options = body.stream_options
        self._body = body
        self._tokenizer = tokenizer
        self._prompt_ids = prompt_ids
        self._may_call = bool(body.tools) and body.tool_choice != "none"
        self._said: set[int] = set()  # choices that have said text or called
        self._head = {"id": id_, "created": int(time.time()), "model": model, "system_fingerprint": "quire"}

    def opening(self) -> list[dict[str, Any]]:
        """content is null where there may be only calls: text that follows is joined to it all the same."""
        content = None if self._may_call else ""
        extra = {"prompt_token_ids": self._prompt_ids} if self._body.return_token_ids else {}
        return [
            self.chunk(
                [
                    {
                        "index": i,
                        "delta": {"role": "assistant", "content": content},
                        "logprobs": None,
                        "finish_reason": None,
                    }
                ],
                **(extra if i == 0 else {}),
            )
            for i in range(self._body.n)
        ]

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "choices": choices, **more}

    def deltas(self, piece: Piece) -> list[dict[str, Any]]:
        """The last one carries what else the piece holds: logprobs, ids, the end. Tokens of marks say nothing."""
        found = deltas(events_of([piece]))
        if any("content" in delta or "tool_calls" in delta for delta in found):
            self._said.add(piece.index)
        carried = piece.finish or (piece.entries and (self._body.logprobs or self._body.return_token_ids))
        if not found and not carried:
            return []
        found = found or [{}]
        if piece.finish and self._may_call and piece.index not in self._said:
            found[-1]["content"] = ""  # as in a plain answer, where it is null beside calls only
        choices: list[dict[str, Any]] = [
            {"index": piece.index, "delta": delta, "logprobs": None, "finish_reason": None} for delta in found
        ]
        choices[-1]["finish_reason"] = piece.finish
        self._extras(choices[-1], [piece])
        return choices

    def whole(self, got: list[list[Piece]], usage: Usage, more: dict[str, Any]) -> dict[str, Any]:
        choices = []
        for index, mine in enumerate(got):
            choice = {"index": index, "message": message(events_of(mine)), "logprobs": None,
                      "finish_reason": mine[-1].finish}  # fmt: skip
            choices.append(self._extras(choice, mine))
        body = {**self._head, "object": "chat.completion", "choices": choices, "usage": usage.as_json(), **more}
        if self._body.prompt_logprobs is not None:
            found = got[0][0].prompt_logprobs or []
            body["prompt_logprobs"] = prompt_logprobs(self._tokenizer, found, self._body.prompt_logprobs)
        if self._body.return_token_ids:
            body["prompt_token_ids"] = self._prompt_ids
        return body

    def _extras(self, choice: dict[str, Any], mine: list[Piece]) -> dict[str, Any]:
        entries = [e for p in mine for e in p.entries]
        if self._body.logprobs and entries:
            choice["logprobs"] = {"content": [self._logprob(e) for e in entries], "refusal": None}
        if self._body.return_token_ids:
            choice["token_ids"] = [e.token for e in entries]
        if mine[-1].finish:
            choice["stop_reason"] = mine[-1].stop_reason
        return choice

    def _logprob(self, entry: Entry) -> dict[str, Any]:
        assert entry.logprob is not None
        top = [self._one(t, p) for t, p in entry.logprob.top]
        return {**self._one(entry.token, entry.logprob.logprob), "top_logprobs": top}

    def _one(self, token: int, logprob: float) -> dict[str, Any]:
        found = self._tokenizer.token_bytes(token)
        return {"token": found.decode(errors="replace"), "logprob": finite(logprob), "bytes": list(found)}
