"""Guesses change no answer: right ones, wrong ones and half right ones, beside all that a request may ask for."""

from __future__ import annotations

import json
from random import Random

import pytest
from engine_place import Place, local_runner, vocabulary_of

from quire.engine.config import Speculation
from quire.engine.grammar.spec import GrammarSpec
from quire.engine.messages import ThoughtBudget
from quire.engine.spec import speculator as module

SCHEMA = GrammarSpec(
    kind="json_schema",
    text=json.dumps(
        {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "kind": {"enum": ["cat", "bird of paradise"]},
                "n": {"type": "integer"},
            },
            "required": ["name", "kind", "n"],
            "additionalProperties": False,
        }
    ),
)
LENGTH = 40
ASKED = {  # what a request may ask for
    "greedy": {"temperature": 0.0},
    "sampled": {},
    "hot": {"temperature": 1.7, "top_k": 50},
    "top_p": {"top_p": 0.7, "min_p": 0.02},
    "typical_p": {"typical_p": 0.8},
    "xtc": {"xtc_probability": 0.9, "xtc_threshold": 0.05},
    "penalties": {"repetition_penalty": 1.3, "presence_penalty": 0.8, "frequency_penalty": 0.6},
    "dry": {"dry_multiplier": 0.8},
    "bias": {"logit_bias": {5: 3.0, 9: -4.0}, "bad_words": ((7, 8), (11,)), "allowed_token_ids": tuple(range(3, 300))},
    "min_tokens": {"min_tokens": 12, "allowed_token_ids": (2, *range(3, 12))},
    "mirostat": {"mirostat": 2},
    "logprobs": {"logprobs": 3},
    "grammar": {"spec": SCHEMA},
    "grammar, tight": {"spec": SCHEMA, "budget": 24},
    "grammar, logprobs": {"spec": SCHEMA, "logprobs": 0},
    "regex": {"spec": GrammarSpec(kind="regex", text="(ab|cd|[0-9]{2}){3,9}z")},
    "lark": {"spec": GrammarSpec(kind="lark", text='start: ("x" /[a-c]+/ ";")+')},
    "n": {"n": 3},
}


@pytest.fixture(scope="module")
def off(tiny_model):
    return local_runner(tiny_model, speculative_config=Speculation(method="none"))


@pytest.fixture(scope="module")
def on(tiny_model):
    return local_runner(tiny_model)


def asked(place: Place, names=tuple(ASKED), seeds=range(3)) -> Place:
    for name in names:
        for seed in seeds:
            options = dict(ASKED[name])
            place.add(f"{name} {seed}", options.pop("spec", None), options.pop("budget", LENGTH), seed=seed, **options)
    return place


@pytest.fixture(scope="module")
def plain(off):
    return asked(Place(off)).run()


class Guesses:
    """In place of what a text says: the answer that will come, up to where a guess goes wrong."""

    def __init__(self, plain: Place, right: float):
        self.plain, self.right, self.random = plain, right, Random(str(right))
        self.made = 0

    def __call__(self, seq, new, known) -> list[int]:
        answer = self.plain.answers[seq.request, seq.index]
        place = seq.generated + len(new)
        guess = answer[place : place + self.random.randrange(9)]
        guess = [t if self.random.random() < self.right else self.random.randrange(3, 400) for t in guess]
        self.made += len(guess)
        return guess[: max(0, seq.end - len(seq.tokens) - len(new) - 1)]


def told(place: Place) -> dict:
    """Answers, their logprobs and what their grammars did, to be compared."""
    found = {}
    for key, answer in place.answers.items():
        logprobs = [one for delta in place.deltas[key] for one in delta.logprobs or []]
        found[key] = (
            answer,
            [(one.token, one.rank, [t for t, _ in one.top]) for one in logprobs],
            place.ends[key].finish,
        )
    return found


