"""Several adapters as one: how their matrices are merged.

linear is the sum, exact (see compose.py). The others work on the matrices A and B each by itself, as peft's
add_weighted_adapter and LoRAX do, so that the result has the rank of one of them; it is not the merge of the products
BA. An adapter of weight w and scale s has sqrt(|w s|) of its A and of its B, the sign on A's side.

    ties         of each matrix the `density` of largest size are kept (trimming); of each element a sign is elected
                 and the mean is taken over those that have it (Yadav et al. 2023)
    dare_linear  of each element it is drawn whether it is kept, with probability `density`, and what is kept is
                 divided by it; then the sum (Yu et al. 2024)
    dare_ties    drawn like dare_linear, then elected and averaged like ties

majority: the sign is that of the sum ("total") or that of most ("frequency"). What is drawn depends on the adapter's
content, module and matrix alone: it is the same every time.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import RequestError
from ..messages import Merge
from .adapter import Part, Raw
from .compose import Share

WHY_NOT = {  # role -> the field that a part with it comes from
    "magnitude": "use_dora",
    "weight": "modules_to_save",
    "bias": "bias",
    "b_bias": "lora_bias",
    "gain": "peft_type",
    "gain_in": "peft_type",
}


def check(merge: Merge) -> None:
    """Raises RequestError for what no merge is, or what its kind has no use for."""
    if not (math.isfinite(merge.density) and 0 < merge.density <= 1):
        raise RequestError(f"density is {merge.density}; expected more than 0 and at most 1", param="density")
    if merge.kind == "linear" and merge.density != 1:
        raise RequestError(f"density is {merge.density}; expected 1 where the merge is linear", param="density")
    if merge.kind in ("linear", "dare_linear") and merge.majority != "total":
        raise RequestError(
            f"the majority is {merge.majority!r}; expected none for {merge.kind}, which elects no signs",
            param="majority",
        )


def shares(parts: Sequence[tuple[Raw, float]], merge: Merge) -> list[Share]:
    """The parts of all adapters, each with its strength; merged ones where the merge is not linear."""
    if merge.kind == "linear":
        return [Share(part, strength, raw.name) for raw, strength in parts for part in raw.parts]
    by_module: dict[str, list[tuple[Raw, Part, float]]] = {}
    for raw, weight in parts:
        for part in raw.parts:
            for role, field in WHY_NOT.items():
                if role in part.tensors:
                    raise RequestError(
                        f"adapter {raw.name} ({field}; module {part.module}) cannot be merged by {merge.kind}; "
                        "expected plain LoRA, or linear",
                        param="adapters",
                    )
            by_module.setdefault(part.module, []).append((raw, part, weight))
    return [_merged(members, merge) for members in by_module.values()]


def _merged(members: list[tuple[Raw, Part, float]], merge: Merge) -> Share:
    """One part of the same module of several adapters."""
    ranks = {part.tensors["a"].shape[0]: (raw, part) for raw, part, _ in members}
    if len(ranks) > 1:
        (r, (one, part)), (s, (two, _)), *_ = ranks.items()
        raise RequestError(
            f"adapter {one.name} has rank {r} in module {part.module} and {two.name} rank {s}; expected equal ranks "
            f"for {merge.kind} (linear takes any)",
            param="adapters",
        )
    strengths = [part.scale * weight for _, part, weight in members]
    device = members[0][0].device
    merged = {}
    for role in ("a", "b"):
        tensors = [part.tensors[role].to(device, torch.float32) for _, part, _ in members]
        if merge.kind == "ties":
            tensors = [trimmed(t, merge.density) for t in tensors]
        else:
            tensors = [
                drawn(t, merge.density, f"{raw.key}/{part.module}/{role}")
                for t, (raw, part, _) in zip(tensors, members, strict=True)
            ]
        factors = [math.sqrt(abs(s)) * (-1 if s < 0 and role == "a" else 1) for s in strengths]
        merged[role] = summed(tensors, factors) if merge.kind == "dare_linear" else elected(tensors, factors, merge)
    first = members[0][1]
    names = " + ".join(raw.name for raw, _, _ in members)
    return Share(Part(first.module, first.place, 1.0, merged), 1.0, names)


def trimmed(tensor: Tensor, density: float) -> Tensor:
    """The share `density` of the elements that are largest in size, the others 0."""
    if density >= 1:
        return tensor
    kept = tensor.abs().flatten().topk(int(density * tensor.numel())).indices
    found = torch.zeros_like(tensor)
    found.view(-1)[kept] = tensor.flatten()[kept]
    return found


def drawn(tensor: Tensor, density: float, seed: str) -> Tensor:
    """Each element kept with probability `density`, divided by it; else 0."""
    if density >= 1:
        return tensor
    number = int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=8).digest(), "little") >> 1
    kept = torch.rand(tensor.shape, generator=torch.Generator().manual_seed(number)) < density
    return torch.where(kept.to(tensor.device), tensor / density, torch.zeros_like(tensor))


def summed(tensors: list[Tensor], factors: list[float]) -> Tensor:
    total = torch.zeros_like(tensors[0])
    for tensor, factor in zip(tensors, factors, strict=True):
        total += tensor * factor
    return total


def elected(tensors: list[Tensor], factors: list[float], merge: Merge) -> Tensor:
    """The mean, of each element, over those that have the elected sign; with nobody's vote it is plus."""
    votes = summed([t.sign() if merge.majority == "frequency" else t for t in tensors], [1.0] * len(tensors))
    sign = torch.where(votes >= 0, 1.0, -1.0)
    total, count = torch.zeros_like(sign), torch.zeros_like(sign)
    for tensor, factor in zip(tensors, factors, strict=True):
        agrees = tensor.sign() == sign
        total += torch.where(agrees, tensor * factor, torch.zeros_like(tensor))
        count += agrees
    return total / count.clamp_min(1)
