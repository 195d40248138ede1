"""A draft model beside the model: its guesses are what it would say, answers are what they are without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from draft_pair import blurred, guesses_of, with_vocabulary
from engine_place import Place, local_runner
from safetensors.torch import load_file, save_file
from speculation_cases import asked, told

from quire.engine.config import EngineConfig, Speculation
from quire.engine.errors import ConfigError
from quire.engine.messages import SamplingParams
from quire.engine.runner import Runner
from quire.engine.sequence import Sequence
from quire.engine.spec import drafter as drafter_module
from quire.engine.spec.drafter import Drafter
from quire.kernels import native

NOISE = 0.05  # of the weights: about every second guess is right


@pytest.fixture(scope="module")
def alike(tiny_model, tmp_path_factory) -> Path:
    return blurred(tiny_model, tmp_path_factory.mktemp("drafts") / "alike", NOISE)


def drafted_by(tiny_model: Path, draft: Path, **fields) -> Runner:
    """Nobody guesses but the draft model."""
    runner = local_runner(tiny_model, speculative_config=Speculation(model=str(draft), adaptive=False), **fields)
    runner.speculator.proposers = []
    return runner


@pytest.fixture(scope="module")
def on(tiny_model, alike):
    return drafted_by(tiny_model, alike)


def counts(runner: Runner) -> tuple[int, int]:
    """Its guesses that were checked, and those that were right."""
    found = runner.speculator.tally
    return sum(found.drafted.get("draft_model", ())), sum(found.accepted.get("draft_model", ()))


@pytest.mark.parametrize("room", [{}, {"pages": 40}, {"budget": 17}])
def test_the_answers_are_those_without_it(on, plainly, room):
    before = counts(on)
    place = asked(Place(on, **room)).run()
    assert not place.failed
    assert told(place) == told(plainly)
    drafted, accepted = (now - then for now, then in zip(counts(on), before, strict=True))
    assert 300 < accepted < 0.95 * drafted, "some guesses were right, and some wrong"


def test_two_models_that_agree_agree_at_every_temperature(tiny_model, plainly):
    """It draws by the same numbers: what the model itself would draw."""
    same = drafted_by(tiny_model, tiny_model)
    names = ("greedy", "sampled", "hot", "top_p")
    place = asked(Place(same, budget=256), names).run()
    assert {key: place.answers[key] for key in place.answers} == {key: plainly.answers[key] for key in place.answers}
    assert same.speculator.tally.accepted["draft_model"] == same.speculator.tally.drafted["draft_model"]
    steps = [len(place.deltas[key]) for key in place.deltas if len(place.answers[key]) == 40]
    assert max(steps) <= 6, "nine tokens a step"


@pytest.mark.parametrize("room", [{}, {"pages": 12}])
def test_its_guesses_are_what_it_would_say_to_the_whole_text(tiny_model, alike, on, room):
    """Whatever it computed before, shared, dropped or computed for drafts that were wrong."""
    alone = local_runner(alike, speculative_config=Speculation(method="none"))
    place = Place(on, **room)
    for n in range(5):
        place.add(f"g{n}", None, 40, temperature=0.0, prompt=[7, 8, 9 + n % 2] * (6 + 9 * (n % 3)))
    with guesses_of(on) as checks:
        place.run()
    if room:
        assert place.state.preemptions
    made = [(text, drafts) for text, drafts in checks if drafts][::3]
    assert len(made) > 5
    said = Place(alone)
    for n, (text, drafts) in enumerate(made):
        said.add(str(n), None, len(drafts), temperature=0.0, prompt=text)
    said.run()
    for n, (_, drafts) in enumerate(made):
        answer = said.answers[str(n), 0]
        assert drafts[: len(answer)] == answer, "an answer of its own ends at a stop token"


def test_ids_that_only_the_model_has_rows_for_may_stand_in_a_text(tiny_model, plainly, tmp_path):
    folder = blurred(tiny_model, tmp_path / "fewer", 0)
    config = json.loads((folder / "config.json").read_text())
    rows = config["vocab_size"]
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": rows - 64}))
    weights = load_file(folder / "model.safetensors")
    fewer = {name: x[:-64].clone() if x.shape[0] == rows else x for name, x in weights.items()}
    save_file(fewer, folder / "model.safetensors", {"format": "pt"})
    drafted, answers = drafted_by(tiny_model, folder), []
    for runner in (drafted, plainly.runner):
        place = Place(runner)
        place.add("x", None, 20, temperature=0.0, prompt=[5, rows - 1, 8, rows - 2])
        place.run()
        assert not place.failed
        answers.append(place.answers)
    assert answers[0] == answers[1]
    assert drafted.speculator.maker is not None, "it did not fail, for then it would draft for nobody any more"


def test_prompts_that_were_read_before_are_not_read_again(on):
    """Its pages are found by the same names as the model's."""
    drafter = on.speculator.maker
    tokens = []
    run = drafter._run

    def counted(pieces):
        tokens.append(sum(len(piece.tokens) for piece in pieces))
        run(pieces)

    drafter._run = counted
    place = Place(on)
    try:
        for n in range(2):
            tokens.clear()
            place.add(f"p{n}", None, 20, temperature=0.0, prompt=[11, 12, 13, 14] * 20)
            place.run()
            assert (tokens[0] < 32) == bool(n), tokens
    finally:
        drafter._run = run


def test_a_long_prompt_is_read_in_pieces(on, monkeypatch):
    monkeypatch.setattr(drafter_module, "CATCH_UP", 16)
    place = Place(on)
    place.add("long", None, 30, temperature=0.0, prompt=list(range(3, 103)))
    place.add("short", None, 30, temperature=0.0, prompt=[5, 6, 7])
    place.run()
    assert len(place.deltas["short", 0]) < 30
    assert len(place.deltas["long", 0]) < 30


