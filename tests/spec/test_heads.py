"""Medusa heads: the trees they make, the files they come in, and answers that they do not change."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
import torch
from draft_pair import untrained_heads
from engine_place import Place, local_runner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from speculation_cases import LENGTH, asked, told

from quire.engine.config import Speculation
from quire.engine.errors import ConfigError
from quire.engine.spec.heads import tree

HEADS = 3
NAMES = ("greedy", "sampled", "hot", "penalties", "logprobs", "grammar", "n")


@pytest.fixture(scope="module")
def plain(guessing_nothing):
    return asked(Place(guessing_nothing, budget=400), NAMES).run()


@pytest.fixture(scope="module")
def trained(tiny_model, guessing_nothing, tmp_path_factory) -> Path:
    """Heads that know one answer by heart: few enough states that a product through them gives any tokens."""
    states: list[torch.Tensor] = []
    logits = guessing_nothing.model.logits

    def watched(hidden, rows=None):
        states.append(hidden[-1].clone())
        return logits(hidden, rows)

    guessing_nothing.model.logits = watched
    try:
        place = Place(guessing_nothing)
        place.add("greedy 0", None, LENGTH, temperature=0.0)
        answer = place.run().answers["greedy 0", 0]
    finally:
        guessing_nothing.model.logits = logits
    hidden = torch.stack(states[: len(answer)])
    folder = untrained_heads(tiny_model, tmp_path_factory.mktemp("heads") / "trained", HEADS)
    parts = load_file(folder / "medusa_lm_head.safetensors")
    for n in range(HEADS):
        known = len(answer) - 1 - n
        wanted = torch.nn.functional.one_hot(torch.tensor(answer[n + 1 :]), guessing_nothing.model.vocab_size).float()
        parts[f"{n}.1.weight"] = 20 * torch.linalg.lstsq(hidden[:known], wanted).solution.T.contiguous()
    save_file(parts, folder / "medusa_lm_head.safetensors")
    return folder


def runner_with(tiny_model: Path, heads: Path, **more):
    speculation = Speculation(method="medusa", model=str(heads), adaptive=False, **more)
    runner = local_runner(tiny_model, speculative_config=speculation)
    runner.speculator.proposers = []
    return runner


@pytest.mark.parametrize("room", [{"budget": 400}, {"pages": 40}, {"budget": 17}])
def test_the_answers_are_those_without_heads(tiny_model, trained, plain, room):
    runner = runner_with(tiny_model, trained)
    place = asked(Place(runner, **room), NAMES).run()
    assert not place.failed
    assert told(place) == told(plain)
    drafted, accepted = runner.speculator.tally.drafted["medusa"], runner.speculator.tally.accepted["medusa"]
    assert len(drafted) == HEADS
    assert 10 < sum(accepted) < sum(drafted)


def test_what_they_know_takes_a_quarter_of_the_steps(tiny_model, trained):
    runner = runner_with(tiny_model, trained, num_speculative_tokens=3)
    place = Place(runner)
    place.add("greedy 0", None, LENGTH, temperature=0.0)
    place.run()
    assert len(place.deltas["greedy 0", 0]) <= LENGTH / (HEADS + 1) + 3


@given(st.lists(st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3), min_size=1, max_size=3), st.integers(1, 12))
def test_a_tree_holds_the_likeliest_paths(chances, count):
    chances = [sorted(head, reverse=True) for head in chances]
    tokens = [[10 * n + rank for rank in range(3)] for n in range(len(chances))]
    made = tree(chances, tokens, count)
    parents = made.parents or range(-1, len(made.tokens) - 1)
    paths: list[tuple[int, ...]] = []
    for token, parent in zip(made.tokens, parents, strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token % 10))
        assert token // 10 == len(paths[-1]) - 1
    assert len(set(paths)) == len(paths)

    def chance(path) -> float:
        found = 1.0
        for head, rank in zip(chances, path, strict=False):
            found *= head[rank]
        return found

    every = [path for depth in range(1, len(chances) + 1) for path in product(range(3), repeat=depth)]
    best = sorted((chance(path) for path in every), reverse=True)[:count]
    assert sorted((chance(path) for path in paths), reverse=True) == pytest.approx(best)


def test_a_line_is_the_likeliest_token_of_each_head():
    made = tree([[0.6, 0.4], [0.5, 0.3]], [[1, 2], [3, 4]], 8, line=True)
    assert made.tokens == [1, 3]
    assert made.parents == ()


# ---------------------------------------------------------------- files


def renamed(folder: Path, to: Path, change) -> Path:
    to.mkdir()
    save_file(dict(change(load_file(folder / "medusa_lm_head.safetensors"))), to / "heads.safetensors")
    return to


def test_other_names_of_the_same_heads(tiny_model, trained, tmp_path):
    def as_vllm_has_it(parts):
        for name, tensor in parts.items():
            head, layer = name.split(".")[:2]
            yield (
                (
                    f"blocks.{head}.layers.{layer}.{name.split('.')[-1]}"
                    if "linear" in name
                    else f"lm_heads.{head}.weight"
                ),
                tensor,
            )

    def with_a_prefix(parts):
        return {f"medusa_heads.{name}": tensor for name, tensor in parts.items()}.items()

    answers = []
    for n, change in enumerate((None, as_vllm_has_it, with_a_prefix)):
        folder = trained if change is None else renamed(trained, tmp_path / str(n), change)
        runner = runner_with(tiny_model, folder)
        place = asked(Place(runner), ("greedy",)).run()
        answers.append((place.answers, runner.speculator.tally.accepted))
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda parts: {**parts, "1.1.weight": torch.zeros(7, 64)}, "head 1"),
        (lambda parts: {**parts, "1.0.linear.weight": torch.zeros(9, 9)}, "layer 0 of head 1"),
        (lambda parts: {k: v for k, v in parts.items() if k != "1.1.weight"}, "no last product"),
        (lambda parts: {k: v for k, v in parts.items() if not k.startswith("1.")}, "head 1"),
        (lambda parts: {**parts, "fc.weight": torch.zeros(3)}, "fc.weight"),
        (lambda parts: {}, "no heads"),
    ],
)
def test_heads_that_do_not_fit_are_refused_by_name(tiny_model, trained, tmp_path, change, told):
    folder = renamed(trained, tmp_path / "heads", lambda parts: change(parts).items())
    with pytest.raises(ConfigError, match=told):
        runner_with(tiny_model, folder)


def test_no_such_folder(tiny_model, tmp_path):
    with pytest.raises(ConfigError, match="nowhere"):
        runner_with(tiny_model, tmp_path / "nowhere")
