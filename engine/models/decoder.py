"""The decoder that Llama, Mistral and Qwen share: RMSNorm, rotary attention, gated feed-forward, pre-normalized.

What sets the families apart is data, `Shape`; each family's module reads it from its config.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...kernels import native, ops
from ...kernels.lora import Rows
from ...kernels.triton import chosen
from ..attention import Attend, LayerSpec, Turn
from ..attention.native_ import Planned
from ..errors import ModelError
from ..weights import Weights
from .config import Fields
from .rope import make_rope

Windows = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Shape:
    """All that distinguishes one model of this kind from another."""

    vocab: int
    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_position: int
    eps: float
    activation: str
    tied: bool
    rope: Mapping[str, Any]
    theta: float
    windows: Windows  # of each layer
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False


def read_shape(fields: Fields, *, windows: Callable[[int], Windows] = lambda layers: (None,) * layers, **more) -> Shape:  # type: ignore[no-untyped-def]
    """What every family of this kind has in its config under the same names. windows: of as many layers. `more`: the
    family's own."""
    width, heads, layers = (fields.number(n) for n in ("hidden_size", "num_attention_heads", "num_hidden_layers"))
    kv_heads = fields.number("num_key_value_heads", heads)
    if heads % kv_heads:
        raise ModelError(f"config.json: num_key_value_heads is {kv_heads}; expected a divisor of the {heads} heads")
    head_dim = more.pop("head_dim", None) or fields.number("head_dim", width // heads)
    if head_dim % 2:
        raise ModelError(f"config.json: head_dim is {head_dim}; expected an even number, as dimensions turn in pairs")
    now, before = fields.object("rope_parameters"), fields.object("rope_scaling")
    return Shape(
        vocab=fields.number("vocab_size"),
        width=width,
        inner=fields.number("intermediate_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        max_position=fields.number("max_position_embeddings"),
        eps=fields.real("rms_norm_eps"),
        activation=fields.one_of("hidden_act", tuple(ops.ACTIVATIONS), "silu"),
        tied=fields.flag("tie_word_embeddings", more.pop("tied", False)),
        rope=before or now,  # as transformers takes them where a file has both
        theta=fields.real("rope_theta", 10000.0),
        windows=windows(layers),
        **more,
    )


AddedNorm = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, float], torch.Tensor]  # (x, residual, weight, eps)


@dataclass(slots=True)
class Layer:
    norm: ops.Norm
    qkv: ops.Linear
    q_norm: ops.Norm | None
    k_norm: ops.Norm | None
    out: ops.Linear
    mlp_norm: ops.Norm
    gate_up: ops.Linear
    down: ops.Linear


