"""Model families: one small file each, holding a class `Model`. A family is a line in FAMILIES.

A Model takes its tensors from `Weights` by name in its constructor and computes with `Attend`; it knows no cache.
"""

from __future__ import annotations

from typing import Protocol

import torch

from ...kernels.lora import Rows
from ..attention import Attend, LayerSpec
from ..lora.adapter import Places

FAMILIES = {  # architecture of config.json -> module of this folder
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "GPT2LMHeadModel": "gpt2",
}  # any other causal LM of transformers runs through fallback.py


class CausalLM(Protocol):
    """What the runner asks of a model."""

    layers: list[LayerSpec]
    vocab_size: int
    max_position: int  # tokens
    width: int  # of the hidden states that `logits` takes
    dtype: torch.dtype
    in_torch: bool  # whether most of its arithmetic is torch's, also where the C++ kernels serve
    weight_bytes: int  # of the parameters, set by load_model
    kinds: str  # that products hold their weights in, set by load_model
    device: torch.device
    places: Places  # the products that adapters may change

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        attend: Attend,
        rows: Rows | None = None,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """tokens [T] int64, positions [T] int64 -> hidden [T, hidden] after the last norm.

        rows: which rows run with which adapter; None: all are the base's. wanted [S] int64, ascending: the rows whose
        hidden states are given, [S, hidden]; None: all. Of the others keys and values are written.
        """
        ...

    def logits(self, hidden: torch.Tensor, rows: Rows | None = None) -> torch.Tensor:
        """hidden [S, hidden] -> float32 [S, vocab_size]. rows: of these S."""
        ...
