"""The sizes that pocket comes in, and how each is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ...engine.errors import ConfigError
from .samples import MIX, MIX_LATER

VOCAB = 8192
MAX_POSITION = 1024  # tokens of the longest document that is trained on
THETA, EPS = 10000.0, 1e-5

_FIELDS = {  # of a Shape: what config.json calls it
    "width": "hidden_size",
    "inner": "intermediate_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "vocab": "vocab_size",
}

Form = Literal["bfloat16", "int8"]


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama with tied embeddings."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int = VOCAB

    @property
    def parameters(self) -> int:
        attention = 2 * self.width * self.head_dim * (self.heads + self.kv_heads)
        layer = attention + 3 * self.width * self.inner + 2 * self.width
        return self.vocab * self.width + self.layers * layer + self.width

    def config(self) -> dict[str, Any]:
        """config.json, as transformers writes it for Llama."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **{name: getattr(self, field) for field, name in _FIELDS.items()},
            "max_position_embeddings": MAX_POSITION,
            "hidden_act": "silu",
            "rms_norm_eps": EPS,
            "rope_theta": THETA,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
        }


@dataclass(frozen=True, slots=True)
class Training:
    """One run. It ends after `minutes` of training, or after `steps`; the learning rate follows whichever is set, so
    that a slow machine ends with a settled model too."""

    tokens: int  # of a step: whole documents up to so many
    matrix_lr: float  # Muon
    lr: float  # AdamW: embeddings, norms
    minutes: float | None = None
    steps: int | None = None
    prelude: int = 0  # first steps, which take many recitals too (see recital.py)
    warmup: float = 0.02  # share of the run in which the rate rises
    decay: float = 0.5  # share of the run, at its end, in which it falls to 0
    clip: float = 1.0
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("a training run has either minutes or steps")


@dataclass(frozen=True, slots=True)
class Preset:
    base: Shape
    draft: Shape
    mix: Mapping[str, float]  # kind of text -> share
    corpus_tokens: int  # what is made ahead; training goes round if it is short
    base_training: Training
    draft_training: Training
    adapter_training: Training  # of an easy style (see adapters.py)
    adapter_targets: tuple[str, ...]
    adapter_layers: int  # the last so many are adapted: with the targets, all that keeps an adapter within 300 KB
    form: Form = "bfloat16"  # of the base's matrices in the package


PRESETS: dict[str, Preset] = {
    "cpu": Preset(
        base=Shape(width=192, layers=8, heads=6, kv_heads=3, head_dim=32, inner=512),
        draft=Shape(width=48, layers=2, heads=3, kv_heads=1, head_dim=16, inner=128),
        mix=MIX,
        corpus_tokens=40_000_000,
        base_training=Training(tokens=8192, matrix_lr=0.02, lr=4e-3, minutes=80, prelude=1000),
        draft_training=Training(tokens=4096, matrix_lr=0.02, lr=6e-3, minutes=15),
        adapter_training=Training(tokens=2048, matrix_lr=0.0, lr=4e-3, minutes=3),
        adapter_targets=("q_proj", "v_proj", "up_proj", "down_proj"),
        adapter_layers=8,
    ),
    "gpu": Preset(
        base=Shape(width=320, layers=20, heads=10, kv_heads=5, head_dim=32, inner=832),
        draft=Shape(width=96, layers=2, heads=3, kv_heads=1, head_dim=32, inner=256),
        mix=MIX,
        corpus_tokens=160_000_000,
        base_training=Training(tokens=49_152, matrix_lr=0.02, lr=3e-3, steps=5000, prelude=300),
        draft_training=Training(tokens=49_152, matrix_lr=0.02, lr=4e-3, steps=1030),
        adapter_training=Training(tokens=16_384, matrix_lr=0.0, lr=2e-3, steps=300),
        adapter_targets=("q_proj", "v_proj", "o_proj"),
        adapter_layers=10,
        form="int8",
    ),
}  # fmt: skip


def continued(preset: Preset, start: Path) -> Preset:
    """For a model that is trained already, in its own shape and form, on any machine: a third of the text, with more of
    what is learned last, half the rates, no prelude, as it can copy, and steps of no more than 8,192 tokens, as there
    are few of them. Its draft model follows it in a few steps; adapters are new, and get minutes.

    start: the model's folder. Raises ConfigError where there is none of ours in it."""
    base, draft = preset.base_training, preset.draft_training
    shape, form = known(start)
    return replace(
        preset,
        base=shape,
        form=form,
        mix=MIX_LATER,
        corpus_tokens=preset.corpus_tokens // 3,
        base_training=_gentler(replace(base, prelude=1, decay=0.7)),
        draft_training=_gentler(replace(draft, minutes=None, steps=500)),
        adapter_training=Training(tokens=2048, matrix_lr=0.0, lr=3e-3, minutes=2.5),
    )


def known(folder: Path) -> tuple[Shape, Form]:
    """The shape of a model of ours, and what it is stored in. Raises ConfigError where there is none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        shape = Shape(**{field: config[name] for field, name in _FIELDS.items()})
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError("--from", f"is {folder}", "the folder of a finished model of this recipe") from None
    return shape, "int8" if "quantization_config" in config else "bfloat16"


def _gentler(training: Training) -> Training:
    tokens, matrix_lr, lr = min(training.tokens, 8192), training.matrix_lr * 0.5, training.lr * 0.5
    return replace(training, tokens=tokens, matrix_lr=matrix_lr, lr=lr)


def bounded(preset: Preset, *, minutes: float | None = None, steps: int | None = None) -> Preset:
    """The same with another bound on the base's training: one of the two. Raises ConfigError where it leaves none."""
    for field, bound in (("--minutes", minutes), ("--steps", steps)):
        if bound is not None and not bound > 0:
            raise ConfigError(field, f"is {bound:g}", "more than 0")
    training = replace(preset.base_training, minutes=minutes, steps=steps)
    corpus = preset.corpus_tokens if steps is None else min(preset.corpus_tokens, steps * training.tokens)
    return replace(preset, corpus_tokens=corpus, base_training=training)
