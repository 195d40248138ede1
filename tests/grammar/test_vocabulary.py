"""Tokens as bytes, for every kind of vocabulary."""

from __future__ import annotations

import json

import numpy as np
import pytest
from grammars import FOLDERS, vocabulary
from vocabularies import byte_level

from quire.engine.grammar.errors import GrammarRefused
from quire.engine.grammar.vocabulary import Vocabulary, members, pack, unpack

TEXTS = [
    '{"name": "Jöhn 東京 🙂", "a": [1, -2.5e3, null]}',
    "  two  spaces\n\tand a tab",
    "<s> [INST] <|im_end|> </s>",
    "naïve",
]


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("name", FOLDERS)
def test_the_canonical_tokens_spell_their_text_and_are_no_control_tokens(name: str) -> None:
    words = vocabulary(name)
    for text in TEXTS:
        tokens = words.encode(text)
        assert words.spell(tokens) == text.encode()
        assert not words.controls.keys() & set(tokens)


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("name", FOLDERS)
def test_control_tokens_spell_nothing_and_every_byte_has_one_token(name: str) -> None:
    words = vocabulary(name)
    assert all(words.pieces[t] == b"" for t in words.controls)
    assert set(words.eos_ids) <= words.controls.keys()
    singles = [piece for piece in words.pieces if len(piece) == 1]
    assert len(singles) == len(set(singles)) == 256


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("name", FOLDERS)
def test_no_way_to_spell_a_text_is_shorter_than_the_fewest_tokens(name: str) -> None:
    words = vocabulary(name)
    for text in TEXTS:
        fewest = words.fewest_tokens(text.encode())
        assert fewest is not None
        assert words.spell(fewest) == text.encode()
        assert len(fewest) <= len(words.encode(text))


def test_tokens_beyond_the_rows_spell_nothing(tmp_path) -> None:
    """Many models were given a token more than they have rows."""
    parts = json.loads(byte_level().description)
    rows = byte_level().ours.vocab_size
    late = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    parts["added_tokens"] += [{"id": rows + i, "content": text, **late} for i, text in enumerate(("zzz", "<|pad|>"))]
    words = Vocabulary(json.dumps(parts), (2, rows + 1), rows)
    assert len(words.pieces) == words.size == rows
    assert words.eos_ids == (2,)
    assert max(words.controls) < rows
    assert words.spell(words.encode("azzz<|pad|>")) == b"azzz<|pad|>"
    (tmp_path / "tokenizer.json").write_text(json.dumps(parts), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|pad|>"}', encoding="utf-8")
    with pytest.raises(GrammarRefused, match="no token that ends a text"):
        Vocabulary.load(tmp_path, rows)


@pytest.mark.usefixtures("shared")
def test_rows_beyond_the_tokens_spell_nothing() -> None:
    folder, eos = FOLDERS["qwen-152k"]
    words = Vocabulary((folder / "tokenizer.json").read_text(encoding="utf-8"), eos, 151_936)
    assert len(words.pieces) == words.size == 151_936
    assert not any(words.pieces[151_646:])
    assert len(words.producible) == 151_936 // 32


def test_another_kind_of_vocabulary_is_refused() -> None:
    model = {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
    with pytest.raises(GrammarRefused, match="neither byte-level nor SentencePiece"):
        Vocabulary(json.dumps({"version": "1.0", "added_tokens": [], "model": model}), (0,))


def test_masks_unpack_to_what_was_packed() -> None:
    bits = np.random.default_rng(0).random(1001) < 0.3
    row = pack(bits)
    assert len(row) == 32
    assert (unpack(row)[:1001] == bits).all()
    assert members(row) == np.flatnonzero(bits).tolist()
