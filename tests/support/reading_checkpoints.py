"""Reading packed matrices from memory, and what the tests of checkpoints say of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import contextmanager

import pytest
import torch
from packed_checkpoints import (
    Coded,
    awq,
    awq_settings,
    compressed_settings,
    gptq,
    gptq_settings,
    int_quantized,
    pack_quantized,
)

from quire.engine.errors import ModelError
from quire.engine.weights.quantized import unpacked
from quire.kernels.quantized import GROUPS, Quantized

X = "model.layers.0.mlp.down_proj"
FILE = "model-00001-of-00002.safetensors"


class Tensors:
    """A reader of tensors in memory."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]):
        self._tensors = tensors
        self.names = {name: x.numel() * x.element_size() for name, x in tensors.items()}

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[name]

    def where(self, name: str) -> str:
        return FILE if name in self._tensors else "folder"


def named(parts: Mapping[str, torch.Tensor], base: str = X) -> dict[str, torch.Tensor]:
    return {f"{base}.{end}": x for end, x in parts.items()}


def read(parts: Mapping[str, torch.Tensor], config: Mapping, base: str = X):
    return unpacked(Tensors(named(parts, base)), config, "config.json").read(f"{base}.weight")


def same(found, m: Coded) -> None:
    assert isinstance(found, Quantized)
    assert found.bits == m.bits
    assert found.group in GROUPS
    assert torch.equal(found.dense(), m.dense())


@contextmanager
def refused(*said: str):
    """The message has all of these in this order."""
    with pytest.raises(ModelError, match=".*".join(map(re.escape, said))):
        yield


PER_TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True, "observer": None}


def packed_config(**weights) -> dict:
    return compressed_settings("pack-quantized", weights)


def int_config(**more) -> dict:
    return compressed_settings("int-quantized", {}, activations=PER_TOKEN | more)


CASES = {
    "gptq": (gptq(Coded.random(1, 8, 64, 4, 32)), gptq_settings(4, 32)),
    "awq": (awq(Coded.random(1, 8, 64, 4, 32)), awq_settings(32)),
    "pack-quantized": (
        pack_quantized(Coded.random(1, 8, 64, 8, -1), symmetric=False),
        compressed_settings("pack-quantized", {"symmetric": False}),
    ),
    "int-quantized": (
        int_quantized(Coded.random(1, 8, 64, 8, -1), symmetric=False),
        compressed_settings("int-quantized", {"symmetric": False}, activations=PER_TOKEN),
    ),
}
