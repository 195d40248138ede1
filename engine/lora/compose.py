"""Several adapters' parts of one product become one change of it.

Each part, at full strength, makes another product of the base's: weight W_i and bias b_i in place of W and b. With the
strengths c_i the result has W + sum c_i (W_i - W) and b + sum c_i (b_i - b). For low-rank matrices that is the sum of
their products, exact; for the gains of IA3 and DoRA, which are factors of W's rows or columns, it is the gain
1 + sum c_i (g_i - 1); a weight that takes the place of W is added up in full. A strength of 0 is the base.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels import native
from ...kernels.embedding import Embedding, EmbeddingDelta
from ...kernels.linear import Linear
from ...kernels.lora import Delta, Piece
from ..errors import RequestError
from .adapter import Part, Places
from .base import image, squares


@dataclass(frozen=True, slots=True)
class Share:
    """One adapter's part with its strength. name: of the adapter, for messages."""

    part: Part
    strength: float
    name: str


@dataclass(frozen=True, slots=True)
class Target:
    """Where and in what kind the result is."""

    places: Places
    dtype: torch.dtype
    device: torch.device

    @property
    def halves(self) -> bool:
        """Whether matrices of 16 bits stay so: the kernels compute in float32 with them, as with the model's."""
        return native.serves(self.dtype, self.device)


@dataclass(slots=True)
class _Effect:
    """A part at full strength, float32 on the device (but for a and b that stay in 16 bits). At the rows
    [start, start + rows) of the product."""

    share: Share
    start: int
    rows: int
    a: Tensor | None = None  # [rank, in]
    b: Tensor | None = None  # [rows, rank], times the scale and the gain, but where `scale` is
    scale: float | None = None  # of b; a and b are as in the file, of 16 bits
    gain: Tensor | None = None  # [rows]
    gain_in: Tensor | None = None  # [in]
    whole: Tensor | None = None  # [rows, in]
    bias: Tensor | None = None  # [rows], what it adds to the base's bias

    @property
    def at(self) -> slice:
        return slice(self.start, self.start + self.rows)


def compose(
    product: Linear | Embedding, shares: Iterable[Share], target: Target
) -> tuple[Delta | EmbeddingDelta, int, int]:
    """The change that shares, all of one product, make in it; its largest rank; its bytes.

    Raises RequestError where they cannot be added up, or where a number gets too large for the model's dtype.
    """
    delta: Delta | EmbeddingDelta
    if isinstance(product, Embedding):
        delta, held, rank = _table(product, [_effect_on_table(product, s, target) for s in shares], target)
    else:
        delta, held, rank = _product(product, [_effect(product, s, target) for s in shares], target)
    return delta, rank, sum(t.numel() * t.element_size() for t in held)


def _effect(product: Linear, share: Share, target: Target) -> _Effect:
    part, place = share.part, share.part.place
    found = _Effect(share, place.start, place.rows or product.out_features)
    get = _getter(part, target)
    found.whole = get("weight")
    base_bias = None if product.bias is None else product.bias[found.at].float()
    if (bias := get("bias")) is not None:
        assert base_bias is not None
        found.bias = bias - base_bias
    if (inner := get("gain_in")) is not None:
        found.gain_in = inner.flatten()
    if (gain := get("gain")) is not None:
        found.gain = gain.flatten()
        if base_bias is not None:
            found.bias = (found.gain - 1) * base_bias
    if (extra := get("b_bias")) is not None:
        extra = extra * part.scale
        found.bias = extra if found.bias is None else found.bias + extra
    if target.halves and _in_halves(part):
        found.a, found.b, found.scale = part.tensors["a"], part.tensors["b"], part.scale
        return found
    found.a, b = get("a"), get("b")
    if found.a is None or b is None:
        return found
    found.b = b * part.scale
    if (magnitude := get("magnitude")) is not None:
        found.gain = magnitude / _norms(product, found, target)
        found.b = found.b * found.gain[:, None]
    return found


