"""Along a predicted text for as long as it comes, and back to it behind an edit."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quire.engine.spec.prediction import LEAST, Prediction

tokens = st.lists(st.integers(0, 5), max_size=40)


def test_the_text_is_guessed_from_its_beginning_on():
    place = Prediction([5, 6, 7, 8])
    assert place.guesses([], 2) == ([5, 6], 0)
    assert place.guesses([5, 6, 7], 9) == ([8], 3)
    assert place.guesses([5, 6, 7, 8], 9) == ([], 4)


def test_behind_an_edit_it_goes_on_where_the_text_does():
    place = Prediction(list(range(10, 40)))
    place.guesses(list(range(10, 20)), 1)
    edited = [*range(10, 20), 99]
    assert place.guesses(edited, 3)[0] == []
    edited += [25, 26]
    assert place.guesses(edited, 3) == ([27, 28, 29], 2)


def test_of_several_places_it_is_the_next_one_behind_where_the_text_was_left():
    place = Prediction([1, 2, 3, 1, 2, 4, 1, 2, 5])
    place.guesses([1, 2, 3], 1)
    assert place.guesses([1, 2, 3, 9, 1, 2], 1) == ([4], 2)


@given(tokens, st.integers(1, 8))
def test_a_right_prediction_is_followed_to_its_end(text, count):
    place = Prediction(text)
    for at in range(len(text) + 1):
        assert place.guesses(text[:at], count) == (text[at : at + count], at)


@given(tokens, st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=5), max_size=12))
def test_what_it_guesses_stands_in_the_text_behind_the_end_of_the_answer(text, steps):
    place, answer = Prediction(text), []
    for more in steps:
        answer += more
        found, _ = place.guesses(answer, 3)
        if found:
            at = next(
                n for n in range(len(text)) if text[n : n + len(found)] == found and
                (answer[-LEAST:] == text[max(0, n - LEAST) : n] or answer == text[:n])
            )  # fmt: skip
            assert at >= 1
