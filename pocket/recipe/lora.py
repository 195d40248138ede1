"""Low-rank changes to the base's matrices (Hu et al. 2021), under the names that PEFT gives them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .net import Llama

RANK, ALPHA = 8, 16


class Lora(nn.Module):
    """x W' + alpha / rank * x A' B', of which A and B are trained."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base
        self.lora_A = nn.Linear(base.in_features, RANK, bias=False, device=base.weight.device)
        self.lora_B = nn.Linear(RANK, base.out_features, bias=False, device=base.weight.device)
        nn.init.zeros_(self.lora_B.weight)  # it begins as no change

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.lora_B(self.lora_A(x)) * (ALPHA / RANK)


def add(net: Llama, targets: tuple[str, ...], layers: int) -> None:
    """Make the named matrices of the last so many layers adaptable, and nothing else trainable."""
    net.requires_grad_(False)
    for layer in list(net.model.layers)[-layers:]:
        for part in list(layer.modules()):
            for name, matrix in list(part.named_children()):
                if name in targets and isinstance(matrix, nn.Linear):
                    setattr(part, name, Lora(matrix))


def tensors(net: Llama) -> dict[str, torch.Tensor]:
    """A and B of every adapted matrix, in bfloat16, as adapter_model.safetensors has them."""
    return {
        f"base_model.model.{name}": parameter.detach().to("cpu", torch.bfloat16).contiguous()
        for name, parameter in net.named_parameters()
        if parameter.requires_grad
    }


def config(targets: tuple[str, ...], layers: range, base: str) -> dict[str, Any]:
    """adapter_config.json. layers: those that are adapted."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": RANK,
        "lora_alpha": ALPHA,
        "lora_dropout": 0.0,
        "target_modules": list(targets),
        "layers_to_transform": list(layers),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
