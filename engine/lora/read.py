"""From a folder to host memory (`read`), and from there to the device (`ready`).

Only adapter_config.json and adapter_model.safetensors are opened. Both functions may run in any thread, several at
once, and hold the GIL for no longer than the head of a file takes.
"""

from __future__ import annotations

import hashlib
import importlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ...kernels.embedding import Embedding
from ...kernels.linear import Linear
from ..errors import RequestError
from ..messages import Merge
from . import READERS
from . import merge as merging
from .adapter import Adapter, Part, Place, Places, Raw
from .base import same
from .compose import Target, compose
from .config import NAME, Fields, read_config, refuse
from .plan import Found, Wanted, check
from .tensors import TensorFile

LINEAR = Merge()
WEIGHTS = "adapter_model.safetensors"
PICKLES = ("adapter_model.bin", "adapter_model.pt", "adapter_model.pth", "adapter_model.ckpt")


def read(folder: Path, places: Places, base: str, dtype: torch.dtype, device: torch.device, max_rank: int) -> Raw:
    """The adapter in a folder, checked against the model, in host memory in the dtype of its file.

    base: the fingerprint of the model's weights. dtype, device: the model's. Raises RequestError with the field or
    "path" as its param, naming the field, tensor or file, what was found and what was expected.
    """
    if not folder.is_dir():
        raise RequestError(f"{folder.name}: no such folder; expected one with {NAME} and {WEIGHTS}", param="path")
    fields = Fields(read_config(folder))
    kind = fields.take("peft_type")
    if not isinstance(kind, str) or kind not in READERS:
        raise refuse("peft_type", kind, f"one of {', '.join(READERS)}")
    reader = importlib.import_module(f".{READERS[kind]}", __package__)
    with _open(folder) as file:
        found = Found(file.entries, reader.ROLES, places)
        wanted: dict[str, Wanted] = reader.plan(fields, found, places, max_rank)
        fields.finish()
        check(found, wanted)
        tensors = {
            name: _sound(name, file.read(name)) for name in sorted(file.entries, key=lambda n: file.entries[n].start)
        }
    parts = {}
    for module in sorted(found.names):
        held = {role: tensors[name] for role, name in found.names[module].items()}
        if "weight" in held and places[module].transposed:
            held["weight"] = held["weight"].T
        parts[module] = Part(module, places[module], wanted[module].scale, held)
    _replace_base(parts, places, dtype)
    ranks = [part.tensors["a"].shape[0] for part in parts.values() if "a" in part.tensors]
    held_bytes = sum(t.numel() * t.element_size() for part in parts.values() for t in part.tensors.values())
    return Raw(
        key=_content(parts, kind, base),
        name=folder.name,
        kind=kind,
        parts=tuple(parts.values()),
        rank=max(ranks, default=0),
        bytes=held_bytes,
        base_name=fields.base_name,
        places=places,
        dtype=dtype,
        device=device,
    )


def ready(parts: Sequence[tuple[Raw, float]], merge: Merge = LINEAR) -> Adapter:
    """One adapter, or several as one, on the device. parts: each with the scale that the request gives it.

    What a scale is: compose.py; what a merge is: merge.py. Equal content has an equal key, whatever the order of the
    parts. Raises RequestError where a scale is no number or the adapters cannot be merged.
    """
    if not parts:
        raise RequestError("no adapter is given; expected one or more", param="adapters")
    for raw, scale in parts:
        if not math.isfinite(scale) or abs(scale) > 1e6:
            raise RequestError(f"adapter {raw.name}: scale is {scale}; expected a number up to 1e6", param="adapters")
    merging.check(merge)
    first, kinds = parts[0][0], sorted({raw.kind for raw, _ in parts})
    target = Target(first.places, first.dtype, first.device)
    parts = sorted(_added(parts) if merge.kind == "linear" else parts, key=lambda part: (part[0].key, part[1]))
    by_product: dict[int, tuple[Linear | Embedding, list[merging.Share]]] = {}
    for share in merging.shares(parts, merge):
        if share.strength:
            product = share.part.place.product
            by_product.setdefault(id(product), (product, []))[1].append(share)
    composed = [(product, *compose(product, shares, target)) for product, shares in by_product.values()]
    return Adapter(
        key=_together(parts, merge),
        changes=tuple((product, delta) for product, delta, _, _ in composed),
        rank=max((rank for _, _, rank, _ in composed), default=0),
        bytes=sum(size for _, _, _, size in composed),
        kind=" + ".join(kinds),
        base_name=first.base_name,
    )


