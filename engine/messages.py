"""The whole protocol between the API process and the engine process.

Token ids, never text but what grammars and the tags of thoughts spell. Every message is a frozen, tagged msgspec
struct; a batch of messages is one msgpack frame.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from .grammar.spec import GrammarSpec

FinishReason = Literal["stop", "length", "abort"]


class ThoughtBudget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How long an answer may think. Behind `tokens` tokens of thought, all its thoughts together, `close` follows.

    A thought reaches from `begin` to the first of `ends`; both are text, because a model may spell them by any tokens.
    """

    tokens: int  # >= 0
    ends: tuple[str, ...]
    close: tuple[int, ...]  # what ends a thought
    newline: tuple[int, ...] = ()  # comes before `close`, unless the thought ends with a line break
    begin: str = ""  # what begins a thought in the answer
    inside: bool = False  # the prompt has begun one
    anywhere: bool = False  # further thoughts may begin behind other text


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one request samples. Every default means "off": an option that is off costs nothing.

    The order in which the options act is `CHAIN` in engine/sampling. The server resolves everything a person may
    leave out (seed, end-of-sequence ids, text to ids), so the engine invents nothing.
    """

    max_tokens: int  # new tokens at most, >= 0 (0: only the prompt is computed, for prompt_logprobs)
    seed: int  # the counter-based random stream, 0 <= seed < 2**64
    min_tokens: int = 0  # until then no id of stop_token_ids can be sampled
    stop_token_ids: tuple[int, ...] = ()  # sampling one ends the sequence; holds the model's eos unless ignored
    temperature: float = 1.0  # 0: greedy
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1  # tokens looked back on; -1: all
    dry_sequence_breakers: tuple[int, ...] = ()  # ids across which no repetition is matched
    mirostat: Literal[0, 1, 2] = 0
    mirostat_tau: float = 5.0  # target surprise, bits
    mirostat_eta: float = 0.1  # learning rate
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    bad_words: tuple[tuple[int, ...], ...] = ()  # token sequences that may not be completed
    allowed_token_ids: tuple[int, ...] | None = None
    logprobs: int | None = None  # alternatives per sampled token; 0: the token's own; None: off
    prompt_logprobs: int | None = None  # the same for each prompt token after the first
    grammar: GrammarSpec | None = None  # what the answer must be; it then ends where the grammar does
    grammar_after: tuple[int, ...] = ()  # tokens behind which, in the answer, the grammar begins; (): at once
    thought: ThoughtBudget | None = None  # None: a thought may be as long as the answer
    # guesses in a step, at most; 0: nor what a grammar forces, each step gives one token. None: the server's number
    num_speculative_tokens: int | None = None


class TokenLogprob(msgspec.Struct, frozen=True, array_like=True):
    """Log-probability of one token under the model's own distribution (before any sampling option), in nats."""

    token: int
    logprob: float
    rank: int  # 1: the most likely
    top: list[tuple[int, float]]  # the asked number of most likely (id, logprob), best first


class Use(msgspec.Struct, frozen=True, array_like=True):
    """An adapter that a request runs with; scale multiplies what it changes."""

    name: str
    scale: float = 1.0


class Merge(msgspec.Struct, frozen=True, omit_defaults=True):
    """How several adapters become one (engine/lora/merge.py says what each means)."""

    kind: Literal["linear", "ties", "dare_linear", "dare_ties"] = "linear"
    density: float = 1.0  # share of the weights that are kept, 0 < density <= 1; not of linear
    majority: Literal["total", "frequency"] = "total"  # how ties elects a sign


# ---------------------------------------------------------------- server -> engine


