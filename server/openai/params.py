"""From a request's fields to SamplingParams: text to ids, defaults of the model, limits of the context."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import pydantic

from ...engine.errors import ContextLengthExceeded, ModelError, RequestError
from ...engine.messages import Ready, SamplingParams
from ...engine.tokens import read_object
from ..binding import FREE, Binding
from ..errors import from_validation
from ..tokenizer import Tokenizer
from .schema import Sampling

log = logging.getLogger("quire")

MAX_BIAS = 1000
MAX_BREAKERS = 64  # kept
DEFAULTS: dict[str, float] = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
# What else changes the text in transformers -> what it is where it does not; answers here go without it.
UNSERVED: dict[str, Any] = {
    **dict.fromkeys(("typical_p", "top_h", "num_beams", "guidance_scale", "encoder_repetition_penalty"), 1),
    **dict.fromkeys(("no_repeat_ngram_size", "min_length", "min_new_tokens", "epsilon_cutoff", "eta_cutoff"), 0),
    **dict.fromkeys(("bad_words_ids", "sequence_bias", "suppress_tokens", "begin_suppress_tokens", "stop_strings")),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty")),
    **dict.fromkeys(("penalty_alpha", "dola_layers", "watermarking_config")),
}


def model_defaults(folder: Path, use: bool) -> dict[str, float]:
    """Sampling a request gets where it says nothing: generation_config.json's, or DEFAULTS. Raises ModelError for what
    no request could ask for; what else the file asks for is logged."""
    path = folder / "generation_config.json"
    own = read_object(path) if use else {}
    if without := [name for name, none in UNSERVED.items() if (own.get(name) or none) != none]:
        log.warning("%s: answers go without its %s", path, ", ".join(without))
    if own.get("do_sample") is False:
        return dict(DEFAULTS)
    try:
        told = Sampling.model_validate({name: own[name] for name in DEFAULTS if name in own})
    except pydantic.ValidationError as error:
        raise ModelError(f"{path}: {from_validation(error).message}") from None
    return {**DEFAULTS, **told.model_dump(include=set(DEFAULTS), exclude_none=True)}


class ParamsMaker:
    """Makes SamplingParams; knows the vocabulary, the model's defaults and where missing seeds come from."""

    def __init__(self, tokenizer: Tokenizer, defaults: dict[str, float], seed: int | None):
        self._tokenizer = tokenizer
        self._defaults = defaults
        self._seeds = Random(seed) if seed is not None else None
        self._texts: list[str] = []  # of all tokens, made when a request first asks for breakers
        self._breakers: dict[str, frozenset[int]] = {}

    def make(
        self, body: Sampling, prompt: list[int], info: Ready, *, max_tokens: int | None, logprobs: int | None,
        prompt_logprobs: int | None, field: str, ends: tuple[int, ...] = (), binding: Binding = FREE,
    ) -> SamplingParams:  # fmt: skip
        """Raises RequestError naming the field that cannot be. field: what the prompt is called in this request; ends:
        ids that end the answer beside the model's own ends of text; binding: its grammar, which needs an end of text
        even where ignore_eos asks for none."""
        check_prompt(prompt, max_tokens, info, field)
        known = lambda ids, name: self._known(ids, name, info.vocab_size)  # noqa: E731
        if max_tokens is None:
            max_tokens = min(info.max_model_len, info.pool_tokens) - len(prompt)
        if body.min_tokens > max_tokens:
            raise RequestError(
                f"min_tokens is {body.min_tokens}, more than max_tokens {max_tokens}", param="min_tokens"
            )
        if body.min_tokens and binding.whole:
            raise RequestError(f"min_tokens: {binding.origin} says where the answer ends", param="min_tokens")
        stops = known(body.stop_token_ids, "stop_token_ids")
        if not body.ignore_eos or binding.spec is not None:
            ends = (*self._tokenizer.eos_ids, *ends)
            stops += tuple(i for i in dict.fromkeys(ends) if i < info.vocab_size and i not in stops)
        if body.allowed_token_ids is not None and not body.allowed_token_ids:
            raise RequestError("allowed_token_ids is empty: no token could be sampled", param="allowed_token_ids")
        return SamplingParams(
            max_tokens=max_tokens,
            seed=self.seed(body.seed),
            min_tokens=body.min_tokens,
            stop_token_ids=stops,
            temperature=self._default(body, "temperature"),
            top_k=max(0, int(self._default(body, "top_k"))),
            top_p=self._default(body, "top_p"),
            min_p=self._default(body, "min_p"),
            repetition_penalty=self._default(body, "repetition_penalty"),
            typical_p=body.typical_p,
            top_n_sigma=max(0.0, body.top_n_sigma),
            xtc_probability=body.xtc_probability,
            xtc_threshold=body.xtc_threshold,
            dry_multiplier=body.dry_multiplier,
            dry_base=body.dry_base,
            dry_allowed_length=body.dry_allowed_length,
            dry_penalty_last_n=body.dry_penalty_last_n,
            dry_sequence_breakers=self.breakers(body),
            mirostat=body.mirostat,
            mirostat_tau=body.mirostat_tau,
            mirostat_eta=body.mirostat_eta,
            presence_penalty=body.presence_penalty,
            frequency_penalty=body.frequency_penalty,
            logit_bias=self._bias(body.logit_bias, info.vocab_size),
            bad_words=self._words(body.bad_words, info.vocab_size),
            allowed_token_ids=(
                known(body.allowed_token_ids, "allowed_token_ids") if body.allowed_token_ids is not None else None
            ),
            logprobs=logprobs,
            prompt_logprobs=prompt_logprobs,
            grammar=binding.spec,
            grammar_after=binding.after,
            thought=binding.thought,
            num_speculative_tokens=body.num_speculative_tokens,
        )

    def _default(self, body: Sampling, name: str) -> float:
        given: float | None = getattr(body, name)
        return self._defaults[name] if given is None else given

    def seed(self, given: int | None) -> int:
        """-1 is what front ends send for "any"."""
        if given is not None and given != -1:
            return given % 2**64
        return self._seeds.getrandbits(64) if self._seeds else secrets.randbits(64)

    def _known(self, ids: list[int], field: str, vocab_size: int) -> tuple[int, ...]:
        for i, token in enumerate(ids):
            if token >= vocab_size:
                raise RequestError(f"{field}[{i}] is {token}; the vocabulary has {vocab_size} ids", param=field)
        return tuple(dict.fromkeys(ids))

    def _bias(self, given: dict[str, Any], vocab_size: int) -> dict[int, float]:
        found: dict[int, float] = {}
        for text, bias in given.items():
            if not text.isdecimal() or len(text) > 10 or int(text) >= vocab_size:
                raise RequestError(
                    f"logit_bias has the key {text!r}; expected an id below {vocab_size}", param="logit_bias"
                )
            if type(bias) not in (int, float) or abs(bias) > MAX_BIAS:
                raise RequestError(
                    f"logit_bias[{text}] is {bias!r:.80}; expected a number from {-MAX_BIAS} to {MAX_BIAS}",
                    param="logit_bias",
                )
            found[int(text)] = float(bias)
        return found

    def _words(self, words: list[str], vocab_size: int) -> tuple[tuple[int, ...], ...]:
        """Each word as it is spelled after other text, with and without a space before it; not where the model has no
        row for one of its tokens, and cannot say it."""
        found: dict[tuple[int, ...], None] = {}
        for i, word in enumerate(words):
            if not word.strip():
                raise RequestError(f"bad_words[{i}] is {word!r}; expected a word", param="bad_words")
            for spelled in (word, " " + word.lstrip()):
                found[tuple(self._tokenizer.encode_content(spelled, first=False))] = None
        return tuple(ids for ids in found if ids and max(ids) < vocab_size)

    def breakers(self, body: Sampling) -> tuple[int, ...]:
        """Every token whose text holds a breaker of DRY. For each that is new the whole vocabulary is looked through:
        call it in a thread before `make`, which then finds them known."""
        if not body.dry_multiplier:
            return ()
        ids: set[int] = set()
        for breaker in filter(None, body.dry_sequence_breakers):
            found = self._breakers.get(breaker)
            if found is None:
                if not self._texts:
                    self._texts = [self._tokenizer.token_text(i) for i in range(self._tokenizer.vocab_size)]
                found = frozenset(i for i, text in enumerate(self._texts) if breaker in text)
                if len(self._breakers) > MAX_BREAKERS:
                    self._breakers.clear()
                self._breakers[breaker] = found
            ids |= found
        return tuple(sorted(ids))


