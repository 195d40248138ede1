"""The draft model: a tenth of the base, and taught by it.

A draft is accepted where it is what the base would say. So the draft model's targets are the base's own first choices
at every place that the data trains on, not the data itself.
"""

from __future__ import annotations

import torch

from .batches import Batch, Batches
from .net import IGNORED, Llama
from .steps import Run, few, finish
from .train import Job, fit

_ROWS = 1024  # rows of the teacher's logits that exist at once


def train(run: Run) -> None:
    torch.manual_seed(run.seed)
    teacher = run.net("base").requires_grad_(False)
    training = run.preset.draft_training
    job = Job(
        "draft", Llama(run.preset.draft), training, Batches(run.documents(), training.tokens, run.seed + 1),
        run.work / "draft.pt", few(run.documents("held_out"), run.seed), lambda batch: choices(teacher, batch),
    )  # fmt: skip
    finish(run, job, fit(job, run.device))


@torch.no_grad()
def choices(teacher: Llama, batch: Batch) -> torch.Tensor:
    """Targets [N]: the teacher's likeliest token wherever the batch has a target."""
    wanted = batch.targets != IGNORED
    hidden = teacher(batch.tokens, batch.segments)[wanted]
    targets = batch.targets.clone()
    targets[wanted] = torch.cat([teacher.logits(rows).argmax(-1) for rows in hidden.split(_ROWS)])
    return targets
