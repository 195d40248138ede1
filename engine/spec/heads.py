"""Medusa heads (Cai et al. 2024): small layers on the model's last hidden state, each of which says a token further on.

Head n says what stands n + 2 places behind the token whose hidden state it sees; the next one the model has sampled
itself. No head knows what the others say, so their likeliest tokens are put together to a tree.
"""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.nn import functional

from ..attention import LayerSpec
from ..errors import ConfigError
from ..models import CausalLM
from ..plan import Outcome, Slice
from ..sequence import Sequence
from .maker import FIELD, Drafts, States, Want

RANKS = 8  # tokens of a head that are looked at
NAMES = (  # head, layer or none for the last product, weight or bias: as the authors save them, and as vLLM does
    r"(?:medusa_heads?\.)?(?P<head>\d+)\.(?P<layer>\d+)(?P<inner>\.linear)?\.(?P<what>weight|bias)",
    r"(?:medusa_heads?\.)?blocks\.(?P<head>\d+)\.layers\.(?P<layer>\d+)\.(?P<what>weight|bias)",
    r"(?:medusa_heads?\.)?lm_heads\.(?P<head>\d+)\.(?P<what>weight)",
)
KEEP = 0.8  # of what is known of the price


@dataclass(frozen=True, slots=True)
class Head:
    """x -> x + silu(W x + b), layer by layer, then `out`."""

    layers: list[tuple[torch.Tensor, torch.Tensor | None]]  # [width, width] and [width]
    out: torch.Tensor  # [vocab, width]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [S, width] -> [S, vocab]."""
        for weight, bias in self.layers:
            x = x + functional.silu(functional.linear(x, weight, bias))
        return functional.linear(x, self.out)


class Heads:
    name = "medusa"
    taps: tuple[int, ...] = ()

    def __init__(self, heads: list[Head]):
        self.layers: list[LayerSpec] = []
        self._heads = heads
        self._seconds = 0.0  # that a sequence takes

    def open(self, pages: int, backend: ModuleType) -> None:
        """It needs none."""

    def read(self, slices: Seq[Slice], outcomes: Seq[Outcome], states: States) -> None:
        """What it needs comes with each wish."""

    def room(self, seq: Sequence, new: list[int], count: int) -> int:
        return count

    def price(self, sequences: int) -> float:
        return 0.0  # a further draft is but read off

    def entry(self, seq: Sequence) -> float:
        return self._seconds

    @torch.inference_mode()
    def draft(self, wanted: Seq[Want]) -> list[Drafts]:
        due = [(n, want.hidden) for n, want in enumerate(wanted) if want.hidden is not None]
        found = [Drafts([]) for _ in wanted]
        if not due:
            return found
        began = time.perf_counter()
        hidden = torch.stack([row for _, row in due])
        ranks = min(RANKS, self._heads[0].out.shape[0])
        chances, tokens = zip(*(head(hidden).float().softmax(-1).topk(ranks) for head in self._heads), strict=True)
        ranked = torch.stack(chances, 1).tolist(), torch.stack(tokens, 1).tolist()  # [S, heads, RANKS]
        for (n, _), p, said in zip(due, *ranked, strict=True):
            found[n] = tree(p, said, wanted[n].count, line=wanted[n].line)
        seconds = (time.perf_counter() - began) / len(due)
        self._seconds = KEEP * self._seconds + (1 - KEEP) * seconds if self._seconds else seconds
        return found

    def forget(self, ids: Seq[str]) -> None:
        """Nothing is remembered."""


def tree(chances: list[list[float]], tokens: list[list[int]], count: int, *, line: bool = False) -> Drafts:
    """The `count` likeliest paths, if heads know nothing of each other. chances, tokens [heads, ranks], those of a head
    in falling order. line: only the likeliest token of each head."""
    found: list[int] = []
    parents: list[int] = []
    # A node is its chance, its parent, its depth and its rank. Its next sibling and its first child are less likely, so
    # they wait until it is taken.
    waiting = [(-chances[0][0], -1, 0, 0)]
    while waiting and len(found) < count:
        chance, parent, depth, rank = heapq.heappop(waiting)
        found.append(tokens[depth][rank])
        parents.append(parent)
        if rank + 1 < len(tokens[depth]) and not line:
            sibling = chance / chances[depth][rank] * chances[depth][rank + 1] if chances[depth][rank] else 0.0
            heapq.heappush(waiting, (sibling, parent, depth, rank + 1))
        if depth + 1 < len(tokens):
            heapq.heappush(waiting, (chance * chances[depth + 1][0], len(found) - 1, depth + 1, 0))
    straight = parents == list(range(-1, len(parents) - 1))
    return Drafts(found, () if straight else tuple(parents))


def load(folder: Path, target_folder: Path, target: CausalLM) -> Heads:
    """The heads of `folder` (safetensors), in the dtype and on the device of `target`.

    Raises ConfigError where they are for a model of another width or vocabulary, or are no Medusa heads.
    """
    parts: dict[int, dict[tuple[int, str], torch.Tensor]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ConfigError(FIELD, f"has heads that cannot be read: {path}: {error}", "a safetensors file") from None
        for name, tensor in tensors.items():
            match = next((m for m in (re.fullmatch(pattern, name) for pattern in NAMES) if m), None)
            if match is None:
                raise ConfigError(FIELD, f"has heads with a tensor {name!r} ({path})", "the names of Medusa heads")
            part = match.groupdict()
            last = part.get("layer") is None or ("inner" in part and part["inner"] is None)
            place = -1 if last else int(part["layer"])
            parts.setdefault(int(part["head"]), {})[place, part["what"]] = tensor.to(target.device, target.dtype)
    if not parts:
        raise ConfigError(FIELD, f"has {folder}, which holds no heads", "a folder of Medusa heads, in safetensors")
    return Heads([_head(parts.get(n, {}), f"head {n} of {folder}", target) for n in range(len(parts))])


def _head(parts: dict[tuple[int, str], torch.Tensor], what: str, target: CausalLM) -> Head:
    vocab, width = target.vocab_size, target.width
    out = parts.get((-1, "weight"))
    if out is None:
        raise ConfigError(FIELD, f"has heads of which {what} has no last product", "all heads from 0 on, each with one")
    if out.shape != (vocab, width):
        found = f"has heads of which {what} has a last product of {tuple(out.shape)}"
        raise ConfigError(FIELD, found, f"{(vocab, width)}: the model's vocabulary and width")
    layers = []
    for n in range(sum(what == "weight" for _, what in parts) - 1):
        weight, bias = parts.get((n, "weight")), parts.get((n, "bias"))
        if weight is None or weight.shape != (width, width) or (bias is not None and bias.shape != (width,)):
            shape = "missing" if weight is None else tuple(weight.shape)
            raise ConfigError(FIELD, f"has heads of which layer {n} of {what} is {shape}", f"{(width, width)}")
        layers.append((weight, bias))
    return Head(layers, out)
