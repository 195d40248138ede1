"""Ready-made quantized checkpoints: each layout gives the weights it was packed from, to the bit."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
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
from paged import CPU, PROMPTS, RAGGED, make, run
from reading_checkpoints import CASES, FILE, PER_TOKEN, Tensors, X, named, packed_config, read, refused, same
from safetensors.torch import load_file, save_file

from quire.engine.models.load import load_model
from quire.engine.weights import open_weights
from quire.engine.weights.quantized import split_config, unpacked
from quire.kernels import native
from quire.kernels.linear import Linear
from quire.kernels.quantized import Quantized

seeds = st.integers(0, 1 << 30)
bits = st.sampled_from([4, 8])
sizes = st.sampled_from([32, 64, 128, -1])
EIGHTS = st.integers(1, 6).map(lambda n: 8 * n)


# ---- GPTQ


@given(seeds, st.integers(1, 40), st.integers(1, 10).map(lambda n: 32 * n), bits, sizes, st.booleans())
@settings(max_examples=60, deadline=None)
def test_gptq_gives_the_weights_it_was_packed_from(seed, outputs, inputs, bits, size, v1):
    m = Coded.random(seed, outputs, inputs, bits, size)
    config = gptq_settings(bits, size, checkpoint_format="gptq" if v1 else "gptq_v2")
    same(read(gptq(m, v1=v1), config), m)


@given(seeds, bits, sizes, st.booleans())
@settings(max_examples=20, deadline=None)
def test_symmetric_gptq_needs_no_zeros_of_its_own(seed, bits, size, v1):
    m = Coded.random(seed, 24, 192, bits, size, symmetric=True)
    config = gptq_settings(bits, size, sym=True, checkpoint_format="gptq" if v1 else "gptq_v2")
    found = read(gptq(m, v1=v1), config)
    same(found, m)
    assert found.low is None


def test_gptq_v1_stores_zeros_one_less():
    m = Coded.random(1, 8, 32, 4, 32, symmetric=True)
    assert gptq(m, v1=True)["qzeros"].tolist() == [[0x77777777]]
    same(read(gptq(m, v1=True), gptq_settings(4, 32)), m)  # v1 is what is meant where no format is named


def test_a_symmetric_v1_file_may_hold_the_middle_itself():
    m = Coded.random(1, 8, 32, 4, 32, symmetric=True)
    same(read(gptq(m, v1=False), gptq_settings(4, 32, sym=True, checkpoint_format="gptq")), m)


def test_symmetric_gptq_with_other_zeros_is_refused():
    m = Coded.random(1, 8, 32, 4, 32)
    with refused(FILE, f"{X}.qzeros has zeros beside the middle; expected 8 everywhere, as sym is true"):
        read(gptq(m), gptq_settings(4, 32, sym=True))
    with refused("qzeros has zeros beside the middle"):  # which one less than the middle is in v2
        parts = gptq(Coded.random(1, 8, 32, 4, 32, symmetric=True), v1=True)
        read(parts, gptq_settings(4, 32, sym=True, checkpoint_format="gptq_v2"))


def test_outputs_that_do_not_fill_a_word_of_zeros():
    m = Coded.random(3, 13, 64, 4, 32)
    same(read(gptq(m), gptq_settings(4, 32)), m)


def test_a_group_longer_than_the_matrix_and_one_that_it_does_not_fill():
    for inputs, size in ((64, 128), (96, 64), (1536, 1024)):
        m = Coded.random(4, 8, inputs, 4, size)
        same(read(gptq(m), gptq_settings(4, size)), m)


def test_one_scale_an_output_is_repeated_in_the_largest_group_that_fits():
    for inputs, group in ((768, 256), (1024, 512), (96, 32), (32, 32)):
        m = Coded.random(5, 8, inputs, 4, -1)
        found = read(gptq(m), gptq_settings(4, -1))
        same(found, m)
        assert found.group == group


def test_g_idx_may_be_absent_where_inputs_are_in_their_order():
    m = Coded.random(6, 8, 64, 4, 32)
    parts = gptq(m)
    del parts["g_idx"]
    same(read(parts, gptq_settings(4, 32)), m)
    with refused(FILE, f"tensor {X}.g_idx is missing; expected beside {X}.qweight"):
        read(parts, gptq_settings(4, 32, desc_act=True))


def test_act_order():
    m = Coded.random(7, 8, 64, 4, 32)
    same(read(gptq(m), gptq_settings(4, 32, desc_act=True)), m)
    parts = gptq(m)
    spread = torch.randperm(64, generator=torch.manual_seed(1))
    parts["g_idx"] = parts["g_idx"][spread]
    found = read(parts, gptq_settings(4, 32, desc_act=True))
    group = parts["g_idx"].numpy()
    exact = m.scale.astype(np.float64)[:, group] * (m.codes - m.zero[:, group])
    assert torch.equal(found.dense(), torch.from_numpy(exact.astype(np.float32)))
    linear, x = Linear(found), torch.randint(-1, 2, (3, 64)).float()  # which 8 bits hold as they are
    torch.testing.assert_close(linear.dense(), found.dense())
    torch.testing.assert_close(linear(x), x @ found.dense().T, rtol=1e-5, atol=1e-5)
    both = Linear([found, found])
    torch.testing.assert_close(both.dense(), torch.cat([found.dense()] * 2))
    other = Linear([found, read(gptq(m), gptq_settings(4, 32))])  # other inputs share a scale: quantized anew
    torch.testing.assert_close(other.dense()[:8], found.dense(), rtol=0, atol=0.02)
    parts["g_idx"][0] = 1 - parts["g_idx"][0]
    with refused(FILE, f"{X}.g_idx does not name 32 inputs of each group", "expected 2 groups of 32"):
        read(parts, gptq_settings(4, 32, desc_act=True))


def test_act_order_means_nothing_where_all_inputs_share_a_scale():
    m = Coded.random(8, 8, 64, 8, -1)
    same(read(gptq(m), gptq_settings(8, -1, desc_act=True)), m)


def test_dynamic_settings_of_modules():
    eight, four = Coded.random(9, 8, 64, 8, 64), Coded.random(10, 8, 64, 4, 32)
    tensors = named(gptq(eight), "a.0.up") | named(gptq(four), "a.0.down") | {"a.1.gate.weight": torch.ones(2, 2)}
    dynamic = {r"-:.*\.gate": {}, r"+:.*\.up": {"bits": 8, "group_size": 64}, ".*": {"mse": 2.4}}
    reader = unpacked(Tensors(tensors), gptq_settings(4, 32, dynamic=dynamic), "config.json")
    same(reader.read("a.0.up.weight"), eight)
    same(reader.read("a.0.down.weight"), four)
    assert reader.read("a.1.gate.weight") is tensors["a.1.gate.weight"]


# ---- AWQ


@given(seeds, EIGHTS, st.integers(1, 300), sizes)
@settings(max_examples=40, deadline=None)
def test_awq_gives_the_weights_it_was_packed_from(seed, outputs, inputs, size):
    m = Coded.random(seed, outputs, inputs, 4, size)
    same(read(awq(m), awq_settings(size)), m)


def test_the_order_of_awq_within_a_word():
    m = Coded.random(1, 8, 1, 4, -1)
    m.codes[:, 0] = np.arange(8)
    assert awq(m)["qweight"].tolist() == [[0x75316420]]
    same(read(awq(m), awq_settings(-1)), m)


def test_awq_without_zero_points():
    m = Coded.random(2, 16, 64, 4, 32, symmetric=True)
    found = read(awq(m), awq_settings(32, zero_point=False))
    same(found, m)
    assert found.low is None
    with refused(f"{X}.qzeros has zeros beside the middle; expected 8 everywhere, as zero_point is false"):
        read(awq(Coded.random(2, 16, 64, 4, 32)), awq_settings(32, zero_point=False))


# ---- compressed-tensors


@given(seeds, st.integers(1, 40), st.integers(1, 200), bits, sizes, st.booleans())
@settings(max_examples=60, deadline=None)
def test_pack_quantized_gives_the_weights_it_was_packed_from(seed, outputs, inputs, bits, size, symmetric):
    m = Coded.random(seed, outputs, inputs, bits, size, symmetric=symmetric)
    weights = {"num_bits": bits, "symmetric": symmetric, "strategy": "channel" if size == -1 else "group"}
    weights["group_size"] = None if size == -1 else size
    found = read(pack_quantized(m, symmetric=symmetric), compressed_settings("pack-quantized", weights))
    same(found, m)
    assert (found.low is None) == symmetric


@pytest.mark.parametrize("outputs", [1, 2, 7, 8, 9])
def test_zeros_of_few_outputs_share_one_word(outputs):
    m = Coded.random(1, outputs, 128, 4, 32)
    weights = {"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 32}
    same(read(pack_quantized(m, symmetric=False), compressed_settings("pack-quantized", weights)), m)
    same(read(gptq(m), gptq_settings(4, 32)), m)


@given(seeds, st.integers(1, 40), st.integers(1, 200), bits, sizes, st.booleans())
@settings(max_examples=40, deadline=None)
def test_int_quantized_gives_the_weights_it_was_packed_from(seed, outputs, inputs, bits, size, symmetric):
    m = Coded.random(seed, outputs, inputs, bits, size, symmetric=symmetric)
    weights = {"num_bits": bits, "symmetric": symmetric, "strategy": "channel" if size == -1 else "group"}
    weights["group_size"] = None if size == -1 else size
    config = compressed_settings("int-quantized", weights, activations=PER_TOKEN)
    same(read(int_quantized(m, symmetric=symmetric), config), m)


@pytest.mark.parametrize("pack", [pack_quantized, int_quantized])
def test_one_scale_for_a_whole_matrix(pack):
    m = Coded.random(1, 8, 48, 8, -1, symmetric=True)
    m.scale[:] = m.scale[0]
    parts = pack(m, symmetric=True)
    for shape in ((1,), (1, 1), ()):
        parts["weight_scale"] = torch.from_numpy(m.scale[0].copy()).reshape(shape)
        form = "pack-quantized" if pack is pack_quantized else "int-quantized"
        same(read(parts, compressed_settings(form, {"strategy": "tensor"})), m)


def test_zero_points_that_are_not_packed():
    m = Coded.random(2, 10, 64, 4, 32)
    parts = pack_quantized(m, symmetric=False)
    parts["weight_zero_point"] = torch.from_numpy((m.zero - 8).astype(np.int8))
    weights = {"num_bits": 4, "symmetric": False, "strategy": "group", "group_size": 32}
    same(read(parts, compressed_settings("pack-quantized", weights)), m)


def test_zero_points_of_a_symmetric_matrix_are_zero():
    m = Coded.random(3, 8, 32, 8, -1, symmetric=True)
    parts = int_quantized(m, symmetric=False)
    found = read(parts, compressed_settings("int-quantized", {}))
    same(found, m)
    assert found.low is None
    parts["weight_zero_point"][3] = 1
    with refused(f"{X}.weight_zero_point is not zero; expected 0 everywhere, as symmetric is true"):
        read(parts, compressed_settings("int-quantized", {}))


@pytest.mark.parametrize(("actorder", "index"), [("weight", None), ("group", "sorted"), ("group", "unset")])
def test_activation_order_that_leaves_groups_side_by_side(actorder, index):
    m = Coded.random(4, 8, 64, 4, 32, symmetric=True)
    parts = pack_quantized(m, symmetric=True)
    if index:
        parts["weight_g_idx"] = (
            torch.arange(64, dtype=torch.int32) // 32 if index == "sorted" else torch.full((64,), -1)
        )
    weights = {"num_bits": 4, "strategy": "group", "group_size": 32, "actorder": actorder}
    same(read(parts, compressed_settings("pack-quantized", weights)), m)


def test_activation_order_of_compressed_tensors():
    m = Coded.random(4, 8, 64, 4, 32, symmetric=True)
    parts = pack_quantized(m, symmetric=True)
    weights = {"num_bits": 4, "strategy": "group", "group_size": 32, "actorder": "group"}
    with refused(f"tensor {X}.weight_g_idx is missing"):
        read(parts, compressed_settings("pack-quantized", weights))
    parts["weight_g_idx"] = (torch.arange(64) % 2).int()
    group = parts["weight_g_idx"].numpy()
    exact = m.scale.astype(np.float64)[:, group] * (m.codes - m.zero[:, group])
    found = read(parts, compressed_settings("pack-quantized", weights))
    assert torch.equal(found.dense(), torch.from_numpy(exact.astype(np.float32)))
    parts["weight_g_idx"][0] = 1
    with refused(f"{X}.weight_g_idx does not name 32 inputs of each group"):
        read(parts, compressed_settings("pack-quantized", weights))


def test_modules_take_the_group_that_names_them_best():
    four, eight = Coded.random(5, 8, 64, 4, 64, symmetric=True), Coded.random(6, 8, 64, 8, -1, symmetric=True)
    config = compressed_settings("pack-quantized", {"num_bits": 4, "strategy": "group", "group_size": 64})
    other = compressed_settings("", {})["config_groups"]["group_0"]
    config["config_groups"]["group_1"] = other | {"targets": [r"re:.*\.down$", "a.0.up"], "format": "int-quantized"}
    config["format"] = "mixed-precision"
    config["config_groups"]["group_0"]["format"] = "pack-quantized"
    tensors = {}
    for base, m, pack in (("a.0.gate", four, pack_quantized), ("a.0.up", eight, int_quantized)):
        tensors |= named(pack(m, symmetric=True), base)
    tensors |= named(int_quantized(eight, symmetric=True), "a.0.down")
    reader = unpacked(Tensors(tensors), config, "config.json")
    same(reader.read("a.0.gate.weight"), four)
    same(reader.read("a.0.up.weight"), eight)
    same(reader.read("a.0.down.weight"), eight)


def test_a_quantized_matrix_of_a_module_that_is_to_be_ignored_or_is_no_target():
    parts = pack_quantized(Coded.random(7, 8, 32, 8, -1, symmetric=True), symmetric=True)
    for ignored in (X, r"re:.*\.mlp\."):
        with refused(FILE, f"{X}.weight", "is quantized, though `ignore` names its module; expected a float matrix"):
            read(parts, compressed_settings("pack-quantized", {}, ignore=[ignored]))
    config = compressed_settings("pack-quantized", {})
    config["config_groups"]["group_0"]["targets"] = ["re:.*attn"]
    with refused("is quantized, though no target of config_groups names its module"):
        read(parts, config)


# ---- what is not packed, and how much is


@pytest.mark.parametrize("case", CASES)
def test_what_is_not_packed_is_passed_through_and_bytes_are_those_of_all_parts(case, tmp_path):
    parts, config = CASES[case]
    plain = {"lm_head.weight": torch.randn(5, 4), f"{X}.bias": torch.randn(8), "model.norm.weight": torch.ones(4)}
    save_file(named(parts) | plain, tmp_path / "model.safetensors", metadata={"format": "pt"})
    reader = unpacked(open_weights(tmp_path), config, "config.json")
    assert set(reader.names) == {*plain, f"{X}.weight"}
    assert reader.names[f"{X}.weight"] == sum(x.numel() * x.element_size() for x in parts.values())
    for name, x in plain.items():
        assert torch.equal(reader.read(name), x)
        assert reader.names[name] == x.numel() * 4
    assert isinstance(reader.read(f"{X}.weight"), Quantized)
    file = str(tmp_path / "model.safetensors")
    assert [reader.where(n) for n in (f"{X}.weight", "lm_head.weight", "")] == [file, file, str(tmp_path)]


def test_a_config_names_its_quantization_in_one_of_two_places():
    assert split_config({"x": 1}) == split_config({"x": 1, "quantization_config": None}) == ({"x": 1}, None)
    assert split_config({"x": 1, "compression_config": {"a": 1}}) == ({"x": 1}, {"a": 1})
    assert split_config({"quantization_config": {"b": 1}, "compression_config": {"a": 1}}) == ({}, {"b": 1})


# ---- a whole model

ZEROS = {"symmetric": False, "strategy": "group", "group_size": 16}
OLD_GPTQ = {"bits": 4, "group_size": 16, "damp_percent": 0.01, "desc_act": False, "sym": False, "true_sequential": True,
            "static_groups": False, "model_name_or_path": None, "model_file_base_name": "model"}  # fmt: skip
OLD_AWQ = {"zero_point": True, "q_group_size": 16, "w_bit": 4, "version": "GEMM"}
MODELS = {
    "gptq of 4 bits": (4, gptq, gptq_settings(4, 16)),
    "gptq of 8 bits": (8, gptq, gptq_settings(8, 16)),
    "gptq told beside": (4, gptq, OLD_GPTQ),
    "awq": (4, awq, awq_settings(16)),
    "awq told beside": (4, awq, OLD_AWQ),
    "pack-quantized": (4, partial(pack_quantized, symmetric=False), packed_config(num_bits=4, **ZEROS)),
    "int-quantized": (
        8,
        partial(int_quantized, symmetric=False),
        compressed_settings("int-quantized", ZEROS, activations=PER_TOKEN),
    ),
}


def test_a_file_beside_the_config_is_named_where_it_is_wrong_and_asked_only_where_something_is_packed(tmp_path):
    make("Llama", tmp_path)
    (tmp_path / "quantize_config.json").write_text(json.dumps(OLD_GPTQ | {"bits": 3}))
    assert load_model(tmp_path, dtype="auto", device=CPU).kinds == "float32"
    path = tmp_path / "model.safetensors"
    save_file(load_file(path) | named(gptq(Coded.random(1, 8, 32, 4, 32))), path, metadata={"format": "pt"})
    with refused("quantize_config.json", "bits is 3; expected 8 or 4"):
        load_model(tmp_path, dtype="auto", device=CPU)


@pytest.mark.parametrize("case", MODELS)
def test_a_packed_model_answers_as_its_weights_unpacked(case, tmp_path):
    bits, pack, config = MODELS[case]
    for kind in ("packed", "unpacked"):
        make("Llama", tmp_path / kind)
    packed, unpacked_ = {}, load_file(tmp_path / "unpacked" / "model.safetensors")
    for name, weight in unpacked_.items():
        base, quantized = name.removesuffix(".weight"), "_proj" in name
        if quantized:
            m = Coded.near(weight.numpy(), bits, 16)
            unpacked_[name] = m.dense()
        packed |= named(pack(m), base) if quantized else {name: weight}
    save_file(packed, tmp_path / "packed" / "model.safetensors", metadata={"format": "pt"})
    save_file(unpacked_, tmp_path / "unpacked" / "model.safetensors", metadata={"format": "pt"})
    path = tmp_path / "packed" / "config.json"
    if case.endswith("beside"):
        path.with_name("quantize_config.json" if pack is gptq else "quant_config.json").write_text(json.dumps(config))
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": config}))
    answers = []
    for kind in ("packed", "unpacked"):
        model = load_model(tmp_path / kind, dtype="auto", device=CPU)
        answers.append(torch.cat(run(model, PROMPTS, RAGGED)).log_softmax(-1))
    # Products of whole numbers round their inputs to whole numbers, too: of 16 bits, or of 8 beside weights of 4.
    found, expected = answers
    rows_are_coarse = bits == 4 or native.multiplies_bytes()
    assert (found - expected).norm() < (2e-2 if rows_are_coarse else 2e-4) * expected.norm()
