"""Decoding with many at once: how busy the device is, and what graphs, overlap and the deterministic mode change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from ...kernels.triton import chosen
from .. import messages as m
from .report import Place, Report
from .running import Bench, Course

AT_ONCE, PROMPT, ANSWER = 64, 128, 128
AT_ONCE_TINY, PROMPT_TINY, ANSWER_TINY = 3, 16, 16
WINDOW = 20  # frames that are looked into


@dataclass(frozen=True, slots=True)
class Mode:
    """settings: of EngineConfig. overlap: whether steps may, None: as it is. torch: keys of `chosen.WAYS` that torch
    does. sampled: the answers are drawn, not greedy."""

    settings: dict[str, Any] = field(default_factory=dict)
    overlap: bool | None = None
    torch: tuple[str, ...] = ()
    sampled: bool = False


DRAWN: dict[str, Any] = {"temperature": 0.8, "top_k": 50, "top_p": 0.95}
MODES = {
    "plain": Mode(),
    "deterministic": Mode({"deterministic": True}),
    "no_overlap": Mode(overlap=False),
    "no_graphs": Mode({"enforce_eager": True}),
    "sampled": Mode(sampled=True),
    "fp8_pages": Mode({"kv_cache_dtype": "fp8"}),
    "torch_norms": Mode(torch=("norm", "gate")),
    "sampled_torch": Mode(torch=("sampler",), sampled=True),
    "torch_attention": Mode({"attention": "torch"}),
    "neither": Mode({"enforce_eager": True}, overlap=False),
}
RUNS = {"llama-3.1-8b": ("plain", "deterministic"), "qwen3-0.6b": tuple(MODES)}


def measure(report: Report, place: Place) -> None:
    for model, names in RUNS.items():
        found: dict[str, float] = {}
        for name in names:
            key = f"modes.{model}.{name}"
            report.attempt(key, partial(one, report, place, key, model, name, found))


def one(report: Report, place: Place, key: str, model: str, name: str, found: dict[str, float]) -> None:
    """found: seconds of a step, by name; this one's is put there."""
    mode = MODES[name]
    count, prompt, answer = (AT_ONCE_TINY, PROMPT_TINY, ANSWER_TINY) if place.tiny else (AT_ONCE, PROMPT, ANSWER)
    options = DRAWN if mode.sampled else {}
    with by_torch(mode.torch):
        bench = Bench(place, model, max_model_len=1024, max_num_seqs=count, **mode.settings)
        if mode.overlap is not None:
            bench.runner.overlap = mode.overlap
        bench.run(bench.asked(count, prompt, answer // 2, **options))  # graphs are captured, kernels compiled
        step = found[name] = bench.step_seconds(count, prompt, answer, **options)
        busy = device_seconds(bench, count, prompt, answer) if place.cuda and not mode.sampled else None
        bench.close()
    note = "" if name == "plain" or "plain" not in found else f"{step / found['plain']:.2f} times plain"
    report.row(f"{key}.step", 1e3 * step, "ms", note)
    if busy is not None:
        report.row(f"{key}.busy", busy / step, "of the step", f"{1e3 * busy:.3f} ms on the device, by torch.profiler")
    elif name == "plain":
        report.lacks(f"{key}.busy", "there is no device beside the CPU")


@contextmanager
def by_torch(names: tuple[str, ...]) -> Iterator[None]:
    """Within it torch does what Triton is chosen for."""
    before = dict(chosen.WAYS)
    chosen.WAYS.update(dict.fromkeys(names, "torch"))
    try:
        yield
    finally:
        chosen.WAYS.update(before)


def device_seconds(
    bench: Bench, count: int, prompt: int, answer: int, side: str = "CUDA", window: int = WINDOW
) -> float:
    """That the device computes in a step: of the time in which anything runs on it, over so many frames. side: as
    torch.profiler names devices."""
    profile = torch.profiler.profile(activities=[getattr(torch.profiler.ProfilerActivity, side)])
    begin = answer // 2
    edges: list[int] = []  # the frames that the profile begins and ends behind

    def more(course: Course) -> list[m.ToEngine]:
        frames = len(course.times)
        if not edges and frames >= begin:
            profile.start()
            edges.append(frames)
        elif len(edges) == 1 and frames >= edges[0] + window:
            profile.stop()
            edges.append(frames)
        return []

    bench.run(bench.asked(count, prompt, answer), more=more)
    if len(edges) == 1:
        profile.stop()
    if len(edges) < 2:
        raise RuntimeError(f"fewer than {window} frames could be looked into")
    found = [event for event in profile.events() or () if event.device_type.name == side]
    if not found:
        raise RuntimeError("the profiler saw nothing run")
    return covered(sorted((event.time_range.start, event.time_range.end) for event in found)) / 1e6 / window


def covered(spans: list[tuple[float, float]]) -> float:
    """How much of the line the intervals cover together; they come by their beginnings."""
    total, reached = 0.0, float("-inf")
    for begin, end in spans:
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