def _in_halves(part: Part) -> bool:
    """Whether its matrices are of 16 bits, and nothing but its scale multiplies them."""
    kinds = {part.tensors[role].dtype for role in ("a", "b") if role in part.tensors}
    return len(kinds) == 1 and kinds <= {torch.bfloat16, torch.float16} and "magnitude" not in part.tensors


def _norms(product: Linear, effect: _Effect, target: Target) -> Tensor:
    """The norms of the rows of W + BA [rows]: |w|^2 + 2 b A w^T + b A A^T b^T of each row."""
    a, b = effect.a, effect.b
    assert a is not None
    assert b is not None
    if effect.whole is None:
        own = squares(target.places, product)[effect.at]
        seen = image(product, a.to(target.dtype))[:, effect.at]
    else:
        own, seen = effect.whole.square().sum(1), a @ effect.whole.T
    return (own + 2 * (b * seen.T).sum(1) + ((b @ (a @ a.T)) * b).sum(1)).clamp_min(0).sqrt()


def _product(product: Linear, effects: list[_Effect], target: Target) -> tuple[Delta, list[Tensor], int]:
    gain, gain_in = _gains(product, effects)
    fold = any(e.whole is not None for e in effects)
    if gain is not None and gain_in is not None and not fold:
        first, second = (next(e.share for e in effects if getattr(e, k) is not None) for k in ("gain_in", "gain"))
        raise RequestError(
            f"adapter {first.name} changes the inputs of {first.part.module} by factors (IA3) and {second.name} the "
            f"outputs of {second.part.module} (IA3 or DoRA): these cannot be combined",
            param="adapters",
        )
    offset = _offset(product, effects, fold)
    held: list[Tensor] = []

    def cast(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        held.append(_finite(tensor.to(target.dtype), effects))
        return held[-1]

    whole = None
    if fold:
        weight = cast(_folded(product, effects))
        assert weight is not None
        whole, gain, gain_in = Linear(weight, product.bias), None, None
    pieces = []
    for (start, _), group in _by_place(effects).items():
        pieces.append(_piece(start, group, target))
        held += (t for t in (pieces[-1].a, pieces[-1].b, pieces[-1].scales) if t is not None)
    delta = Delta(
        whole=whole, gain_in=cast(gain_in), gain=cast(gain), offset=cast(offset), pieces=tuple(pieces)
    )  # fmt: skip
    return delta, held, max((p.a.shape[0] for p in pieces), default=0)


def _piece(start: int, group: list[_Effect], target: Target) -> Piece:
    """The low-rank parts of the same outputs, as one."""
    low = [(e, e.a, e.b) for e in group if e.a is not None and e.b is not None]
    if all(e.scale is not None for e in group) and len({a.dtype for _, a, _ in low}) == 1:
        a, b = torch.cat([a for _, a, _ in low]), torch.cat([b for *_, b in low], dim=1)
        scales = torch.cat([torch.full((len(a),), (e.scale or 0) * e.share.strength) for e, a, _ in low])
        return Piece(a, b, start, _finite(scales, group))
    a = torch.cat([a.float() for _, a, _ in low])
    b = torch.cat([b.float() * ((1 if e.scale is None else e.scale) * e.share.strength) for e, _, b in low], dim=1)
    return Piece(_finite(a.to(target.dtype), group), _finite(b.to(target.dtype), group), start)


def _gains(product: Linear, effects: list[_Effect]) -> tuple[Tensor | None, Tensor | None]:
    gain = gain_in = None
    for e in effects:
        if e.gain is not None:
            gain = e.gain.new_ones(product.out_features) if gain is None else gain
            gain[e.at] += e.share.strength * (e.gain - 1)
        if e.gain_in is not None:
            gain_in = torch.ones_like(e.gain_in) if gain_in is None else gain_in
            gain_in += e.share.strength * (e.gain_in - 1)
    return gain, gain_in


def _offset(product: Linear, effects: list[_Effect], folded: bool) -> Tensor | None:
    """What is added to y * gain, whose gain multiplies the base's bias as well, or to `whole`, whose gains do not."""
    offset = None
    for e in effects:
        change = e.bias
        if e.gain is not None and product.bias is not None and not folded:
            twice = (e.gain - 1) * product.bias[e.at].float()
            change = -twice if change is None else change - twice
        if change is not None:
            offset = change.new_zeros(product.out_features) if offset is None else offset
            offset[e.at] += e.share.strength * change
    return offset if offset is not None and offset.any() else None


def _folded(product: Linear, effects: list[_Effect]) -> Tensor:
    """The weight [out, in] with all but the low-rank parts in it."""
    only = effects[0] if len(effects) == 1 and effects[0].share.strength == 1 else None
    if only is not None and only.whole is not None and only.rows == product.out_features:
        return only.whole if only.gain is None else only.whole * only.gain[:, None]
    base = product.dense()
    total = base.clone()
    for e in effects:
        if e.whole is None and e.gain is None and e.gain_in is None:
            continue
        own = base[e.at] if e.whole is None else e.whole
        own = own if e.gain is None else own * e.gain[:, None]
        own = own if e.gain_in is None else own * e.gain_in
        total[e.at] = (
            own if e.share.strength == 1 and e is only else total[e.at] + e.share.strength * (own - base[e.at])
        )
    return total


def _effect_on_table(table: Embedding, share: Share, target: Target) -> _Effect:
    """The same for an embedding: a [rank, vocab] and b [width, rank], whole [vocab, width], gain [width]."""
    part = share.part
    found = _Effect(share, 0, table.width)
    get = _getter(part, target)
    found.whole, found.a, b = get("weight"), get("a"), get("b")
    if found.a is None or b is None:
        return found
    found.b = b * part.scale
    if (magnitude := get("magnitude")) is not None:
        weight = table.dense().float() if found.whole is None else found.whole
        found.gain = magnitude / (weight + (found.b @ found.a).T).norm(dim=0)
        found.b = found.b * found.gain[:, None]
    return found


def _table(table: Embedding, effects: list[_Effect], target: Target) -> tuple[EmbeddingDelta, list[Tensor], int]:
    gain = whole = a = b = None
    for e in effects:
        if e.gain is not None:
            gain = torch.ones_like(e.gain) if gain is None else gain
            gain += e.share.strength * (e.gain - 1)
    if any(e.whole is not None for e in effects):
        base = table.dense().float()
        whole = base.clone()
        for e in effects:
            own = base if e.whole is None else e.whole
            own = own if e.gain is None else own * e.gain
            alone = len(effects) == 1 and e.share.strength == 1
            whole = own if alone else whole + e.share.strength * (own - base)
        gain = None
    held: list[Tensor] = []

    def cast(tensor: Tensor | None) -> Tensor | None:
        if tensor is None:
            return None
        held.append(_finite(tensor.to(target.dtype), effects))
        return held[-1]

    low = [e for e in effects if e.a is not None and e.b is not None]
    if low:
        a = torch.cat([e.a for e in low if e.a is not None]).T.contiguous()
        b = torch.cat([e.b * e.share.strength for e in low if e.b is not None], dim=1).contiguous()
    delta = EmbeddingDelta(a=cast(a), b=cast(b), whole=cast(whole), gain=cast(gain))
    return delta, held, 0 if a is None else a.shape[1]


def _by_place(effects: list[_Effect]) -> dict[tuple[int, int], list[_Effect]]:
    groups: dict[tuple[int, int], list[_Effect]] = {}
    for e in effects:
        if e.a is not None and e.b is not None:
            groups.setdefault((e.start, e.rows), []).append(e)
    return groups


class _getter:
    """The tensors of a part, float32 on the device."""

    def __init__(self, part: Part, target: Target):
        self.part, self.device = part, target.device

    def __call__(self, role: str) -> Tensor | None:
        found = self.part.get(role)
        return None if found is None else found.to(self.device, torch.float32)


def _finite(tensor: Tensor, effects: list[_Effect]) -> Tensor:
    if not bool(torch.isfinite(tensor).all()):
        names = ", ".join(sorted({f"{e.share.name} (module {e.share.part.module})" for e in effects}))
        raise RequestError(
            f"adapter {names}: with its scale a number is not finite in {tensor.dtype}; expected smaller ones",
            param="adapters",
        )
    return tensor
