"""How each `tokenizer.ggml.pre` cuts text before its merges: the pieces of tokenizer.json that its family has.

The names are llama.cpp's (src/llama-vocab.cpp), the patterns those of the families' own tokenizer.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PUNCTUATION = r"[\p{P}\$\+<=>\^~\|]+"


@dataclass(frozen=True, slots=True)
class Pre:
    """patterns: each cuts what the one before it left. whole_words: a word that is a token is that token, whatever the
    merges say. bos: a text begins with it unless the file says otherwise."""

    patterns: tuple[str, ...]
    composed: bool = False  # Unicode's NFC first
    whole_words: bool = False
    bos: bool = False

    @property
    def normalizer(self) -> dict[str, Any] | None:
        return {"type": "NFC"} if self.composed else None

    @property
    def pre_tokenizer(self) -> dict[str, Any]:
        cuts = [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
            for pattern in self.patterns
        ]
        to_bytes = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        return {"type": "Sequence", "pretokenizers": [*cuts, to_bytes]}


_LLAMA3 = Pre((LLAMA3,), whole_words=True, bos=True)
_QWEN2 = Pre((QWEN2,), composed=True)
PRES = {
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "smaug-bpe": Pre((LLAMA3,), whole_words=True),
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "tekken": Pre((TEKKEN,), whole_words=True, bos=True),
    "smollm": Pre((r"\p{N}", GPT2)),
    "gpt-2": Pre((GPT2,)),
    "default": Pre((PUNCTUATION, GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),  # llama.cpp's own, where nobody knew better
}
