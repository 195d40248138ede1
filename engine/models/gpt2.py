"""GPT-2: learned positions, LayerNorm, one matrix for query, key and value, weights stored [in, out]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...kernels import ops
from ...kernels.lora import Rows
from ..attention import Attend, LayerSpec
from ..errors import ModelError
from ..weights import Weights
from .config import Fields

PREFIX = "transformer."
HARMLESS = (".attn.bias", ".attn.masked_bias")


@dataclass(frozen=True, slots=True)
class Shape:
    vocab: int
    width: int
    inner: int
    layers: int
    heads: int
    max_position: int
    eps: float
    activation: str
    tied: bool
    scaled: bool
    by_layer: bool


def shape(config: Mapping[str, Any]) -> Shape:
    fields = Fields(config)
    width, heads = fields.number("n_embd"), fields.number("n_head")
    if width % heads:
        raise ModelError(f"config.json: n_head is {heads}; expected a divisor of n_embd, which is {width}")
    fields.one_of("reorder_and_upcast_attn", (False,), False)
    fields.one_of("add_cross_attention", (False,), False)
    fields.any("hidden_size"), fields.any("max_position_embeddings")  # other names some writers add for the same
    found = Shape(
        vocab=fields.number("vocab_size"),
        width=width,
        inner=fields.number("n_inner", 4 * width),
        layers=fields.number("n_layer"),
        heads=heads,
        max_position=fields.number("n_positions"),
        eps=fields.real("layer_norm_epsilon", 1e-5),
        activation=fields.one_of("activation_function", tuple(ops.ACTIVATIONS), "gelu_new"),
        tied=fields.flag("tie_word_embeddings", True),
        scaled=fields.flag("scale_attn_weights", True),
        by_layer=fields.flag("scale_attn_by_inverse_layer_idx", False),
    )
    fields.finish()
    return found


@dataclass(slots=True)
class Layer:
    norm: tuple[torch.Tensor, torch.Tensor]
    qkv: ops.Linear
    out: ops.Linear
    mlp_norm: tuple[torch.Tensor, torch.Tensor]
    up: ops.Linear
    down: ops.Linear


class Model:
    """A CausalLM."""

    in_torch = False

    def __init__(self, shape: Shape, weights: Weights, context: int | None):
        s = self.shape = shape
        self.dtype, self.device = weights.dtype, weights.device
        self._layer_norm = ops.layer_norm_on(weights.dtype, weights.device)
        self.vocab_size, self.max_position, self.width = s.vocab, s.max_position, s.width
        head_dim = s.width // s.heads
        scale = head_dim**-0.5 if s.scaled else 1.0
        self.layers = [
            LayerSpec(s.heads, s.heads, head_dim, scale / (i + 1 if s.by_layer else 1)) for i in range(s.layers)
        ]
        tied = s.tied and weights.tied("wte")
        self.embedding = weights.embedding("wte", (s.vocab, s.width), head=tied)
        self.positions = weights.tensor("wpe.weight", (s.max_position, s.width))
        self.blocks = [self._layer(weights, f"h.{i}") for i in range(s.layers)]
        self.norm = self._norm(weights, "ln_f")
        self.head = weights.tied_head(self.embedding) if tied else weights.linear(["lm_head"], s.width, [s.vocab])
        self.places = weights.places

    def _norm(self, weights: Weights, at: str) -> tuple[torch.Tensor, torch.Tensor]:
        return weights.tensor(f"{at}.weight", (self.shape.width,)), weights.tensor(f"{at}.bias", (self.shape.width,))

    def _layer(self, weights: Weights, at: str) -> Layer:
        s = self.shape

        def linear(name: str, inputs: int, outputs: int) -> ops.Linear:
            return weights.linear([f"{at}.{name}"], inputs, [outputs], bias=True, transposed=True)

        return Layer(
            norm=self._norm(weights, f"{at}.ln_1"),
            qkv=linear("attn.c_attn", s.width, 3 * s.width),
            out=linear("attn.c_proj", s.width, s.width),
            mlp_norm=self._norm(weights, f"{at}.ln_2"),
            up=linear("mlp.c_fc", s.width, s.inner),
            down=linear("mlp.c_proj", s.inner, s.width),
        )

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        attend: Attend,
        rows: Rows | None = None,
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As every CausalLM."""
        s = self.shape
        activate = ops.ACTIVATIONS[s.activation]
        x = self.embedding(tokens, rows) + self.positions[positions]
        for i, layer in enumerate(self.blocks):
            qkv = layer.qkv(self._layer_norm(x, *layer.norm, s.eps), rows).view(-1, 3, s.heads, s.width // s.heads)
            mixed = attend(i, qkv[:, 0], qkv[:, 1], qkv[:, 2])
            x = layer.out(mixed.reshape(-1, s.width), rows, add=x)
            x = layer.down(activate(layer.up(self._layer_norm(x, *layer.mlp_norm, s.eps), rows)), rows, add=x)
        return self._layer_norm(x if wanted is None else x[wanted], *self.norm, s.eps)

    def logits(self, hidden: torch.Tensor, rows: Rows | None = None) -> torch.Tensor:
        """hidden [S, width] -> float32 [S, vocab]."""
        return self.head(hidden, rows).float()