class Generate(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """Continue `prompt`. `n` sequences share the prompt; sequence i samples from stream (seed + i) mod 2**64."""

    id: str
    prompt: list[int]
    params: SamplingParams
    n: int = 1
    priority: int = 0  # lower goes first; equal: first come, first served
    cache_salt: str = ""  # pages are shared only between requests of equal salt
    adapters: tuple[Use, ...] = ()  # none: the base alone
    merge: Merge = Merge()
    weight: float = 1.0  # of its turns, where more adapters are wanted than there are slots
    prediction: tuple[int, ...] = ()  # what the answer may be for the most part


class Abort(msgspec.Struct, frozen=True, tag=True):
    """Forget a request: its sequences leave and their pages are free before the next step. Unknown ids are no error."""

    id: str


class LoadAdapter(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """Read the adapter in the folder `path` and know it by `name` from now on, whatever that name meant before.

    Answered by AdapterLoaded or Failed. Requests that come later wait for it; those that run keep what they began with.
    """

    id: str
    name: str
    path: str
    pinned: bool = False  # its weights never leave the memory


class UnloadAdapter(msgspec.Struct, frozen=True, tag=True):
    """Forget a name; those that run with it go on. Answered by AdapterGone or Failed."""

    id: str
    name: str


class Shutdown(msgspec.Struct, frozen=True, tag=True):
    """Leave the loop; what still runs is dropped. Said by who runs the loop in its own process, as measurements and
    tests do: the server ends the engine's process (`EngineClient.close`)."""


ToEngine = Generate | Abort | LoadAdapter | UnloadAdapter | Shutdown


# ---------------------------------------------------------------- engine -> server


class Loading(msgspec.Struct, frozen=True, tag=True):
    """Progress of the weights, in bytes."""

    done: int
    total: int


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The engine serves. What the server must know about it."""

    architecture: str
    dtype: str  # that is computed in
    weights: str  # the kinds that products hold: "bfloat16", "int4 and int8"
    device: str
    vocab_size: int
    max_model_len: int  # tokens a sequence may reach, prompt included
    block_size: int  # tokens
    num_blocks: int
    kv_bytes: int
    kept: str  # what keys and values are kept in
    weight_bytes: int
    load_seconds: float

    @property
    def pool_tokens(self) -> int:
        return self.num_blocks * self.block_size


class LoadFailed(msgspec.Struct, frozen=True, tag=True):
    """The engine could not start; its process ends. Starting it again would not help."""

    code: str  # a code of engine/errors.py
    message: str


class Guided(msgspec.Struct, frozen=True, array_like=True):
    """What a grammar, or a budget of thought, did to an answer so far."""

    lowest: float | None  # share of the model's probability that the mask left, where it left least; None: no grammar
    mean: float | None  # over the tokens that were sampled under it
    forced: int  # tokens that were not the model's choice, because nothing else could come
    marks: tuple[bool, ...] = ()  # which of the tokens that a step gave were forced, where it gave several


# Proposer -> its guesses that were checked and those of them that were right, each by place behind the last token.
Guesses = dict[str, tuple[list[int], list[int]]]


class TokenDelta(msgspec.Struct, frozen=True, kw_only=True, tag=True, omit_defaults=True):
    """News of one sequence: what one step added."""

    id: str
    index: int  # which of the request's n
    tokens: list[int] = []
    logprobs: list[TokenLogprob] | None = None  # one for each of tokens
    prompt_logprobs: list[TokenLogprob] | None = None  # of the next prompt tokens, from position 1 on; index 0
    cached_tokens: int | None = None  # prompt tokens found in the prefix cache; in the sequence's first delta
    finish: FinishReason | None = None  # "stop": the last of tokens is in stop_token_ids
    guided: Guided | None = None  # up to the last of tokens, where a grammar binds the answer or a budget its thought
    predicted: tuple[int, int] | None = None  # so far, guesses of the prediction that were right, and that were wrong
    guesses: Guesses | None = None  # so far, where some were checked


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The request ended in an error: no further delta follows for any of its sequences."""

    id: str
    code: str  # a code of engine/errors.py
    message: str
    param: str | None = None  # the field of the request that caused it


class AdapterInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an adapter."""

    name: str
    path: str
    key: str  # of its content: weights, scales and base
    kind: str  # LORA | IA3
    rank: int  # the largest of its matrices
    bytes: int
    base: str | None  # the base that its config names
    pinned: bool
    state: Literal["device", "memory", "disk"]  # where its weights are


class AdapterLoaded(msgspec.Struct, frozen=True, tag=True):
    id: str
    info: AdapterInfo


class AdapterGone(msgspec.Struct, frozen=True, tag=True):
    id: str


class Adapters(msgspec.Struct, frozen=True, tag=True):
    """All that have a name, whenever something of it changed."""

    known: list[AdapterInfo]


class StepStats(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Gauges after a step and counters since the engine started."""

    running: int  # sequences
    waiting: int
    blocks_used: int
    blocks_total: int
    steps: int
    prompt_tokens: int
    generated_tokens: int
    prefix_queries: int  # prompt tokens looked up
    prefix_hits: int  # prompt tokens found
    preemptions: int
    schedule_seconds: float
    step_seconds: float
    waited: list[float] = []  # seconds in the queue of each request that began in this step
    drafted: dict[str, list[int]] = {}  # who guessed -> guesses checked, by their place behind the last token
    accepted: dict[str, list[int]] = {}  # of them, those that were right
    captures: int = 0  # CUDA graphs that were captured
    replays: int = 0  # steps whose layers were replayed
    eager: int = 0  # steps small enough for that, whose layers were launched one by one


FromEngine = Loading | Ready | LoadFailed | TokenDelta | Failed | StepStats | AdapterLoaded | AdapterGone | Adapters

encode = msgspec.msgpack.Encoder().encode
decode_to_engine = msgspec.msgpack.Decoder(list[ToEngine]).decode
decode_from_engine = msgspec.msgpack.Decoder(list[FromEngine]).decode
