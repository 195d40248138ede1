"""From a model folder to a CausalLM: choose the family, the dtype, and let the model take its weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from ..errors import ModelError
from ..weights import Weights, open_weights
from . import FAMILIES, CausalLM
from .config import read_config

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    folder: Path,
    *,
    dtype: str,
    device: torch.device,
    impl: str = "auto",
    context: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CausalLM:
    """Load the model of `folder`.

    dtype: a key of DTYPES, or "auto": the checkpoint's own, but float32 on the CPU, where torch's products in 16 bits
    were measured 8 times slower than in float32 (two AVX2 cores). impl: "quire" (our families only), "transformers"
    (the fallback only) or "auto". context: tokens that will be served, if fewer or more than the config's maximum; only
    rope kinds that depend on length use it. progress(done, total) in bytes. Raises ModelError naming file and field.
    """
    config = read_config(folder)
    names = config.get("architectures")
    if not isinstance(names, list) or not names:
        raise ModelError(f"{folder / 'config.json'}: architectures is {names!r}; expected a list with a name")
    if "quantization_config" in config:
        raise ModelError(f"{folder / 'config.json'}: quantization_config: quantized checkpoints cannot be served yet")
    chosen = choose_dtype(config, dtype, device)
    family = FAMILIES.get(names[0])
    if impl == "quire" and family is None:
        raise ModelError(f"{folder / 'config.json'}: {names[0]} is none of quire's own families: {', '.join(FAMILIES)}")
    if impl == "transformers" or family is None:
        from . import fallback

        return fallback.load(folder, config, chosen, device, progress)
    module = importlib.import_module(f".{family}", __package__)
    shape = module.shape(config)
    weights = Weights(
        open_weights(folder),
        dtype=chosen,
        device=device,
        progress=progress,
        prefix=module.PREFIX,
        harmless=module.HARMLESS,
    )
    model: CausalLM = module.Model(shape, weights, context)
    weights.finish()
    model.weight_bytes = weights.bytes
    return model


def fingerprint(folder: Path) -> str:
    """What tells this base from another, hex: its config, and the names, kinds, shapes and places of all its tensors
    with their files' sizes. Not the weights themselves: to read them all would double the time of a start."""
    found = blake2b((folder / "config.json").read_bytes(), digest_size=16)
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            found.update(f"{path.name} {path.stat().st_size}".encode() + file.read(min(size, 1 << 26)))
    return found.hexdigest()


def choose_dtype(config: dict[str, Any], wanted: str, device: torch.device) -> torch.dtype:
    """What the weights are computed in."""
    if wanted != "auto":
        return DTYPES[wanted]
    if device.type == "cpu":
        return torch.float32
    own = str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch.")
    if own not in DTYPES:
        raise ModelError(f"config.json: dtype is {own!r}; expected one of {', '.join(DTYPES)}")
    return DTYPES[own]
