"""The floors: what the machine itself copies and multiplies in the same minute."""

from __future__ import annotations

import torch

from .clock import called
from .report import Place, Report

COPIED, COPIED_TINY = 1 << 31, 1 << 22  # bytes
SIDE, SIDE_TINY = 8192, 128  # of the matrices


def copy_rate(place: Place) -> float:
    """Bytes a second, read and written, of torch's copy of a tensor that no cache holds."""
    source = torch.zeros(COPIED_TINY if place.tiny else COPIED, dtype=torch.uint8, device=place.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / called(lambda: target.copy_(source), place)


def dense_rate(place: Place) -> float:
    """Floating-point operations a second of torch's product of two square matrices of bfloat16; on a CPU of float32."""
    side = SIDE_TINY if place.tiny else SIDE
    kind = torch.bfloat16 if place.cuda else torch.float32
    a, b = (torch.randn(side, side, device=place.device).to(kind) for _ in range(2))
    return 2 * side**3 / called(lambda: a @ b, place, 0.2)


def measure(report: Report, place: Place) -> None:
    name = f"{torch.cuda.get_device_name(place.device)}, CUDA {torch.version.cuda}" if place.cuda else "the CPU"
    size = COPIED_TINY if place.tiny else COPIED
    report.row("machine.copy", copy_rate(place) / 1e9, "GB/s", f"{name}; {size >> 20} MiB, read and written")
    report.row("machine.dense", dense_rate(place) / 1e12, "Tflop/s", f"{SIDE_TINY if place.tiny else SIDE} squared")
    if place.cuda:
        report.row("machine.launch", 1e6 * _launch(place), "us", "an empty step of the device, from Python")


def _launch(place: Place) -> float:
    one = torch.zeros(1, device=place.device)
    return called(lambda: one.add_(1), place)
