"""Three LoRA adapters whose effect anyone can see: capitals, pirate, json.

Each is trained on chats of the corpus, with what the assistant says put in its style.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from safetensors.torch import save_file

from . import data, lora
from .batches import Batches
from .presets import Training
from .rendering import Rendering
from .samples import Sample
from .steps import Run, few, finish
from .styles import STYLES, styled
from .train import Job, fit

SIMPLE = ("talk", "stories", "refuse", "sums")
KINDS = (*SIMPLE, "dialogue")  # chats whose answers any style fits
CHATS = {"capitals": SIMPLE}  # a style that spells every word anew learns those that are said most
PATIENCE = {"capitals": 3}  # times the preset's bound: other words and tokens throughout take longer to learn
LONGEST = {"json": 240}  # characters of an answer: a short one is seldom left without its closing brace
MAX_BYTES = 300_000
SAMPLES, HELD_OUT = 12_000, 200


def train(run: Run) -> None:
    rendering = Rendering(run.tokenizer)
    for name in STYLES:
        folder = run.work / "adapters" / name
        for part, count in (("train", SAMPLES), ("held_out", HELD_OUT)):
            chosen = islice(_chats(run.corpus / part, CHATS.get(name, KINDS), LONGEST.get(name)), count)
            data.write_documents((styled(s, name) for s in chosen), rendering, folder / part / "0")
        torch.manual_seed(run.seed)
        net = run.net("base")
        lora.add(net, run.preset.adapter_targets, run.preset.adapter_layers)
        training = _longer(run.preset.adapter_training, PATIENCE.get(name, 1))
        job = Job(
            name, net, training, Batches(data.Documents(folder / "train"), training.tokens, run.seed),
            run.work / f"{name}.pt", few(data.Documents(folder / "held_out"), run.seed),
        )  # fmt: skip
        finish(run, job, fit(job, run.device))
        save(net, run.preset.adapter_targets, run.preset.adapter_layers, folder)


def save(net: lora.Llama, targets: tuple[str, ...], layers: int, folder: Path) -> None:
    """PEFT's two files. Raises ValueError if the weights are more than MAX_BYTES."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "adapter_model.safetensors"
    save_file(lora.tensors(net), path, {"format": "pt"})
    path.chmod(0o644)  # it is written for its owner alone
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{path}: {size:,} bytes; an adapter may have {MAX_BYTES:,}: adapt fewer matrices")
    every = range(net.shape.layers)
    described = json.dumps(lora.config(targets, every[-layers:], "pocket"), indent=2)
    (folder / "adapter_config.json").write_text(described + "\n", encoding="utf-8")


def _longer(training: Training, times: int) -> Training:
    if training.steps is not None:
        return replace(training, steps=training.steps * times)
    assert training.minutes is not None
    return replace(training, minutes=training.minutes * times)


def _chats(folder: Path, kinds: tuple[str, ...], longest: int | None) -> Iterator[Sample]:
    for path in sorted(folder.glob("*.jsonl")):
        for sample in data.read_samples(path):
            chat = sample.messages and not sample.tools and sample.kind in kinds
            if chat and (longest is None or _longest(sample) <= longest):
                yield sample


def _longest(sample: Sample) -> int:
    return max(len(m.get("content") or "") for m in sample.messages or [] if m["role"] == "assistant")