def test_its_pages_are_all_free_in_the_end(on):
    asked(Place(on), ("greedy", "n")).run()
    drafter = on.speculator.maker
    assert not len(drafter.shadows)
    assert len(drafter.shadows.pool.free) == drafter.shadows.pool.size
    drafter.shadows.pool.check([])


def test_a_draft_model_that_fails_is_left_out(tiny_model, alike, plainly, caplog):
    runner = drafted_by(tiny_model, alike)

    def broken(wanted):
        raise RuntimeError("no such luck")

    runner.speculator.maker.draft = broken
    place = asked(Place(runner), ("greedy", "sampled")).run()
    assert {key: place.answers[key] for key in place.answers} == {key: plainly.answers[key] for key in place.answers}
    assert runner.speculator.maker is None
    assert "no such luck" in caplog.text


def test_it_drafts_no_further_than_it_has_positions(tiny_model, alike, tmp_path):
    short = blurred(alike, tmp_path / "short", 0.0)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 32}))
    runner, plain = (
        drafted_by(tiny_model, short),
        local_runner(tiny_model, speculative_config=Speculation(method="none")),
    )
    answers = []
    for one in (runner, plain):
        place = Place(one)
        place.add("a", None, 60, temperature=0.0)
        answers.append(place.run().answers)
    assert answers[0] == answers[1]
    assert runner.speculator.maker is not None


@pytest.mark.skipif(native.cpu is None, reason="weights are quantized for the C++ kernels")
def test_a_draft_model_may_have_its_weights_in_few_bits(tiny_model, plainly):
    config = Speculation(model=str(tiny_model), quantization="int8", adaptive=False)
    runner = local_runner(tiny_model, speculative_config=config)
    assert "int8" in runner.speculator.maker.model.kinds
    runner.speculator.proposers = []
    place = asked(Place(runner), ("greedy", "sampled")).run()
    assert {key: place.answers[key] for key in place.answers} == {key: plainly.answers[key] for key in place.answers}
    drafted, accepted = counts(runner)
    assert accepted > 0.8 * drafted > 100


# ---------------------------------------------------------------- what is refused


def refused(tiny_model: Path, draft: Path | str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        local_runner(tiny_model, speculative_config=Speculation(model=str(draft), adaptive=False))
    return caught.value


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"method": "draft_model"}, "no model"),
        ({"method": "medusa"}, "no model"),
        ({"method": "eagle3"}, "no model"),
        ({"method": "ngram", "model": "x"}, "the method ngram"),
        ({"method": "none", "model": "x"}, "the method none"),
        ({"method": "suffix", "suffix_tokens": 0}, "suffix_tokens"),
        ({"quantization": "int8"}, "quantization and no model"),
        ({"method": "medusa", "model": "x", "quantization": "int8"}, "quantization and heads"),
    ],
)
def test_settings_that_contradict_each_other(fields, told):
    with pytest.raises(ConfigError, match=told):
        Speculation(**fields)


def test_no_such_folder(tiny_model, tmp_path):
    assert "nowhere" in str(refused(tiny_model, tmp_path / "nowhere"))


def test_another_vocabulary_is_named_by_its_first_token(tiny_model, alike, tmp_path):
    def swap(found):
        vocab = found["model"]["vocab"]
        one, other = (next(text for text, id_ in vocab.items() if id_ == n) for n in (101, 102))
        vocab[one], vocab[other] = vocab[other], vocab[one]

    error = str(refused(tiny_model, with_vocabulary(alike, tmp_path / "swapped", swap)))
    assert "token 101" in error
    assert "swapped" in error


def test_a_control_token_that_is_another_is_another_vocabulary(tiny_model, alike, tmp_path):
    def rename(found):
        found["added_tokens"][0]["content"] = "<|other|>"

    assert "<|other|>" in str(refused(tiny_model, with_vocabulary(alike, tmp_path / "renamed", rename)))


def test_without_tokenizers_the_sizes_are_compared(tiny_model, alike, tmp_path, stories):
    copy = blurred(stories, tmp_path / "stories", 0.0)
    (copy / "tokenizer.json").unlink()
    assert "512" in str(refused(tiny_model, copy))


def test_a_draft_model_without_weights(tiny_model, alike, tmp_path):
    copy = blurred(alike, tmp_path / "empty", 0.0)
    (copy / "model.safetensors").unlink()
    assert "cannot be loaded" in str(refused(tiny_model, copy))


def test_its_cache_is_paid_from_the_same_memory(tiny_model, alike):
    alone = local_runner(tiny_model, max_num_seqs=4096, speculative_config=Speculation(method="none"))
    beside = local_runner(tiny_model, max_num_seqs=4096, speculative_config=Speculation(model=str(alike)))
    assert beside.cache.num_blocks == pytest.approx(alone.cache.num_blocks / 2, rel=0.1)


def test_what_it_costs_is_known_before_it_runs(tiny_model, alike):
    drafter: Drafter = drafted_by(tiny_model, alike).speculator.maker
    assert 0 < drafter.price(1) <= drafter.price(8)
    text = Sequence("a", 0, [5] * 100, SamplingParams(max_tokens=1, seed=0))
    assert drafter.entry(text) > drafter.price(1)
    assert EngineConfig(model="x", speculative_config=Speculation(model="y")).speculative_config.stack == (
        "ngram", "draft_model",
    )  # fmt: skip
