"""Adapters of every kind give peft's logits, unmerged and merged, in one batch with the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from paged import make
from peft import IA3Config as IA3
from peft import LoraConfig as Lora
from peft import PeftModel
from peft_models import expected, load, logits, make_peft, raw, rounded_to, truth_of

from quire.engine.lora.read import ready
from quire.kernels import native
from quire.kernels.lora import Delta

QV = ["q_proj", "v_proj"]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BIASES = {"attention_bias": True, "mlp_bias": True}
TIED = {"tie_word_embeddings": True}

# name -> family, its fields, peft config
CASES: dict[str, tuple[str, dict, Any]] = {
    "q and v": ("Llama", {}, Lora(r=4, target_modules=QV)),
    "all": ("Llama", {}, Lora(r=8, lora_alpha=16, target_modules=ALL)),
    "all-linear": ("Qwen2", TIED, Lora(r=3, target_modules="all-linear")),
    "a regular expression": ("Qwen3", {}, Lora(r=2, target_modules=r"model\.layers\.[01]\..*\.(q|up)_proj")),
    "full paths": ("Llama", {}, Lora(r=2, target_modules=["model.layers.1.mlp.down_proj", "layers.0.mlp.up_proj"])),
    "one layer": ("Llama", {}, Lora(r=2, target_modules=QV, layers_to_transform=1)),
    "layers by pattern": ("Llama", {}, Lora(r=2, target_modules=QV, layers_to_transform=[0], layers_pattern="layers")),
    "excluded": ("Llama", {}, Lora(r=2, target_modules=ALL, exclude_modules=["layers.0.mlp.up_proj", "o_proj"])),
    "excluded by regex": ("Llama", {}, Lora(r=2, target_modules=ALL, exclude_modules=r".*layers\.1.*")),
    "rank-stabilized": ("Llama", {}, Lora(r=9, lora_alpha=12, use_rslora=True, target_modules=ALL)),
    "patterns": ("Llama", {}, Lora(
        r=2, target_modules=ALL, rank_pattern={"q_proj": 5, r"layers\.1\.mlp\.(up|gate)_proj": 7},
        alpha_pattern={"v_proj": 3, "^model.layers.0.mlp.down_proj": 20})),
    "patterns, rank-stabilized": ("Llama", {}, Lora(
        r=2, target_modules=ALL, rank_pattern={"q_proj": 5}, alpha_pattern={"q_proj": 3}, use_rslora=True)),
    "DoRA": ("Llama", {}, Lora(r=4, target_modules=ALL, use_dora=True)),
    "DoRA with biases": ("Llama", BIASES, Lora(r=4, target_modules=["k_proj", "o_proj", "up_proj"], use_dora=True)),
    "DoRA and trained biases": ("Llama", BIASES, Lora(r=4, target_modules=QV, use_dora=True, bias="lora_only")),
    "DoRA of the embeddings": ("Llama", {}, Lora(r=4, target_modules=["embed_tokens", "lm_head"], use_dora=True)),
    "DoRA, rank-stabilized": ("Qwen2", TIED, Lora(r=4, target_modules=ALL, use_dora=True, use_rslora=True)),
    "trained biases": ("Qwen2", {}, Lora(r=4, target_modules=["q_proj"], bias="all")),
    "trained biases of its own": ("Llama", BIASES, Lora(r=4, target_modules=["k_proj", "down_proj"], bias="lora_only")),
    "biases of B": ("Llama", BIASES, Lora(r=4, lora_alpha=7, target_modules=ALL, lora_bias=True)),
    "embeddings and head": ("Llama", {}, Lora(r=4, target_modules=["embed_tokens", "lm_head", "q_proj"])),
    "embeddings, tied": ("Llama", TIED, Lora(r=4, target_modules=["embed_tokens", "q_proj"])),
    "head, tied": ("Llama", TIED, Lora(r=4, target_modules=["lm_head"])),
    "both, tied": ("Llama", TIED, Lora(r=4, target_modules=["embed_tokens", "lm_head"])),
    "kept tied": ("Llama", TIED, Lora(r=4, target_modules=["embed_tokens"], ensure_weight_tying=True)),
    "saved": ("Llama", {}, Lora(r=4, target_modules=QV, modules_to_save=["embed_tokens", "lm_head"])),
    "saved, tied": ("Llama", TIED, Lora(r=4, target_modules=QV, modules_to_save=["embed_tokens"])),
    "saved, kept tied": ("Llama", TIED, Lora(
        r=4, target_modules=QV, modules_to_save=["embed_tokens"], ensure_weight_tying=True)),
    "saved layers": ("Llama", BIASES, Lora(r=4, target_modules=["o_proj"], modules_to_save=["k_proj", "down_proj"])),
    "GPT-2": ("GPT2", {}, Lora(r=4, target_modules=["c_attn"], fan_in_fan_out=True)),
    "GPT-2 all": ("GPT2", {}, Lora(r=4, target_modules="all-linear")),
    "GPT-2 DoRA": ("GPT2", {}, Lora(r=4, target_modules=["c_attn", "c_proj", "c_fc"], use_dora=True)),
    "GPT-2 embeddings": ("GPT2", {}, Lora(r=4, target_modules=["wte", "mlp.c_proj"])),
    "GPT-2 saved": ("GPT2", {}, Lora(r=4, target_modules=["c_attn"], modules_to_save=["attn.c_proj", "c_fc"])),
    "IA3": ("Llama", BIASES, IA3(target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])),
    "IA3 of outputs": ("Qwen2", {}, IA3(target_modules=ALL, feedforward_modules=["o_proj"])),
    "IA3 and the head": ("Llama", {}, IA3(
        target_modules=["k_proj", "down_proj"], feedforward_modules=r".*\.down_proj", modules_to_save=["lm_head"])),
    "GPT-2 IA3": ("GPT2", {}, IA3(target_modules=["c_attn", "mlp.c_proj"], feedforward_modules=["mlp.c_proj"])),
}  # fmt: skip
RETIED = {
    "kept tied",
    "saved, kept tied",
    "embeddings, tied",
    "head, tied",
    "both, tied",
    "GPT-2 embeddings",
}  # merged, peft's ties mix them


def close(found: torch.Tensor, truth: torch.Tensor) -> None:
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_an_adapter_gives_the_logits_of_peft_beside_the_base(name: str, tmp_path: Path):
    family, fields, config = CASES[name]
    make(family, tmp_path / "base", **fields)
    trained = make_peft(tmp_path / "base", tmp_path / "a", config)
    model = load(tmp_path / "base")
    adapter = ready([(raw(model, tmp_path / "a"), 1.0)])
    alone = expected(truth_of(tmp_path / "base"))
    truth = expected(trained)
    found = logits(model, [adapter, None, adapter])
    for i in (0, 2):
        close(found[i], truth[i])
        assert (truth[i] - alone[i]).abs().max() > 0.05, "the adapter changes too little to test anything"
    assert torch.equal(found[1], logits(model, [None] * 3)[1]), "a row of the base feels its neighbours' adapter"
    if name not in RETIED:
        for i, merged in enumerate(expected(trained.merge_and_unload())):
            if i != 1:
                close(found[i], merged)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["all", "patterns, rank-stabilized", "DoRA with biases", "biases of B", "saved"])
def test_a_file_of_16_bits_is_kept_so_where_the_kernels_read_it_and_gives_the_logits_of_peft(name, kind, tmp_path):
    family, fields, config = CASES[name]
    make(family, tmp_path / "base", **fields)
    make_peft(tmp_path / "base", tmp_path / "a", config)
    model = load(tmp_path / "base")
    adapter = ready([(raw(model, rounded_to(kind, tmp_path / "a", tmp_path / "rounded")), 1.0)])
    kinds = {piece.a.dtype for _, delta in adapter.changes if isinstance(delta, Delta) for piece in delta.pieces}
    assert kinds == {torch.float32 if "DoRA" in name or native.cpu is None else kind}
    truth = PeftModel.from_pretrained(truth_of(tmp_path / "base"), tmp_path / "a").eval()
    found = logits(model, [adapter, None, adapter])
    for i in (0, 2):
        close(found[i], expected(truth)[i])


@pytest.mark.parametrize("name", ["all", "patterns", "DoRA with biases", "IA3", "saved layers"])
def test_a_model_of_transformers_takes_adapters_as_well(name: str, tmp_path: Path):
    family, fields, config = CASES[name]
    make(family, tmp_path / "base", **fields)
    truth = expected(make_peft(tmp_path / "base", tmp_path / "a", config))
    model = load(tmp_path / "base", impl="transformers")
    found = logits(model, [ready([(raw(model, tmp_path / "a"), 1.0)])] * 3)
    for one, two in zip(found, truth, strict=True):
        close(one, two)