def _open(folder: Path) -> TensorFile:
    path = folder / WEIGHTS
    if not path.exists():
        pickles = [name for name in PICKLES if (folder / name).exists()]
        if pickles:
            raise RequestError(
                f"{pickles[0]} is a pickle file, which can run any code when it is opened, so it is not; expected "
                f"{WEIGHTS} (peft writes it by default)",
                param="path",
            )
        raise RequestError(f"{folder.name} has no {WEIGHTS}; expected one", param="path")
    return TensorFile(path)


def _sound(name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not bool(torch.isfinite(tensor).all()):
        bad = int(tensor.numel() - torch.isfinite(tensor).sum())
        raise RequestError(
            f"tensor {name} has {bad} numbers that are infinite or none (NaN); expected finite ones", param="path"
        )
    return tensor


def _replace_base(parts: dict[str, Part], places: Places, dtype: torch.dtype) -> None:
    """Weights of the base beside an adapter: nothing where they are the base's, else they replace it, also if tied."""
    for module in list(parts):
        held = dict(parts[module].tensors)
        given = held.pop("base", None)
        if given is None:
            continue
        place = places[module]
        if not same(_weight(place, dtype), given):
            held["weight"] = given
            for twin in places.twins(module):
                own = parts.get(twin, Part(twin, places[twin], 1.0, {}))
                if "weight" not in own.tensors and "base" not in own.tensors:
                    parts[twin] = Part(twin, own.place, own.scale, {**own.tensors, "weight": given})
        parts[module] = Part(module, place, parts[module].scale, held)
    for module in [module for module, part in parts.items() if not part.tensors]:
        del parts[module]


def _weight(place: Place, dtype: torch.dtype) -> torch.Tensor:
    """The base's weight of a module, in the model's dtype."""
    if isinstance(place.product, Embedding):
        return place.product.dense()
    found = place.product.dense().to(dtype)
    return found[place.start : place.start + (place.rows or place.product.out_features)]


def _content(parts: Mapping[str, Part], kind: str, base: str) -> str:
    """A hash of all that decides what the adapter does: names, kinds, shapes, bytes, scales, and the base."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr(("quire adapter", kind, base)).encode())
    for module in sorted(parts):
        part = parts[module]
        digest.update(repr((module, float(part.scale).hex() if "a" in part.tensors else "")).encode())
        for role in sorted(part.tensors):
            tensor = part.tensors[role].contiguous()
            digest.update(repr((role, str(tensor.dtype), tuple(tensor.shape))).encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _added(parts: Sequence[tuple[Raw, float]]) -> list[tuple[Raw, float]]:
    """Equal content once, with the sum of its scales; nothing of scale 0."""
    scales: dict[str, float] = {}
    raws = {raw.key: raw for raw, _ in parts}
    for raw, scale in sorted(parts, key=lambda part: part[1]):
        scales[raw.key] = scales.get(raw.key, 0.0) + scale
    return [(raws[key], scale) for key, scale in scales.items() if scale]


def _together(parts: Sequence[tuple[Raw, float]], merge: Merge) -> str:
    """The key of parts with scales: of one as it is, its own."""
    if len(parts) == 1 and parts[0][1] == 1 and merge.kind == "linear":
        return parts[0][0].key
    what = [(raw.key, float(scale).hex()) for raw, scale in parts]
    how = (merge.kind, float(merge.density).hex(), merge.majority)
    return hashlib.blake2b(repr(("quire adapters", what, how)).encode(), digest_size=16).hexdigest()
