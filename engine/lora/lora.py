"""LoRA (Hu et al. 2021), rank-stabilized (Kalajdzievski 2023) and weight-decomposed (DoRA, Liu et al. 2024)."""

from __future__ import annotations

import math

from ...kernels.embedding import Embedding
from .adapter import Place, Places
from .config import Fields, Targets, number, rank, refuse
from .plan import ROLES as COMMON
from .plan import Found, Wanted, common, has_bias, plan_base, plan_saved, sizes

ROLES = {
    **COMMON,
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_B.bias": "b_bias",
    "lora_embedding_A": "embedding_a",
    "lora_embedding_B": "embedding_b",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}

# Beginnings that leave the base as it was. Others take out of the base's weights what they put into the adapter.
INITS = (True, False, "gaussian", "eva", "orthogonal", "mica")
CHANGED_BASE = "the base's weights were changed before the training (peft can convert it to a plain LoRA when it saves)"

WITHOUT_EFFECT = (
    "lora_dropout", "runtime_config", "megatron_core", "qalora_group_size", "merge_weights",
    # settings of beginnings; init_lora_weights tells which one it was
    "loftq_config", "eva_config", "corda_config", "lora_ga_config",
)  # fmt: skip
NOT_APPLIED = {
    "megatron_config": "Megatron's parallel layers",
    "trainable_token_indices": "single rows of the embeddings are not replaced",
    "alora_invocation_tokens": "adapters that begin within a text",
    "use_qalora": "pooled inputs of QA-LoRA",
    "layer_replication": "layers that stand more than once",
    "target_parameters": "parameters that belong to no linear layer",
    "use_bdlora": "block-diagonal matrices",
    "arrow_config": "adapters chosen by a router",
    "kasa_config": "KaSA's singular values",
    "velora_config": "VeLoRA",
    "monteclora_config": "Monte Carlo LoRA",
    "enable_lora": "parts of a fused layer",
}


def plan(fields: Fields, found: Found, places: Places, max_rank: int) -> dict[str, Wanted]:
    """What each module must have. Renames the roles of embeddings to a and b."""
    saved = common(fields)
    for field, why in NOT_APPLIED.items():
        fields.off((field,), f"{why}: not applied here")
    fields.skip(WITHOUT_EFFECT)
    init = fields.take("init_lora_weights", True)
    if not isinstance(init, str | bool) or init not in INITS:
        raise refuse("init_lora_weights", init, f"one of true, false, {', '.join(map(str, INITS[2:]))}: {CHANGED_BASE}")
    dora, biased = fields.flag("use_dora"), fields.flag("lora_bias")
    if dora and biased:
        raise refuse("lora_bias", True, "false where use_dora is true: peft has no such adapters")
    trained = fields.one_of("bias", ("none", "all", "lora_only"), "none")
    strength = _Strength(fields, max_rank)
    targets = Targets(fields, saved)
    tying = fields.flag("ensure_weight_tying")

    wanted: dict[str, Wanted] = {}
    plan_saved(saved, found, places, wanted)
    for module, place in places:
        path = found.path(module)
        linear = not isinstance(place.product, Embedding)
        if module in wanted or not targets(path, linear=linear, head=module in places.outside):
            continue
        if biased and not linear:
            raise refuse("lora_bias", True, f"false where an embedding ({path}) is changed")
        wanted[module] = strength.wanted(path, place, dora, biased)
    if tying:
        for module in list(wanted):
            for twin in places.twins(module):
                wanted.setdefault(twin, _tied(wanted[module], places[twin], dora))
    for module, place in places:
        if has_bias(place) and (trained == "all" or (trained == "lora_only" and "b" in _must(wanted, module))):
            wanted.setdefault(module, Wanted(why="bias")).must["bias"] = (sizes(place)[0],)
    _name_embeddings(found, places)
    plan_base(found, places, wanted)
    return wanted


class _Strength:
    """r, lora_alpha, use_rslora, rank_pattern and alpha_pattern."""

    def __init__(self, fields: Fields, max_rank: int):
        self.r = fields.rank("r", max_rank, 8)
        self.alpha = fields.number("lora_alpha", 8)
        self.root = fields.flag("use_rslora")
        ranks, alphas = fields.table("rank_pattern"), fields.table("alpha_pattern")
        self.ranks = [(p, rank(f"rank_pattern[{p.text!r}]", value, max_rank)) for p, value in ranks]
        self.alphas = [(p, number(f"alpha_pattern[{p.text!r}]", value)) for p, value in alphas]

    def wanted(self, path: str, place: Place, dora: bool, biased: bool) -> Wanted:
        r = next((value for matches, value in self.ranks if matches(path)), self.r)
        alpha = next((value for matches, value in self.alphas if matches(path)), self.alpha)
        outputs, inputs = sizes(place)
        must: dict[str, tuple[int, ...]] = {"a": (r, inputs), "b": (outputs, r)}
        if dora:
            must["magnitude"] = (outputs,)
        if biased:
            must["b_bias"] = (outputs,)
        return Wanted(alpha / math.sqrt(r) if self.root else alpha / r, must)


def _tied(of: Wanted, place: Place, dora: bool) -> Wanted:
    """What peft saves for the module that is tied to one with an adapter (ensure_weight_tying)."""
    outputs, inputs = sizes(place)
    if "weight" in of.must:
        shape = (inputs, outputs) if isinstance(place.product, Embedding) else (outputs, inputs)
        return Wanted(why=of.why, must={"weight": shape})
    r = of.must["a"][0]
    must: dict[str, tuple[int, ...]] = {"a": (r, inputs), "b": (outputs, r)}
    if dora:
        must["magnitude"] = (outputs,)
    return Wanted(of.scale, must)


def _must(wanted: dict[str, Wanted], module: str) -> dict[str, tuple[int, ...]]:
    return wanted[module].must if module in wanted else {}


def _name_embeddings(found: Found, places: Places) -> None:
    """An embedding's matrices have names of their own; a lora_A of an embedding stays what is not wanted."""
    for module, tensors in found.names.items():
        embedding = isinstance(places[module].product, Embedding)
        for role in ("a", "b"):
            other = f"embedding_{role}"
            if embedding and role in tensors:
                tensors[f"linear_{role}"] = tensors.pop(role)
            if embedding and other in tensors:
                tensors[role] = tensors.pop(other)
