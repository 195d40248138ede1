"""How many tokens an answer may think: from the fields that clients send to one ThoughtBudget. Pure."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..engine.errors import RequestError
from ..engine.messages import ThoughtBudget
from .dialect import Dialect
from .reasoning import NONE
from .tokenizer import Tokenizer
from .tool_grammar import FINAL

FIELDS = (  # one thing under the names that clients know; -1: no budget
    "thinking_token_budget",  # vLLM
    "thinking_budget",  # Qwen, SGLang; chat templates too
    "thinking_budget_tokens",  # llama.cpp
    "reasoning_budget_tokens",  # llama.cpp
    "reasoning_budget",  # NIM, and llama.cpp's flag
)
HINT = "thinking_budget"  # what templates call it that tell the model
LARGEST = 2**31
_LINE = r"""(\\n|\n)(['"]\s*[~+]\s*['"])?"""  # before a tag in a template: a line break, in its text or joined to it


@dataclass(frozen=True, slots=True)
class Asked:
    """So many tokens, and the field that says so."""

    tokens: int
    field: str


def asked(body: Mapping[str, Any], template_kwargs: Mapping[str, Any]) -> Asked | None:
    """What a request says, in its fields or among those of the template; None: nothing, or no budget. Raises
    RequestError naming the field."""
    found: Asked | None = None
    for prefix, fields in (("", body), ("chat_template_kwargs.", template_kwargs)):
        for name in FIELDS:
            if (value := fields.get(name)) is None:
                continue
            new = Asked(_count(value, prefix + name), prefix + name)
            if found is not None and new.tokens != found.tokens:
                raise _wrong(new.field, f"it is {new.tokens}, and {found.field} is {found.tokens}; only one can be")
            found = found or new
    return found if found is not None and found.tokens >= 0 else None


def _count(value: Any, field: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not -1 <= value <= LARGEST:
        raise _wrong(field, f"it is {value!r:.80}; expected a number of tokens, or -1 for any")
    return value


def _wrong(field: str, why: str, code: str | None = None) -> RequestError:
    return RequestError(f"{field}: {why}", param=field, code=code)


def thought(
    wanted: Asked,
    dialect: Dialect,
    prompt: str,
    tokenizer: Tokenizer,
    *,
    tools: bool,
    allowed: Collection[int] | None = None,
) -> ThoughtBudget:
    """prompt: rendered; its end tells whether it begins a thought. tools: some may be called. allowed: the only ids
    that may be sampled; None: all. Raises RequestError where thoughts cannot be ended in this model."""
    kind = dialect.reasoning
    if kind is NONE:
        raise _wrong(
            wanted.field, "this model's chat template shows no thoughts of a kind that is known here; name one with "
            "--reasoning-parser", "unsupported_parameter",
        )  # fmt: skip
    end = kind.end
    if kind.channels:  # what follows a thought must be begun as well, or it would be one more
        end += "<|start|>assistant" if tools else f"<|start|>assistant{FINAL}"
    close = _ids(end, dialect, tokenizer)
    if ends := set(close) & set(tokenizer.eos_ids):
        why = f"in what ends this model's thoughts stands the token {min(ends)}, which ends its answers"
        raise _wrong(wanted.field, why, "unsupported_parameter")
    if allowed is not None and (barred := set(close) - set(allowed)):
        raise _wrong("allowed_token_ids", f"it lacks {min(barred)}, which ends a thought behind {wanted.field}")
    own_line = not kind.channels and re.search(_LINE + re.escape(end), dialect.source)
    newline = tuple(tokenizer.encode_content("\n", first=False)) if own_line else ()
    return ThoughtBudget(
        tokens=wanted.tokens,
        ends=kind.ends,
        close=close,
        newline=newline if allowed is None or set(newline) <= set(allowed) else (),
        begin=kind.begin,
        inside=kind.begun_in(prompt),
        anywhere=kind.anywhere or kind.channels,
    )


def _ids(text: str, dialect: Dialect, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The tokens of a text with control tokens in it, in the middle of an answer."""
    found: list[int] = []
    for piece in dialect.spelling.split(text):
        found += [piece] if isinstance(piece, int) else tokenizer.encode_content(piece, first=False)
    return tuple(found)
