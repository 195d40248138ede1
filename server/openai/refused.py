"""Fields that other servers know, that would change the answer, and that cannot be done here yet.

Field -> (values that ask for nothing, why any other is refused). A field that is refused is never ignored.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from ...engine.errors import RequestError

_GRAMMAR = "constrained output is not available in this version"
_TOOLS = "function calling is not available in this version"
_OFF: tuple[Any, ...] = (None, False, 0, "", [], {})

REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "response_format": ((None, {"type": "text"}), _GRAMMAR),
    **dict.fromkeys(
        ("structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "grammar",
         "guided_decoding_backend", "guided_whitespace_pattern", "json_schema", "structural_tag"),
        ((None,), _GRAMMAR),
    ),
    **dict.fromkeys(("regex", "ebnf"), (_OFF, _GRAMMAR)),
    "functions": (_OFF, _TOOLS),
    "function_call": ((None, "none"), _TOOLS),
    "parallel_tool_calls": ((None, True, False), _TOOLS),
    "modalities": ((None, ["text"]), "only text comes out of these models"),
    "audio": (_OFF, "only text comes out of these models"),
    "prediction": (_OFF, "predicted outputs are not available in this version"),
    "web_search_options": (_OFF, "there is no web search here"),
    "reasoning_effort": ((None, "none"), "reasoning is not controlled in this version; use chat_template_kwargs"),
    "reasoning": (_OFF, "reasoning is not controlled in this version; use chat_template_kwargs"),
    "enable_thinking": ((None,), "name it in chat_template_kwargs"),
    "include_reasoning": ((None, True), "reasoning is part of the text in this version"),
    "thinking_token_budget": (_OFF, "reasoning is not controlled in this version"),
    **dict.fromkeys(("use_beam_search", "beam_width"), (_OFF, "there is no beam search here")),
    "num_beams": ((None, 1), "there is no beam search here"),
    "do_sample": ((None, True), "temperature 0 is what does not sample"),
    "length_penalty": ((None, 1, 0), "there is no beam search here"),
    "early_stopping": ((None, False), "there is no beam search here"),
    "suffix": ((None, ""), "this model has no fill-in-the-middle tokens"),
    "truncate_prompt_tokens": ((None,), "a prompt is never cut; shorten it"),
    "tfs_z": ((None, 1), "tail-free sampling is not known here"),
    "smoothing_factor": (_OFF, "quadratic sampling is not known here"),
    "dynatemp_range": (_OFF, "dynamic temperature is not known here"),
    "epsilon_cutoff": (_OFF, "epsilon sampling is not known here"),
    "eta_cutoff": (_OFF, "eta sampling is not known here"),
    "top_a": (_OFF, "top-a sampling is not known here"),
    "repeat_penalty": ((None, 1), "name it repetition_penalty"),
    **dict.fromkeys(("repeat_last_n", "repetition_penalty_range"), ((None, -1, 0), "penalties look at all tokens")),
    "negative_prompt": (_OFF, "guidance is not known here"),
    "guidance_scale": ((None, 1), "guidance is not known here"),
    "adapters": (_OFF, "adapters are not available in this version"),
    "lora": (_OFF, "adapters are not available in this version"),
    "logits_processors": (_OFF, "code is not run from requests"),
    "chat_template": ((None,), "templates are not run from requests; start the server with --chat-template"),
    "documents": (_OFF, "documents are not passed to templates in this version"),
    "mm_processor_kwargs": (_OFF, "only text goes into these models"),
    "prompt_embeds": (_OFF, "only tokens go into these models"),
    "kv_transfer_params": (_OFF, "pages are not moved between servers"),
    "return_tokens_as_token_ids": (_OFF, "name it return_token_ids"),
    "prompt": ((None,), "/v1/completions takes a prompt; here it is messages"),
    "messages": ((None,), "/v1/chat/completions takes messages; here it is a prompt"),
    "echo": (_OFF, "only /v1/completions repeats its prompt"),
    "add_special_tokens": ((None, False), "the chat template puts them where they belong"),
    "spaces_between_special_tokens": ((None, True), "text is decoded as the tokenizer decodes it"),
}  # fmt: skip


# What other servers call a field of ours. Clients that send both are understood, where both say the same.
NAMES: dict[str, str] = {
    "max_new_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "stop_sequences": "stop",
    "typical": "typical_p",
}


def check(body: Mapping[str, Any], known: Container[str]) -> None:
    """Raise RequestError for the first field that asks for something that would have to be ignored.

    known: the fields that this kind of request has.
    """
    for field, value in body.items():
        if field in known:
            continue
        if field in REFUSED:
            neutral, why = REFUSED[field]
            if not any(value == n and isinstance(value, type(n)) for n in neutral):
                raise RequestError(f"{field}: {why}", param=field, code="unsupported_parameter")
        elif field in NAMES and value not in (None, body.get(NAMES[field])):
            raise RequestError(f"{field}: name it {NAMES[field]}", param=field, code="unsupported_parameter")
    n = body.get("n") or 1
    if body.get("best_of") not in (None, n):
        raise RequestError("best_of: only as many answers as n are made", param="best_of", code="unsupported_parameter")
    choice = body.get("tool_choice", "auto")
    if body.get("tools") and choice != "none":
        raise RequestError(
            f"tools: {_TOOLS}; tool_choice: \"none\" shows the tools to the model without letting it call them",
            param="tools", code="unsupported_parameter",
        )  # fmt: skip
    if choice not in ("none", "auto"):
        raise RequestError("tool_choice: there are no tools", param="tool_choice")
