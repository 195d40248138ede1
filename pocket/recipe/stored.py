"""How weights lie in the package: in bfloat16, or the matrices in 8 bits, so that twice the parameters fit.

The latter is compressed-tensors' form int-quantized, which quire multiplies as it is: of a matrix X.weight int8
[out, in] and X.weight_scale bfloat16 [out, 1]. What is no matrix stays bfloat16. (The table of embeddings, which is the
head too, is packed as well; transformers 5.17 with compressed-tensors 0.20 reads no such table.)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from .presets import Form

_SCALE = "_scale"  # what stands behind the name of a matrix
_MOST = 127

CONFIG: dict[str, Any] = {  # quantization_config of config.json
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "config_groups": {
        "group_0": {
            "targets": ["Linear", "Embedding"],
            "weights": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True, "dynamic": False},
        }
    },
}


def plain(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All of it in bfloat16."""
    return {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in weights.items()}


def packed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every matrix in 8 bits, with a scale for each output."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        if tensor.dim() != 2:
            found[name] = tensor.to(torch.bfloat16)
            continue
        scale = (tensor.float().abs().amax(1, keepdim=True) / _MOST).clamp(min=1e-8).to(torch.bfloat16)
        found[name] = (tensor.float() / scale.float()).round().clamp(-_MOST, _MOST).to(torch.int8)
        found[name + _SCALE] = scale
    return found


FORMS: dict[Form, Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]] = {"bfloat16": plain, "int8": packed}


def read(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a folder of ours in float32, packed or not."""
    stored = load_file(folder / "model.safetensors")
    return {
        name: tensor.float() * stored[name + _SCALE].float() if name + _SCALE in stored else tensor.float()
        for name, tensor in stored.items()
        if not name.endswith(_SCALE)
    }
