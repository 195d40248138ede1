"""Text to ids and back, and what one token is."""

from __future__ import annotations

import json
import threading
import unicodedata
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from vocabularies import EVERY, SHARED, TEXT, vocabulary

from quire.engine.errors import ModelError
from quire.server.tokenizer import Tokenizer

LOSSLESS = ["byte-level", "llama", "gpt2", "mistral", "qwen", "stories"]  # others drop or replace what they do not know
BYTES = ["byte-level", "gpt2", "qwen"]


def same(words: str, text: str) -> str:
    """What comes back of `text`: Qwen's vocabulary composes characters, Llama's shows ▁ as a space."""
    if words == "qwen":
        return unicodedata.normalize("NFC", text)
    return text.replace("\u2581", " ") if words in ("llama", "mistral", "stories") else text


@pytest.mark.parametrize("words", LOSSLESS)
def test_text_comes_back_from_its_ids(words: str) -> None:
    known = vocabulary(words).ours

    @settings(max_examples=100, deadline=None, database=None)
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
    def run(text: str) -> None:
        ids = known.encode(text)
        if not known.controls_in(ids):  # a text may spell a control token, which this one lets it become
            assert known.decode(ids) == same(words, text)
        assert known.decode(known.encode_content(text, first=True)) == same(words, text)

    run()


@pytest.mark.parametrize("words", EVERY)
def test_ids_are_those_of_transformers(words: str) -> None:
    both = vocabulary(words)
    for text in [*TEXT, "", " ", "  x", "<s>a</s>", "[INST] b", "<|im_start|>user\n<|im_end|>", "日本"]:
        for special in (True, False):
            expected = both.theirs(text, add_special_tokens=special)["input_ids"]
            assert both.ours.encode(text, add_special_tokens=special) == expected
            assert both.ours.decode(expected) == both.theirs.decode(expected, skip_special_tokens=True)
            assert both.ours.decode(expected, skip_special_tokens=False) == both.theirs.decode(expected)


@pytest.mark.parametrize("words", EVERY)
def test_harmless_content_has_the_ids_of_plain_text(words: str) -> None:
    known = vocabulary(words).ours

    @settings(max_examples=100, deadline=None, database=None)
    @given(st.text("abc DE,.!?12\n\t日é🙂", max_size=30))
    def run(text: str) -> None:
        assert known.encode_content(text, first=True) == known.encode(text, add_special_tokens=False)
        assert known.encode_content(text, first=True) == known.encode(text, add_special_tokens=False)

    run()


@pytest.mark.parametrize("words", BYTES)
def test_the_bytes_of_tokens_together_are_the_bytes_of_the_text(words: str) -> None:
    known = vocabulary(words).ours

    @settings(max_examples=100, deadline=None, database=None)
    @given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
    def run(text: str) -> None:
        found = b"".join(known.token_bytes(i) for i in known.encode(text, add_special_tokens=False))
        assert found == same(words, text).encode()

    run()


@pytest.mark.parametrize("words", ["llama", "mistral", "stories"])
def test_bytes_of_fallback_tokens_are_the_bytes_of_the_text(words: str) -> None:
    known = vocabulary(words).ours
    for text in ("日本語 🙂", "a\x00b", "é ½"):
        found = b"".join(known.token_bytes(i) for i in known.encode(text, add_special_tokens=False))
        assert found == f" {text}".encode()
    last = known.encode_content("\U0010fffd", first=True)[-1]
    assert known.is_byte(last)
    assert known.token_bytes(last) == b"\xbd"


