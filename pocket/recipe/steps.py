"""The steps of the recipe, and what one leaves for the next in the work folder."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...engine.errors import ConfigError
from . import data, tokenizer
from .batches import Batch, Batches
from .curve import draw
from .net import Llama
from .presets import Preset
from .stored import read
from .train import Job, Point, fit

HELD_OUT_TOKENS, HELD_OUT_BATCHES = 64_000, 8


@dataclass(frozen=True, slots=True)
class Run:
    """One call of the recipe."""

    name: str  # of the preset
    preset: Preset
    shared: Path  # the data
    work: Path
    out: Path
    seed: int
    workers: int
    device: torch.device
    start: Path | None = None  # the model whose training goes on

    @property
    def corpus(self) -> Path:
        return self.work / "corpus"

    @property
    def tokenizer(self) -> Path:
        return self.work / "tokenizer"

    def log(self, step: str, **facts: Any) -> None:
        """Facts about a step for the model card."""
        path = self.work / "log.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        known[step] = facts
        path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")

    def documents(self, part: str = "train") -> data.Documents:
        return data.Documents(self.corpus / part)

    def net(self, which: str) -> Llama:
        """The trained base or draft, in float32."""
        path = self.work / f"{which}.pt"
        if not path.is_file():
            raise ConfigError("--only", f"needs {path}, which is not there", "the steps before it to have run")
        net = Llama(self.preset.base if which == "base" else self.preset.draft)
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["net"])
        return net.to(self.device)


def corpus(run: Run) -> None:
    """Samples to train on, and some that are never trained on."""
    for part, tokens, pieces in (
        ("train", run.preset.corpus_tokens, data.PIECES),
        ("held_out", 2 * HELD_OUT_TOKENS, 1),
    ):
        chars = int(tokens * data.CHARS_PER_TOKEN)
        wanted = data.Corpus(run.shared, run.seed, part == "held_out", chars, run.preset.mix)
        data.write_samples(wanted, run.corpus / part, pieces, run.workers)


def make_tokenizer(run: Run) -> None:
    """The tokenizer, and all samples as its tokens. A model whose training goes on keeps its own."""
    began = time.monotonic()
    if run.start is None:
        texts = data.rendered(run.corpus / "train", data.TOKENIZER_CHARS)
        tokenizer.save(tokenizer.train(texts, run.preset.base.vocab), run.tokenizer)
    else:
        tokenizer.save(tokenizer.load(run.start), run.tokenizer)
    for part in ("train", "held_out"):
        data.write_tokens(run.corpus / part, run.tokenizer, run.seed, run.workers)
    documents = run.documents()
    run.log(
        "tokenizer", documents=len(documents), tokens=int(documents.lengths.sum()), seconds=time.monotonic() - began
    )


def train(run: Run) -> None:
    """The base model."""
    torch.manual_seed(run.seed)
    net = Llama(run.preset.base)
    if run.start is not None:
        net.load_state_dict(read(run.start))
    job = Job(
        "base", net, run.preset.base_training,
        Batches(
            run.documents(), run.preset.base_training.tokens, run.seed,
            run.preset.base_training.prelude, run.preset.base.vocab,
        ),
        run.work / "base.pt", few(run.documents("held_out"), run.seed),
    )  # fmt: skip
    finish(run, job, fit(job, run.device))


def few(documents: data.Documents, seed: int) -> list[Batch]:
    """Batches to measure the loss on while training goes on."""
    total = int(documents.lengths.sum())
    batches = Batches(documents, min(total, HELD_OUT_TOKENS) // HELD_OUT_BATCHES, seed)
    return [batches[n] for n in range(min(HELD_OUT_BATCHES, batches.steps))]


def finish(run: Run, job: Job, history: list[Point]) -> None:
    """What the model card tells of a run, and its curve."""
    last = history[-1]
    draw(history, run.work / f"{job.name}.svg", f"pocket {run.name}: {job.name}")
    run.log(
        job.checkpoint.stem,
        steps=last.step,
        tokens=last.tokens,
        seconds=last.seconds,
        loss=last.loss,
        held_out=last.held_out,
        device=str(run.device),
        threads=torch.get_num_threads(),
    )
