"""Guesses change no answer: right ones, wrong ones and half right ones, beside all that a request may ask for."""

from __future__ import annotations

from random import Random

import pytest
from engine_place import Place, local_runner, vocabulary_of
from speculation_cases import ASKED, LENGTH, SCHEMA, asked, told

from quire.engine.config import Speculation
from quire.engine.messages import ThoughtBudget


@pytest.fixture(scope="module")
def on(tiny_model):
    return local_runner(tiny_model, speculative_config=Speculation(adaptive=False))


class Guesses:
    """In place of what a text says: the answer that will come, up to where a guess goes wrong."""

    def __init__(self, plain: Place, right: float):
        self.plain, self.right, self.random = plain, right, Random(str(right))
        self.made = 0

    def __call__(self, seq, new, known, count) -> tuple[list[int], int]:
        answer = self.plain.answers[seq.request, seq.index]
        place = seq.generated + len(new)
        guess = answer[place : place + self.random.randrange(9)]
        guess = [t if self.random.random() < self.right else self.random.randrange(3, 400) for t in guess]
        self.made += len(guess)
        return guess[:count], 0


@pytest.mark.parametrize("right", [1.0, 0.7, 0.0])
@pytest.mark.parametrize("room", [{}, {"pages": 40}, {"budget": 17}])
def test_whatever_is_guessed_the_answers_are_the_same(on, plainly, monkeypatch, right, room):
    guesses = Guesses(plainly, right)
    monkeypatch.setattr(on.speculator, "proposers", [("ngram", guesses)])
    place = asked(Place(on, **room)).run()
    assert not place.failed
    assert told(place) == told(plainly)
    for key, end in plainly.ends.items():
        if end.guided is not None:
            assert place.ends[key].guided.forced == end.guided.forced
            assert place.ends[key].guided.lowest == pytest.approx(end.guided.lowest)
            assert place.ends[key].guided.mean == pytest.approx(end.guided.mean)
    assert guesses.made > 500
    steps = {key: len(deltas) for key, deltas in place.deltas.items()}
    if right == 1.0:
        assert steps["greedy 0", 0] < LENGTH / 2
        assert steps["grammar 0", 0] < len(plainly.deltas["grammar 0", 0])
    assert steps["mirostat 0", 0] == LENGTH, "each step of it rests on the one before"


def test_a_thought_with_a_budget_is_as_long_with_guesses(on, guessing_nothing, monkeypatch):
    encode = vocabulary_of(guessing_nothing).encode
    (end,) = encode("]")
    budget = ThoughtBudget(tokens=9, ends=("]",), close=(end,), inside=True)

    def thinking(place: Place) -> Place:
        for seed in range(6):
            place.add(f"t{seed}", SCHEMA, 70, seed=seed, thought=budget, grammar_after=(end,))
        return place

    plain = thinking(Place(guessing_nothing)).run()
    monkeypatch.setattr(on.speculator, "proposers", [("ngram", Guesses(plain, 0.8))])
    place = thinking(Place(on)).run()
    assert place.answers == plain.answers
    assert {key: place.figures(key) for key in place.ends} == {key: plain.figures(key) for key in plain.ends}


def test_a_prediction_changes_how_many_steps_an_answer_takes_and_nothing_else(on, plainly):
    place = Place(on)
    for seed in range(3):
        answer = plainly.answers[f"sampled {seed}", 0]
        edited = answer[:10] + [7, 8] + answer[20:]
        place.add(f"right {seed}", None, LENGTH, seed=seed, prediction=tuple(answer))
        place.add(f"edited {seed}", None, LENGTH, seed=seed, prediction=tuple(edited))
        place.add(f"wrong {seed}", None, LENGTH, seed=seed, prediction=(3, 4, 5) * 20)
    place.run()
    for seed in range(3):
        for kind in ("right", "edited", "wrong"):
            assert place.answers[f"{kind} {seed}", 0] == plainly.answers[f"sampled {seed}", 0]
        told = [delta.predicted for delta in place.deltas[f"right {seed}", 0] if delta.predicted]
        assert told[-1][0] > LENGTH * 3 / 4
        assert told[-1][1] == 0
        assert len(place.deltas[f"right {seed}", 0]) < LENGTH / 4
        last = [d for d in place.deltas[f"edited {seed}", 0] if d.predicted][-1]
        right, wrong = last.predicted
        drafted, accepted = last.guesses["prediction"]
        assert sum(accepted) == right
        assert right < sum(drafted) <= right + wrong
        assert accepted == sorted(accepted, reverse=True), "by place: one is right only where those before it are"
        assert all(a <= b for a, b in zip(accepted, drafted, strict=True))
        assert right > 20
        assert wrong > 0


def test_what_a_text_says_again_is_guessed(on, guessing_nothing):
    """A model that repeats itself: its greedy answer runs in a circle."""
    repeated = [11, 12, 13, 14] * 6
    places = []
    for runner in (guessing_nothing, on):
        place = Place(runner)
        place.add("a", None, 120, prompt=repeated, temperature=0.0)
        places.append(place.run())
    plain, guessed = places
    assert guessed.answers == plain.answers
    assert len(plain.deltas["a", 0]) == 120
    assert len(guessed.deltas["a", 0]) < 60


def test_a_request_may_do_without(on, plainly):
    """One token a step, of a grammar too; and at most so many where it names another number."""
    names = ("greedy", "sampled", "grammar", "regex", "n")
    for most in (0, 2):
        place = Place(on)
        for name in names:
            options = dict(ASKED[name])
            spec = options.pop("spec", None)
            place.add(f"{name} 0", spec, LENGTH, seed=0, num_speculative_tokens=most, **options)
        said = plainly.answers["sampled 0", 0]
        place.add("predicted", None, LENGTH, seed=0, num_speculative_tokens=most, prediction=tuple(said))
        place.run()
        assert place.answers.pop(("predicted", 0)) == said
        assert place.answers == {key: plainly.answers[key] for key in place.answers}
        if not most:
            assert {len(delta.tokens) for deltas in place.deltas.values() for delta in deltas} <= {0, 1}
        assert max(len(delta.tokens) for delta in place.deltas["predicted", 0]) == most + 1


def test_nothing_is_remembered_of_who_left(on):
    asked(Place(on), ("greedy", "sampled")).run()
    assert on.speculator._known == {}
