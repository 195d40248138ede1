"""Text comes as it is sure, and all of it together is the decoding of the whole."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from vocabularies import EVERY, SMALL, TEXT, vocabulary

from quire.server.detokenize import UNFINISHED, Detokenizer

LANGUAGES = [
    *TEXT,
    "日本語の文章を、そのまま書く。漢字とかな。",
    "한국어 문장도 있습니다. العربية من اليمين. हिन्दी भाषा",
    "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 e\u0301 \u202eabc\u202c \u0000 \ufffd x\ufffd \ufeff",
    "  two  spaces\n\n\n   \t tabs \r\n ends with spaces   ",
    "café Ångström ½ ﬁ ẞ İ ß 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 \U0010ffff",
]


def cut(ids: list[int], cuts: list[int]) -> list[list[int]]:
    bounds = sorted({0, len(ids), *(c % (len(ids) + 1) for c in cuts)})
    return [ids[a:b] for a, b in itertools.pairwise(bounds)]


def check(words: str, ids: list[int], cuts: list[int], skip: bool) -> None:
    """However the ids are cut, what has come is always a beginning of the whole, and in the end it is the whole."""
    known = vocabulary(words).ours
    whole = known.decode(ids, skip_special_tokens=skip)
    stream = Detokenizer(known, skip_special_tokens=skip)
    text = ""
    for delta in cut(ids, cuts):
        text += stream.feed(delta)
        assert whole.startswith(text)
    assert text + stream.flush() == whole


@pytest.mark.parametrize("words", EVERY)
def test_any_ids_in_any_cuts_come_out_as_their_decoding(words: str) -> None:
    """Ids beyond the vocabulary too: models have more rows than their tokenizer has tokens."""
    known = vocabulary(words).ours
    several = st.sampled_from(sorted(known.control_ids))
    single = st.sampled_from([i for i in range(known.vocab_size) if len(known.token_bytes(i)) == 1] or [0])
    token = st.one_of(single, single, several, st.integers(0, known.vocab_size + 20))

    @settings(max_examples=100, deadline=None, database=None)
    @given(st.lists(token, max_size=30), st.lists(st.integers(0, 30), max_size=8), st.booleans())
    @example([known.vocab_size + 5], [], False)
    def run(ids: list[int], cuts: list[int], skip: bool) -> None:
        check(words, ids, cuts, skip)

    run()


@pytest.mark.parametrize("words", ["llama", "stories"])
def test_an_id_without_text_does_not_end_a_run_of_bytes(words: str) -> None:
    """What is shown of A and FF is decided together, whatever ids of no text come between."""
    known = vocabulary(words).ours
    byte = {known.token_bytes(i): i for i in range(known.vocab_size) if known.is_byte(i)}
    for between in (known.vocab_size + 5, known.control["</s>"]):
        check(words, [byte[b"A"], between, byte[b"\xff"], between, byte[b"B"]], list(range(5)), True)


@pytest.mark.parametrize("words", EVERY)
def test_real_text_token_by_token_comes_out_as_its_decoding(words: str) -> None:
    known = vocabulary(words).ours
    for text in LANGUAGES:
        ids = known.encode(text)
        for skip in (True, False):
            check(words, ids, list(range(len(ids))), skip)
            for begin in range(0, len(ids), 5):
                check(words, ids[begin:], list(range(len(ids))), skip)


@pytest.mark.parametrize("words", ["byte-level", "llama", "gpt2", "mistral", "qwen", "stories"])
def test_half_a_character_is_never_shown(words: str) -> None:
    """U+FFFD comes only where the decoding of the whole has it."""
    known = vocabulary(words).ours
    for text in LANGUAGES:
        clean = text.replace(UNFINISHED, "")
        stream = Detokenizer(known)
        for token in known.encode(clean):
            assert UNFINISHED not in stream.feed([token])
        assert stream.flush() == "" or known.byte_fallback


@pytest.mark.parametrize("words", ["byte-level", "gpt2", "qwen"])
def test_an_answer_cut_in_mid_character_ends_in_one_replacement_character(words: str) -> None:
    known = vocabulary(words).ours
    ids = [i for i in range(known.vocab_size) if known.token_bytes(i) in (b"\xf0", b"\x9f")]
    ids.sort(key=known.token_bytes, reverse=True)
    stream = Detokenizer(known)
    assert stream.feed(ids) == ""
    assert stream.flush() == UNFINISHED
    assert stream.flush() == ""


@pytest.mark.parametrize("words", EVERY)
def test_text_is_not_held_back_longer_than_it_may_change(words: str) -> None:
    """Words that are no bytes go out with the token that ends them."""
    known = vocabulary(words).ours
    ids = [i for i in known.encode("the cat sat in a hat", add_special_tokens=False) if not known.is_byte(i)]
    stream = Detokenizer(known, skip_special_tokens=False)
    for n, token in enumerate(ids, 1):
        stream.feed([token])
        assert stream._held == [], n


@pytest.mark.parametrize("words", SMALL)
def test_the_cost_of_a_token_does_not_grow_with_the_answer(words: str) -> None:
    known = vocabulary(words).ours
    stream = Detokenizer(known)
    longest = 0
    for token in known.encode("the cat in a hat " * 200):
        stream.feed([token])
        longest = max(longest, len(stream._context) + len(stream._held))
    assert longest < 12


def test_special_tokens_are_left_out_or_shown_as_asked() -> None:
    known = vocabulary("byte-level").ours
    ids = known.encode("<|im_start|>a<think>b<|im_end|>")
    assert Detokenizer(known).feed(ids) == "a<think>b"
    assert Detokenizer(known, skip_special_tokens=False).feed(ids) == "<|im_start|>a<think>b<|im_end|>"
