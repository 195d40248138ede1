"""The network: Llama in plain PyTorch, under the names that transformers gives its parameters.

A step takes whole documents of any length, one behind the other in one line of tokens. Each starts at position 0 and
sees none of the others. Those of equal length stand together, so on a CPU attention is over plain [documents, length]
views, and needs no mask but the causal one; a GPU takes all of them in one launch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention.varlen import varlen_attn

from .presets import EPS, THETA, Shape

Segments = tuple[tuple[int, int], ...]
IGNORED = -1  # a target that is not trained on
_CHUNK, _CHUNK_GPU = 1024, 16_384  # rows of logits that exist at once: what a CPU's cache holds; few launches


@dataclass(frozen=True, slots=True)
class _Line:
    """Where the documents stand. cos, sin [N, 1, head_dim / 2]; ends [documents + 1] int32: where each begins, and the
    end of the last, where attention is in one launch."""

    segments: Segments
    cos: torch.Tensor
    sin: torch.Tensor
    ends: torch.Tensor | None = None

    @classmethod
    def of(cls, segments: Segments, head_dim: int, device: torch.device) -> _Line:
        places = torch.cat([torch.arange(length).repeat(count) for count, length in segments]).to(device)
        inv_freq = THETA ** (-torch.arange(0, head_dim, 2, device=device) / head_dim)
        turns = places[:, None, None] * inv_freq
        ends = None
        if device.type == "cuda" and torch.is_autocast_enabled("cuda"):
            lengths = torch.tensor([length for count, length in segments for _ in range(count)])
            ends = torch.cat((torch.zeros(1, dtype=torch.int64), lengths.cumsum(0))).to(device, torch.int32)
        return cls(segments, turns.cos(), turns.sin(), ends)


class Llama(nn.Module):
    """Token ids -> hidden states; `loss` takes them on to the tied head."""

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        self.model = _Body(shape)
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)  # a new layer begins as no change
            elif name.endswith("_proj.weight"):
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
            elif parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: torch.Tensor, segments: Segments) -> torch.Tensor:
        """tokens [N] -> hidden [N, width]. segments: (documents, length) of each run of documents of equal length."""
        return self.model(tokens, _Line.of(segments, self.shape.head_dim, tokens.device))

    def loss(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy where targets [N] are not IGNORED."""
        trained = targets != IGNORED
        return _HeadLoss.apply(hidden[trained], self.model.embed_tokens.weight, targets[trained])

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, self.model.embed_tokens.weight)


class _Body(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.width)
        self.layers = nn.ModuleList(_Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, EPS)

    def forward(self, tokens: torch.Tensor, line: _Line) -> torch.Tensor:
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, line)
        return self.norm(x)


class _Layer(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.width, EPS)
        self.self_attn = _Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.width, EPS)
        self.mlp = _Mlp(shape)

    def forward(self, x: torch.Tensor, line: _Line) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), line)
        return x + self.mlp(self.post_attention_layernorm(x))


class _Attention(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.shape = shape
        q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.width, q, bias=False)
        self.k_proj = nn.Linear(shape.width, kv, bias=False)
        self.v_proj = nn.Linear(shape.width, kv, bias=False)
        self.o_proj = nn.Linear(q, shape.width, bias=False)

    def forward(self, x: torch.Tensor, line: _Line) -> torch.Tensor:
        dim = self.shape.head_dim
        q, k, v = (p(x).view(len(x), -1, dim) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k = _rotated(q, line), _rotated(k, line)
        group = self.shape.heads // self.shape.kv_heads
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        if line.ends is not None:
            longest = max(length for _, length in line.segments)
            whole = varlen_attn(q, k, v, line.ends, line.ends, longest, longest, window_size=(-1, 0))
            assert isinstance(whole, torch.Tensor)
            return self.o_proj(whole.flatten(1))
        sizes = [count * length for count, length in line.segments]
        mixed = []
        for (count, length), *parts in zip(line.segments, q.split(sizes), k.split(sizes), v.split(sizes), strict=True):
            heads = [part.view(count, length, -1, dim).transpose(1, 2) for part in parts]
            mixed.append(_attention(*heads).transpose(1, 2).reshape(count * length, -1))
        return self.o_proj(torch.cat(mixed))


class _Mlp(nn.Module):
    def __init__(self, shape: Shape):
        super().__init__()
        self.gate_proj = nn.Linear(shape.width, shape.inner, bias=False)
        self.up_proj = nn.Linear(shape.width, shape.inner, bias=False)
        self.down_proj = nn.Linear(shape.inner, shape.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


def _rotated(x: torch.Tensor, line: _Line) -> torch.Tensor:
    """x [N, heads, head_dim]; the two halves of a head are the two coordinates that turn."""
    cos, sin = line.cos.to(x.dtype), line.sin.to(x.dtype)
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention over [documents, heads, length, head_dim].

    In bfloat16 on a CPU the plain products were measured at 3 times the speed of torch's fused kernel (length 176).
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    future = torch.full((q.shape[2], q.shape[2]), -torch.inf, dtype=q.dtype).triu(1)
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + future).softmax(-1) @ v


class _HeadLoss(torch.autograd.Function):
    """Head and cross-entropy in one, a chunk of rows at a time: the gradient of a chunk is made while its logits are
    in the cache, and all the logits of a step never exist together. The idea is Liger's fused linear cross-entropy
    (Hsu et al. 2024)."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """hidden [N, width], head [vocab, width], targets [N] -> mean loss."""
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        weight, count = head.to(dtype), max(1, len(targets))
        hidden_grad = torch.empty_like(hidden)
        head_grad = torch.zeros_like(head)
        total = torch.zeros((), device=hidden.device)
        chunk = _CHUNK if device == "cpu" else _CHUNK_GPU
        with torch.autocast(device, enabled=False):
            for at in range(0, len(targets), chunk):
                rows, wanted = hidden[at : at + chunk].to(dtype), targets[at : at + chunk, None]
                grad = (rows @ weight.T).float()  # logits first, then in place what comes of them
                said, top = grad.gather(1, wanted), grad.amax(1, keepdim=True)
                mass = grad.sub_(top).exp_().sum(1, keepdim=True)
                total += (mass.log() + top - said).sum()
                grad.div_(mass * count).scatter_add_(1, wanted, torch.full_like(mass, -1.0 / count))
                low = grad.to(dtype)
                hidden_grad[at : at + chunk] = low @ weight
                head_grad += low.T @ rows
        ctx.save_for_backward(hidden_grad, head_grad)
        return total / count

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        hidden_grad, head_grad = ctx.saved_tensors
        return hidden_grad * grads[0], head_grad * grads[0], None
