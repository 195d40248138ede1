"""POST /v1/completions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ...engine.errors import RequestError
from ...engine.messages import Generate, Ready, TokenLogprob
from ..binding import FREE, Binding
from ..body import body_of
from ..context import Context, context, new_id
from ..detokenize import Detokenizer
from ..grammars import constraint
from ..infill import ends_of, infill
from ..metrics import Stopwatch
from ..stream import Entry, Piece, TextOptions, Usage, merged, pieces
from ..tokenizer import Tokenizer
from . import refused
from .adapters import choose
from .logprobs import finite, prompt_logprobs
from .params import check_ids, check_prompt, stop_strings
from .schema import CompletionRequest
from .sse import answer

router = APIRouter()
DEFAULT_MAX_TOKENS = 16  # OpenAI's


@router.post("/v1/completions")
async def completions(http: Request) -> Response:
    ctx = context(http)
    info = ctx.admit()
    watch = Stopwatch(ctx.metrics)
    body, raw = await body_of(http, CompletionRequest)
    refused.check(raw, CompletionRequest.model_fields)
    given = _given(body)
    ctx.enter(http, len(given), body.n)
    if body.suffix and body.echo:
        raise RequestError("echo: a prompt with a suffix is not repeated", param="echo", code="unsupported_parameter")
    wanted = constraint(raw)
    binding = Binding(wanted.spec, whole=True, origin=wanted.field) if wanted else FREE
    stops = tuple(stop_strings(body))
    usage = Usage()
    chosen = await choose(http, ctx, body, usage)
    prompts = await asyncio.to_thread(_prompts, ctx, body, given, info)  # a long text takes seconds
    if body.dry_multiplier:
        await asyncio.to_thread(ctx.params.breakers, body)
    ctx.serving()
    ends = ends_of(ctx.tokenizer.control) if body.suffix else ()
    limit = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    options = TextOptions(
        stops, body.include_stop_str_in_output, body.skip_special_tokens, body.min_tokens, binding=binding
    )
    counts = [body.prompt_logprobs, body.logprobs if body.echo else None]
    of_prompt = max((count for count in counts if count is not None), default=None)
    for prompt in prompts:
        check_prompt(prompt, limit, info, "prompt")
    first = ctx.params.make(  # once: words and bias of a long list are the same for each prompt
        body, prompts[0], info, max_tokens=limit, logprobs=body.logprobs, prompt_logprobs=of_prompt,
        field="prompt", ends=ends, binding=binding,
    )  # fmt: skip
    id_ = new_id("cmpl")
    sources = []
    for i, prompt in enumerate(prompts):
        params = msgspec.structs.replace(first, seed=ctx.params.seed(body.seed)) if i else first
        request = Generate(
            id=f"{id_}/{i}", prompt=prompt, params=params, n=body.n, priority=body.priority,
            cache_salt=body.cache_salt, adapters=chosen.uses, merge=chosen.merge,
            weight=chosen.weight,
        )  # fmt: skip
        source = pieces(ctx.engine, request, ctx.tokenizer, options, usage, watch)
        sources.append(_shifted(source, i * body.n) if i else source)
    shape = CompletionShape(id_, chosen.model, body, ctx.tokenizer, given, prompts)
    return await answer(http, merged(sources), shape, len(prompts) * body.n, usage, watch, body.stream)


async def _shifted(source: Any, by: int) -> Any:
    """Choices of the i-th prompt are numbered after those of the prompts before it."""
    try:
        async for batch in source:
            for piece in batch:
                piece.index += by
            yield batch
    finally:
        await source.aclose()


def _given(body: CompletionRequest) -> list[Any]:
    """Each prompt as it came."""
    one = isinstance(body.prompt, str) or isinstance(body.prompt[0], int)
    return [body.prompt] if one else list(body.prompt)


def _prompts(ctx: Context, body: CompletionRequest, given: list[Any], info: Ready) -> list[list[int]]:
    """Each prompt as ids. In text, control tokens are what they say: this is the model's raw input. With a suffix,
    they are text."""
    found = []
    for i, prompt in enumerate(given):
        where = "prompt" if len(given) == 1 else f"prompt[{i}]"
        found.append(_ids(ctx.tokenizer, body, prompt))
        check_ids(found[-1], info, where)
    return found


def _ids(tokenizer: Tokenizer, body: CompletionRequest, prompt: str | list[int]) -> list[int]:
    if body.suffix:
        between = infill(tokenizer, prompt, body.suffix, add_special_tokens=body.add_special_tokens)
        if between is None:
            raise RequestError(
                "suffix: this model has no fill-in-the-middle tokens", param="suffix", code="unsupported_parameter"
            )
        return between
    if not isinstance(prompt, str):
        return prompt
    ids = tokenizer.encode(prompt, add_special_tokens=body.add_special_tokens)
    return ids if ids or tokenizer.bos_id is None else [tokenizer.bos_id]


class CompletionShape:
    """Chunks and bodies of plain completions."""

    def __init__(
        self, id_: str, model: str, body: CompletionRequest, tokenizer: Tokenizer, given: list[Any],
        prompts: list[list[int]],
    ):  # fmt: skip
        """given: the prompts as they came; prompts: as ids."""
        self.options = body.stream_options
        self._body = body
        self._tokenizer = tokenizer
        self._given = given
        self._prompts = prompts
        self._echoed: set[int] = set()
        self._head = {"id": id_, "object": "text_completion", "created": int(time.time()), "model": model,
                      "system_fingerprint": "quire"}  # fmt: skip

    def opening(self) -> list[dict[str, Any]]:
        return []

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {**self._head, "choices": choices, **more}

    def deltas(self, piece: Piece) -> list[dict[str, Any]]:
        first = piece.index not in self._echoed
        self._echoed.add(piece.index)
        return [self._choice(piece.index, [piece], first=first)]

    def whole(self, got: list[list[Piece]], usage: Usage, more: dict[str, Any]) -> dict[str, Any]:
        choices = [self._choice(i, mine, first=True) for i, mine in enumerate(got)]
        return {**self._head, "choices": choices, "usage": usage.as_json(), **more}

    def _choice(self, index: int, mine: list[Piece], *, first: bool) -> dict[str, Any]:
        body = self._body
        prompt = self._prompts[index // body.n]
        echoed = self._prompt_text(index // body.n) if body.echo else ""
        entries = [e for p in mine for e in p.entries]
        choice: dict[str, Any] = {
            "index": index,
            "text": (echoed if first else "") + "".join(p.text for p in mine),
            "logprobs": None,
            "finish_reason": mine[-1].finish,
        }
        of_prompt = mine[0].prompt_logprobs
        if body.logprobs is not None:
            echo: Iterable[tuple[int, TokenLogprob | None, int]] = ()
            if body.echo and of_prompt is not None:
                echo = zip(prompt, [None, *of_prompt], self._offsets(index // body.n), strict=True)
            choice["logprobs"] = self._logprobs(entries, len(echoed), echo)
        if body.prompt_logprobs is not None and of_prompt is not None:
            choice["prompt_logprobs"] = prompt_logprobs(self._tokenizer, of_prompt, body.prompt_logprobs)
        if body.return_token_ids:
            choice["token_ids"] = [e.token for e in entries]
            if first:
                choice["prompt_token_ids"] = prompt
        if mine[-1].finish:
            choice["stop_reason"] = mine[-1].stop_reason
        return choice

    def _prompt_text(self, i: int) -> str:
        """The i-th prompt: text as it came, control tokens too."""
        given = self._given[i]
        if isinstance(given, str):
            return given
        return self._tokenizer.decode(given, skip_special_tokens=self._body.skip_special_tokens)

    def _offsets(self, i: int) -> list[int]:
        """Characters of the i-th prompt before each of its tokens. As in answers, those that a character is made of all
        stand where it does. A token that the text does not spell, such as one that begins it, adds nothing."""
        skip = self._body.skip_special_tokens and not isinstance(self._given[i], str)
        detokenizer = Detokenizer(self._tokenizer, skip_special_tokens=skip)
        texts = [detokenizer.feed([token]) for token in self._prompts[i]]
        ends = list(accumulate(map(len, texts)))
        text = self._prompt_text(i)
        begin = max(0, ("".join(texts) + detokenizer.flush()).find(text))
        return [min(max(0, at - begin), len(text)) for at in [0, *ends[:-1]]]

    def _logprobs(
        self, entries: list[Entry], shift: int, echo: Iterable[tuple[int, TokenLogprob | None, int]]
    ) -> dict[str, Any]:
        """Four arrays of one length, of the echoed prompt and then of the answer, which begins at character `shift`.
        The first token of a prompt has no logprob."""
        tokens, own, tops, offsets = [], [], [], []  # type: ignore[var-annotated]
        for token, found, offset in echo:
            tokens.append(self._tokenizer.token_text(token))
            own.append(finite(found.logprob) if found else None)
            tops.append(self._top(found) if found else None)
            offsets.append(offset)
        for entry in entries:
            assert entry.logprob is not None
            tokens.append(self._tokenizer.token_text(entry.token))
            own.append(finite(entry.logprob.logprob))
            tops.append(self._top(entry.logprob))
            offsets.append(shift + entry.offset)
        return {"tokens": tokens, "token_logprobs": own, "top_logprobs": tops, "text_offset": offsets}

    def _top(self, found: TokenLogprob) -> dict[str, float]:
        """By text; of several tokens of one text the most likely. The sampled token is always there."""
        top: dict[str, float] = {}
        for token, logprob in [*found.top[: self._body.logprobs], (found.token, found.logprob)]:
            top.setdefault(self._tokenizer.token_text(token), finite(logprob))
        return top
