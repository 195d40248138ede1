"""How long something takes on a device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from .report import Place

ROUNDS = 5  # in a tiny place one
CAPTURED = 10  # calls in one graph


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def called(work: Callable[[], object], place: Place, least: float = 0.05) -> float:
    """Seconds a call, called one after the other as a program would: the host's part too, where that is the longer one.
    The median of rounds that take `least` seconds each."""
    work()
    if place.tiny:
        return _round(work, place.device, 1)
    once = _round(work, place.device, 2)
    count = max(1, min(1000, int(least / max(once, 1e-7))))
    return statistics.median(_round(work, place.device, count) for _ in range(ROUNDS))


def alone(work: Callable[[], object], place: Place, least: float = 0.05) -> tuple[float, str]:
    """Seconds a call of the device alone: calls recorded in a graph and run without the host. -> (seconds, how). Where
    the work cannot be recorded, because it waits for the device or there is none, it is as `called`."""
    if not place.cuda:
        return called(work, place, least), "called"
    try:
        graph = _recorded(work)
    except Exception:  # what torch raises here differs by what was not allowed
        torch.cuda.synchronize(place.device)
        return called(work, place, least), "called"
    return called(graph.replay, place, least) / CAPTURED, "device"


def _recorded(work: Callable[[], object]) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # kernels are compiled outside of the graph
            work()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(CAPTURED):
            work()
    return graph


def _round(work: Callable[[], object], device: torch.device, count: int) -> float:
    wait(device)
    began = time.perf_counter()
    for _ in range(count):
        work()
    wait(device)
    return (time.perf_counter() - began) / count
