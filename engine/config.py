"""What the engine is started with: one frozen struct, checked once where it is made, passed down, never rewritten."""

from __future__ import annotations

from typing import Literal

import msgspec

from .errors import ConfigError
from .grammar import ABLE, KINDS

BLOCK_SIZE = 16  # tokens a page holds
MOST_DRAFTS = 32
MOST_THREADS = 1024  # that the pool of kernels/cpu takes
HEADS = ("medusa", "eagle3")  # methods whose model is a part of the model

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class Speculation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How tokens are guessed ahead, under vLLM's names. Guesses never change an answer."""

    # None: draft_model where there is a model, else ngram
    method: Literal["ngram", "suffix", "draft_model", "medusa", "eagle3", "none"] | None = None
    model: str | None = None  # a folder: the draft model, or the heads
    quantization: Literal["int8", "int4", "fp8"] | None = None  # of the draft model's weights, at load
    num_speculative_tokens: int = 8  # of a sequence and step, at most
    adaptive: bool = True  # as many as pay are taken; False: all that there are
    prompt_lookup_min: int = 2  # tokens at the end of the text that must stand in it before
    prompt_lookup_max: int = 8  # tokens that are compared
    suffix_tokens: int = 131_072  # of earlier answers, that are remembered

    def __post_init__(self) -> None:
        field = "speculative_config"
        if not 1 <= self.num_speculative_tokens <= MOST_DRAFTS:
            found = f"has {self.num_speculative_tokens} as num_speculative_tokens"
            raise ConfigError(field, found, f"a number from 1 to {MOST_DRAFTS}")
        if not 1 <= self.prompt_lookup_min <= self.prompt_lookup_max:
            found = f"has {self.prompt_lookup_min} as prompt_lookup_min and {self.prompt_lookup_max} as its maximum"
            raise ConfigError(field, found, "at least 1, and a maximum that is not less")
        if self.suffix_tokens < 1:
            raise ConfigError(field, f"has {self.suffix_tokens} as suffix_tokens", "a positive number")
        if self.method in ("draft_model", *HEADS) and self.model is None:
            raise ConfigError(field, f"has the method {self.method} and no model", "its folder as model")
        if self.quantization is not None and (self.model is None or self.method in HEADS):
            found = f"has {self.quantization} as quantization and {'heads' if self.model else 'no model'}"
            raise ConfigError(field, found, "a draft model")
        if self.method in ("ngram", "none") and self.model is not None:
            expected = "draft_model, medusa, eagle3 or suffix as method"
            raise ConfigError(field, f"has a model and the method {self.method}", expected)

    @property
    def stack(self) -> tuple[str, ...]:
        """Who guesses where no prediction does, in the order they are asked: the cheapest first."""
        if self.method == "none":
            return ()
        return (
            "ngram",
            *(("suffix",) if self.method == "suffix" else ()),
            *(() if self.model is None else (self.method,) if self.method in HEADS else ("draft_model",)),
        )


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one engine process needs to know; it crosses the process border as JSON."""

    model: str  # a folder
    dtype: Dtype = "auto"
    quantization: Literal["int8", "int4", "fp8"] | None = None  # of the weights, at load
    deterministic: bool = False  # the same answer under any load, also on a GPU
    device: str = "auto"  # auto | cpu | cuda | cuda:N
    max_model_len: int | None = None  # tokens; None: the model's own, cut to what the pool holds
    max_num_seqs: int = 256  # sequences in one step
    max_num_batched_tokens: int | None = None  # token budget of one step; None: by the device
    prompt_chunk: int | None = None  # tokens of prompts in a step in which others get their next token; the same
    max_waiting: int = 4096  # sequences that may queue
    kv_cache_memory: int | None = None  # bytes; None: measured
    memory_utilization: float | None = None  # share of the free memory that the pool may take; None: by the device
    prefix_caching: bool = True
    attention: str = "auto"  # a key of attention.BACKENDS
    kv_cache_dtype: Literal["auto", "float32", "bfloat16", "float16", "int8", "fp8"] = "auto"  # see choose_backend
    enforce_eager: bool = False  # no CUDA graphs
    model_impl: Literal["auto", "quire", "transformers"] = "auto"
    threads: int | None = None  # CPU threads; None: the physical cores
    grammar_engines: dict[str, str] = {}  # kind of grammar -> engine that serves it, before grammar.KINDS
    max_loras: int = 64  # adapters in one step
    max_lora_rank: int = 256
    lora_memory: int = 2 * 2**30  # bytes of adapters kept in memory that nobody uses
    speculative_config: Speculation = Speculation()

    def __post_init__(self) -> None:
        least = dict.fromkeys(("max_num_seqs", "max_waiting", "max_loras", "max_lora_rank"), 1)
        least |= dict.fromkeys(("max_num_batched_tokens", "prompt_chunk"), BLOCK_SIZE)
        for field, low in least.items():
            if (value := getattr(self, field)) is not None and value < low:
                raise ConfigError(field, f"is {value}", f"at least {low}")
        if self.threads is not None and not 1 <= self.threads <= MOST_THREADS:
            raise ConfigError("threads", f"is {self.threads}", f"a number from 1 to {MOST_THREADS}")
        for field in ("max_model_len", "kv_cache_memory"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ConfigError(field, f"is {value}", "a positive number")
        for kind, engine in self.grammar_engines.items():
            if kind not in KINDS:
                raise ConfigError("grammar_engines", f"names the kind {kind!r}", f"one of {', '.join(KINDS)}")
            if engine not in (able := [name for name, kinds in ABLE.items() if kind in kinds]):
                raise ConfigError("grammar_engines", f"gives {kind} to {engine!r}", " or ".join(able))
        if self.memory_utilization is not None and not 0 < self.memory_utilization <= 1:
            raise ConfigError("memory_utilization", f"is {self.memory_utilization}", "more than 0, at most 1")

    def longest(self, positions: int) -> int:
        """Tokens a sequence shall be able to reach, if the cache can hold them. Raises ConfigError where the model has
        not so many positions."""
        if self.max_model_len is not None and self.max_model_len > positions:
            expected = f"at most {positions}, the positions this model has"
            raise ConfigError("max_model_len", f"is {self.max_model_len}", expected)
        return self.max_model_len or positions


class Start(msgspec.Struct, frozen=True):
    """What the engine process is told at its start."""

    wire: int  # the number of its socket
    config: EngineConfig
