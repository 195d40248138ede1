"""A nano preset, and samples that need no data beside the checkout."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random

from quire.pocket.recipe import synth
from quire.pocket.recipe.presets import PRESETS, Preset, Shape, Training
from quire.pocket.recipe.samples import MIX, Sample

VOCAB = 1024
TRAINING = Training(tokens=512, matrix_lr=0.02, lr=4e-3, steps=6)
NANO = Preset(
    base=Shape(width=32, layers=2, heads=4, kv_heads=2, head_dim=8, inner=48, vocab=VOCAB),
    draft=Shape(width=8, layers=1, heads=2, kv_heads=1, head_dim=8, inner=16, vocab=VOCAB),
    mix=MIX,
    corpus_tokens=40_000,
    base_training=TRAINING,
    draft_training=TRAINING,
    adapter_training=replace(TRAINING, matrix_lr=0.0),
    adapter_targets=PRESETS["cpu"].adapter_targets,
    adapter_layers=1,
)


def drawn(seed: int, held_out: bool = False) -> Iterator[Sample]:
    """Synthetic samples of every kind in turn, and some plain text."""
    rng = Random(seed)
    while True:
        for generate in synth.GENERATORS.values():
            sample = generate(rng, held_out)
            yield sample
            yield Sample("prose", text=" ".join(m.get("content") or "..." for m in sample.messages or []))


def held_out(shared: Path, kind: str, count: int) -> list[Sample]:
    rng = Random(kind)
    return [synth.GENERATORS.get(kind, synth.GENERATORS["talk"])(rng, True) for _ in range(count)]
