"""Vocabularies to test text with: small ones of every kind, made here, and real ones from the shared folder."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from quire.server.tokenizer import Tokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
TEXT = [
    "The quick brown fox jumps over the lazy dog. It's 12:30, and the dog doesn't care.",
    "    def hello(name: str) -> None:\n        print(f'Hello, {name}!')\n",
    "Zażółć gęślą jaźń; übermäßig; naïve café. Привет, мир! 日本語のテキスト。 🙂",
    "<s> </s> [INST] <|im_start|> system user assistant <|im_end|> {'a': [1, 2, 3]}",
]
MARKUP = re.compile(
    r"<\|[^|<>\s'\"{}]{1,40}\|>|<｜[^｜<>\s'\"{}]{1,40}｜>|</?[A-Za-z_][\w:-]{0,30}>|\[/?[A-Z][A-Z_]+\]"
)


@dataclass(frozen=True)
class Vocabulary:
    """tokenizer.json as text, and the names of its special tokens."""

    description: str
    roles: dict[str, Any]

    @functools.cached_property
    def ours(self) -> Tokenizer:
        return Tokenizer(self.description, self.roles)

    @functools.cached_property
    def theirs(self) -> PreTrainedTokenizerFast:
        return PreTrainedTokenizerFast(tokenizer_object=Backend.from_str(self.description), **self.roles)


def byte_level(markup: tuple[str, ...] = ("<think>", "</think>", "<tool_call>", "</tool_call>")) -> Vocabulary:
    """As GPT-2 and Qwen have it, with a run of spaces as an added token of plain text. Of `markup` all is special but
    what looks like <x> or </x>."""
    bpe = Backend(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    chatml = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=400, special_tokens=chatml, initial_alphabet=alphabet, show_progress=False)
    )
    for text in dict.fromkeys(markup):
        bpe.add_tokens(
            [AddedToken(text, special=not text.startswith(("</", "<")) or text[1] in "|｜", normalized=False)]
        )
    bpe.add_tokens([AddedToken("    ", normalized=False), AddedToken("<|late|>", special=True, rstrip=True)])
    return Vocabulary(bpe.to_str(), {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"})


def llama() -> Vocabulary:
    """As Llama 2 and Mistral have it: a space before every stretch of text, bytes for what is not in the vocabulary;
    and with merges that lead to the text of control tokens."""
    control = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    vocab = {token: i for i, token in enumerate(control)}
    merges: list[tuple[str, str]] = []

    def have(piece: str) -> None:
        vocab.setdefault(piece, len(vocab))

    def merge(left: str, right: str) -> None:
        merges.append((left, right))
        have(left + right)

    for byte in range(256):
        have(f"<0x{byte:02X}>")
    for character in "▁<>[]/|'.,:!?\n" + "abcdefghijklmnopqrstuvwxyz" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "0123456789éü語":
        have(character)
    for pair in ("▁ t", "h e", "▁t he", "i n", "< s", "<s >", "< /", "</ s", "</s >", "<s> <s>", "I N", "S T",
                 "IN ST", "[ INST", "[INST ]", "▁ ▁", "▁ <s>"):  # fmt: skip
        left, right = pair.split(" ")
        merge(left, right)
    bpe = Backend(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    bpe.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    bpe.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in control])
    return Vocabulary(bpe.to_str(), {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


def unigram() -> Vocabulary:
    """As T5 has it: pieces with scores, control tokens among them, a space before the first, no bytes."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [(c, -4.0) for c in "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789<>/|[].,:!?'"]
    pieces += [("▁the", -2.0), ("in", -2.5), ("▁a", -3.0)]
    backend = Backend(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    backend.normalizer = normalizers.NFKC()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<pad>", "</s>", "<unk>")])
    backend.add_tokens([AddedToken("<|sep|>", special=True, normalized=True, lstrip=True)])
    return Vocabulary(backend.to_str(), {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"})


def wordpiece() -> Vocabulary:
    """As BERT has it: lower case, whole words, an unknown token."""
    words = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "the",
        "cat",
        "##s",
        "sat",
        "sep",
        "[",
        "]",
        "un",
        "##k",
        ".",
        ",",
        "a",
    ]
    letters = [f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"] + list("bcdefghijklmnopqrstuvwxyz<>|.,")
    vocab = {w: i for i, w in enumerate(dict.fromkeys(words + letters))}
    backend = Backend(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in words[:4]])
    backend.add_tokens([AddedToken("<|go|>", special=True, normalized=True)])
    return Vocabulary(backend.to_str(), {"unk_token": "[UNK]", "bos_token": "[CLS]", "eos_token": "[SEP]"})


SMALL = {"byte-level": byte_level, "llama": llama, "unigram": unigram, "wordpiece": wordpiece}
REAL = {
    "gpt2": ("tokenizers/gpt2-50k", {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}),
    "mistral": ("tokenizers/mistral-v3-32768", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
    "qwen": ("tokenizers/qwen-152k", {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}),
    "stories": ("stories260k", {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}),
}
EVERY = [*SMALL, *REAL]


@functools.cache
def vocabulary(name: str) -> Vocabulary:
    """One by name; skips the test where it is a real one and the shared folder is absent."""
    if name in SMALL:
        return SMALL[name]()
    folder, roles = REAL[name]
    path = SHARED / folder / "tokenizer.json"
    if not path.is_file():
        pytest.skip("the folder shared/data with real tokenizers is not beside this checkout")
    return Vocabulary(path.read_text(encoding="utf-8"), roles)


def templates() -> list[str]:
    """Names of the real chat templates; none where the shared folder is absent."""
    return sorted(path.stem for path in (SHARED / "chat-templates").glob("*.jinja"))


@functools.cache
def template(name: str) -> str:
    return (SHARED / "chat-templates" / f"{name}.jinja").read_text(encoding="utf-8")


@functools.cache
def vocabulary_of(name: str) -> Vocabulary:
    """A byte-level vocabulary that has all the markup of a real template as added tokens."""
    return byte_level(tuple(sorted(set(MARKUP.findall(template(name))))))


def named(vocabulary: Vocabulary) -> dict[int, str]:
    """Added tokens of tokenizer.json by id."""
    return {t["id"]: t["content"] for t in json.loads(vocabulary.description)["added_tokens"]}
