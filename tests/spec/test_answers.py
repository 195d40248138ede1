"""Earlier answers: the automaton against a search of the text, and what is remembered of how much."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quire.engine.spec.answers import LATER, Answers, Automaton

few = st.integers(0, 3)


def places(text: list[int], part: list[int]) -> list[int]:
    """Where the last token of each `part` in the text is."""
    size = len(part)
    return [at + size - 1 for at in range(len(text) - size + 1) if text[at : at + size] == part]


@given(st.lists(few, max_size=60), st.lists(few, max_size=10))
def test_the_longest_end_that_stands_in_the_text(text, tail):
    automaton = Automaton()
    for token in text:
        automaton.extend(token)
    found, end = automaton.longest(tail)
    longest = max(n for n in range(len(tail) + 1) if n == 0 or places(text, tail[len(tail) - n :]))
    assert found == longest
    if found:
        assert end in places(text, tail[len(tail) - found :])


@given(st.lists(few, min_size=1, max_size=40))
def test_of_several_places_a_short_end_is_told_the_last(text):
    automaton = Automaton()
    for token in text:
        automaton.extend(token)
    found, end = automaton.longest(text[-1:])
    assert found == 1
    if len(text) <= LATER:
        assert end == places(text, text[-1:])[-1]


@given(st.lists(few, min_size=1, max_size=200))
def test_its_size_is_bounded_by_the_text(text):
    automaton = Automaton()
    for token in text:
        automaton.extend(token)
    assert len(automaton._link) <= 2 * len(text) + 1
    assert sum(map(len, automaton._next)) <= 3 * len(text) + 1


def told(*answers: list[int], capacity: int = 1000) -> Answers:
    found = Answers(capacity)
    for answer in answers:
        found.tell(answer)
        found.read(capacity)
    return found


def test_what_followed_in_an_earlier_answer():
    answers = told([1, 2, 3, 4, 5, 6], [7, 2, 3, 9])
    assert answers.guesses([8, 1, 2, 3], 2, 8)[0] == [4, 5, 6], "the longer end, up to where that answer ends"
    assert answers.guesses([0, 2, 3], 2, 8)[0] == [9], "of two places the later one"
    assert answers.guesses([8, 1, 2, 3], 2, 2)[0] == [4, 5]
    assert answers.guesses([5, 6], 2, 8)[0] == [], "nothing followed"
    assert answers.guesses([0, 3], 2, 8)[0] == [], "one token is too little"
    assert answers.guesses([8, 1, 2, 3], 2, 8)[1] == 3
    assert answers.guesses([5, 6], 2, 8)[1] == 0
    assert answers.guesses([6, 7], 2, 8)[0] == [], "no answer goes on in the next one"


def test_old_answers_are_forgotten():
    answers = Answers(40)
    for n in range(100):
        answers.tell([n, 1000 + n, 2000 + n, 3000 + n])
        answers.read(64)
        assert len(answers._young.text) + len(answers._old.text) <= 40 + 10
    assert answers.guesses([99, 1099], 2, 8)[0] == [2099, 3099]
    assert answers.guesses([5, 1005], 2, 8)[0] == []


def test_a_long_answer_is_read_piece_by_piece():
    answers = Answers(1000)
    answers.tell(list(range(100)))
    answers.read(10)
    assert answers.guesses([3, 4], 2, 3)[0] == [5, 6, 7]
    assert answers.guesses([30, 31], 2, 3)[0] == []
    for _ in range(10):
        answers.read(10)
    assert answers.guesses([30, 31], 2, 3)[0] == [32, 33, 34]


def test_answers_that_come_faster_than_they_are_read_are_left_out():
    answers = Answers(100)
    for n in range(1000):
        answers.tell([n] * 20)
    assert answers._waiting <= 50 + 20
    answers.read(1000)
    assert answers.guesses([999] * 3, 2, 2)[0] == [999]
    assert answers._waiting == 0
