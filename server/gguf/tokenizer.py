"""tokenizer.json and tokenizer_config.json from the keys of a GGUF file.

Two kinds of vocabulary: `gpt2` is byte-level BPE with its merges; `llama` is SentencePiece's BPE, whose merges stand in
no file: a piece comes of any two that spell it, the best score first (SentencePieceExtractor of transformers).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from ...engine.errors import ModelError
from ...engine.gguf import File, Metadata
from .pretokenizers import PRES, Pre

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # of tokenizer.ggml.token_type
SPACE = "\u2581"
MOST_LETTERS = 512  # of a piece; the longest pieces of real vocabularies are runs of some 130 spaces
# Control tokens that end a text, whatever the file calls its end: many files name only one of their ends.
ENDS = ("<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>")
END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
HARMLESS = frozenset(
    """
    unknown_token_id seperator_token_id mask_token_id fim_pre_token_id fim_suf_token_id fim_mid_token_id
    fim_pad_token_id fim_rep_token_id fim_sep_token_id prefix_token_id suffix_token_id middle_token_id
    token_type_count scores merges
    """.split()
)  # keys behind tokenizer.ggml that change nothing of how text is cut, where they are not asked for
TEMPLATE = "tokenizer.chat_template"


@dataclass(frozen=True, slots=True)
class Words:
    """description: tokenizer.json; settings: tokenizer_config.json; ids: the fields bos_token_id, eos_token_id (a list)
    and pad_token_id, as far as they are known; size: tokens, unused ones at the end left out."""

    description: dict[str, Any]
    settings: dict[str, Any]
    ids: dict[str, Any]
    size: int


def words_of(file: File) -> Words:
    """Raises ModelError naming the key for which the tokenizer cannot be made."""
    reader = _Reader(file)
    meta = file.metadata
    kind = meta.one_of("tokenizer.ggml.model", ("gpt2", "llama"))
    meta.one_of("tokenizer.ggml.add_sep_token", [False], False)
    description, bos, eos = reader.sentencepiece() if kind == "llama" else reader.byte_level()
    description |= {"version": "1.0", "truncation": None, "padding": None, "added_tokens": reader.added()}
    description["post_processor"] = _surroundings(reader.text(bos), reader.text(eos), reader.ids)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "add_bos_token": bos is not None,
        "add_eos_token": eos is not None,
        **{role: reader.text(reader.role(role)) for role in ("bos_token", "eos_token", "pad_token")},
        "unk_token": description["model"]["unk_token"],
        "chat_template": _templates(meta),
    }
    ids = {
        "bos_token_id": reader.role("bos_token"),
        "eos_token_id": reader.ends(),
        "pad_token_id": reader.role("pad_token"),
    }
    unknown = [k for k in meta.unasked("tokenizer.ggml.") if k.removeprefix("tokenizer.ggml.") not in HARMLESS]
    if unknown:
        raise ModelError(f"{file.path}: key {', '.join(unknown)} may change how text is cut and is not known")
    known = lambda fields: {name: value for name, value in fields.items() if value is not None}  # noqa: E731
    return Words(description, known(settings), known(ids), len(reader.texts))


def _templates(meta: Metadata) -> Any:
    """A template, or the list of named ones that tokenizer_config.json has."""
    default = meta.text(TEMPLATE, None)
    named = {name: meta.text(f"{TEMPLATE}.{name}") for name in meta.items(f"{TEMPLATE}s", str, [])}
    if not named:
        return default
    named |= {} if default is None else {"default": default}
    return [{"name": name, "template": text} for name, text in named.items()]


def _surroundings(bos: str | None, eos: str | None, ids: dict[str, int]) -> dict[str, Any] | None:
    """What is put before and behind a text."""
    around = [text for text in dict.fromkeys((bos, eos)) if text is not None]
    if not around:
        return None

    def row(sequence: str, number: int) -> list[dict[str, Any]]:
        marks = [None if text is None else {"SpecialToken": {"id": text, "type_id": number}} for text in (bos, eos)]
        return [part for part in (marks[0], {"Sequence": {"id": sequence, "type_id": number}}, marks[1]) if part]

    return {
        "type": "TemplateProcessing",
        "single": row("A", 0),
        "pair": row("A", 0) + row("B", 1),
        "special_tokens": {text: {"id": text, "ids": [ids[text]], "tokens": [text]} for text in around},
    }


class _Reader:
    """The vocabulary of one file: texts and types of its tokens, in the order of their ids."""

    def __init__(self, file: File):
        self._path = file.path
        self._meta = meta = file.metadata
        self.texts: list[str] = meta.items("tokenizer.ggml.tokens", str)
        self.types: list[int] = meta.items("tokenizer.ggml.token_type", int, count=len(self.texts))
        if not set(self.types) <= set(range(NORMAL, BYTE + 1)):
            self._wrong("token_type", f"has {min(set(self.types) - set(range(NORMAL, BYTE + 1)))}", "1 to 6")
        while self.types and self.types[-1] == UNUSED:  # rows that fill the matrix up
            del self.types[-1], self.texts[-1]
        if meta.one_of("tokenizer.ggml.model", ("gpt2", "llama")) == "llama":  # there, such a token is plain text
            pairs = zip(self.texts, self.types, strict=True)
            self.texts = [text.replace(SPACE, " ") if kind == USER_DEFINED else text for text, kind in pairs]
        self.ids = {text: token for token, text in enumerate(self.texts)}
        if not self.texts or len(self.ids) < len(self.texts) or "" in self.ids:
            again = next((t for i, t in enumerate(self.texts) if not t or self.ids[t] != i), "")
            self._wrong("tokens", f"has {again!r} twice or empty" if self.texts else "is empty", "different texts")
        if len(longest := max(self.texts, key=len)) > MOST_LETTERS:
            self._wrong("tokens", f"has one of {len(longest)} letters", f"at most {MOST_LETTERS}")

    def byte_level(self) -> tuple[dict[str, Any], int | None, int | None]:
        """Parts of tokenizer.json, and the ids put before and behind a text."""
        pre: Pre = PRES[self._meta.one_of("tokenizer.ggml.pre", PRES)]
        self._meta.one_of("tokenizer.ggml.add_space_prefix", [False], False)
        merges = [self._pair(merge) for merge in self._meta.items("tokenizer.ggml.merges", str)]
        parts = {
            "normalizer": pre.normalizer,
            "pre_tokenizer": pre.pre_tokenizer,
            "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
            "model": self._bpe(merges, ignore_merges=pre.whole_words),
        }
        return parts, self._around("bos", pre.bos), self._around("eos", False)

    def sentencepiece(self) -> tuple[dict[str, Any], int | None, int | None]:
        """The same. A space stands before the text, and before each stretch of it between control tokens."""
        self._meta.one_of("tokenizer.ggml.pre", ["default"], "default")
        self._meta.one_of("tokenizer.ggml.remove_extra_whitespaces", [False], False)
        prefix = self._meta.flag("tokenizer.ggml.add_space_prefix", True)
        spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
        fallback = all(f"<0x{byte:02X}>" in self.ids for byte in range(256))
        unknown = self.types.index(UNKNOWN) if UNKNOWN in self.types else None
        if unknown is None and not fallback:
            self._wrong("token_type", "has no token of type 2 (unknown)", "one, or a token for each byte")
        back = [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            *([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []),
        ]
        before = [{"type": "Prepend", "prepend": SPACE}] if prefix else []
        parts = {
            "normalizer": {"type": "Sequence", "normalizers": [*before, spaces]},
            "pre_tokenizer": None,
            "decoder": {"type": "Sequence", "decoders": back},
            "model": self._bpe(
                list(self._merges()), unk_token=self.text(unknown), fuse_unk=True, byte_fallback=fallback
            ),
        }
        return parts, self._around("bos", True), self._around("eos", False)

    def _bpe(self, merges: list[tuple[str, str]], **more: Any) -> dict[str, Any]:
        plain = dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"))
        flags = dict.fromkeys(("fuse_unk", "byte_fallback", "ignore_merges"), False)
        return {"type": "BPE", **plain, **flags, **more, "vocab": self.ids, "merges": merges}

    def _pair(self, merge: str) -> tuple[str, str]:
        left, _, right = merge.partition(" ")
        if not (left in self.ids and right in self.ids and left + right in self.ids):
            self._wrong("merges", f"has {merge!r}", "two tokens that make a third")
        return left, right

    def _merges(self) -> Iterator[tuple[str, str]]:
        """The best score first; of one piece that with the longest left part. Where all scores are equal, as some
        converters write them, the order of the ids is that of the training, but for runs of spaces: they come last."""
        scores: list[float] = self._meta.items("tokenizer.ggml.scores", float)[: len(self.texts)]
        if len(scores) < len(self.texts) or not all(map(math.isfinite, scores)):
            self._wrong("scores", f"has {len(scores)}", f"{len(self.texts)} numbers")
        pieces = {text for text, kind in zip(self.texts, self.types, strict=True) if kind == NORMAL}
        for token in sorted(range(len(self.texts)), key=lambda i: (-scores[i], not self.texts[i].strip(SPACE), i)):
            text = self.texts[token]
            if text in pieces:
                for cut in range(len(text) - 1, 0, -1):
                    if text[:cut] in pieces and text[cut:] in pieces:
                        yield text[:cut], text[cut:]

    def added(self) -> list[dict[str, Any]]:
        """Tokens that are found in a text before anything else is done to it."""
        ways = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
        return [
            {"id": token, "content": self.texts[token], **ways, "special": kind != USER_DEFINED}
            for token, kind in enumerate(self.types)
            if kind in (CONTROL, UNKNOWN, USER_DEFINED)
        ]

    def role(self, name: str) -> int | None:
        """bos_token, eos_token, pad_token -> its id. A `llama` vocabulary has <s> and </s> where no key says so."""
        key = {"pad_token": "padding_token"}.get(name, name)
        usual = self.ids.get({"bos_token": "<s>", "eos_token": "</s>"}.get(name, ""))
        return self._token(f"{key}_id", usual if usual is not None and self.types[usual] == CONTROL else None)

    def ends(self) -> list[int] | None:
        named = [self.role("eos_token"), *(self._token(key) for key in END_KEYS[1:])]
        usual = [self.ids[text] for text in ENDS if text in self.ids and self.types[self.ids[text]] == CONTROL]
        return list(dict.fromkeys(i for i in (*named, *usual) if i is not None)) or None

    def text(self, token: int | None) -> str | None:
        return None if token is None else self.texts[token]

    def _around(self, name: str, default: bool) -> int | None:
        """The token of that name if a text has it around."""
        token = self.role(f"{name}_token")
        if not self._meta.flag(f"tokenizer.ggml.add_{name}_token", default and token is not None):
            return None
        if token is None:
            self._wrong(f"add_{name}_token", "is true", f"tokenizer.ggml.{name}_token_id beside it")
        return token

    def _token(self, key: str, default: int | None = None) -> int | None:
        token: int | None = self._meta.number(f"tokenizer.ggml.{key}", default, low=0)
        if token is not None and token >= len(self.texts):
            self._wrong(key, f"is {token}", f"an id below {len(self.texts)}")
        return token

    def _wrong(self, key: str, found: str, expected: str) -> NoReturn:
        raise ModelError(f"{self._path}: key tokenizer.ggml.{key} {found}; expected {expected}")
