"""From a model folder to a CausalLM: choose the family, the dtype, and let the model take its weights."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch

from ...kernels import native
from ...kernels.linear import BITS
from ...kernels.triton import there
from .. import deterministic as steady
from .. import gguf
from ..errors import ConfigError, ModelError
from ..weights import Weights, open_weights
from ..weights.quantized import split_config, told_beside, unpacked
from . import FAMILIES, CausalLM, fits
from .config import read_config

log = logging.getLogger("quire.engine")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    folder: Path,
    *,
    dtype: str,
    device: torch.device,
    impl: str = "auto",
    context: int | None = None,
    quantization: str | None = None,
    deterministic: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> CausalLM:
    """Load the model of `folder`.

    dtype: a key of DTYPES, or "auto": the checkpoint's own. On the CPU our families compute in float32 whatever it is,
    where torch's products in 16 bits were measured 8 times slower (two AVX2 cores), and products keep their weights in
    it: the same results as in float32 at half the reading. quantization: int8, int4 or fp8; the C++ kernels have those
    of BITS, Triton's all, on the device and matrix by matrix. deterministic: a token's bits do not depend on the others
    of its step, also where that is not so by itself.
    impl: "quire" (our families only), "transformers" (the fallback only) or "auto". context: tokens that are served,
    if fewer or more than the config's maximum; only rope kinds that depend on length use it. progress(done, total) in
    bytes. Raises ModelError naming file and field, ConfigError where the setting does not fit the model.
    """
    config, family, chosen = look(folder, dtype=dtype, device=device, impl=impl)
    if quantization is not None:
        _check_form(quantization, chosen, device)
    fixed = deterministic and steady.products(chosen, device, family is not None)
    if (adapter := folder / "adapter_config.json").is_file():
        if family is None:  # transformers would load the base that it names, from wherever that is, and change it
            raise ModelError(f"{adapter}: an adapter beside a model; expected it in a folder of its own (--lora-dir)")
        log.warning("%s: the adapter is not a part of the model that is served here", adapter)
    if family is None:
        from . import fallback

        fits.check(folder, device, chosen, form=quantization)
        return fallback.load(folder, config, chosen, device, progress, quantization, exact=deterministic)
    module = importlib.import_module(f".{family}", __package__)
    config, settings = split_config(config)
    shape = module.shape(config)
    reader, where = open_weights(folder, device), str(folder / "config.json")
    if settings is None and (told := told_beside(folder, reader)) is not None:
        settings, where = told
    if settings is not None:
        if quantization is not None:
            expected = "none: the weights of this model are quantized already"
            raise ConfigError("quantization", f"is {quantization!r}", expected)
        reader = unpacked(reader, settings, where)
    as_they_are = native.serves(chosen, device) or settings is not None
    kept = None if dtype == "auto" else DTYPES[dtype]
    left = (*module.HARMLESS, *(("lm_head.weight",) if shape.tied else ()))
    fits.check(folder, device, kept if as_they_are else chosen, form=quantization, left=left)
    weights = Weights(
        reader,
        dtype=chosen,
        kept=kept,
        form=quantization,
        fixed=fixed,
        device=device,
        progress=progress,
        prefix=module.PREFIX,
        harmless=module.HARMLESS,
    )
    model: CausalLM = module.Model(shape, weights, context)
    weights.finish()
    model.weight_bytes, model.kinds = weights.bytes, " and ".join(sorted(weights.kinds))
    return model


def look(
    folder: Path, *, dtype: str, device: torch.device, impl: str
) -> tuple[dict[str, Any], str | None, torch.dtype]:
    """What is known without the weights: config.json, the module of its family (None: transformers runs it), and what
    is computed in. Parameters and errors as of `load_model`."""
    config = read_config(folder)
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise ModelError(f"{folder / 'config.json'}: architectures is {names!r}; expected a list with a name")
    family = None if impl == "transformers" else FAMILIES.get(names[0])
    chosen = choose_dtype(config, dtype, device, family is not None)
    if impl == "quire" and family is None:
        raise ModelError(f"{folder / 'config.json'}: {names[0]} is none of quire's own families: {', '.join(FAMILIES)}")
    return config, family, chosen


def _check_form(form: str, dtype: torch.dtype, device: torch.device) -> None:
    """Raises ConfigError where no product keeps its weights so. dtype: what is computed in."""
    if native.serves(dtype, device):
        if form not in BITS:
            expected = f"{' or '.join(BITS)}: the C++ kernels for the CPU have no other products"
            raise ConfigError("quantization", f"is {form!r} on {device}", expected)
        return
    if (lack := there.lack(dtype, device)) is not None:
        expected = f"none here: they are quantized for the C++ kernels on the CPU in float32 or for Triton's: {lack}"
        raise ConfigError("quantization", f"is {form!r} on {device} ({native.described()})", expected)


def fingerprint(folder: Path) -> str:
    """What tells this base from another, hex: its config, and the names, kinds, shapes and places of all its tensors
    with their files' sizes. Not the weights themselves: to read them all would double the time of a start."""
    found = blake2b((folder / "config.json").read_bytes(), digest_size=16)
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            found.update(f"{path.name} {path.stat().st_size}".encode() + file.read(min(size, 1 << 26)))
    for path in sorted(folder.glob("*.gguf")):
        found.update(f"{path.name} {gguf.File(path).digest}".encode())
    for path in sorted(folder.glob("random.json")):
        found.update(path.read_bytes())
    return found.hexdigest()


def choose_dtype(config: dict[str, Any], wanted: str, device: torch.device, ours: bool) -> torch.dtype:
    """What is computed in. Raises ModelError for a dtype that torch does not know, or that cannot be computed in."""
    key = "dtype" if config.get("dtype") else "torch_dtype"
    own = str(config.get(key) or "float32").removeprefix("torch.")
    if not isinstance(getattr(torch, own, None), torch.dtype):
        raise ModelError(f"config.json: {key} is {config[key]!r:.200}; expected one of {', '.join(DTYPES)}")
    if device.type == "cpu" and (wanted == "auto" or ours):
        return torch.float32
    if wanted != "auto":
        return DTYPES[wanted]
    if own not in DTYPES:
        raise ModelError(f"config.json: {key} is {own!r}; expected one of {', '.join(DTYPES)}")
    return DTYPES[own]
