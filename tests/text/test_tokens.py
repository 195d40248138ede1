"""Both processes read a vocabulary alike: the same control tokens, the same bytes, the same ends of a text."""

from __future__ import annotations

import json

import pytest
from transformers import AutoTokenizer
from vocabularies import EVERY, byte_level, vocabulary

from quire.engine import tokens
from quire.engine.errors import GrammarRefused, ModelError
from quire.engine.grammar.vocabulary import Vocabulary
from quire.server.tokenizer import Tokenizer

SIZE, NEWER = byte_level().ours.vocab_size, {"added_tokens_decoder": {}}


@pytest.mark.parametrize("name", EVERY)
def test_server_and_engine_know_the_same_controls_and_spell_alike(name):
    ours = vocabulary(name).ours
    try:
        theirs = Vocabulary(vocabulary(name).description, ours.eos_ids or (0,))
    except GrammarRefused:
        pytest.skip("answers of this kind of vocabulary cannot be bound")
    assert set(theirs.controls) == ours.control_ids
    hidden = 0
    for token in range(ours.vocab_size):
        if token in ours.control_ids:
            assert theirs.written(token) == ours.token_bytes(token)
            assert theirs.pieces[token] == b""
        elif theirs.pieces[token] != ours.token_bytes(token):
            assert theirs.pieces[token] == b""  # the unknown token, and second spellings of one character
            hidden += 1
    assert hidden <= 257


def folder_of(tmp_path, **files: object):
    (tmp_path / "tokenizer.json").write_text(byte_level().description)
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return tmp_path


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({"config": {"eos_token_id": 0}}, (0,)),
        ({"config": {"eos_token_id": 0}, "generation_config": {"eos_token_id": [2, 1]}}, (2, 1, 0)),
        ({"tokenizer_config": {"eos_token": "<|im_end|>"}}, (2,)),
        ({"tokenizer_config": {"eos_token": {"content": "<|im_end|>"}}, "config": {"eos_token_id": 2}}, (2,)),
        ({"special_tokens_map": {"eos_token": {"content": "<|im_end|>"}}}, (2,)),
        ({"special_tokens_map": {"eos_token": "<|im_end|>"}, "tokenizer_config": {"eos_token": "<|endoftext|>"}}, (2,)),
        ({"special_tokens_map": {"eos_token": "</s>"}, "tokenizer_config": {**NEWER, "eos_token": "<s>"}}, (SIZE,)),
        ({"special_tokens_map": {"eos_token": None}, "tokenizer_config": {"eos_token": "<|endoftext|>"}}, ()),
        ({"config": {"eos_token_id": None}, "tokenizer_config": {"eos_token": "<|im_end|>"}}, (2,)),
    ],
)
def test_server_and_engine_find_the_same_ends_of_a_text(tmp_path, files, ends):
    folder = folder_of(tmp_path, **files)
    assert Tokenizer.load(folder).eos_ids == ends
    if ends:
        assert Vocabulary.load(folder, 0).eos_ids == ends
    if "config" not in files:
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **files.get("tokenizer_config", {})}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        assert (AutoTokenizer.from_pretrained(folder).eos_token_id,) == (ends or (None,))


NEW = "<|new|>"
LATE = {"content": NEW, "lstrip": False, "rstrip": True, "normalized": False, "single_word": False, "special": True}


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config": {"added_tokens_decoder": {SIZE: LATE}}},
        {"tokenizer_config": {"added_tokens_decoder": {SIZE: LATE, SIZE + 1: {**LATE, "content": "<|b|>"}}}},
        {"tokenizer_config": {"added_tokens_decoder": {SIZE: LATE}, "eos_token": "<|pad|>", "pad_token": NEW}},
        {"tokenizer_config": {"eos_token": NEW}},
        {"tokenizer_config": {"eos_token": {**LATE, "__type": "AddedToken"}}},
        {"tokenizer_config": {"additional_special_tokens": ["<|im_end|>", NEW]}},
        {"tokenizer_config": {"extra_special_tokens": {"image_token": NEW}}},
        {"special_tokens_map": {"additional_special_tokens": [NEW]}},
        {"added_tokens": {"<|b|>": SIZE + 1, NEW: SIZE}, "special_tokens_map": {"pad_token": NEW}},
    ],
)
def test_tokens_that_only_files_beside_the_tokenizer_name_are_those_of_transformers(tmp_path, files):
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    folder = folder_of(tmp_path, **{**files, "tokenizer_config": {**settings, **files.get("tokenizer_config", {})}})
    ours, theirs = Tokenizer.load(folder), AutoTokenizer.from_pretrained(folder)
    for text in (f"a{NEW} b", "a<|b|> b<|pad|>", f"{NEW}{NEW}<|im_end|>"):
        assert ours.encode(text) == theirs(text)["input_ids"]
    assert ours.eos_ids == (theirs.eos_token_id,)
    assert SIZE in ours.control_ids
    assert Vocabulary.load(folder, 0).controls.keys() == ours.control_ids


def test_tokens_beside_the_tokenizer_that_the_model_has_no_row_for_or_that_are_text_add_nothing(tmp_path):
    files = {"config": {"vocab_size": SIZE}, "tokenizer_config": {"pad_token": NEW, "unk_token": "a"}}
    assert tokens.description_of(folder_of(tmp_path, **files)) == byte_level().description


def test_a_token_beside_the_tokenizer_that_would_get_another_id_is_named(tmp_path):
    folder = folder_of(tmp_path, added_tokens={NEW: SIZE + 1})
    for load in (Tokenizer.load, lambda folder: Vocabulary.load(folder, 0)):
        with pytest.raises(ModelError, match=f"has the id {SIZE + 1} in a file beside it, and would get {SIZE}"):
            load(folder)


@pytest.mark.parametrize("name", ["tokenizer_config", "special_tokens_map", "config", "generation_config"])
@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_broken_file_is_named(tmp_path, name, content):
    folder = folder_of(tmp_path, **{name: content})
    for load in (Tokenizer.load, lambda folder: Vocabulary.load(folder, 0)):
        with pytest.raises(ModelError, match=name):
            load(folder)


@pytest.mark.parametrize("name", ["config", "generation_config"])
@pytest.mark.parametrize("end", [999999, 8192, -1, "</s>", True, [0, 999999], [None]])
def test_an_end_that_the_vocabulary_has_not_is_named(tmp_path, name, end):
    config = {"vocab_size": 8192}
    files = {"config": config, name: {**(config if name == "config" else {}), "eos_token_id": end}}
    with pytest.raises(ModelError, match=rf"{name}.json: eos_token_id has .*; expected ids from 0 to 8191"):
        tokens.configured_ends(folder_of(tmp_path, **files))


@pytest.mark.parametrize(
    ("text", "markup"),
    [("<think>", True), ("[INST]", True), ("<|im_end|>", True), ("{a}", True), ("<\n>", True), ("<0x0A>", False),
     ("  ", False), ("<a", False), ("a>", False), ("", False), ("<", False)],
)  # fmt: skip
def test_what_looks_like_markup(text, markup):
    assert tokens.is_markup(text) is markup


def test_every_byte_has_one_character_in_byte_level_vocabularies():
    assert sorted(tokens.BYTE_LEVEL.values()) == [bytes([b]) for b in range(256)]
    assert tokens.spell("Ġhé", byte_level=True) == b" h\xe9"
    assert tokens.spell("▁hé", byte_level=False) == " hé".encode()
    assert tokens.spell("<0xE9>", byte_level=False) == b"\xe9"
