"""From checkpoints to what is shipped: model/, draft/ and adapters/NAME/, each with a manifest of its files' sha256."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ...server.tokenizer import Tokenizer
from .. import MANIFEST, sha256
from .net import Llama
from .presets import Form
from .steps import Run
from .stored import CONFIG, FORMS
from .styles import STYLES

MAX_BYTES = 30_000_000  # of everything that is shipped
SAMPLING = {"do_sample": True, "temperature": 0.4, "top_p": 0.9}  # what a small model writes best with
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def export(run: Run) -> None:
    """Raises ValueError if it is more than MAX_BYTES in all."""
    write_model(run.net("base"), run.tokenizer, run.out / "model", run.preset.form)
    write_model(run.net("draft"), run.tokenizer, run.out / "draft")
    for name in STYLES:
        folder = run.out / "adapters" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file in ADAPTER_FILES:
            shutil.copyfile(run.work / "adapters" / name / file, folder / file)
        write_manifest(folder)
    shutil.copyfile(run.work / "base.svg", run.out / "model" / "loss.svg")
    parts = [run.out / "model", run.out / "draft", run.out / "adapters"]
    total = sum(path.stat().st_size for part in parts for path in part.rglob("*") if path.is_file())
    if total > MAX_BYTES:
        raise ValueError(f"{run.out}: the models have {total:,} bytes in all; at most {MAX_BYTES:,} may be shipped")
    run.log("export", bytes=total)


def write_model(net: Llama, tokenizer: Path, folder: Path, form: Form = "bfloat16") -> None:
    """A model folder as quire reads it, and transformers where it is bfloat16. form: of its matrices."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # what it lists is about to change
    weights = {name: p.detach().cpu() for name, p in net.named_parameters()}
    save_file(FORMS[form](weights), folder / "model.safetensors", {"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # it is written for its owner alone
    for path in sorted(tokenizer.iterdir()):
        shutil.copyfile(path, folder / path.name)
    control = Tokenizer.load(folder).control
    ends = [control["<|im_end|>"], control["<|endoftext|>"]]
    ids = {"bos_token_id": None, "eos_token_id": ends, "pad_token_id": ends[1]}
    quantized = {"quantization_config": CONFIG} if form == "int8" else {}
    _write(folder / "config.json", {**net.shape.config(), "dtype": "bfloat16", **ids, **quantized})
    _write(folder / "generation_config.json", {**SAMPLING, "eos_token_id": ends, "pad_token_id": ends[1]})
    write_manifest(folder)


def write_manifest(folder: Path) -> None:
    """The sha256 of every file that lies in the folder."""
    files = {path.name: sha256(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    _write(folder / MANIFEST, {"sha256": files})


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
