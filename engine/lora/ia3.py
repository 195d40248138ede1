"""IA3 (Liu et al. 2022): outputs, or the inputs of a feed-forward layer, times a learned vector."""

from __future__ import annotations

from ...kernels.embedding import Embedding
from ..errors import RequestError
from .adapter import Places
from .config import NAME, Fields, Pattern, Targets
from .plan import ROLES as COMMON
from .plan import Found, Wanted, common, plan_base, plan_saved, sizes

ROLES = {**COMMON, "ia3_l": "gain"}


def plan(fields: Fields, found: Found, places: Places, max_rank: int) -> dict[str, Wanted]:
    """What each module must have. Renames the role of a feed-forward's vector to gain_in."""
    saved = common(fields)
    fields.skip(("init_ia3_weights",))
    targets = Targets(fields, saved)
    forward = fields.matcher("feedforward_modules")

    wanted: dict[str, Wanted] = {}
    plan_saved(saved, found, places, wanted)
    for module, place in places:
        path = found.path(module)
        linear = not isinstance(place.product, Embedding)
        if module in wanted or not targets(path, linear=linear, head=module in places.outside):
            continue
        if isinstance(place.product, Embedding):
            raise RequestError(
                f"{NAME}: target_modules names {path}, an embedding; expected linear layers", param="target_modules"
            )
        outputs, inputs = sizes(place)
        if not _matches(forward, path):
            wanted[module] = Wanted(must={"gain": (outputs, 1)})
            continue
        if outputs != place.product.out_features:
            raise RequestError(
                f"{NAME}: feedforward_modules names {path}, whose input is that of other layers as well here (they are "
                "one product); expected layers with an input of their own, such as down_proj",
                param="feedforward_modules",
            )
        wanted[module] = Wanted(must={"gain_in": (1, inputs)})
        tensors = found.names.get(module, {})
        if "gain" in tensors:
            tensors["gain_in"] = tensors.pop("gain")
    plan_base(found, places, wanted)
    return wanted


def _matches(patterns: Pattern | list[str] | None, path: str) -> bool:
    if isinstance(patterns, Pattern):
        return patterns(path)
    return any(path.endswith(end) for end in patterns or ())
