"""Random weights under real grammars, through the whole engine: whatever is drawn, the answer is what was asked for."""

from __future__ import annotations

import json
import random
import re

import jsonschema
import pytest
from draft_pair import with_vocabulary
from engine_place import Place, local_runner, vocabulary_of

from quire.engine import guides as guides_
from quire.engine.config import Speculation
from quire.engine.grammar.spec import GrammarSpec
from quire.engine.spec.maker import Drafts

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "kind": {"enum": ["cat", "dog", "bird of paradise"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 5}, "maxItems": 3},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def runner(tiny_model):
    return local_runner(tiny_model)


def schema(of: dict) -> GrammarSpec:
    return GrammarSpec(kind="json_schema", text=json.dumps(of))


def test_every_answer_fits_its_schema_at_every_budget_from_the_shortest_on(runner):
    spec = schema(PERSON)
    shortest = runner.guides.compiled(spec).shortest
    place = Place(runner)
    budgets = [*range(shortest, shortest + 12), shortest + 30, shortest + 100]
    for budget in budgets:
        for seed in range(3):
            place.add(f"{budget}-{seed}", spec, budget, seed=seed)
    assert not place.run().failed
    for budget in budgets:
        for seed in range(3):
            jsonschema.validate(json.loads(place.text(f"{budget}-{seed}")), PERSON)
            assert len(place.answers[f"{budget}-{seed}", 0]) <= budget


def test_a_tokenizer_with_more_tokens_than_the_model_has_rows_can_be_bound(tiny_model, tmp_path):
    rows = json.loads((tiny_model / "config.json").read_text())["vocab_size"]

    def add(found: dict) -> None:
        flags = {**found["added_tokens"][0], "special": False}
        found["added_tokens"] += [{**flags, "id": id_, "content": f"ab{id_}"} for id_ in range(rows, rows + 40)]

    place = Place(local_runner(with_vocabulary(tiny_model, tmp_path / "more", add)))
    place.add("a", GrammarSpec(kind="regex", text=f"ab{rows + 39}[a-z]"), 40)
    assert not place.run().failed
    assert place.text("a")[:-1] == f"ab{rows + 39}"
    assert max(place.answers["a", 0]) < rows


def test_forced_tokens_are_taken_and_told(runner):
    place = Place(runner)
    place.add("a", schema(PERSON), 120)
    place.run()
    end = place.ends["a", 0]
    assert end.guided.forced > 3
    assert 0 < end.guided.lowest <= end.guided.mean <= 1


@pytest.mark.parametrize("room", [{"pages": 12}, {"budget": 16}, {"pages": 12, "budget": 16}])
def test_answers_are_the_same_in_small_pools_and_chunks(runner, room):
    def fill(place: Place) -> Place:
        for seed in range(6):
            place.add(f"s{seed}", schema(PERSON), 90, seed=seed, n=2)
            place.add(f"free{seed}", None, 20, seed=seed)
        return place.run()

    roomy, small = fill(Place(runner)), fill(Place(runner, **room))
    assert small.answers == roomy.answers
    if "pages" in room:
        assert small.state.preemptions > 0


def test_logprobs_and_mirostat_change_no_rule(runner):
    place = Place(runner)
    place.add("logprobs", schema(PERSON), 100, logprobs=2)
    place.add("mirostat", schema(PERSON), 100, mirostat=2)
    place.add("greedy", schema(PERSON), 100, temperature=0.0)
    place.add("penalty", schema(PERSON), 100, frequency_penalty=2.0, repetition_penalty=1.5)
    place.run()
    for name in ("logprobs", "mirostat", "greedy", "penalty"):
        jsonschema.validate(json.loads(place.text(name)), PERSON)


def test_regex_and_choice_and_lark(runner):
    place = Place(runner)
    for seed in range(5):
        place.add(f"regex{seed}", GrammarSpec(kind="regex", text=r"[a-c]{2,4}-\d{3}"), 30, seed=seed)
        place.add(f"choice{seed}", GrammarSpec(kind="choice", text='["yes", "no", "perhaps"]'), 30, seed=seed)
        place.add(f"lark{seed}", GrammarSpec(kind="lark", text='start: "a" ("b" | "c")+ "d"'), 30, seed=seed)
    place.run()
    for seed in range(5):
        assert re.fullmatch(r"[a-c]{2,4}-\d{3}", place.text(f"regex{seed}"))
        assert place.text(f"choice{seed}") in ("yes", "no", "perhaps")
        assert re.fullmatch(r"a[bc]+d", place.text(f"lark{seed}"))


def test_a_grammar_behind_a_trigger_leaves_the_thought_free(runner):
    place = Place(runner)
    (trigger,) = vocabulary_of(runner).encode("\x01")  # no other token has it
    spec = GrammarSpec(kind="regex", text="[0-9]{4}")
    for seed in range(4):
        place.add(f"late{seed}", spec, 200, grammar_after=(trigger,), seed=seed, logit_bias={trigger: 12.0})
    place.run()
    for seed in range(4):
        answer = place.answers[f"late{seed}", 0]
        begin = answer.index(trigger) + 1
        assert re.fullmatch(r"[0-9]{4}", vocabulary_of(runner).spell(answer[begin:-1]).decode())
        assert place.ends[f"late{seed}", 0].finish == "stop"


