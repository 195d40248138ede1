"""Small questions about strings and schemas, put to llguidance over a vocabulary of the 256 bytes."""

from __future__ import annotations

import functools
import json
from typing import Any, cast

import llguidance

from . import regexes
from .errors import GrammarRefused

EOS = 256
# Answers write strings with these escapes only, so that no string can be written in two ways: a name in disguise
# ("\\u0061" for "a") would pass as one that is not listed.
ESCAPES = 'nrbtf\\"'
LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=1_000_000,  # about 20 ms
    step_lexer_fuel=200_000,  # about 14 ms
    step_max_items=50_000,
    max_items_in_row=4_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    precompute_large_lexemes=False,
    verbose_errors=False,
)


_TOLD = {
    "NoExtensionBias": "no answer can end: a rule that every answer needs leads back to itself in all its alternatives",
    "Current row has": "too much may stand in one place: at most some 1,000 optional properties or other alternatives",
    "recursion limit exceeded": "it is nested too deeply: at most some 60 objects, lists and values within each other",
}


class _Bytes:
    """What llguidance asks of a tokenizer."""

    eos_token_id = EOS
    bos_token_id = None
    special_token_ids = [EOS]

    def __init__(self, controls: int):
        self.tokens = [bytes([b]) for b in range(256)] + [b""] * (1 + controls)

    def __call__(self, text: str | bytes) -> list[int]:
        return list(text if isinstance(text, bytes) else text.encode())


@functools.cache
def byte_tokenizer(controls: int = 0) -> llguidance.LLTokenizer:
    """controls: tokens behind the end that spell nothing."""
    return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Bytes(controls)), slices=[])


def grammar_of(schema: dict[str, Any] | bool, whitespace: str | None) -> str:
    """llguidance's form of a plain schema. whitespace: expression; None: none at all."""
    options: dict[str, Any] = {"json_allowed_escapes": ESCAPES, "whitespace_flexible": False}
    if whitespace is not None:
        options["whitespace_pattern"] = whitespace
    try:
        grammar: str = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=cast(Any, options))
    except ValueError as error:
        raise GrammarRefused(first_line(str(error))) from None
    return grammar


@functools.lru_cache(maxsize=512)
def matcher_of(schema: str) -> llguidance.LLMatcher:
    return llguidance.LLMatcher(byte_tokenizer(), grammar_of(json.loads(schema), None), log_level=0, limits=LIMITS)


def matches(regex: regexes.Regex, text: str) -> bool:
    """Whether the whole text matches. Raises GrammarRefused if the expression is too large."""
    schema = {"type": "string", "pattern": regexes.pattern(regex)}
    matcher = matcher_of(json.dumps(schema)).deep_copy()
    if matcher.is_error():
        raise GrammarRefused(f"regex too large or empty: {first_line(matcher.get_error())}")
    quoted = json.dumps(text, ensure_ascii=False).encode()
    return matcher.try_consume_tokens(list(quoted)) == len(quoted) and matcher.is_accepting()


def are_apart(one: regexes.Regex, other: regexes.Regex) -> bool:
    """Whether no text matches both."""
    first, second = ({"type": "string", "pattern": regexes.pattern(r)} for r in (one, other))
    return is_empty({**first, "allOf": [second]})


def is_empty(schema: dict[str, Any]) -> bool:
    """Whether no string is valid for a schema of strings."""
    return "nsatisfiable" in matcher_of(json.dumps(schema)).get_error()


def first_line(error: str) -> str:
    """What llguidance says, in words that need no knowledge of its inside."""
    return next((told for name, told in _TOLD.items() if name in error), error.strip().split("\n")[0][:300])
