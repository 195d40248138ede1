"""Any causal LM of transformers on our pages gives transformers' logits; what cannot be done exactly is refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from paged import CPU, PROMPTS, RAGGED, make, run
from safetensors.torch import load_file, save_file

from quire.engine.errors import ModelError
from quire.engine.models import fallback
from quire.kernels.triton import there

WINDOW = {"sliding_window": 9}
FAMILIES = {
    "Gemma": {"head_dim": 16},
    "Gemma2": {
        "head_dim": 16, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 0.5, "final_logit_softcapping": 0.1,
        "sliding_window": 9,
    },
    "Gemma3": {"head_dim": 16, "num_hidden_layers": 6, **WINDOW},
    "Phi": {},
    "Phi3": WINDOW,
    "Mixtral": {"num_local_experts": 4, "output_router_logits": True, **WINDOW},
    "Qwen3Moe": {"head_dim": 8, "num_experts": 4, "moe_intermediate_size": 24, "num_experts_per_tok": 2},
    "Qwen2Moe": {"num_experts": 4, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 24},
    "Afmoe": {"head_dim": 8, "num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2, **WINDOW},
    "Olmo2": {},
    "Olmo3": WINDOW,
    "Granite": {"logits_scaling": 3.0, "attention_multiplier": 0.2, "embedding_multiplier": 2.0},
    "StableLm": {},
    "Starcoder2": WINDOW,
    "GPTNeoX": {},
    "Cohere": {},
    "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "DeepseekV3": {
        "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
        "v_head_dim": 12, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2,
        "moe_intermediate_size": 16, "first_k_dense_replace": 1,
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def quiet():
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def load(folder: Path, dtype=torch.float32, progress=lambda done, total: None) -> fallback.Fallback:
    config = json.loads((folder / "config.json").read_text())
    return fallback.load(folder, config, dtype, CPU, progress)


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_equal_transformers_at_every_position_chunked_and_batched(name, tmp_path):
    truth = make(name, tmp_path, **FAMILIES[name])
    model = load(tmp_path)
    ragged = run(model, PROMPTS, RAGGED)
    for i, prompt in enumerate(PROMPTS):
        with torch.inference_mode():
            expected = truth(torch.tensor([prompt])).logits[0]
        torch.testing.assert_close(ragged[i], expected, rtol=1e-4, atol=1e-4)
        alone = run(model, [prompt], [[(0, len(prompt))]])[0]
        assert torch.equal(ragged[i], alone), "the bits depend on the batch"


def test_windows_softcaps_and_scales_are_taken_over(tmp_path):
    make("Gemma2", tmp_path, **FAMILIES["Gemma2"])
    first, second = load(tmp_path).layers
    assert (first.window, second.window) == (9, None)
    assert first.softcap == 0.5
    assert first.scale == pytest.approx(24**-0.5)
    assert (first.heads, first.kv_heads, first.head_dim) == (4, 2, 16)


def test_a_window_as_long_as_the_model_is_none(tmp_path):
    make("Mixtral", tmp_path, num_local_experts=2, sliding_window=256)
    assert [s.window for s in load(tmp_path).layers] == [None, None]


def test_sixteen_bits_are_close(tmp_path):
    truth = make("Olmo2", tmp_path)
    model = load(tmp_path, torch.bfloat16)
    assert model.dtype == torch.bfloat16
    found = run(model, PROMPTS, RAGGED)[0]
    with torch.inference_mode():
        expected = truth(torch.tensor([PROMPTS[0]])).logits[0]
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_heads_wider_than_the_kernels_of_gpus_have_are_looked_at_by_torch(tmp_path, monkeypatch):
    make("Gemma", tmp_path, head_dim=512)
    monkeypatch.setattr(there, "lack", lambda dtype, device: None)  # as on a GPU
    assert load(tmp_path, torch.bfloat16).layers[0].head_dim == 512


def test_progress_ends_at_the_size_of_the_files(tmp_path):
    make("Phi", tmp_path)
    seen: list[tuple[int, int]] = []
    load(tmp_path, progress=lambda done, total: seen.append((done, total)))
    size = (tmp_path / "model.safetensors").stat().st_size
    assert seen[0] == (0, size)
    assert seen[-1] == (size, size)


REFUSED = {
    "attention sinks": ("GptOss", {"head_dim": 8, "num_local_experts": 2}, "s_aux"),
    "alibi": ("Bloom", {}, "attention of its own"),
    "a class of its own": (
        "GPTNeo",
        {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]},
        "attention of its own",
    ),
    "mamba beside attention": (
        "FalconH1",
        {
            "head_dim": 8, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1,
            "mamba_d_state": 8,
        },
        "convolution over tokens",
    ),
    "linear attention": ("Qwen3Next", {"head_dim": 8, "num_experts": 2, "moe_intermediate_size": 16}, "layer_types"),
    "not causal": ("Gemma3", {"head_dim": 16, "use_bidirectional_attention": True}, "causal"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "fields", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_the_paged_attention_cannot_do_is_refused(name, fields, reason, tmp_path):
    make(name, tmp_path, **fields)
    with pytest.raises(ModelError, match=reason):
        load(tmp_path)


def test_tokens_that_depend_on_each_other_outside_attention_are_refused(tmp_path, monkeypatch):
    make("Phi", tmp_path)
    norm = torch.nn.LayerNorm.forward
    monkeypatch.setattr(torch.nn.LayerNorm, "forward", lambda self, x: norm(self, x) + 0.01 * x.mean(1, keepdim=True))
    with pytest.raises(ModelError, match="depend on each other outside attention"):
        load(tmp_path)


def test_a_mask_that_is_neither_causal_nor_a_window_is_refused(tmp_path, monkeypatch):
    from transformers.models.phi import modeling_phi

    make("Phi", tmp_path)
    create = modeling_phi.create_causal_mask
    prefix = lambda batch, head, q, k: k < 3  # noqa: E731  everyone sees the first three
    monkeypatch.setattr(modeling_phi, "create_causal_mask", lambda **kw: create(**kw, or_mask_function=prefix))
    with pytest.raises(ModelError, match="neither causal nor a sliding window"):
        load(tmp_path)


def test_longrope_is_served_where_its_factors_do_not_depend_on_the_text(tmp_path):
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 10000.0}
    rope["original_max_position_embeddings"] = 64
    make("Phi3", tmp_path, rope_parameters=rope, original_max_position_embeddings=64)
    assert load(tmp_path).max_position == 64


def test_missing_and_extra_tensors_are_named(tmp_path):
    make("Phi", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    gone = next(name for name in tensors if name.endswith("layers.1.mlp.fc1.weight"))
    save_file({n: t for n, t in tensors.items() if n != gone}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"missing keys.*layers\.1\.mlp\.fc1\.weight"):
        load(tmp_path)
    save_file({**tensors, "model.stranger": torch.zeros(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"unexpected keys.*model\.stranger"):
        load(tmp_path)


def test_a_tensor_of_the_wrong_shape_is_named(tmp_path):
    make("Phi", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["model.layers.0.mlp.fc1.weight"] = torch.zeros(5, 32)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.0\.mlp\.fc1\.weight|mismatched|size"):
        load(tmp_path)


def test_pickle_files_are_refused_with_the_reason(tmp_path):
    make("Phi", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickle runs code"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"architectures": ["NoSuchForCausalLM"]}, "NoSuchForCausalLM"),
        ({"architectures": ["T5ForConditionalGeneration"]}, "expected a causal language model"),
        ({"vision_config": {"a": 1}}, "vision_config"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "chunked_attention"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder"),
    ],
)
def test_configs_that_ask_for_more_are_refused(change, reason, tmp_path):
    make("Phi", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(ModelError, match=reason):
        fallback.load(tmp_path, {**config, **change}, torch.float32, CPU, lambda done, total: None)
