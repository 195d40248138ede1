"""Fields that would change the answer and cannot be done here yet, or not under their names.

Field -> (values that ask for nothing, why any other is refused). A field that is refused is never ignored. So are names
that are nearly ours: they were mistyped.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from pydantic.fields import FieldInfo

from ...engine.errors import RequestError
from .. import budgets, grammars

_OFF: tuple[Any, ...] = (None, False, 0, "", [], {})

REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "guided_decoding_backend": ((None, "auto"), "what serves a kind of grammar is the server's choice"),
    "grammar_string": (_OFF, "name it grammar"),
    "regex_pattern": (_OFF, "name it regex"),
    "functions": (_OFF, "name them tools"),
    "function_call": ((None, "none"), "name it tool_choice"),
    "tools": (_OFF, "only /v1/chat/completions calls tools"),
    "tool_choice": ((None, "none", "auto"), "only /v1/chat/completions calls tools"),
    "parallel_tool_calls": ((None, True, False), "only /v1/chat/completions calls tools"),
    "dry_run": (_OFF, "only /v1/chat/completions shows what it would do"),
    **dict.fromkeys(("adapter_id", "lora_path"), (_OFF, "name it model")),
    "adapter_source": ((None, "local", "hub"), "where an adapter lies is the server's to know"),
    "merged_adapters": (_OFF, "name them adapters, and how they are combined merge"),
    "modalities": ((None, ["text"]), "only text comes out of these models"),
    "audio": (_OFF, "only text comes out of these models"),
    "prediction": (_OFF, "only /v1/chat/completions takes predictions"),
    "web_search_options": (_OFF, "there is no web search here"),
    "reasoning_effort": ((None, "none"), "only /v1/chat/completions has a template that could heed it"),
    "reasoning": (_OFF, "name it reasoning_effort"),
    "enable_thinking": ((None,), "name it in chat_template_kwargs"),
    "thinking": ((None,), "name it in chat_template_kwargs, and a budget thinking_token_budget"),
    "include_reasoning": ((None, True), "here thoughts are part of the text"),
    **dict.fromkeys(budgets.FIELDS, ((None, -1), "only /v1/chat/completions knows where thoughts begin and end")),
    **dict.fromkeys(("max_reasoning_tokens", "max_thinking_tokens"), ((None, -1), "name it thinking_token_budget")),
    **dict.fromkeys(("thinking_budget_message", "reasoning_budget_message"),
                    (_OFF, "nothing is put into the model's thoughts")),
    **dict.fromkeys(("use_beam_search", "beam_width"), (_OFF, "there is no beam search here")),
    "num_beams": ((None, 1), "there is no beam search here"),
    "do_sample": ((None, True), "temperature 0 is what does not sample"),
    "length_penalty": ((None, 1, 0), "there is no beam search here"),
    "early_stopping": ((None, False), "there is no beam search here"),
    "suffix": ((None, ""), "only /v1/completions fills the middle"),
    "truncate_prompt_tokens": ((None,), "a prompt is never cut; shorten it"),
    **dict.fromkeys(("tfs_z", "tfs"), ((None, 1), "tail-free sampling is not known here")),
    "no_repeat_ngram_size": (_OFF, "there is no such ban here; dry_multiplier is close"),
    "encoder_repetition_penalty": ((None, 1), "only repetition_penalty is known here"),
    "penalty_alpha": (_OFF, "contrastive search is not known here"),
    "skew": (_OFF, "skewed sampling is not known here"),
    **dict.fromkeys(("dynamic_temperature", "dynatemp"), (_OFF, "dynamic temperature is not known here")),
    **dict.fromkeys(("sampler_priority", "sampler_order", "samplers"), (_OFF, "the order of samplers is fixed")),
    **dict.fromkeys(("banned_strings", "banned_tokens", "custom_token_bans"), (_OFF, "name them in bad_words")),
    "verbosity": ((None, "medium"), "these models know no such setting"),
    "n_probs": (_OFF, "name it logprobs"),
    "smoothing_factor": (_OFF, "quadratic sampling is not known here"),
    "dynatemp_range": (_OFF, "dynamic temperature is not known here"),
    "epsilon_cutoff": (_OFF, "epsilon sampling is not known here"),
    "eta_cutoff": (_OFF, "eta sampling is not known here"),
    "top_a": (_OFF, "top-a sampling is not known here"),
    **dict.fromkeys(("repeat_penalty", "rep_pen"), ((None, 1), "name it repetition_penalty")),
    **dict.fromkeys(
        ("repeat_last_n", "repetition_penalty_range", "rep_pen_range"),
        ((None, -1, 0), "penalties look at all tokens"),
    ),
    "negative_prompt": (_OFF, "guidance is not known here"),
    "guidance_scale": ((None, 1), "guidance is not known here"),
    "lora": (_OFF, "name them adapters"),
    "logits_processors": (_OFF, "code is not run from requests"),
    "chat_template": ((None,), "templates are not run from requests; start the server with --chat-template"),
    "documents": (_OFF, "a template that knows them takes them in chat_template_kwargs"),
    "mm_processor_kwargs": (_OFF, "only text goes into these models"),
    "prompt_embeds": (_OFF, "only tokens go into these models"),
    "kv_transfer_params": (_OFF, "pages are not moved between servers"),
    "return_tokens_as_token_ids": (_OFF, "name it return_token_ids"),
    "prompt": ((None,), "/v1/completions takes a prompt; here it is messages"),
    "messages": ((None,), "/v1/chat/completions takes messages; here it is a prompt"),
    "echo": (_OFF, "only /v1/completions repeats its prompt"),
    "add_special_tokens": ((None, False), "the chat template puts them where they belong"),
    **dict.fromkeys(("system", "instructions"), (_OFF, "/v1/chat/completions takes it as a message of role system")),
    "format": (_OFF, "name it response_format"),
    **dict.fromkeys(("options", "extra_body"), (_OFF, "what is in it stands beside model")),
    "num_ctx": ((None,), "how long a sequence may be is the server's to know; see --max-model-len"),
    "spaces_between_special_tokens": ((None, True), "text is decoded as the tokenizer decodes it"),
}  # fmt: skip


# What other servers call a field of ours. Clients that send both are understood, where both say the same, and so are
# those that send what it is without being asked for.
NAMES: dict[str, str] = {
    "max_new_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "max_output_tokens": "max_tokens",
    "max_tokens_to_sample": "max_tokens",
    "max_length": "max_tokens",
    "min_new_tokens": "min_tokens",
    "min_length": "min_tokens",
    "stop_sequences": "stop",
    "stopping_strings": "stop",
    "stop_words": "stop",
    "ban_eos_token": "ignore_eos",
    "typical": "typical_p",
    "nsigma": "top_n_sigma",
    "mirostat_mode": "mirostat",
    "rep_pen": "repetition_penalty",
    "repeat_penalty": "repetition_penalty",
    "sampler_seed": "seed",
    "speculative.n_max": "num_speculative_tokens",
}


# For other eyes than the model's, though near to a name of ours.
PASSED = frozenset(["models", "user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"])
_ELSEWHERE = frozenset(
    [*grammars.FIELDS, "guided_whitespace_pattern", "best_of", *NAMES]
)  # known to others than schema
NEAR = 0.87  # difflib's ratio: one letter in eight or so is another
LONGEST = 64  # characters of a name that are looked at
MOST_UNKNOWN = 128  # fields: each is compared with all of ours


def check(body: Mapping[str, Any], known: Mapping[str, FieldInfo]) -> None:
    """Raise RequestError for the first field that asks for something that would have to be ignored.

    known: the fields that this kind of request has.
    """
    unknown = []
    for field, value in body.items():
        name = NAMES.get(field)
        if field in known or (name and value == body.get(name, known[name].default)):
            continue
        if field in REFUSED or name:
            neutral, why = REFUSED.get(field, ((), f"name it {name}"))
            if not any(_same(value, n) for n in neutral):
                raise RequestError(f"{field}: {why}", param=field, code="unsupported_parameter")
        elif field not in PASSED and field not in _ELSEWHERE:
            unknown.append(field)
    if len(unknown) > MOST_UNKNOWN:
        raise RequestError(
            f"the body has {len(unknown)} fields that are not known; at most {MOST_UNKNOWN} are passed over"
        )
    ours = frozenset(known) | _ELSEWHERE if unknown else _ELSEWHERE
    for field in unknown:
        if meant := _meant(field[:LONGEST], ours):
            raise RequestError(
                f"{field[:LONGEST]}: it is not known; did you mean {meant}?",
                param=field[:LONGEST], code="unsupported_parameter",
            )  # fmt: skip
    if any((body.get("stream_options") or {}).values()) and not body.get("stream"):
        raise RequestError("stream_options: they are for streams, and stream is not true", param="stream_options")
    n = body.get("n") or 1
    if body.get("best_of") not in (None, n):
        raise RequestError("best_of: only as many answers as n are made", param="best_of", code="unsupported_parameter")


@lru_cache(1024)
def _meant(field: str, ours: frozenset[str]) -> str | None:
    """The name that `field` nearly is, in one case or another."""
    plain = {name.replace("_", ""): name for name in sorted(ours)}
    found = get_close_matches(field.replace("_", "").replace("-", "").lower(), plain, 1, NEAR)
    return NAMES.get(plain[found[0]], plain[found[0]]) if found else None


def _same(value: Any, neutral: Any) -> bool:
    """1.0 is 1, but true is not."""
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)
