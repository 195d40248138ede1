"""Fill in the middle: a prompt and a suffix around the tokens that a vocabulary has for it, pure.

Prompt and suffix are content: whatever they spell, no control token comes out of them. The prompt is encoded as the
beginning of a text and the suffix as its continuation, as the models were trained (Bavarian et al., 2022).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .tokenizer import Tokenizer

PROMPT: Final = object()
SUFFIX: Final = object()

FORMATS: tuple[tuple[object, ...], ...] = (
    ("<|fim_prefix|>", PROMPT, "<|fim_suffix|>", SUFFIX, "<|fim_middle|>"),  # Qwen2.5 and on, CodeGemma
    ("<fim_prefix>", PROMPT, "<fim_suffix>", SUFFIX, "<fim_middle>"),  # StarCoder, Stable Code, Granite Code
    ("<fim-prefix>", PROMPT, "<fim-suffix>", SUFFIX, "<fim-middle>"),  # SantaCoder
    ("<｜fim▁begin｜>", PROMPT, "<｜fim▁hole｜>", SUFFIX, "<｜fim▁end｜>"),  # DeepSeek
    ("▁<PRE>", PROMPT, "▁<SUF>", SUFFIX, "▁<MID>"),  # Code Llama
    ("[SUFFIX]", SUFFIX, "[PREFIX]", PROMPT),  # Codestral, Mistral
)
# What ends the middle beside the model's own ends of text.
ENDS = ("▁<EOT>", "<|file_separator|>", "<|fim_pad|>", "<|file_sep|>", "<|repo_name|>", "<file_sep>")
LEAD = "☺"


def format_of(control: Mapping[str, int]) -> tuple[object, ...] | None:
    """The format whose control tokens a vocabulary has, or None."""
    return next((f for f in FORMATS if all(part in control for part in f if isinstance(part, str))), None)


def ends_of(control: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(control[text] for text in ENDS if text in control)


def infill(tokenizer: Tokenizer, prompt: str | list[int], suffix: str, *, add_special_tokens: bool) -> list[int] | None:
    """Ids that ask for what is between prompt and suffix; None where the vocabulary has no tokens for it.

    prompt: ids are taken as they are. add_special_tokens: begin as every text of the model begins.
    """
    parts = format_of(tokenizer.control)
    if parts is None:
        return None
    ids = tokenizer.encode("") if add_special_tokens else []
    for part in parts:
        if part is SUFFIX:
            ids += _continuation(tokenizer, suffix)
        elif part is PROMPT:
            ids += tokenizer.encode_content(prompt, first=True) if isinstance(prompt, str) else prompt
        else:
            ids.append(tokenizer.control[str(part)])
    return ids


def _continuation(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of text that goes on. SentencePiece vocabularies put a space before any stretch of text; here it goes before
    a character that no token holds together with others, and both are taken off, as Code Llama and Mistral do it."""
    if not tokenizer.byte_fallback:
        return tokenizer.encode_content(text, first=False)
    lead = len(tokenizer.encode_content(LEAD, first=True))
    return tokenizer.encode_content(LEAD + text, first=True)[lead:]
