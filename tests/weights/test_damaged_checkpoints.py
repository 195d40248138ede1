"""What is wrong with a quantized checkpoint is named: the tensor, its file, what was found and what was expected; and
no field of its config that would change a weight goes unread."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from packed_checkpoints import (
    Coded,
    awq,
    awq_settings,
    compressed_settings,
    gptq,
    gptq_settings,
    int_quantized,
    pack_quantized,
)
from reading_checkpoints import (
    CASES,
    FILE,
    Tensors,
    X,
    int_config,
    named,
    packed_config,
    read,
    refused,
    same,
)
from safetensors.torch import save_file

from quire.engine.errors import ModelError
from quire.engine.weights import open_weights
from quire.engine.weights.quantized import unpacked

NEEDED = [(case, end) for case, (parts, _) in CASES.items() for end in parts if end != "g_idx"]


@pytest.mark.parametrize(("case", "end"), NEEDED)
def test_a_missing_part_is_named(case, end):
    parts, config = CASES[case]
    left = {k: v for k, v in parts.items() if k != end}
    with refused(FILE, f"tensor {X}.{end} is missing; expected beside {X}."):
        read(left, config)


@pytest.mark.parametrize("case", CASES)
def test_a_part_of_another_kind_is_named(case):
    parts, config = CASES[case]
    for end, x in parts.items():
        kind = torch.float64 if x.is_floating_point() else torch.int16
        name = str(kind).removeprefix("torch.")
        with refused(FILE, f"tensor {X}.{end} is {name} {list(x.shape)}; expected "):
            read(parts | {end: x.to(kind)}, config)


@pytest.mark.parametrize("case", CASES)
def test_a_part_of_another_shape_is_named(case):
    """Half of it: half of the codes are a smaller matrix, which the other parts then do not fit."""
    parts, config = CASES[case]
    for end, x in parts.items():
        with refused(FILE, f"tensor {X}.", "; expected "):
            read(parts | {end: x[: len(x) // 2].contiguous()}, config)


KINDS = [torch.int8, torch.int32, torch.int64, torch.float16, torch.float32, torch.bool]


@given(st.data(), st.sampled_from(sorted(CASES)))
@settings(max_examples=150, deadline=None)
def test_whatever_the_parts_are_they_are_a_matrix_or_a_model_error(data, case):
    parts, config = CASES[case]
    parts = dict(parts)
    for end in data.draw(st.lists(st.sampled_from([*parts, "g_idx", "weight_g_idx", "bias"]), max_size=3)):
        shape = data.draw(st.lists(st.integers(0, 9).map(lambda n: n * n), max_size=3))
        fill = data.draw(st.integers(-3, 100))
        parts[end] = torch.full(shape, fill).to(data.draw(st.sampled_from(KINDS)))
    with suppress(ModelError):
        found = read(parts, config)
        assert found.dense().shape == found.shape


def test_scales_of_another_group_size_are_named_with_what_the_config_wants():
    parts = gptq(Coded.random(1, 8, 64, 4, 64))
    del parts["g_idx"]
    with refused(f"tensor {X}.scales is float16 [1, 8]; expected", "[2, 8], for 64 inputs in groups of 32"):
        read(parts, gptq_settings(4, 32))


def test_codes_of_other_bits_than_the_config_says_do_not_fit():
    parts = gptq(Coded.random(1, 8, 64, 8, 32))
    with refused(f"tensor {X}.g_idx is int32 [64]; expected int32 or int64 [128]"):
        read(parts, gptq_settings(4, 32))


def test_a_shape_that_the_packed_words_do_not_have_is_named():
    parts, config = CASES["pack-quantized"]
    with refused(
        f"tensor {X}.weight_packed is int32 [8, 16]; expected int32 [8, 20], as weight_shape is [8, 80]",
    ):
        read(parts | {"weight_shape": torch.tensor([8, 80])}, config)


def test_values_beyond_the_bits_are_named():
    parts = int_quantized(Coded.random(1, 8, 64, 8, -1, symmetric=True), symmetric=True)
    with refused(f"tensor {X}.weight has -12", "; expected -8 to 7"):
        read(parts, compressed_settings("int-quantized", {"num_bits": 4}))


@pytest.mark.parametrize("case", ["gptq", "awq", "pack-quantized"])
def test_a_float_matrix_beside_its_packed_one_is_named(case):
    parts, config = CASES[case]
    with refused(FILE, f"tensor {X}.weight has no place in this matrix; expected only "):
        read(parts | {"weight": torch.zeros(8, 64)}, config)


@pytest.mark.parametrize("case", CASES)
def test_a_checkpoint_without_a_packed_matrix_is_refused(case):
    with refused("folder: no tensor is packed; expected names that end in "):
        unpacked(Tensors({"lm_head.weight": torch.zeros(2, 2)}), CASES[case][1], "config.json")


def test_a_truncated_file_is_named(tmp_path):
    parts, config = CASES["gptq"]
    path = tmp_path / "model.safetensors"
    save_file(named(parts), path, metadata={"format": "pt"})
    path.write_bytes(path.read_bytes()[:-100])
    with refused(str(path), "cannot be read as safetensors"):
        unpacked(open_weights(tmp_path), config, "config.json")


# ---- settings


A = "quantization_config.config_groups.group_0.input_activations"
W = "quantization_config.config_groups.group_0.weights"

REFUSED = {
    "quantization_config.quant_method is 'fp8'; expected 'gptq' or 'awq' or 'compressed-tensors'": {
        "quant_method": "fp8"
    },
    "quantization_config.quant_method is missing": {"bits": 4},
    "quantization_config is [4]; expected an object": [4],
    "quantization_config.bits is 3; expected 8 or 4": gptq_settings(3, 128),
    "quantization_config.bits is 2; expected 8 or 4": gptq_settings(2, 128),
    "quantization_config.bits is True; expected 8 or 4": gptq_settings(True, 128),
    "quantization_config.bits is missing": gptq_settings(None, 128),
    "quantization_config.group_size is 24; expected a multiple of 16, or -1 for all inputs": gptq_settings(4, 24),
    "quantization_config.group_size is 0; expected a multiple of 16": gptq_settings(4, 0),
    "quantization_config.group_size is '128'; expected a multiple of 16": gptq_settings(4, "128"),
    "quantization_config.sym is 1; expected True or False": gptq_settings(4, 128, sym=1),
    "quantization_config.checkpoint_format is 'marlin'; expected 'gptq' or 'gptq_v2'": gptq_settings(
        4, 128, checkpoint_format="marlin"
    ),
    "quantization_config.format is 'gptq_v2'; expected 'gptq', which checkpoint_format is": gptq_settings(
        4, 128, checkpoint_format="gptq", format="gptq_v2"
    ),
    "quantization_config.is_marlin_format is True; expected False": gptq_settings(4, 128, is_marlin_format=True),
    "quantization_config.pack_dtype is 'int16'; expected 'int32'": gptq_settings(4, 128, pack_dtype="int16"),
    "quantization_config.rotation is 'hadamard'; expected nothing": gptq_settings(4, 128, rotation="hadamard"),
    "quantization_config has nonsense, which may change what is computed": gptq_settings(4, 128, nonsense=1),
    "quantization_config.dynamic is '('; expected a regular expression": gptq_settings(4, 128, dynamic={"(": {}}),
    "quantization_config.dynamic.a.bits is 3; expected 8 or 4": gptq_settings(4, 128, dynamic={"a": {"bits": 3}}),
    "quantization_config.dynamic.a has pack_dtype": gptq_settings(4, 128, dynamic={"a": {"pack_dtype": "int8"}}),
    "quantization_config.version is 'gemv'; expected 'gemm' or 'GEMM'": awq_settings(128, version="gemv"),
    "quantization_config.bits is 8; expected 4": awq_settings(128, bits=8),
    "quantization_config.backend is 'llm-awq'; expected 'auto' or": awq_settings(128, backend="llm-awq"),
    "quantization_config.zero_point is missing": awq_settings(128, zero_point=None),
    "quantization_config.desc_act is True; expected False": awq_settings(128, desc_act=True),
    "quantization_config has w_bit, which may change": awq_settings(128, w_bit=4),
    **{
        f"quantization_config.format is {form!r}; expected 'pack-quantized' or": compressed_settings(form, {})
        for form in ("float-quantized", "nvfp4-pack-quantized", "marlin-24", "sparse-24-bitmask", "dense")
    },
    "quantization_config.config_groups.group_0.format is missing": compressed_settings("mixed-precision", {}),
    "quantization_config.config_groups.W8A8 is ['Linear']; expected an object": packed_config()
    | {"config_groups": {"W8A8": ["Linear"]}},
    f"{W}.num_bits is 3; expected 8 or 4": packed_config(num_bits=3),
    f"{W}.type is 'float'; expected 'int'": packed_config(type="float"),
    f"{W}.strategy is 'block'; expected 'group' or 'channel' or 'tensor'": packed_config(strategy="block"),
    f"{W}.group_size is 128; expected what fits strategy 'channel'": packed_config(group_size=128),
    f"{W}.group_size is -1; expected what fits strategy 'group'": packed_config(strategy="group"),
    f"{W}.dynamic is True; expected False": packed_config(dynamic=True),
    f"{W}.actorder is 'else'": packed_config(actorder="else"),
    f"{W} has block_structure, which may change": packed_config(block_structure=[1, 4]),
    f"{A}.dynamic is False; expected True": int_config(dynamic=False),
    f"{A}.dynamic is missing": int_config(dynamic=None),
    f"{A}.strategy is 'tensor'; expected 'token'": int_config(strategy="tensor"),
    f"{A}.num_bits is 4; expected 8": int_config(num_bits=4),
    f"{A}.type is 'float'; expected 'int'": int_config(type="float"),
    f"{A}.symmetric is False; expected True": int_config(symmetric=False),
    "quantization_config.kv_cache_scheme is {'num_bits': 8}; expected nothing": packed_config()
    | {"kv_cache_scheme": {"num_bits": 8}},
    "quantization_config.sparsity_config.format is 'sparse-bitmask'; expected 'dense'": packed_config()
    | {"sparsity_config": {"format": "sparse-bitmask"}},
    "quantization_config.transform_config is {'config_groups': {'R1': {}}}; expected": packed_config()
    | {"transform_config": {"config_groups": {"R1": {}}}},
    "quantization_config.quantization_status is 'initialized'; expected 'compressed'": packed_config()
    | {"quantization_status": "initialized"},
    "quantization_config.ignore is 'lm_head'; expected a list of names": packed_config() | {"ignore": "lm_head"},
}


@pytest.mark.parametrize("said", REFUSED)
def test_settings_that_cannot_be_served_are_refused_by_name(said):
    with refused("config.json: ", said):
        unpacked(Tensors({f"{X}.qweight": torch.zeros(1)}), REFUSED[said], "config.json")


# As published models have them: Qwen2.5's of GPTQ, and what transformers 5 writes for GPTQ and AWQ.
OPTIMUM = {"exllama_config": {"version": 1}, "use_cuda_fp16": False, "use_exllama": True}
HF = {
    "tokenizer": None,
    "dataset": "c4",
    "damp_percent": 0.1,
    "desc_act": False,
    "act_group_aware": True,
    "sym": True,
    "true_sequential": True,
    "meta": None,
    "backend": "auto",
    "model_seqlen": None,
    "block_name_to_quantize": "model.layers",
    "module_name_preceding_first_block": ["model.embed_tokens"],
    "batch_size": 1,
    "pad_token_id": None,
    "max_input_length": None,
    "cache_block_outputs": True,
    "modules_in_block_to_quantize": [["self_attn.k_proj"]],
}


def test_settings_as_published_models_have_them():
    m = Coded.random(1, 8, 64, 4, 32, symmetric=True)
    same(read(gptq(m), gptq_settings(4, 32, **HF, format="gptq", checkpoint_format="gptq")), m)
    same(read(gptq(m), gptq_settings(4, 32, **HF, **OPTIMUM)), m)
    m = Coded.random(1, 8, 64, 4, 32)
    same(read(awq(m), awq_settings(32, **HF, format="gemm", modules_to_not_convert=["lm_head"])), m)


def test_settings_that_change_nothing_are_let_be():
    more = {"damp_percent": 0.1, "model_seqlen": 2048, "meta": {"quantizer": ["a"]}, "true_sequential": True}
    m = Coded.random(1, 8, 64, 4, 32)
    config = gptq_settings(4, 32, **more, static_groups=False, model_name_or_path=None, lm_head=False)
    same(read(gptq(m), config), m)
    fuse = {"do_fuse": False, "modules_to_not_convert": ["lm_head"], "backend": "autoawq", "exllama_config": None}
    same(read(awq(m), awq_settings(32, **fuse)), m)
    m = Coded.random(1, 8, 64, 8, -1, symmetric=True)
    dense = {"format": "dense", "global_sparsity": 0.1, "ignore": [], "registry_requires_subclass": False}
    config = packed_config() | {
        "version": "0.9",
        "sparsity_config": dense,
        "transform_config": {},
        "global_compression_ratio": 1.5,
    }
    same(read(pack_quantized(m, symmetric=True), config), m)
