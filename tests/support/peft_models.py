"""Adapters made with peft for tiny random models, and the logits of our models with them through the paged cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from paged import CPU, PROMPTS
from safetensors.torch import load_file, save_file

from quire.engine.attention import choose_backend
from quire.engine.batch import Batch
from quire.engine.config import BLOCK_SIZE
from quire.engine.lora.adapter import Adapter, Raw
from quire.engine.lora.read import read
from quire.engine.messages import SamplingParams
from quire.engine.models import CausalLM
from quire.engine.models.load import load_model
from quire.engine.plan import Plan, Slice
from quire.engine.sequence import Sequence
from quire.kernels.lora import Rows

transformers.utils.logging.disable_progress_bar()


def truth_of(base: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def train(model: Any, seed: int) -> None:
    """Every trained parameter of a peft model gets numbers that matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            noise = torch.randn(parameter.shape, generator=generator)
            if "lora_magnitude" in name:
                parameter.mul_(1 + 0.3 * noise)
            elif "ia3_l" in name:
                parameter.copy_(1 + 0.4 * noise)
            elif "lora_" in name:
                parameter.copy_(0.15 * noise)
            else:
                parameter.add_(0.1 * noise)


def make_peft(base: Path, folder: Path, config: Any, seed: int = 1) -> Any:
    """A peft adapter for the model of `base`, saved to `folder`; returns the peft model."""
    model = peft.get_peft_model(truth_of(base), config)
    train(model, seed)
    model.save_pretrained(folder)
    return model.eval()


def rounded_to(kind: torch.dtype, folder: Path, to: Path) -> Path:
    """A copy of an adapter with matrices of this kind; in the folder itself the same numbers, in float32."""
    shutil.copytree(folder, to)
    for path, held in ((to, kind), (folder, torch.float32)):
        file = path / "adapter_model.safetensors"
        tensors = load_file(file)
        save_file({name: t.to(kind).to(held) if ".lora_" in name else t for name, t in tensors.items()}, file)
    return to


def load(base: Path, dtype: str = "float32", **more: Any) -> CausalLM:
    return load_model(base, dtype=dtype, device=CPU, **more)


def raw(model: CausalLM, folder: Path, base: str = "base", max_rank: int = 64) -> Raw:
    return read(folder, model.places, base, model.dtype, model.device, max_rank)


def edit(folder: Path, **fields: Any) -> None:
    """Change fields of adapter_config.json."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@torch.inference_mode()
def expected(model: Any, prompts: list[list[int]] = PROMPTS) -> list[torch.Tensor]:
    return [model(input_ids=torch.tensor([prompt])).logits[0] for prompt in prompts]


@torch.inference_mode()
def logits(model: CausalLM, adapters: list[Adapter | None], prompts: list[list[int]] = PROMPTS) -> list[torch.Tensor]:
    """Logits of prompt i with adapters[i], all in one batch. Leaves the model without adapters."""
    slots: dict[str, int] = {}
    put = []
    for adapter in adapters:
        if adapter is not None and adapter.key not in slots:
            slots[adapter.key] = 3 * len(slots) + 2
            for product, delta in adapter.changes:
                product.put(slots[adapter.key], delta)
                put.append((product, slots[adapter.key]))
    try:
        backend = choose_backend("auto", model.dtype, CPU)
        cache = backend.cache(model.layers, 40, model.dtype, CPU)
        slices, of_row, at = [], [], 0
        for i, prompt in enumerate(prompts):
            seq = Sequence(str(i), 0, prompt, SamplingParams(max_tokens=1, seed=0))
            blocks = -(-len(prompt) // BLOCK_SIZE)
            seq.blocks = list(range(at, at + blocks))
            at += blocks
            slices.append(Slice(seq, 0, prompt))
            own = adapters[i]
            of_row += [-1 if own is None else slots[own.key]] * len(prompt)
        batch = Batch.of(Plan(slices), CPU)
        rows = Rows.of(of_row, CPU)
        hidden = model.forward(batch.tokens, batch.positions, backend.plan(batch, model.layers, cache), rows)
        return list(model.logits(hidden, rows).split([len(prompt) for prompt in prompts]))
    finally:
        for product, slot in put:
            product.drop(slot)
