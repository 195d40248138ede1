"""A stop string ends an answer where it first comes, however the text is cut; nothing of it has gone out before."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from vocabularies import vocabulary

from quire.engine.messages import TokenDelta
from quire.server.stops import StopMatcher
from quire.server.stream import Choice, TextOptions

letters = st.text("ab", max_size=14)
stop_strings = st.lists(st.text("ab", min_size=1, max_size=4), max_size=4)


def naive(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """The definition: of all places where a stop string ends the first; of those that end there the longest."""
    for end in range(len(text) + 1):
        here = [s for s in stops if s and text[:end].endswith(s)]
        if here:
            stop = max(here, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


def pieces(text: str, cuts: set[int]) -> list[str]:
    bounds = sorted({0, len(text), *cuts})
    return [text[a:b] for a, b in itertools.pairwise(bounds)]


def run(deltas: list[str], stops: list[str], include: bool) -> tuple[list[str], str | None]:
    """What went out after each delta, and at last by flush."""
    matcher = StopMatcher(stops, include)
    out: list[str] = []
    stop = None
    for delta in deltas:
        sure, stop = matcher.feed(delta)
        out.append(sure)
        if stop is not None:
            break
    return [*out, matcher.flush()], stop


@settings(max_examples=400, deadline=None)
@given(letters, stop_strings, st.booleans())
@example("aab", ["ab", "b"], False)
@example("aab", ["aab", "ab", "b"], True)
@example("abab", ["aba", "b"], False)
@example("aaab", ["aab"], False)
@example("ab", [""], False)
def test_every_cut_of_every_text_gives_what_the_definition_says(text: str, stops: list[str], include: bool) -> None:
    expected, stop = naive(text, stops, include)
    for mask in range(1 << max(0, min(len(text), 8) - 1)):
        deltas = pieces(text, {i + 1 for i in range(8) if mask >> i & 1})
        out, found = run(deltas, stops, include)
        assert ("".join(out), found) == (expected, stop), deltas
        shown = ""
        for i, sure in enumerate(out[:-1]):
            shown += sure
            assert expected.startswith(shown), (deltas, i)


@settings(max_examples=300, deadline=None)
@given(st.text("ab\n", max_size=60), st.lists(st.text("ab\n", min_size=1, max_size=6), min_size=1), st.booleans())
def test_character_by_character_no_more_is_held_than_may_become_a_stop_string(
    text: str, stops: list[str], include: bool
) -> None:
    """What is held back is the longest end of the text that begins a stop string, and no longer."""
    matcher = StopMatcher(stops, include)
    shown = ""
    for n, character in enumerate(text, 1):
        sure, stop = matcher.feed(character)
        shown += sure
        if stop is not None:
            break
        may = max((k for k in range(n + 1) if any(s.startswith(text[n - k : n]) for s in stops)), default=0)
        assert shown == text[: n - may]


def test_after_a_match_nothing_more_goes_out() -> None:
    matcher = StopMatcher(["end"])
    assert matcher.feed("the end is") == ("the ", "end")
    assert matcher.feed("more") == ("", "end")
    assert matcher.flush() == ""


def test_without_stop_strings_text_passes_at_once() -> None:
    for stops in ([], [""]):
        assert run(["a", "", "b"], stops, False) == (["a", "", "b", ""], None)


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("words", ["byte-level", "llama", "stories", "gpt2", "qwen", "mistral"])
@pytest.mark.parametrize("stop", ["og. It", " the", "\n\n", "é", "日本", "s", "<|", "🙂", "w,"])
def test_a_stop_string_across_tokens_ends_the_answer_where_it_is(words: str, stop: str, include: bool) -> None:
    """By way of real tokens, one a delta or many: text, reason, and no token beyond it."""
    known = vocabulary(words).ours
    said = "A quick dog. It runs\n\n over the <|x|> café 日本 🙂 now, yes"
    ids = known.encode(said, add_special_tokens=False)
    whole = known.decode(ids)
    expected, found = naive(whole, [stop, "never there"], include)
    for size in (1, 2, 5, len(ids)):
        choice = Choice(0, known, TextOptions((stop, "never there"), include), known.eos_ids)
        text, entries, last = "", [], None
        for at in range(0, len(ids), size):
            finish = "length" if at + size >= len(ids) else None
            last = choice.feed(TokenDelta(id="r", index=0, tokens=ids[at : at + size], finish=finish))
            text += last.text
            entries += last.entries
            assert expected.startswith(text)
            if last.finish:
                break
        assert text == expected
        assert last is not None
        assert (last.finish, last.stop_reason) == (("stop", stop) if found else ("length", None))
        assert [e.token for e in entries] == ids[: len(entries)]
        assert len(known.decode(ids[: len(entries)])) >= len(expected.rstrip("\ufffd"))


def test_a_stop_string_before_min_tokens_does_not_end_the_answer() -> None:
    known = vocabulary("byte-level").ours
    ids = [known.encode(c)[0] for c in "xaxbx"]
    choice = Choice(0, known, TextOptions(("x",), min_tokens=2), known.eos_ids)
    got = [choice.feed(TokenDelta(id="r", index=0, tokens=[token])) for token in ids]
    assert "".join(p.text for p in got) == "xa"
    assert [p.finish for p in got] == [None, None, "stop", None, None]