@pytest.mark.parametrize("budget", [30, 120])
def test_who_asks_for_logprobs_gets_the_same_answer_token_by_token(runner, budget):
    place = Place(runner)
    for seed in range(8):
        place.add(f"plain {seed}", schema(PERSON), budget, seed=seed)
        place.add(f"asked {seed}", schema(PERSON), budget, seed=seed, logprobs=0)
    assert not place.run().failed
    ends = set(vocabulary_of(runner).eos_ids)
    for seed in range(8):
        plain, asked = (f"plain {seed}", 0), (f"asked {seed}", 0)
        assert place.answers[asked] == place.answers[plain]
        assert place.figures(asked) == place.figures(plain)
        told = [one.token for delta in place.deltas[asked] for one in delta.logprobs or []]
        assert told == [t for t in place.answers[asked] if t not in ends]
    assert any(place.ends[f"plain {seed}", 0].guided.forced > 5 for seed in range(8))
    many = [len(delta.tokens) for seed in range(8) for delta in place.deltas[f"asked {seed}", 0]]
    assert max(many) > 3, "what must come is sampled in one step"


@pytest.mark.parametrize("beside", [{}, {"logprobs": 0}, {"num_speculative_tokens": 0}])
def test_what_a_person_forbids_is_not_let_through_where_the_grammar_forces_it(runner, beside):
    place = Place(runner)
    place.add("free", schema(PERSON), 120)
    place.run()
    forced = next(delta.tokens[1] for delta in place.deltas["free", 0] if len(delta.tokens) > 2)
    others = tuple(token for token in range(runner.model.vocab_size) if token != forced)
    place.add("bad", schema(PERSON), 120, bad_words=((forced,),), **beside)
    place.add("allowed", schema(PERSON), 120, allowed_token_ids=others, **beside)
    place.run()
    for name in ("bad", "allowed"):
        assert forced not in place.answers[name, 0]
        assert "no token can be sampled" in place.failed[name].message


def test_with_mirostat_every_token_has_a_step_of_its_own(runner):
    """Where its next bound lies depends on the token before, also where that had to come."""
    place = Place(runner)
    place.add("a", schema(PERSON), 120, seed=1, mirostat=2)
    place.run()
    assert place.ends["a", 0].guided.forced > 5
    *deltas, last = place.deltas["a", 0]
    assert all(len(delta.tokens) == 1 for delta in deltas)
    assert len(last.tokens) <= 2, "the end of the text follows at once"


class Watching:
    """A maker of drafts that are wrong. It sees which drafts a step says were right."""

    name, taps, layers = "watching", (), []

    def __init__(self):
        self.beyond, self.wanted = 0, 0

    def read(self, slices, outcomes, states) -> None:
        self.beyond += sum(len(outcome.path) > piece.drafts for piece, outcome in zip(slices, outcomes, strict=True))

    def room(self, seq, new, count: int) -> int:
        return count

    def price(self, sequences: int) -> float:
        return 0.0

    entry = price

    def draft(self, wanted) -> list[Drafts]:
        self.wanted += len(wanted)
        return [Drafts([3]) for _ in wanted]

    def forget(self, ids) -> None: ...


@pytest.mark.parametrize("pages", [200, 24])
def test_drafts_whose_followers_come_late_are_computed_before_they_count_as_computed(tiny_model, monkeypatch, pages):
    """With logprobs what must come are drafts. Where the grammar is late, the step is made again without them."""
    runner = local_runner(tiny_model, speculative_config=Speculation(adaptive=False))
    names = ["a rather long name of what is there", "some other name that is nothing like it", "kind"]
    spec = schema({"type": "object", "properties": {name: {"enum": names} for name in names}, "required": names})

    def fill(place: Place) -> Place:
        for seed in range(4):
            place.add(f"s{seed}", spec, 160, seed=seed, logprobs=0)
            place.add(f"free{seed}", None, 40, seed=seed)
        return place.run()

    in_time = fill(Place(runner))
    monkeypatch.setattr(guides_, "PATIENCE", 0.0)
    monkeypatch.setattr(guides_, "ALONE", 0.0)
    link, dice = runner.guides._plain.link, random.Random(3)
    receive = link.receive
    monkeypatch.setattr(link, "receive", lambda: receive() if dice.random() < 0.4 else [])
    maker = runner.speculator.maker = Watching()
    late = fill(Place(runner, pages=pages))
    assert late.answers == in_time.answers
    assert bool(late.state.preemptions) == (pages == 24)
    assert runner.speculator.maker is maker
    assert maker.wanted
    assert not maker.beyond
