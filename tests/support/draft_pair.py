"""A model and a draft model that agrees with it as often as a test wants."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def blurred(folder: Path, to: Path, noise: float, *, seed: int = 0) -> Path:
    """A copy whose weights are moved by so much of their own size: 0 is the same model."""
    shutil.copytree(folder, to)
    torch.manual_seed(seed)
    weights = load_file(to / "model.safetensors")
    for name, weight in weights.items():
        weights[name] = weight + noise * weight.float().std().to(weight.dtype) * torch.randn_like(weight)
    save_file(weights, to / "model.safetensors", {"format": "pt"})
    return to


def untrained_heads(folder: Path, to: Path, count: int) -> Path:
    """Medusa heads as they begin: each says what the model's own head says, under the authors' names."""
    to.mkdir()
    weights = load_file(folder / "model.safetensors")
    head = weights.get("lm_head.weight", weights["model.embed_tokens.weight"]).float()
    parts = {}
    for n in range(count):
        parts[f"{n}.0.linear.weight"] = torch.zeros(head.shape[1], head.shape[1])
        parts[f"{n}.0.linear.bias"] = torch.zeros(head.shape[1])
        parts[f"{n}.1.weight"] = head.clone()
    save_file(parts, to / "medusa_lm_head.safetensors")
    return to


def with_vocabulary(folder: Path, to: Path, change) -> Path:
    """A copy with another tokenizer.json."""
    shutil.copytree(folder, to)
    path = to / "tokenizer.json"
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    return to
