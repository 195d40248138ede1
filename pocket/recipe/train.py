"""The training loop: Muon and AdamW, a rate that rises, stays and falls to nothing, and a checkpoint every few minutes.

A step depends on the seed, its number and the state before it, so a run that was cut short and resumed ends with the
weights of one that was not (where the bound is in steps; a bound in minutes depends on the machine anyway).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .batches import Batch, Batches
from .muon import Muon
from .net import IGNORED, Llama
from .presets import Training
from .progress import Progress

# Between two checkpoints, by device. On a CPU the held-out text takes long; a GPU may be lent for minutes only.
CHECKPOINT_SECONDS = {"cpu": 180.0, "cuda": 60.0}
_PEAK = 0.1  # share of the loss's moving mean that a new step has


@dataclass(slots=True)
class Point:
    """Where a run stood."""

    step: int
    tokens: int
    seconds: float
    loss: float  # moving mean
    held_out: float | None = None  # loss on held-out text, where it was measured


@dataclass(slots=True)
class Job:
    """One run. targets: what a batch trains on, if not the batch's own targets (the draft model's come from the base).
    held_out: batches that are never trained on. stop_after: leave after so many steps, as an interruption would, which
    loses what is not in the checkpoint."""

    name: str
    net: Llama
    training: Training
    batches: Batches
    checkpoint: Path
    held_out: Sequence[Batch] = ()
    targets: Callable[[Batch], torch.Tensor] | None = None
    stop_after: int | None = None


@dataclass(slots=True)
class _State:
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    finished: bool = False
    low_precision: bool = False
    loss: float = math.nan
    history: list[Point] = field(default_factory=list)


def fit(job: Job, device: torch.device) -> list[Point]:
    """Train `job.net` in place, from its checkpoint where there is one. Returns the history. Raises
    FloatingPointError where the loss is not finite for many steps on end."""
    net = job.net.to(device)
    optimizers = _optimizers(net, job.training)
    state = _restore(job, optimizers)
    if state.finished:
        return state.history
    if state.step == 0:
        state.low_precision = low_precision_is_faster(job, device)
    for optimizer in optimizers:
        if isinstance(optimizer, Muon):
            optimizer.dtype = torch.bfloat16 if state.low_precision else torch.float32
    saved, bad, first = time.monotonic(), 0, state.step
    with Progress(job.name) as shown:
        while (done := _done(job.training, state)) < 1:
            if job.stop_after is not None and state.step - first >= job.stop_after:
                return state.history
            began = time.monotonic()
            batch = job.batches[state.step].to(device)
            loss = _step(job, batch, optimizers, _rate(job.training, done), state.low_precision, device)
            bad = bad + 1 if loss is None else 0
            if bad > 20:
                raise FloatingPointError(f"{job.name}: no finite loss for {bad} steps, at step {state.step}")
            state.step += 1
            state.tokens += len(batch.tokens)
            state.seconds += time.monotonic() - began
            if loss is not None:
                state.loss = loss if math.isnan(state.loss) else state.loss + _PEAK * (loss - state.loss)
            if state.step % 20 == 0:
                state.history.append(Point(state.step, state.tokens, state.seconds, state.loss))
            shown.update(_done(job.training, state), state.loss, state.tokens, state.seconds)
            if time.monotonic() - saved > CHECKPOINT_SECONDS[device.type]:
                _measure(job, state, device)
                _save(job, state, optimizers)
                saved = time.monotonic()
    state.finished = True
    _measure(job, state, device)
    _save(job, state, optimizers)
    return state.history


def _optimizers(net: Llama, training: Training) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between two hidden states; AdamW for embeddings, norms and adapters."""
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            (matrices if name.endswith("_proj.weight") else others).append(parameter)
    found: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(others, lr=training.lr, betas=(0.9, 0.97), eps=1e-8, weight_decay=0.0)
    ]
    if matrices:
        found.append(Muon(matrices, lr=training.matrix_lr, weight_decay=training.weight_decay))
    for optimizer in found:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return found


def _step(
    job: Job, batch: Batch, optimizers: list[torch.optim.Optimizer], rate: float, low: bool, device: torch.device
) -> float | None:
    """One step; its loss, or None where that was not finite and nothing was changed."""
    with _precision(low, device):
        targets = batch.targets if job.targets is None else job.targets(batch)
        loss = job.net.loss(job.net(batch.tokens, batch.segments), targets)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_([p for p in job.net.parameters() if p.grad is not None], job.training.clip)
    finite = bool(torch.isfinite(norm)) and math.isfinite(loss.item())
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        if finite:
            optimizer.step()
        optimizer.zero_grad()
    return loss.item() if finite else None


def _done(training: Training, state: _State) -> float:
    """The share of the run that is over."""
    if training.steps is not None:
        return state.step / training.steps
    assert training.minutes is not None
    return state.seconds / (60 * training.minutes)


def _rate(training: Training, done: float) -> float:
    """Share of the peak learning rate: up, level, and down to 0 in a line (warm-up, stable, decay)."""
    return min(1.0, (done + 1e-3) / training.warmup, (1 - done) / training.decay)


def _precision(low: bool, device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, torch.bfloat16, enabled=low)


def low_precision_is_faster(job: Job, device: torch.device) -> bool:
    """Whether bfloat16 products are worth it here: always on a GPU, on a CPU by the clock."""
    if device.type != "cpu":
        return True
    batch = Batch(
        job.batches[0].tokens[:1024], job.batches[0].targets[:1024], ((1, min(1024, len(job.batches[0].tokens))),)
    )
    seconds = {}
    for low in (False, True):
        best = math.inf
        for _ in range(3):
            began = time.perf_counter()
            with _precision(low, device):
                job.net.loss(job.net(batch.tokens, batch.segments), batch.targets).backward()
            best = min(best, time.perf_counter() - began)
            job.net.zero_grad()
        seconds[low] = best
    return seconds[True] < seconds[False]


def _measure(job: Job, state: _State, device: torch.device) -> None:
    total, count = 0.0, 0
    for batch in job.held_out:
        batch = batch.to(device)
        trained = int((batch.targets != IGNORED).sum())
        with torch.no_grad(), _precision(state.low_precision, device):
            targets = batch.targets if job.targets is None else job.targets(batch)
            total += trained * job.net.loss(job.net(batch.tokens, batch.segments), targets).item()
        count += trained
    state.history.append(Point(state.step, state.tokens, state.seconds, state.loss, total / count if count else None))


def _save(job: Job, state: _State, optimizers: list[torch.optim.Optimizer]) -> None:
    """Whole or not at all."""
    part = job.checkpoint.with_suffix(".part")
    fields = {name: getattr(state, name) for name in _State.__slots__ if name != "history"}
    history = [(p.step, p.tokens, p.seconds, p.loss, p.held_out) for p in state.history]
    torch.save(
        {
            "state": fields,
            "history": history,
            "net": trained_part(job.net),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        },
        part,
    )
    part.replace(job.checkpoint)


def _restore(job: Job, optimizers: list[torch.optim.Optimizer]) -> _State:
    if not job.checkpoint.is_file():
        return _State()
    # By the host, where AdamW's counts of steps belong: it reads each of them in each step.
    found = torch.load(job.checkpoint, map_location="cpu", weights_only=True)
    job.net.load_state_dict(found["net"], strict=False)
    for optimizer, state in zip(optimizers, found["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    return _State(**found["state"], history=[Point(*fields) for fields in found["history"]])


def trained_part(net: Llama) -> dict[str, torch.Tensor]:
    """The parameters that training changes, by name."""
    return {name: p.detach() for name, p in net.named_parameters() if p.requires_grad}
