"""What every token spells, in bytes: the engine's one door to text.

A grammar speaks of bytes; the model of tokens. Control tokens (every added token that is marked special or looks like
markup) spell nothing here: no grammar can produce one, but for the end of the text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as Backend

from .. import tokens as files
from .errors import GrammarRefused

Row = NDArray[np.int32]  # a packed mask: bit t % 32 of word t // 32 is token t


class Vocabulary:
    """Built once a model, from the text of its tokenizer.json, the ids that end a text, and the model's row count.

    pieces   [size] the bytes of each token; b"" where it spells none (control tokens, rows without a token)
    """

    def __init__(self, description: str, eos_ids: tuple[int, ...], size: int = 0):
        """size: rows of the model's head, which may be more than the tokens, or fewer: tokens without a row spell
        nothing; 0: as many as there are tokens. Raises GrammarRefused if the pieces of this kind of vocabulary cannot
        be told as bytes."""
        parts = json.loads(description)
        backend = Backend.from_str(description)
        added = backend.get_added_tokens_decoder()
        known = max(backend.get_vocab_size(), max(added, default=-1) + 1)
        self.size = size or known
        parts["added_tokens"] = [t for t in parts.get("added_tokens") or [] if t["id"] < self.size]
        added = {i: t for i, t in added.items() if i < self.size}
        self.controls = {i: t.content for i, t in added.items() if t.special or files.is_markup(t.content)}
        self.eos_ids = tuple(i for i in dict.fromkeys(eos_ids) if i < self.size)
        spell = _speller(parts)
        self.pieces = [b""] * self.size
        for text, token in backend.get_vocab(with_added_tokens=True).items():
            if token < self.size and token not in self.controls and text != parts["model"].get("unk_token"):
                self.pieces[token] = added[token].content.encode() if token in added else spell(text)
        self._hide_second_spellings(backend)
        self._plain = Backend.from_str(json.dumps(_without_surroundings(parts, self.controls)))

    @classmethod
    def load(cls, folder: Path, size: int) -> Vocabulary:
        """That of a model folder. Raises GrammarRefused where it has no tokenizer, or none that can be bound."""
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise GrammarRefused(f"{path} is not there; a grammar needs the vocabulary in it")
        description = files.description_of(folder)
        name = files.named(files.settings_of(folder), "eos_token")
        token = Backend.from_str(description).token_to_id(name) if name else None
        named = (*files.configured_ends(folder), *(() if token is None else (token,)))
        ends = tuple(end for end in named if not size or end < size)
        if not ends:
            raise GrammarRefused("this model has no token that ends a text; its answers cannot be bound")
        return cls(description, ends, size)

    def _hide_second_spellings(self, backend: Backend) -> None:
        """A byte token of a character that has a token of its own: no text is ever tokenized so."""
        single = {t: files.is_byte(backend.id_to_token(t) or "") for t, p in enumerate(self.pieces) if len(p) == 1}
        plain = {self.pieces[t] for t, is_byte in single.items() if not is_byte}
        for token, is_byte in single.items():
            if is_byte and self.pieces[token] in plain:
                self.pieces[token] = b""

    def encode(self, text: str) -> list[int]:
        """The canonical tokens of text that stands in the middle of an answer; none of them a control token."""
        return self._plain.encode(text, add_special_tokens=False).ids

    def written(self, token: int) -> bytes:
        """As `pieces`, but a control token as its name: what a reader of tags sees."""
        return self.controls[token].encode() if token in self.controls else self.pieces[token]

    def spell(self, tokens: list[int]) -> bytes:
        return b"".join([self.pieces[t] for t in tokens])

    @cached_property
    def by_bytes(self) -> dict[bytes, int]:
        """The first token of each spelling."""
        found: dict[bytes, int] = {}
        for token, piece in enumerate(self.pieces):
            if piece:
                found.setdefault(piece, token)
        return found

    @cached_property
    def beginnings(self) -> frozenset[bytes]:
        """Proper beginnings of tokens."""
        return frozenset(piece[:n] for piece in self.pieces for n in range(1, len(piece)))

    @cached_property
    def longest(self) -> int:
        """Bytes of the longest token."""
        return max(map(len, self.pieces))

    @cached_property
    def producible(self) -> Row:
        """int32 [ceil(size/32)]: the tokens that spell something, and the ends of text."""
        return self.mask([t for t, piece in enumerate(self.pieces) if piece] + list(self.eos_ids))

    def mask(self, tokens: Sequence[int] | NDArray[np.int64]) -> Row:
        """int32 [ceil(size/32)] with the bits of `tokens` set."""
        bits = np.zeros(self.size, dtype=np.bool_)
        bits[np.asarray(tokens, dtype=np.int64)] = True
        return pack(bits)

    def fewest_tokens(self, text: bytes) -> list[int] | None:
        """The shortest way to spell `text`, or None if some byte of it has no token."""
        best: list[tuple[int, int, int]] = [(0, 0, 0)]  # (tokens up to here, where the last begins, the last)
        for end in range(1, len(text) + 1):
            options = [
                (best[begin][0] + 1, begin, token)
                for begin in range(max(0, end - self.longest), end)
                if best[begin][0] < _NO_WAY and (token := self.by_bytes.get(text[begin:end])) is not None
            ]
            best.append(min(options, default=(_NO_WAY, 0, 0)))
        if best[-1][0] >= _NO_WAY:
            return None
        tokens, end = [], len(text)
        while end:
            _, end, token = best[end]
            tokens.append(token)
        return tokens[::-1]


_NO_WAY = 1 << 40


def _written(vocabulary: Vocabulary, taken: list[int], text: bytes) -> list[int]:
    try:
        whole = vocabulary.encode((vocabulary.spell(taken) + text).decode())
    except UnicodeDecodeError:
        return []
    same = whole[: len(taken)] == taken and vocabulary.spell(whole[len(taken) :]) == text
    return whole[len(taken) :] if same else []


def canonical(vocabulary: Vocabulary, taken: list[int], text: bytes, ends: bool) -> list[int]:
    """The tokens of `text` after `taken` as the tokenizer writes them, as far as nothing that may follow (unless the
    answer ends) can change them. Where it would have written `taken` otherwise, `text` is written for itself."""
    tokens = _written(vocabulary, taken, text) or _written(vocabulary, [], text)
    if ends:
        return tokens
    sure = next((p for p in range(len(text)) if text[p:] in vocabulary.beginnings), len(text))
    kept, at = [], 0
    for token in tokens:
        at += len(vocabulary.pieces[token])
        if at > sure:
            break
        kept.append(token)
    return kept


def pack(bits: NDArray[np.bool_]) -> Row:
    """bool [n] -> int32 [ceil(n/32)], the first of each 32 in the lowest bit."""
    padded = np.zeros((len(bits) + 31) // 32 * 32, dtype=np.bool_)
    padded[: len(bits)] = bits
    return np.packbits(padded, bitorder="little").view(np.int32)


def unpack(row: Row) -> NDArray[np.bool_]:
    """int32 [n] -> bool [32 * n]."""
    return np.unpackbits(row.view(np.uint8), bitorder="little").view(np.bool_)


def members(row: Row) -> list[int]:
    """The numbers of the set bits, ascending."""
    found: list[int] = np.flatnonzero(unpack(row)).tolist()
    return found


def _speller(parts: dict[str, Any]) -> Callable[[str], bytes]:
    """text of a piece -> bytes, for this kind of vocabulary."""
    if files.is_byte_level(parts) or files.is_sentencepiece(parts):
        return partial(files.spell, byte_level=files.is_byte_level(parts))
    raise GrammarRefused("this model's vocabulary is neither byte-level nor SentencePiece; its answers cannot be bound")


def _without_surroundings(parts: dict[str, Any], controls: dict[int, str]) -> dict[str, Any]:
    """The same tokenizer for text in the middle: nothing put before it, nothing around it, no control tokens."""
    kept = [t for t in parts.get("added_tokens") or [] if t["id"] not in controls]
    return {
        **parts,
        "added_tokens": kept,
        "normalizer": _no_prefix(parts.get("normalizer"), "normalizers"),
        "pre_tokenizer": _no_prefix(parts.get("pre_tokenizer"), "pretokenizers"),
        "post_processor": None,
    }


def _no_prefix(part: dict[str, Any] | None, members: str) -> dict[str, Any] | None:
    if part is None or part["type"] == "Prepend":
        return None
    if part["type"] == "Sequence":
        return {**part, members: [p for m in part[members] if (p := _no_prefix(m, members)) is not None]}
    if part["type"] == "Metaspace":
        return {**part, "prepend_scheme": "never"}
    if part["type"] == "ByteLevel":
        return {**part, "add_prefix_space": False}
    return part