@pytest.mark.parametrize("right", [1.0, 0.7, 0.0])
@pytest.mark.parametrize("room", [{}, {"pages": 40}, {"budget": 17}])
def test_whatever_is_guessed_the_answers_are_the_same(on, plain, monkeypatch, right, room):
    guesses = Guesses(plain, right)
    monkeypatch.setattr(on.speculator, "_drafts", guesses)
    monkeypatch.setattr(module, "shares", lambda offered, *rest: [most for _, most in offered])
    place = asked(Place(on, **room)).run()
    assert not place.failed
    assert told(place) == told(plain)
    for key, end in plain.ends.items():
        if end.guided is not None:
            assert place.ends[key].guided.forced == end.guided.forced
            assert place.ends[key].guided.lowest == pytest.approx(end.guided.lowest)
            assert place.ends[key].guided.mean == pytest.approx(end.guided.mean)
    assert guesses.made > 500
    steps = {key: len(deltas) for key, deltas in place.deltas.items()}
    if right == 1.0:
        assert steps["greedy 0", 0] < LENGTH / 2
        assert steps["grammar 0", 0] < len(plain.deltas["grammar 0", 0])
    assert steps["mirostat 0", 0] == LENGTH, "each step of it rests on the one before"


def test_a_thought_with_a_budget_is_as_long_with_guesses(on, off, monkeypatch):
    encode = vocabulary_of(off).encode
    (end,) = encode("]")
    budget = ThoughtBudget(tokens=9, ends=("]",), close=(end,), inside=True)

    def thinking(place: Place) -> Place:
        for seed in range(6):
            place.add(f"t{seed}", SCHEMA, 70, seed=seed, thought=budget, grammar_after=(end,))
        return place

    plain = thinking(Place(off)).run()
    monkeypatch.setattr(on.speculator, "_drafts", Guesses(plain, 0.8))
    monkeypatch.setattr(module, "shares", lambda offered, *rest: [most for _, most in offered])
    place = thinking(Place(on)).run()
    assert place.answers == plain.answers
    assert {key: place.figures(key) for key in place.ends} == {key: plain.figures(key) for key in plain.ends}


def test_a_prediction_changes_how_many_steps_an_answer_takes_and_nothing_else(on, plain, monkeypatch):
    monkeypatch.setattr(module, "shares", lambda offered, *rest: [most for _, most in offered])
    place = Place(on)
    for seed in range(3):
        answer = plain.answers[f"sampled {seed}", 0]
        edited = answer[:10] + [7, 8] + answer[20:]
        place.add(f"right {seed}", None, LENGTH, seed=seed, prediction=tuple(answer))
        place.add(f"edited {seed}", None, LENGTH, seed=seed, prediction=tuple(edited))
        place.add(f"wrong {seed}", None, LENGTH, seed=seed, prediction=(3, 4, 5) * 20)
    place.run()
    for seed in range(3):
        for kind in ("right", "edited", "wrong"):
            assert place.answers[f"{kind} {seed}", 0] == plain.answers[f"sampled {seed}", 0]
        told = [delta.predicted for delta in place.deltas[f"right {seed}", 0] if delta.predicted]
        assert told[-1][0] > LENGTH * 3 / 4
        assert told[-1][1] == 0
        assert len(place.deltas[f"right {seed}", 0]) < LENGTH / 4
        right, wrong = [d.predicted for d in place.deltas[f"edited {seed}", 0] if d.predicted][-1]
        assert right > 20
        assert wrong > 0


def test_what_a_text_says_again_is_guessed_and_told(on, off):
    """A model that repeats itself: its greedy answer runs in a circle."""
    repeated = [11, 12, 13, 14] * 6
    answers = []
    for runner in (off, on):
        place = Place(runner)
        place.add("a", None, 120, prompt=repeated, temperature=0.0)
        answers.append(place.run().answers["a", 0])
    assert answers[0] == answers[1]


def test_nothing_is_remembered_of_who_left(on, plain):
    asked(Place(on), ("greedy", "sampled")).run()
    assert on.speculator._known == {}
