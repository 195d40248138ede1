"""Samples, a tokenizer and a whole run of the recipe, all of them small."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from nano_recipe import NANO, VOCAB, drawn, held_out

from quire.pocket.recipe import evaluate, samples, synth, tokenizer
from quire.pocket.recipe.samples import Sample
from quire.pocket.recipe.steps import Run


@pytest.fixture(scope="session")
def few_samples() -> list[Sample]:
    found = drawn(1)
    return [next(found) for _ in range(500)]


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory, few_samples: list[Sample]) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    texts = [sample.text or samples.key(sample) for sample in few_samples]
    tokenizer.save(tokenizer.train(texts, VOCAB), folder)
    return folder


@pytest.fixture(scope="session")
def nano_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The data side replaced for the whole session, so that the recipe runs in this process alone."""
    folder = tmp_path_factory.mktemp("recipe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(samples, "stream", lambda shared, seed, held_out, mix: drawn(seed, held_out))
        patch.setattr(evaluate, "held_out", held_out)
        patch.setattr(evaluate, "MIX", dict.fromkeys(synth.GENERATORS, 0.1))
        patch.setattr(evaluate, "SAMPLES", dict.fromkeys(evaluate.SAMPLES, 6))
        patch.setattr(evaluate, "MAX_TOKENS", 12)
        yield Run("nano", NANO, folder, folder / "work", folder / "out", 0, 1, torch.device("cpu"))
