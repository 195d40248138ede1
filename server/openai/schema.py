"""The bodies of requests, as types. What a field does stands where it is used: params.py, chat.py, completions.py.

Fields that are known elsewhere and would change the answer, and those whose names are nearly ours, are refused
(`refused.py`). Others that nobody knows are let through: clients send what is for other eyes, metadata and the like.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ...engine.config import MOST_DRAFTS
from ..config import LEAST_WEIGHT, MOST_WEIGHT

T = TypeVar("T")
Items = Annotated[
    list[T], Field(fail_fast=True)
]  # one bad item is told; a million of them must not become a million errors
TokenId = Annotated[int, Field(ge=0, le=2**31)]
Count = Annotated[int, Field(ge=0, le=2**31)]
Budget = Annotated[int, Field(ge=-1, le=2**31)]  # -1: none
Chance = Annotated[float, Field(ge=0, le=1)]
MAX_LOGPROBS = 100
MAX_CHOICES = 128
MAX_ADAPTERS = 8  # of one request
MAX_SCALE = 100  # of an adapter
MAX_STRINGS = 1024  # stop strings, or bad words: each is looked for at every token


class Body(BaseModel):
    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, given: Any) -> Any:
        """Null means "left out" at every level, and 5.0 is a whole number: some languages know no other."""
        if not isinstance(given, dict):
            return given
        whole = {k: int(v) for k, v in given.items() if isinstance(v, float) and v.is_integer()}
        return {k: v for k, v in {**given, **whole}.items() if v is not None}


class StreamOptions(Body):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    continuous_usage_stats: bool = False


class AdapterUse(Body):
    """One adapter of several that a request runs with. Unknown fields are refused: they would change the answer."""

    model_config = ConfigDict(extra="forbid")

    name: str
    scale: Annotated[float, Field(ge=-MAX_SCALE, le=MAX_SCALE)] = 1.0


class AdapterMerge(Body):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["linear", "ties", "dare_linear", "dare_ties"] = "linear"
    density: Annotated[float, Field(gt=0, le=1)] | None = None
    majority_sign_method: Literal["total", "frequency"] | None = None


class Sampling(Body):
    """What chat and plain completions have in common."""

    model: str = ""
    adapters: Annotated[Items[AdapterUse], Field(max_length=MAX_ADAPTERS)] = []
    merge: AdapterMerge | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] = 1
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: Count | None = None
    min_tokens: Count = 0
    stop: str | Annotated[Items[str], Field(max_length=MAX_STRINGS)] = []
    stop_token_ids: Items[TokenId] = []
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    seed: int | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Chance | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31)] | None = None
    min_p: Chance | None = None
    typical_p: Chance = 1.0
    top_n_sigma: Annotated[float, Field(ge=-1000, le=1000)] = 0.0
    xtc_probability: Chance = 0.0
    xtc_threshold: Chance = 0.1
    dry_multiplier: Annotated[float, Field(ge=0, le=1000)] = 0.0
    dry_base: Annotated[float, Field(ge=1, le=1000)] = 1.75
    dry_allowed_length: Annotated[int, Field(ge=1, le=2**31)] = 2
    dry_penalty_last_n: Annotated[int, Field(ge=-1, le=2**31)] = -1
    dry_sequence_breakers: Annotated[Items[str], Field(max_length=64)] = ["\n", ":", '"', "*"]
    mirostat: Literal[0, 1, 2] = 0
    mirostat_tau: Annotated[float, Field(ge=0, le=1000)] = 5.0
    mirostat_eta: Annotated[float, Field(ge=0, le=1000)] = 0.1
    repetition_penalty: Annotated[float, Field(gt=0, le=1000)] | None = None
    presence_penalty: Annotated[float, Field(ge=-1000, le=1000)] = 0.0
    frequency_penalty: Annotated[float, Field(ge=-1000, le=1000)] = 0.0
    logit_bias: dict[str, Any] = {}  # id -> bias
    bad_words: Annotated[Items[str], Field(max_length=MAX_STRINGS)] = []
    allowed_token_ids: Items[TokenId] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    num_speculative_tokens: Annotated[int, Field(ge=0, le=MOST_DRAFTS)] | None = None
    return_token_ids: bool = False
    priority: Annotated[int, Field(ge=-(2**31), le=2**31)] = 0
    cache_salt: str = ""


class ToolFunction(Body):
    name: str
    arguments: str | dict[str, Any] = ""


class ToolCall(Body):
    function: ToolFunction


class Message(Body):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | Items[str | dict[str, Any]] | None = None
    name: str | None = None
    tool_calls: Items[ToolCall] | None = None
    function_call: ToolFunction | None = None  # what came before tool_calls
    tool_call_id: str | None = None


Messages = Annotated[Items[Message], Field(min_length=1)]


class TextPart(Body):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text"] = "text"
    text: str


class Prediction(Body):
    """Unknown fields are refused: they might say more of the answer."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["content"] = "content"
    content: str | Items[TextPart]


class ChatRequest(Sampling):
    messages: Messages
    max_completion_tokens: Count | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] = 0
    tools: Items[dict[str, Any]] = []
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    thinking_token_budget: Budget | None = None  # these are one thing: budgets.FIELDS
    thinking_budget: Budget | None = None
    thinking_budget_tokens: Budget | None = None
    reasoning_budget_tokens: Budget | None = None
    reasoning_budget: Budget | None = None
    include_reasoning: bool = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = {}
    prediction: Prediction | None = None
    dry_run: bool = False  # show what would be done


class ParseRequest(Body):
    model: str = ""
    text: str
    messages: Messages | None = None  # those that the text answers; None: any question
    tools: Items[dict[str, Any]] = []
    chat_template_kwargs: dict[str, Any] = {}
    skip_special_tokens: bool = True
    include_reasoning: bool = True


Ids = Annotated[Items[TokenId], Field(min_length=1)]


class CompletionRequest(Sampling):
    prompt: str | Ids | Annotated[Items[str], Field(min_length=1)] | Annotated[Items[Ids], Field(min_length=1)]
    suffix: str = ""
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    add_special_tokens: bool = True


class TokenizeRequest(Body):
    model_config = ConfigDict(extra="forbid")

    model: str = ""
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] = {}
    tools: Items[dict[str, Any]] = []
    return_token_strs: bool = False


class LoadAdapterRequest(Body):
    """vLLM's names, SGLang's pinned, and weight, which is ours."""

    model_config = ConfigDict(extra="forbid")

    lora_name: str
    lora_path: Annotated[str, Field(min_length=1, max_length=4096)]
    load_inplace: bool = False
    pinned: bool = False
    weight: Annotated[float, Field(ge=LEAST_WEIGHT, le=MOST_WEIGHT)] = 1.0
    base_model_name: str | None = None


class UnloadAdapterRequest(Body):
    model_config = ConfigDict(extra="forbid")

    lora_name: str


class DetokenizeRequest(Body):
    model: str = ""
    tokens: Items[TokenId]
