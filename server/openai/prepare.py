"""What a chat request comes to before anything is generated: prompt, params, and how its answer is bound and read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ...engine.errors import RequestError
from ...engine.messages import Ready, SamplingParams
from ..binding import Binding, bind
from ..budgets import HINT, Asked, asked, thought
from ..calls import Calls, calls
from ..context import Context
from ..dialect import Dialect
from ..grammars import constraint
from ..history import modern
from ..prompt import Prompt, unused_character
from ..reader import Reader
from ..segments import Segment, segments
from ..stream import TextOptions
from .adapters import Chosen
from .params import stop_strings
from .schema import ChatRequest


@dataclass(frozen=True, slots=True)
class Prepared:
    prompt: Prompt
    parts: list[Segment] | None  # of the prompt, where they were asked for and can be told
    params: SamplingParams
    options: TextOptions
    binding: Binding
    dialect: Dialect
    calls: Calls


async def prepare(ctx: Context, body: ChatRequest, raw: dict[str, Any], info: Ready) -> Prepared:
    """Raises RequestError naming what cannot be done."""
    stops = tuple(stop_strings(body))
    may_call = calls(body.tools, body.tool_choice, body.parallel_tool_calls)
    wanted = constraint(raw)
    budget = asked(raw, body.chat_template_kwargs)
    dialect = ctx.dialects.for_request(tools=bool(body.tools))
    messages = modern(raw["messages"])
    render = partial(
        ctx.renderer.render,
        tools=body.tools or None,
        add_generation_prompt=body.add_generation_prompt and not body.continue_final_message,
        continue_final_message=body.continue_final_message,
        template_kwargs=template_kwargs(body, dialect, budget),
    )
    prompt = await asyncio.to_thread(render, messages)  # a long conversation takes seconds
    parts: list[Segment] | None = None
    if body.dry_run:
        parts = await asyncio.to_thread(_parts, lambda m: render(m).text, messages, prompt.text, [raw, dialect.source])
    if body.dry_multiplier:
        await asyncio.to_thread(ctx.params.breakers, body)
    ctx.serving()
    binding = bind(wanted, may_call, dialect, prompt.text)
    if budget is not None:
        found = thought(
            budget, dialect, prompt.text, ctx.tokenizer, tools=bool(may_call.tools), allowed=body.allowed_token_ids
        )
        binding = replace(binding, thought=found, origin=binding.origin or budget.field)
    limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
    if body.max_tokens not in (None, limit):
        raise RequestError(
            f"max_tokens: it is {body.max_tokens}, and max_completion_tokens is {limit}; they are one thing",
            param="max_tokens",
        )
    params = ctx.params.make(
        body, prompt.ids, info, max_tokens=limit, logprobs=body.top_logprobs if body.logprobs else None,
        prompt_logprobs=body.prompt_logprobs, field="messages", binding=binding,
    )  # fmt: skip
    reader = _reader(body, dialect, may_call, binding, prompt.text)
    options = TextOptions(
        stops, body.include_stop_str_in_output, body.skip_special_tokens, body.min_tokens,
        shown=dialect.shown if dialect.is_read(may_call.tools) else frozenset(), reader=reader, binding=binding,
    )  # fmt: skip
    return Prepared(prompt, parts, params, options, binding, dialect, may_call)


def _parts(
    render: Callable[[list[dict[str, Any]]], str], messages: list[dict[str, Any]], text: str, used: list[Any]
) -> list[Segment] | None:
    """used: all that may hold a character of the prompt."""
    mark = unused_character(used)
    try:
        return segments(render, messages, text, (mark, unused_character([*used, mark])))
    except RequestError:  # the template refuses what stands between marks
        return None


def _reader(
    body: ChatRequest, dialect: Dialect, may_call: Calls, binding: Binding, prompt: str
) -> Callable[[], Reader | None]:
    return partial(
        dialect.reader, prompt, may_call.tools, special=not body.skip_special_tokens, thoughts=body.include_reasoning,
        one=binding.one,
    )  # fmt: skip


def template_kwargs(body: ChatRequest, dialect: Dialect, budget: Asked | None) -> dict[str, Any]:
    """What the template is given beside the messages; budget: a template that reads it tells the model. Raises
    RequestError where it does not heed an effort."""
    effort, given = body.reasoning_effort, body.chat_template_kwargs
    if budget is not None and HINT in dialect.source:
        given = {HINT: budget.tokens, **given}
    if effort is None:
        return given
    if "reasoning_effort" in dialect.source:
        return {"reasoning_effort": effort, **given}
    if effort == "none":
        if not dialect.reasoning.begin:
            return given
        for switch in ("enable_thinking", "thinking"):
            if switch in dialect.source:
                return {switch: False, **given}
    raise RequestError(
        "reasoning_effort: this model's chat template knows no such setting", param="reasoning_effort",
        code="unsupported_parameter",
    )  # fmt: skip


def shown(chosen: Chosen, asked: Prepared) -> dict[str, Any]:
    """The answer to dry_run: all that is known before the first token."""
    prompt = asked.prompt
    return {
        "object": "chat.completion.dry_run",
        "model": chosen.model,
        "adapters": [{"name": use.name, "scale": use.scale} for use in chosen.uses],
        "merge": chosen.merge_as_json(),
        "prompt": {
            "text": prompt.text,
            "token_ids": prompt.ids,
            "segments": asked.parts,
            "defused_control_tokens": prompt.defused,
        },
        **asked.dialect.names,
        "tools": [tool["function"]["name"] for tool in asked.calls.tools],
        "grammar": asked.binding.as_json(),
        "thinking_budget": asked.binding.thought.tokens if asked.binding.thought is not None else None,
        "max_tokens": asked.params.max_tokens,
        "stop_token_ids": list(asked.params.stop_token_ids),
    }
