"""Fields that other servers know, that would change the answer, and that cannot be done here yet.

Field -> (values that ask for nothing, why any other is refused). A field that is refused is never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    "functions": (_OFF, _TOOLS),
    "function_call": ((None, "none"), _TOOLS),
    "parallel_tool_calls": ((None, True, False), _TOOLS),
    "modalities": ((None, ["text"]), "only text comes out of these models"),
    "audio": (_OFF, "only text comes out of these models"),
    "prediction": (_OFF, "predicted outputs are not available in this version"),
    "web_search_options": (_OFF, "there is no web search here"),
    "reasoning_effort": ((None, "none"), "reasoning is not controlled in this version; use chat_template_kwargs"),
    "thinking_token_budget": (_OFF, "reasoning is not controlled in this version"),
    "use_beam_search": (_OFF, "there is no beam search here"),
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
    "spaces_between_special_tokens": ((None, True), "text is decoded as the tokenizer decodes it"),
}  # fmt: skip


def check(body: Mapping[str, Any]) -> None:
    """Raise RequestError for the first field that asks for something that would have to be ignored."""
    for field, value in body.items():
        if field in REFUSED:
            neutral, why = REFUSED[field]
            if not any(value == n and isinstance(value, type(n)) for n in neutral):
                raise RequestError(f"{field}: {why}", param=field, code="unsupported_parameter")
    n = body.get("n") or 1
    if body.get("best_of") not in (None, n):
        raise RequestError("best_of: only as many answers as n are made", param="best_of", code="unsupported_parameter")
    if body.get("tools") and body.get("tool_choice", "auto") != "none":
        raise RequestError(
            f"tools: {_TOOLS}; tool_choice: \"none\" shows the tools to the model without letting it call them",
            param="tools", code="unsupported_parameter",
        )  # fmt: skip