@pytest.mark.parametrize("words", EVERY)
def test_every_id_has_text_and_no_id_breaks_it(words: str) -> None:
    known = vocabulary(words).ours
    step = max(1, known.vocab_size // 2000)
    for token in [*range(0, known.vocab_size, step), known.vocab_size, known.vocab_size + 9]:
        assert known.token_text(token) == known.token_bytes(token).decode(errors="replace")
    assert known.control_ids
    for token in known.control_ids:
        assert known.token_text(token) == known.decode([token], skip_special_tokens=False)
    assert known.token_bytes(known.vocab_size + 9) == b""
    assert not known.knows(known.vocab_size)


def test_control_tokens_are_special_ones_and_markup_and_not_plain_text() -> None:
    known = vocabulary("byte-level").ours
    assert {"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</tool_call>"} <= known.control.keys()
    assert "    " not in known.control
    assert "<think>" not in known.special
    assert vocabulary("llama").ours.control.keys() == {"<unk>", "<s>", "</s>", "[INST]", "[/INST]"}


def model_folder(folder: Path, **files: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(vocabulary("llama").description, encoding="utf-8")
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return folder


def test_a_folder_tells_the_ends_of_text_the_roles_and_the_template(tmp_path: Path) -> None:
    folder = model_folder(
        tmp_path,
        tokenizer_config={"bos_token": "[INST]", "chat_template": [{"name": "default", "template": "T"}]},
        special_tokens_map={"eos_token": "</s>", "bos_token": {"content": "<s>"}},
        generation_config={"eos_token_id": [4, 2]},
        config={"eos_token_id": 3},
    )
    known = Tokenizer.load(folder)
    assert (known.named("bos_token"), known.bos_id) == ("<s>", 1)
    assert known.eos_ids == (4, 2, 3)
    assert known.chat_template == "T"


def test_a_template_in_a_file_of_its_own_is_found(tmp_path: Path) -> None:
    folder = model_folder(tmp_path)
    assert Tokenizer.load(folder).chat_template is None
    (folder / "chat_template.jinja").write_text("in a file", encoding="utf-8")
    assert Tokenizer.load(folder).chat_template == "in a file"


def test_templates_in_files_go_before_that_of_the_settings(tmp_path: Path) -> None:
    """As transformers reads a folder."""
    folder = model_folder(tmp_path, tokenizer_config={"chat_template": "in the settings"})
    (folder / "chat_template.jinja").write_text("in a file", encoding="utf-8")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("with tools", encoding="utf-8")
    assert Tokenizer.load(folder).templates == {"default": "in a file", "tool_use": "with tools"}


def test_a_template_that_is_no_text_is_told_by_its_file(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "bytes")
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(ModelError, match=r"chat_template\.jinja"):
        Tokenizer.load(folder)
    for i, found in enumerate([5, [5], [{"name": "default"}], [{"template": "x"}], {"default": 5}, True]):
        words = Tokenizer.load(model_folder(tmp_path / str(i), tokenizer_config={"chat_template": found}))
        with pytest.raises(ModelError, match=r"tokenizer_config\.json"):
            _ = words.templates


def test_a_folder_without_a_tokenizer_or_with_a_broken_file_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tokenizer\.json: not found"):
        Tokenizer.load(tmp_path)
    for name, text in [("tokenizer", "{"), ("tokenizer", '{"model": {}}'), ("tokenizer_config", "["), ("config", "[]")]:
        with pytest.raises(ModelError, match=rf"{name}\.json: "):
            Tokenizer.load(model_folder(tmp_path / f"{name}{len(text)}", **{name: text}))


def test_no_prompt_is_cut_or_filled_up_whatever_the_file_says() -> None:
    plain = vocabulary("llama")
    backend = Backend.from_str(plain.description)
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    words = Tokenizer(backend.to_str(), plain.roles)
    for text in ("in", "the inn in the inn"):
        assert words.encode(text) == plain.ours.encode(text)
        assert words.encode_content(text, first=True) == plain.ours.encode_content(text, first=True)


def test_other_threads_run_while_a_long_text_is_read_and_written() -> None:
    words = vocabulary("byte-level").ours
    text = "the inn " * 200_000
    for work in (lambda: words.encode(text), partial(words.decode, words.encode(text))):
        thread = threading.Thread(target=work)
        thread.start()
        assert thread.is_alive()  # else starting it would have taken as long as its work
        thread.join()


VECTORS = {"gpt2": "gpt-2", "qwen": "qwen2"}


@pytest.mark.parametrize("words", VECTORS)
def test_published_vectors_of_text_and_ids_hold(words: str) -> None:
    """Of llama.cpp's tests, made with the original tokenizers."""
    stem = SHARED / "tokenizer-vectors" / f"ggml-vocab-{VECTORS[words]}.gguf"
    if not stem.with_suffix(".gguf.inp").is_file():
        pytest.skip("shared/data/tokenizer-vectors is not beside this checkout")
    texts = stem.with_suffix(".gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = stem.with_suffix(".gguf.out").read_text(encoding="utf-8").split("\n")
    assert len(texts) > 30
    for text, line in zip(texts, lines, strict=False):
        assert vocabulary(words).ours.encode(text) == [int(i) for i in line.split()], text
