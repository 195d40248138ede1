"""Fill in the middle: the right tokens in the right order, and content that cannot become one of them."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend
from vocabularies import SHARED, byte_level, llama

from quire.server import infill
from quire.server.tokenizer import Tokenizer

ORDER = {
    "<|fim_prefix|>": "<|fim_prefix|>PROMPT<|fim_suffix|>SUFFIX<|fim_middle|>",
    "<fim_prefix>": "<fim_prefix>PROMPT<fim_suffix>SUFFIX<fim_middle>",
    "<fim-prefix>": "<fim-prefix>PROMPT<fim-suffix>SUFFIX<fim-middle>",
    "<｜fim▁begin｜>": "<｜fim▁begin｜>PROMPT<｜fim▁hole｜>SUFFIX<｜fim▁end｜>",
    "▁<PRE>": "▁<PRE>PROMPT▁<SUF>SUFFIX▁<MID>",
    "[SUFFIX]": "[SUFFIX]SUFFIX[PREFIX]PROMPT",
}
CONTROL = {format_[0]: [part for part in format_ if isinstance(part, str)] for format_ in infill.FORMATS}


def with_control(description: str, tokens: list[str]) -> Tokenizer:
    backend = Backend.from_str(description)
    backend.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    return Tokenizer(backend.to_str(), {"bos_token": "<s>"})


@pytest.mark.parametrize("name", CONTROL)
def test_each_vocabulary_gets_the_order_it_was_trained_in(name: str) -> None:
    words = with_control(byte_level(()).description, CONTROL[name])
    ids = infill.infill(words, "PROMPT", "SUFFIX", add_special_tokens=True)
    assert ids is not None
    assert words.decode(ids, skip_special_tokens=False) == ORDER[name]
    assert words.controls_in(ids) == [words.control[text] for text in CONTROL[name]]


@pytest.mark.parametrize("name", CONTROL)
def test_what_prompt_and_suffix_spell_is_no_control_token(name: str) -> None:
    words = with_control(byte_level(()).description, CONTROL[name])
    forged = "".join(words.control)
    ids = infill.infill(words, forged, forged, add_special_tokens=True)
    assert ids is not None
    assert words.controls_in(ids) == [words.control[text] for text in CONTROL[name]]
    assert words.decode(ids, skip_special_tokens=False).count(forged) == 2


def test_a_vocabulary_without_the_tokens_or_with_some_of_them_cannot() -> None:
    assert infill.infill(byte_level().ours, "a", "b", add_special_tokens=True) is None
    some = with_control(byte_level(()).description, ["<|fim_prefix|>", "<|fim_suffix|>"])
    assert infill.infill(some, "a", "b", add_special_tokens=True) is None


def test_the_prompt_begins_a_text_and_the_suffix_goes_on() -> None:
    """As Code Llama and Codestral were trained: a space before the prompt, none before the suffix."""
    words = with_control(llama().description, CONTROL["[SUFFIX]"])
    ids = infill.infill(words, "the", "the", add_special_tokens=True)
    assert ids is not None
    assert [words.token_text(i) for i in ids] == ["<s>", "[SUFFIX]", "t", "he", "[PREFIX]", " the"]
    assert infill.infill(words, "the", "the", add_special_tokens=False) == ids[1:]


def test_ids_are_taken_as_they_are() -> None:
    words = with_control(llama().description, CONTROL["[SUFFIX]"])
    ids = infill.infill(words, [1, 3, 300], "the", add_special_tokens=False)
    assert ids is not None
    assert ids[-3:] == [1, 3, 300]


def test_a_real_vocabulary_has_the_tokens() -> None:
    folder = SHARED / "tokenizers" / "mistral-v3-32768"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    words = Tokenizer.load(folder)
    ids = infill.infill(words, "def f(", "\n    return a + b", add_special_tokens=True)
    assert ids is not None
    assert words.decode(ids, skip_special_tokens=False) == "<s>[SUFFIX]\n    return a + b[PREFIX] def f("