class Decoder:
    """A CausalLM. Takes every tensor from `weights`; `context` is the number of tokens that will be served."""

    in_torch = False

    def __init__(self, shape: Shape, weights: Weights, context: int | None):
        s = self.shape = shape
        self.dtype, self.device = weights.dtype, weights.device
        self.vocab_size, self.max_position, self.width = s.vocab, s.max_position, s.width
        self.rope = make_rope(
            s.rope,
            theta=s.theta,
            head_dim=s.head_dim,
            max_position=s.max_position,
            context=context or s.max_position,
            device=weights.device,
        )
        self.layers = [
            LayerSpec(s.heads, s.kv_heads, s.head_dim, s.head_dim**-0.5, window=window) for window in s.windows
        ]
        tied = s.tied and weights.tied("embed_tokens")
        self.embedding = weights.embedding("embed_tokens", (s.vocab, s.width), head=tied)
        self.blocks = [self._layer(weights, f"layers.{i}") for i in range(s.layers)]
        self.norm = weights.norm("norm", s.width, s.eps)
        self.gate = ops.Gate(s.activation)
        self.head = weights.tied_head(self.embedding) if tied else weights.linear(["lm_head"], s.width, [s.vocab])
        self.places = weights.places
        self._program: np.ndarray | None = None

    def _layer(self, weights: Weights, at: str) -> Layer:
        s = self.shape
        q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
        return Layer(
            norm=weights.norm(f"{at}.input_layernorm", s.width, s.eps),
            qkv=weights.linear([f"{at}.self_attn.{x}_proj" for x in "qkv"], s.width, [q, kv, kv], bias=s.qkv_bias),
            q_norm=weights.norm(f"{at}.self_attn.q_norm", s.head_dim, s.eps) if s.qk_norm else None,
            k_norm=weights.norm(f"{at}.self_attn.k_norm", s.head_dim, s.eps) if s.qk_norm else None,
            out=weights.linear([f"{at}.self_attn.o_proj"], q, [s.width], bias=s.out_bias),
            mlp_norm=weights.norm(f"{at}.post_attention_layernorm", s.width, s.eps),
            gate_up=weights.linear(
                [f"{at}.mlp.gate_proj", f"{at}.mlp.up_proj"], s.width, [s.inner, s.inner], bias=s.mlp_bias
            ),
            down=weights.linear([f"{at}.mlp.down_proj"], s.inner, [s.width], bias=s.mlp_bias),
        )

    def forward(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        attend: Attend,
        rows: Rows | None = None,
        wanted: torch.Tensor | None = None,
        taps: dict[int, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """As every CausalLM. taps: layers, each gets what enters it, [T, width].

        Of rows that are not wanted the last layer computes keys and values only, where no row has an adapter."""
        s = self.shape
        if rows is not None and wanted is not None:
            return self.forward(tokens, positions, attend, rows, taps=taps)[wanted]
        cos, sin = self.rope.angles(positions, self.dtype)
        x = self.embedding(tokens, rows)
        if (
            isinstance(attend, Planned)
            and taps is None
            and (program := self._in_one_call()) is not None
            and (adapters := self._adapters(rows)) is not None
        ):
            changed = (adapters.ctypes.data, rows.address) if rows is not None else (0, 0)
            wanted = None if wanted is None else wanted.contiguous()
            asked = (0, -1) if wanted is None else (wanted.data_ptr(), len(wanted))
            native.kernels().decoder(
                program.ctypes.data, len(program), native.address(attend.attentions), native.address(attend.steps),
                cos.data_ptr(), sin.data_ptr(), cos.shape[-1], x.data_ptr(), s.width, *asked, *changed,
            )  # fmt: skip
            return self.norm(x if wanted is None else x[: len(wanted)])
        if self._added is not None:
            return self._by_sums(self._added, x, attend, Turn(cos, sin), rows, wanted, taps)
        for i, layer in enumerate(self.blocks):
            if taps is not None and i in taps:
                taps[i] = x
            qkv = layer.qkv(x, rows, before=layer.norm).view(-1, s.heads + 2 * s.kv_heads, s.head_dim)
            q, k, v = qkv.split([s.heads, s.kv_heads, s.kv_heads], dim=1)
            mixed = attend(i, q, k, v, Turn(cos, sin, layer.q_norm, layer.k_norm))
            if wanted is not None and i + 1 == s.layers:
                mixed, x = mixed[wanted], x[wanted]
                if not len(x):
                    return x
            x = layer.out(mixed.reshape(-1, s.heads * s.head_dim), rows, add=x)
            x = layer.down(layer.gate_up(x, rows, before=layer.mlp_norm), rows, before=self.gate, add=x)
        return self.norm(x)

    def _by_sums(
        self,
        added: AddedNorm,
        x: torch.Tensor,
        attend: Attend,
        turn: Turn,
        rows: Rows | None,
        wanted: torch.Tensor | None,
        taps: dict[int, torch.Tensor] | None,
    ) -> torch.Tensor:
        """The loop of `forward` where a product does not add and a kernel adds and norms: to the bit the same, in two
        launches less a layer. x is added to in place."""
        s = self.shape
        more: torch.Tensor | None = None
        for i, layer in enumerate(self.blocks):
            normed = layer.norm(x) if more is None else added(more, x, layer.norm.weight, layer.norm.eps)
            if taps is not None and i in taps:
                taps[i] = x.clone()
            qkv = layer.qkv(normed, rows).view(-1, s.heads + 2 * s.kv_heads, s.head_dim)
            q, k, v = qkv.split([s.heads, s.kv_heads, s.kv_heads], dim=1)
            mixed = attend(i, q, k, v, Turn(turn.cos, turn.sin, layer.q_norm, layer.k_norm))
            if wanted is not None and i + 1 == s.layers:
                mixed, x = mixed[wanted], x[wanted]
                if not len(x):
                    return x
            more = layer.out(mixed.reshape(-1, s.heads * s.head_dim), rows)
            normed = added(more, x, layer.mlp_norm.weight, layer.mlp_norm.eps)
            more = layer.down(layer.gate_up(normed, rows), rows, before=self.gate)
        return self.norm(x) if more is None else added(more, x, self.norm.weight, self.norm.eps)

    @property
    def _added(self) -> AddedNorm | None:
        """The kernel that adds and norms; None where a product adds by itself, or torch norms."""
        if self.blocks[0].out.adds:
            return None
        kernel = chosen.kernel("norm", self.dtype, self.device)
        return None if kernel is None else kernel.add_rms_norm

    def _in_one_call(self) -> np.ndarray | None:
        """int64 [layers, 13], the DecoderLayer of each (kernels/cpu/decoder.h); None where a product is not native. The
        loop of `forward` is the same to the bit, and knows of taps and of all that adapters do."""
        if self._program is None:
            lines = []
            for layer in self.blocks:
                matrices = [p.matrix for p in (layer.qkv, layer.out, layer.gate_up, layer.down)]
                norms = (layer.norm, layer.mlp_norm, layer.q_norm, layer.k_norm)
                lines.append([
                    *(number for norm in norms for number in ((0, 0) if norm is None else norm.numbers[:2])),
                    *(0 if matrix is None or matrix.order is not None else matrix.address for matrix in matrices),
                    self.gate.numbers[2],
                ])  # fmt: skip
            program = np.array(lines, dtype=np.int64)
            self._program = program if program[:, 8:12].all() else program[:0]
        return self._program if len(self._program) else None

    def _adapters(self, rows: Rows | None) -> np.ndarray | None:
        """int64 [layers, 8], the DecoderAdapters of each; empty for no rows. None where C++ does not know all of it."""
        lines: list[tuple[int, int]] = []
        if rows is None:
            return np.array(lines, dtype=np.int64)
        for layer in self.blocks:
            for product in (layer.qkv, layer.out, layer.gate_up, layer.down):
                added = (0, 0) if product.deltas is None else product.deltas.added(rows)
                if added is None:
                    return None
                lines.append(added)
        return np.array(lines, dtype=np.int64)

    def logits(self, hidden: torch.Tensor, rows: Rows | None = None) -> torch.Tensor:
        """hidden [S, width] -> float32 [S, vocab]."""
        return self.head(hidden, rows).float()
