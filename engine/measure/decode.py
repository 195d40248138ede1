"""One answer at a time: how near a step comes to the time that reading the weights takes."""

from __future__ import annotations

from functools import partial
from typing import Any

from .machine import copy_rate
from .report import Place, Report
from .running import Bench

RUNS: list[tuple[str, str, dict[str, Any]]] = [
    ("8b.bfloat16", "llama-3.1-8b", {}),
    ("8b.fp8", "llama-3.1-8b", {"quantization": "fp8"}),
    ("8b.int8", "llama-3.1-8b", {"quantization": "int8"}),
    ("8b.int4", "llama-3.1-8b", {"quantization": "int4"}),
    ("1b.bfloat16", "llama-3.2-1b", {}),
]
PROMPT, ANSWER, ANSWER_TINY = 128, 192, 12


def measure(report: Report, place: Place) -> None:
    copied = copy_rate(place)
    found: dict[str, float] = {}
    for key, model, fields in RUNS:
        report.attempt(f"decode.{key}", partial(one, report, place, key, model, fields, copied, found))


def one(
    report: Report, place: Place, key: str, model: str, fields: dict[str, Any], copied: float, found: dict[str, float]
) -> None:
    """found: seconds of a step, by key; this one's is put there."""
    bench = Bench(place, model, max_model_len=1024, max_num_seqs=4, **fields)
    step = found[key] = bench.step_seconds(1, PROMPT, ANSWER_TINY if place.tiny else ANSWER)
    size = read_bytes(bench)
    bench.close()
    report.row(f"decode.{key}.rate", 1 / step, "tokens/s", f"{size / 1e9:.2f} GB of weights a step")
    report.row(f"decode.{key}.share", size / copied / step, "of the floor", "bytes of weights / copy rate / time")
    plain = found.get(f"{key.partition('.')[0]}.bfloat16")
    if plain is not None and plain != step:
        report.row(f"decode.{key}.gain", plain / step, "times bfloat16")


def read_bytes(bench: Bench) -> int:
    """Bytes of weights that a step of one token reads: of all products. (Norms are a few hundred KB.)"""
    model: Any = bench.runner.model
    products = [p for layer in model.blocks for p in (layer.qkv, layer.out, layer.gate_up, layer.down)]
    return sum(int(product.bytes) for product in [*products, model.head])
