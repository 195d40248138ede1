"""POST /v1/load_lora_adapter, /v1/unload_lora_adapter; and which adapters an answer is asked for with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from ...engine.errors import RequestError
from ...engine.messages import Merge, Use
from ..auth import check_admin
from ..body import body_of
from ..context import Context, context
from ..held import held
from ..stream import Usage
from .models import adapter_entry
from .schema import AdapterMerge, LoadAdapterRequest, Sampling, UnloadAdapterRequest

router = APIRouter()


@router.post("/v1/load_lora_adapter")
async def load(http: Request) -> dict[str, Any]:
    """The adapter as /v1/models shows it, once it can be used."""
    ctx = _admitted(http)
    body, _ = await body_of(http, LoadAdapterRequest)
    served = ctx.config.served_model_names
    if body.base_model_name is not None and body.base_model_name not in served:
        raise RequestError(
            f"base_model_name is {body.base_model_name!r:.300}; expected a served model: {', '.join(served)}",
            param="base_model_name",
        )
    adapter = await ctx.adapters.load(
        body.lora_name, body.lora_path, in_place=body.load_inplace, pinned=body.pinned, weight=body.weight
    )  # fmt: skip
    return adapter_entry(ctx, adapter)


@router.post("/v1/unload_lora_adapter")
async def unload(http: Request) -> dict[str, Any]:
    """Answers when nothing runs under the name any more."""
    ctx = _admitted(http)
    body, _ = await body_of(http, UnloadAdapterRequest)
    await ctx.adapters.unload(body.lora_name)
    return {"id": body.lora_name, "object": "model", "deleted": True}


def _admitted(http: Request) -> Context:
    """Raises Unauthorized, Forbidden or EngineUnavailable before the body is read."""
    ctx = context(http)
    check_admin(http.headers, ctx.config)
    ctx.serving()
    return ctx


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a request runs with."""

    model: str  # as the answer names it
    uses: tuple[Use, ...] = ()
    merge: Merge = field(default_factory=Merge)
    weight: float = 1.0  # of several adapters the largest

    def merge_as_json(self) -> dict[str, Any] | None:
        """None where there is nothing to merge."""
        if not self.uses:
            return None
        merge = self.merge
        return {"kind": merge.kind, "density": merge.density, "majority_sign_method": merge.majority}


async def choose(http: Request, ctx: Context, body: Sampling, usage: Usage, *, load: bool = True) -> Chosen:
    """The model and the adapters that a request names, held until it is through. load: wait until they can be used;
    else only look. Raises QuireError naming the field."""
    served = ctx.config.served_model_names
    model, merge = body.model or served[0], _merge(body.merge)
    if not body.adapters:
        if body.merge is not None:
            raise RequestError("merge: it needs adapters, which it says how to combine", param="merge")
        named = [] if model in served else [("model", Use(model))]
    elif model not in served:
        if await ctx.adapters.find(model) is None:
            raise ctx.adapters.unknown(model)
        raise RequestError(
            f"adapters: the model {model!r} is an adapter; with adapters, model is the base ({served[0]}), and all "
            "adapters stand in adapters",
            param="adapters",
        )
    else:
        named = [(f"adapters[{i}].name", Use(one.name, one.scale)) for i, one in enumerate(body.adapters)]
    seen: set[str] = set()
    weights = []
    for param, use in named:
        if use.name in served:
            raise RequestError(f"{param}: {use.name!r} is the base model, not an adapter", param=param)
        if use.name in seen:
            raise RequestError(f"{param}: {use.name!r} is named twice; name it once, with one scale", param=param)
        seen.add(use.name)
        if load:
            weights.append((await ctx.adapters.take(use.name, held(http), usage, param)).weight)
        elif await ctx.adapters.find(use.name) is None:
            raise ctx.adapters.unknown(use.name, param)
    return Chosen(model, tuple(use for _, use in named), merge, max(weights, default=1.0))


def _merge(given: AdapterMerge | None) -> Merge:
    if given is None:
        return Merge()
    if given.density is not None and given.kind == "linear":
        raise RequestError("merge.density: linear keeps all weights; ties and dare have a density", param="merge")
    if given.majority_sign_method is not None and not given.kind.endswith("ties"):
        raise RequestError(f"merge.majority_sign_method: {given.kind} elects no signs; ties does", param="merge")
    return Merge(given.kind, 1.0 if given.density is None else given.density, given.majority_sign_method or "total")
