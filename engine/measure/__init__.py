"""Measurements of the engine inside its own process, on models with random weights: `python -m quire.engine.measure`.

Started part by part by clients/bench/gpu.py, which knows no engine. Nothing that serves imports this folder.
"""

from __future__ import annotations

PARTS = {  # name -> module of this folder, with `measure(report, place)`
    "machine": "machine",
    "kernels": "kernels",
    "attention": "attention",
    "decode": "decode",
    "modes": "modes",
    "gap": "gap",
    "throughput": "throughput",
    "transformers": "peer",
}
