"""The tokenizer of a GGUF file gives the ids of the one it was made from, and of SentencePiece itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf as truth
import pytest
from gguf import TokenType
from gguf_files import add, close, write_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from vocabularies import TEXT, vocabulary

from quire.engine.gguf import File
from quire.server.gguf.pretokenizers import PRES
from quire.server.gguf.tokenizer import words_of
from quire.server.tokenizer import Tokenizer

KINDS = {"gpt2": "gpt-2", "qwen": "qwen2", "byte-level": "gpt-2", "mistral": "", "stories": "", "llama": ""}


def tokenizer_of(tmp_path: Path, name: str, template: str | None = None, **more: Any) -> Tokenizer:
    """That of a file with the vocabulary `name`."""
    words = vocabulary(name)
    writer = truth.GGUFWriter(tmp_path / "x.gguf", "llama")
    roles = {**words.roles, **({"chat_template": template} if template else {})}
    write_vocabulary(writer, json.loads(words.description), roles, pre=KINDS[name])
    for key, value in more.items():
        add(writer, f"tokenizer.ggml.{key}", value)
    close(writer)
    made = words_of(File(tmp_path / "x.gguf"))
    return Tokenizer(json.dumps(made.description), made.settings, tuple(made.ids.get("eos_token_id", ())))


@pytest.mark.parametrize("name", KINDS)
def test_ids_are_those_of_the_folders_tokenizer(name, tmp_path):
    found, expected = tokenizer_of(tmp_path, name), vocabulary(name).ours
    awkward = ["", " ", "  x", "\n\n a\t ", "a" * 70, "<s>a</s> b", "[INST] b", "<|im_start|>user\n<|im_end|>", "日本"]
    sources = Path(__file__).read_text(encoding="utf-8").splitlines()[::4]
    for text in [*TEXT, *awkward, *sources, "\n".join(sources)]:
        for special in (True, False):
            ids = found.encode(text, add_special_tokens=special)
            assert ids == expected.encode(text, add_special_tokens=special)
            assert found.decode(ids) == expected.decode(ids)
        assert found.encode_content(text, first=True) == expected.encode_content(text, first=True)
    assert found.control == expected.control
    assert (found.bos_id, found.vocab_size) == (expected.bos_id, expected.vocab_size)

    @settings(max_examples=200, deadline=None, database=None)
    @given(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text("ab  \n\t'sX1.,<>|é日🙂", max_size=40)
    )
    def attempt(text: str) -> None:
        assert found.encode(text) == expected.encode(text)

    attempt()


def test_patterns_are_those_of_transformers():
    llama3 = TikTokenConverter.__init__.__defaults__
    assert PRES["llama-bpe"].patterns[0] in llama3
    assert PRES["qwen2"].patterns == (PRETOKENIZE_REGEX,)


@pytest.mark.parametrize("pre", PRES)
def test_every_way_to_cut_loses_nothing(pre, tmp_path, monkeypatch):
    monkeypatch.setitem(KINDS, "byte-level", pre)
    found = tokenizer_of(tmp_path, "byte-level")
    for text in [*TEXT, "It's 12345 O'Neill's\r\n\r\n  x!!! -- ?\t9", "  ", "\n"]:
        shown = found.decode(found.encode(text, add_special_tokens=False), skip_special_tokens=False)
        assert shown.replace("\u0301", "") == text, pre
    begins = found.encode("a")[0] == found.bos_id
    assert begins == (vocabulary("byte-level").ours.encode("a")[0] == found.bos_id), "the file says whether"


def test_long_numbers_are_cut_as_the_family_does(tmp_path, monkeypatch):
    """By the pieces that the pre-tokenizer leaves."""

    def pieces(pre: str, text: str) -> list[str]:
        part = _pre_tokenizer(PRES[pre].pre_tokenizer)
        return [piece for piece, _ in part.pre_tokenize_str(text)]

    assert pieces("llama-bpe", "12345 can'T") == ["123", "45", "Ġcan", "'T"]
    assert pieces("qwen2", "123 can'T") == ["1", "2", "3", "Ġcan", "'T"]
    assert pieces("gpt-2", "12345 can't") == ["12345", "Ġcan", "'t"]
    assert pieces("smollm", "123 a") == ["1", "2", "3", "Ġa"]
    assert pieces("tekken", "12 aB/") == ["1", "2", "Ġa", "B", "/"]
    assert pieces("default", "12345 a=b") == ["123", "45", "Ġa", "=", "b"]


def _pre_tokenizer(part: dict[str, Any]) -> Any:
    empty = {"type": "BPE", "vocab": {}, "merges": []}
    return Backend.from_str(json.dumps({"version": "1.0", "pre_tokenizer": part, "model": empty})).pre_tokenizer


def test_a_vocabulary_without_a_space_before_text(tmp_path):
    found = tokenizer_of(tmp_path, "llama", add_space_prefix=False)
    assert found.decode(ids := found.encode("the", add_special_tokens=False)) == "the"
    assert ids != vocabulary("llama").ours.encode("the", add_special_tokens=False)


@pytest.mark.parametrize("name", ["stories", "mistral"])
def test_scores_that_are_all_equal_give_way_to_the_order_of_ids(name, tmp_path, monkeypatch):
    """As converters write them that have no scores: the ids are in the order of the training."""
    write = truth.GGUFWriter.add_token_scores
    monkeypatch.setattr(truth.GGUFWriter, "add_token_scores", lambda w, scores: write(w, [-1000.0] * len(scores)))
    found = tokenizer_of(tmp_path, name)
    for text in [*TEXT, *(n * " " + "x" for n in range(40))]:
        assert found.encode(text) == vocabulary(name).ours.encode(text)


def test_ids_are_those_of_sentencepiece_itself(tmp_path):
    sentencepiece = pytest.importorskip("sentencepiece", reason="the package sentencepiece is not installed")
    model = tmp_path / "spm.model"
    lines = [line.strip() for line in Path(__file__).read_text(encoding="utf-8").splitlines() if line.strip()]
    with model.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=file, vocab_size=900, model_type="bpe", byte_fallback=True,
            normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
            user_defined_symbols=["    ", "<mark>"],
        )  # fmt: skip
    spm = sentencepiece.SentencePieceProcessor(model_file=str(model))
    tokens = range(spm.vocab_size())
    own = {spm.piece_to_id(piece) for piece in ("▁▁▁▁", "<mark>")}
    writer = truth.GGUFWriter(tmp_path / "x.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([spm.id_to_piece(i) for i in tokens])
    writer.add_token_scores([spm.get_score(i) for i in tokens])
    kinds = {spm.is_unknown: TokenType.UNKNOWN, spm.is_control: TokenType.CONTROL, spm.is_byte: TokenType.BYTE}
    writer.add_token_types(
        [TokenType.USER_DEFINED if i in own else next((k for of, k in kinds.items() if of(i)), TokenType.NORMAL)
         for i in tokens]
    )  # fmt: skip
    close(writer)
    found = Tokenizer(json.dumps(words_of(File(tmp_path / "x.gguf")).description))
    marked = ("    ", "<mark>", "<s>")  # what transformers, and quire with it, takes for a token before all else
    for text in [*TEXT, *lines]:
        if not any(mark in text for mark in marked):
            assert found.encode(text, add_special_tokens=False) == spm.encode(text)


def test_named_templates_are_kept_apart(tmp_path):
    found = tokenizer_of(tmp_path, "byte-level", template=[
        {"name": "default", "template": "{{ messages }}"}, {"name": "tool_use", "template": "{{ tools }}"},
    ])  # fmt: skip
    assert found.templates == {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
