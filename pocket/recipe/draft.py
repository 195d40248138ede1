"""The draft model: a tenth of the base, and taught by it.

A draft is accepted where it is what the base would say. So the draft model's targets are the base's own first choices
at every place that the data trains on, not the data itself. Where the base's training goes on from a model that has a
draft model beside it, so does this one's.
"""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from .batches import Batch, Batches
from .net import IGNORED, Llama
from .steps import Run, few, finish
from .train import Job, fit

_ROWS = 1024  # rows of the teacher's logits that exist at once


def train(run: Run) -> None:
    torch.manual_seed(run.seed)
    teacher = run.net("base").requires_grad_(False)
    training, net = run.preset.draft_training, Llama(run.preset.draft)
    if run.start is not None and (known := run.start.parent / "draft" / "model.safetensors").is_file():
        net.load_state_dict(load_file(known))
    job = Job(
        "draft", net, training, Batches(run.documents(), training.tokens, run.seed + 1),
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
