"""Logprobs as JSON tells them."""

from __future__ import annotations

from typing import Any

from ...engine.messages import TokenLogprob
from ..tokenizer import Tokenizer


def finite(logprob: float) -> float:
    """JSON has no infinity; -9999 is what clients know for "impossible"."""
    return max(logprob, -9999.0)


def prompt_logprobs(tokenizer: Tokenizer, found: list[TokenLogprob], count: int) -> list[dict[str, Any] | None]:
    """One object a prompt token: id -> its and its `count` best rivals' logprobs; null for the first token."""

    def one(at: TokenLogprob) -> dict[str, Any]:
        table = {
            str(token): {"logprob": finite(p), "rank": rank, "decoded_token": tokenizer.token_text(token)}
            for rank, (token, p) in enumerate(at.top[:count], 1)
        }
        own = {"logprob": finite(at.logprob), "rank": at.rank, "decoded_token": tokenizer.token_text(at.token)}
        return {str(at.token): own, **{k: v for k, v in table.items() if k != str(at.token)}}

    return [None, *map(one, found)]