def stop_strings(body: Sampling) -> list[str]:
    stops = [body.stop] if isinstance(body.stop, str) else body.stop
    for i, stop in enumerate(stops):
        if not stop:
            raise RequestError(f"stop[{i}] is empty; it would end every answer at once", param="stop")
    return stops


def check_ids(ids: Sequence[int], info: Ready, field: str) -> None:
    """Raises RequestError for an id that the model has no row for: some tokenizers have more tokens than that."""
    if ids and (last := max(ids)) >= info.vocab_size:
        raise RequestError(f"{field} has the id {last}; the model has {info.vocab_size} ids", param=field)


def check_prompt(prompt: list[int], max_tokens: int | None, info: Ready, field: str) -> None:
    """Raises RequestError for ids that cannot be; ContextLengthExceeded in the words that clients look for."""
    if not prompt:
        raise RequestError(f"{field} has no tokens; at least one is needed", param=field)
    check_ids(prompt, info, field)
    longest = min(info.max_model_len, info.pool_tokens)
    wanted = len(prompt) + (1 if max_tokens is None else max_tokens)
    if wanted > longest:
        asked = f"{len(prompt)} in the {field}"
        if max_tokens is not None:
            asked += f", {max_tokens} for the completion"
        raise ContextLengthExceeded(
            f"This model's maximum context length is {longest} tokens. However, you requested {wanted} tokens "
            f"({asked}). Please reduce the length of the messages or completion. (context_length_exceeded)",
            param=field,
        )
