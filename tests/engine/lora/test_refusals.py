"""What is not read is refused, naming the field, the tensor or the file; nothing is left out in silence."""

from __future__ import annotations

import json
import os
import pickle
import time
from pathlib import Path

import pytest
import torch
from paged import make
from peft import IA3Config, LoraConfig
from peft_models import edit, load, logits, make_peft, raw
from safetensors.torch import load_file, save_file

from quire.engine.errors import RequestError
from quire.engine.lora.read import ready

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
Q0 = "base_model.model.model.layers.0.self_attn.q_proj"


def refused(model, folder: Path, param: str | None = None, **more) -> str:
    with pytest.raises(RequestError) as error:
        raw(model, folder, **more)
    assert error.value.status == 400
    assert param is None or error.value.param == param
    return error.value.message


def change(folder: Path, change) -> None:
    """Change the tensors of a folder."""
    held = load_file(folder / WEIGHTS)
    change(held)
    save_file({name: tensor.contiguous() for name, tensor in held.items()}, folder / WEIGHTS)


# ---------------------------------------------------------------- the config


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_16"),
        ("init_lora_weights", "olora"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "lora_ga"),
        ("init_lora_weights", 1),
        ("layer_replication", [[0, 1], [0, 2]]),
        ("megatron_config", {"hidden_size": 32}),
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("trainable_token_indices", [1, 2]),
        ("trainable_token_indices", {"embed_tokens": [1]}),
        ("alora_invocation_tokens", [5, 6]),
        ("use_qalora", True),
        ("use_bdlora", {"nblocks": 2}),
        ("arrow_config", {"top_k": 3}),
        ("kasa_config", {"beta": 1}),
        ("velora_config", {"num_groups": 2}),
        ("monteclora_config", {"n": 2}),
        ("enable_lora", [True, False, True]),
        ("something_new", False),
        ("something_new", {"deep": 1}),
        ("task_type", "SEQ_CLS"),
        ("peft_type", "LOHA"),
        ("peft_type", None),
        ("peft_type", ["LORA"]),
        ("bias", "some"),
        ("bias", 3),
        ("use_dora", 1),
        ("use_rslora", "yes"),
        ("r", 0),
        ("r", -4),
        ("r", 10_000),
        ("r", 4.0),
        ("r", True),
        ("lora_alpha", "16"),
        ("lora_alpha", float("nan")),
        ("lora_alpha", float("inf")),
        ("lora_alpha", 1e29),
        ("target_modules", None),
        ("target_modules", []),
        ("target_modules", [1]),
        ("target_modules", {"q_proj": 1}),
        ("target_modules", "(q_proj"),
        ("exclude_modules", 3),
        ("layers_to_transform", "1"),
        ("layers_to_transform", [0.5]),
        ("layers_pattern", "layers"),  # without layers_to_transform
        ("modules_to_save", "lm_head"),
        ("modules_to_save", ["input_layernorm"]),
        ("modules_to_save", ["classifier", "score"]),
        ("rank_pattern", ["q_proj"]),
        ("alpha_pattern", 3),
    ],
)
def test_a_field_that_cannot_be_honoured_is_refused_by_name(field, value, model, copy):
    folder = copy()
    edit(folder, **{field: value})
    assert field in refused(model, folder, field)


@pytest.mark.parametrize(
    ("field", "value"),
    [("rank_pattern", {"q_proj": 0}), ("rank_pattern", {"q_proj": 10_000}), ("rank_pattern", {"q_proj": "4"}),
     ("alpha_pattern", {"q_proj": None}), ("alpha_pattern", {"q_proj": [1]}), ("rank_pattern", {"(q": 4})],
)  # fmt: skip
def test_a_pattern_with_a_bad_value_is_named(field, value, model, copy):
    folder = copy()
    edit(folder, **{field: value})
    assert field in refused(model, folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lora_dropout", 0.5), ("inference_mode", False), ("revision", "main"), ("task_type", "CAUSAL_LM"),
        ("task_type", "FEATURE_EXTRACTION"), ("peft_version", "9.9"), ("init_lora_weights", False),
        ("init_lora_weights", "gaussian"), ("init_lora_weights", "eva"), ("init_lora_weights", "orthogonal"),
        ("init_lora_weights", None), ("eva_config", {"rho": 2.0}), ("loftq_config", {"loftq_bits": 4}),
        ("megatron_core", "megatron.core"), ("qalora_group_size", 32), ("auto_mapping", {"base_model_class": "X"}),
        ("layer_replication", []), ("something_new", None), ("fan_in_fan_out", True), ("use_qalora", False),
        ("runtime_config", {"ephemeral_gpu_offload": True}),
    ],
)  # fmt: skip
def test_a_field_without_effect_changes_nothing(field, value, model, small, copy):
    folder = copy()
    edit(folder, **{field: value})
    assert raw(model, folder).key == raw(model, small / "plain").key


def test_every_field_that_peft_writes_is_known(model, small):
    """Of the installed peft: none of them is refused as unknown while it has the value peft gives it."""
    for config in (LoraConfig, IA3Config):
        name = "plain" if config is LoraConfig else "ia3"
        written = set(json.loads((small / name / CONFIG).read_text()))
        assert set(config.__dataclass_fields__) - {"runtime_config"} <= written
        raw(model, small / name)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '"x"', "null", '{"r": 4', "[" * 100_000, "\xff\xfe", "{}"])
def test_a_config_that_is_none(text, model, copy):
    folder = copy()
    (folder / CONFIG).write_text(text, encoding="latin-1")
    assert CONFIG in refused(model, folder)


def test_a_huge_config_is_not_read_to_its_end(model, copy):
    folder = copy()
    with open(folder / CONFIG, "wb") as file:
        file.truncate(2**40)  # a hole
    assert "longer" in refused(model, folder, "path")


def test_a_pattern_that_would_take_for_ever_is_given_up(model, copy):
    folder = copy()
    edit(folder, target_modules="(a?|.|[a-z])*[A-Z]")
    began = time.monotonic()
    assert "within" in refused(model, folder, "target_modules")
    assert time.monotonic() - began < 60


# ---------------------------------------------------------------- tensors against the config


def test_a_targeted_module_without_tensors(model, copy):
    folder = copy()
    change(folder, lambda t: [t.pop(f"{Q0}.lora_{x}.weight") for x in "AB"])
    assert "model.layers.0.self_attn.q_proj" in refused(model, folder, "target_modules")


def test_a_tensor_of_a_module_that_is_not_targeted(model, copy):
    folder = copy()
    edit(folder, target_modules=["k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"])
    assert f"{Q0}.lora_" in refused(model, folder, "target_modules")
    edit(folder, target_modules="all-linear", exclude_modules=["q_proj"])
    assert f"{Q0}.lora_" in refused(model, folder, "target_modules")


@pytest.mark.parametrize("lost", "AB")
def test_a_pair_of_which_one_is_missing(lost, model, copy):
    folder = copy()
    change(folder, lambda t: t.pop(f"{Q0}.lora_{lost}.weight"))
    message = refused(model, folder, "path")
    assert f"no {lost.lower()}" in message
    assert f"{Q0}.lora_" in message


@pytest.mark.parametrize(
    ("name", "shape", "param"),
    [
        ("lora_A", [4, 31], "path"),
        ("lora_B", [33, 4], "path"),
        ("lora_A", [5, 32], "r"),
        ("lora_A", [0, 32], "r"),
        ("lora_A", [10_000, 32], "r"),
        ("lora_B", [32, 5], "r"),
        ("lora_B", [128], "path"),
        ("lora_A", [4, 32, 1], "path"),
    ],
)
def test_a_wrong_shape_names_the_tensor_and_both_shapes(name, shape, param, model, copy):
    folder = copy()
    change(folder, lambda t: t.update({f"{Q0}.{name}.weight": torch.ones(shape)}))
    message = refused(model, folder, param)
    expected = [4, 32] if name == "lora_A" else [32, 4]
    assert f"{Q0}.{name}.weight" in message
    assert str(shape) in message
    assert str(expected) in message
    assert ("another base" in message) == (param == "path")


def test_a_rank_above_the_largest_that_is_served(model, small):
    assert "12" in refused(model, small / "wide", "r", max_rank=8)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_none(bad, model, copy):
    folder = copy()
    change(folder, lambda t: t[f"{Q0}.lora_B.weight"][3].fill_(bad))
    message = refused(model, folder, "path")
    assert f"{Q0}.lora_B.weight" in message
    assert "4 numbers" in message


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.bool, torch.float8_e4m3fn])
def test_a_wrong_dtype(dtype, model, copy):
    folder = copy()
    change(folder, lambda t: t.update({f"{Q0}.lora_B.weight": t[f"{Q0}.lora_B.weight"].to(dtype)}))
    assert f"{Q0}.lora_B.weight" in refused(model, folder, "path")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_kinds_of_numbers_are_read(dtype, model, small, copy):
    folder = copy()
    change(folder, lambda t: t.update({name: tensor.to(dtype) for name, tensor in t.items()}))
    wanted = logits(model, [ready([(raw(model, small / "plain"), 1.0)])] * 3)
    found = logits(model, [ready([(raw(model, folder), 1.0)])] * 3)
    for a, b in zip(found, wanted, strict=True):
        assert (a - b).norm() / b.norm() < (1e-6 if dtype == torch.float64 else 0.02)


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight",
        "base_model.model.transformer.h.0.attn.c_attn.lora_A.weight",
        "base_model.model.model.layers.0.input_layernorm.weight",
        "base_model.model.model.norm.bias",
        f"{Q0}.lora_A.default.weight",
        f"{Q0}.lora_C.weight",
        "something",
        "",
        "../../etc/passwd",
        f"{Q0}.base_layer.weight",
        f"{Q0}.weight",
        f"{Q0}.bias",
        f"{Q0}.lora_magnitude_vector",
        f"{Q0}.lora_B.bias",
        f"{Q0}.lora_embedding_A",
        f"{Q0}.ia3_l",
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta",
    ],
)
def test_a_tensor_that_has_no_place_is_named(name, model, copy):
    folder = copy()
    change(folder, lambda t: t.update({name: torch.ones(32)}))
    assert name in refused(model, folder)


def test_two_tensors_for_one_place(model, copy):
    folder = copy()
    change(folder, lambda t: t.update({"layers.0.self_attn.q_proj.lora_A.weight": torch.ones(4, 32)}))
    message = refused(model, folder, "path")
    assert "same place" in message
    assert f"{Q0}.lora_A.weight" in message


def test_an_adapter_of_another_base(model, tmp_path):
    make("Llama", tmp_path / "other", hidden_size=48, num_hidden_layers=2)
    make_peft(tmp_path / "other", tmp_path / "a", LoraConfig(r=4, target_modules=["q_proj"]))
    message = refused(model, tmp_path / "a", "path")
    assert "another base" in message
    assert "[4, 48]" in message
    assert "[4, 32]" in message
    make("GPT2", tmp_path / "gpt2")
    make_peft(tmp_path / "gpt2", tmp_path / "g", LoraConfig(r=4, target_modules=["c_attn"]))
    assert "another base" in refused(model, tmp_path / "g", "path")
    make("Llama", tmp_path / "vocab", vocab_size=120)
    make_peft(
        tmp_path / "vocab", tmp_path / "v", LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    )
    message = refused(model, tmp_path / "v", "path")
    assert "[120, 32]" in message
    assert "[101, 32]" in message


def test_trained_biases_that_were_not_saved(model, copy):
    folder = copy("biased")
    change(folder, lambda t: t.pop(f"{Q0}.base_layer.bias"))
    assert "no bias" in refused(model, folder, "path")
    folder = copy(to="second")
    edit(folder, bias="lora_only")
    assert "no bias" in refused(model, folder, "path")


def test_biases_of_norms_cannot_be_applied(tmp_path):
    make("GPT2", tmp_path / "base")
    make_peft(tmp_path / "base", tmp_path / "a", LoraConfig(r=4, target_modules=["c_attn"], bias="all"))
    assert "transformer.h.0.ln_1" in refused(load(tmp_path / "base"), tmp_path / "a", "path")


def test_dora_without_magnitudes(model, copy):
    folder = copy()
    edit(folder, use_dora=True)
    assert "no magnitude" in refused(model, folder, "path")
    edit(folder, lora_bias=True)
    refused(model, folder, "lora_bias")


@pytest.mark.parametrize("module", ["gate_proj", "v_proj"])
def test_ia3_of_an_input_that_is_shared_is_refused(module, tmp_path, model, small):
    config = IA3Config(target_modules=[module], feedforward_modules=[module])
    make_peft(small / "base", tmp_path / "a", config)
    assert module in refused(model, tmp_path / "a", "feedforward_modules")


def test_ia3_of_embeddings_is_refused(model, copy):
    folder = copy("ia3")
    edit(folder, target_modules=["k_proj", "down_proj", "embed_tokens"])
    assert "embed_tokens" in refused(model, folder, "target_modules")


def test_too_large_for_the_dtype_of_the_model(small, copy):
    from quire.engine.models.load import load_model

    model = load_model(small / "base", dtype="float16", device=torch.device("cpu"), impl="transformers")
    folder = copy()
    change(folder, lambda t: t[f"{Q0}.lora_B.weight"].fill_(30_000.0))
    found = raw(model, folder)
    ready([(found, 1.0)])
    with pytest.raises(RequestError, match="float16") as error:
        ready([(found, 4.0)])
    assert "q_proj" in error.value.message


# ---------------------------------------------------------------- files


def test_no_folder_no_file(model, tmp_path, copy):
    refused(model, tmp_path / "absent", "path")
    (tmp_path / "file").write_text("x")
    refused(model, tmp_path / "file", "path")
    (tmp_path / "empty").mkdir()
    assert CONFIG in refused(model, tmp_path / "empty", "path")
    folder = copy()
    (folder / WEIGHTS).unlink()
    assert WEIGHTS in refused(model, folder, "path")


class Bomb:
    def __reduce__(self):
        return (os.mkdir, ("exploded",))


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
def test_pickles_are_never_opened(name, model, copy, monkeypatch):
    folder = copy()
    (folder / WEIGHTS).unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb()))
    monkeypatch.chdir(folder)
    assert name in refused(model, folder, "path")
    assert not (folder / "exploded").exists()
    (folder / name).rename(folder / WEIGHTS)  # nor under another name
    refused(model, folder, "path")
    assert not (folder / "exploded").exists()


def test_links_may_lead_to_regular_files_only(model, small, copy, tmp_path):
    folder = copy()
    for name in (WEIGHTS, CONFIG):
        (folder / name).rename(tmp_path / f"blob-{name}")
        (folder / name).symlink_to(tmp_path / f"blob-{name}")
    assert raw(model, folder).key == raw(model, small / "plain").key
    os.mkfifo(tmp_path / "pipe")
    for name in (WEIGHTS, CONFIG):
        for target in ("/dev/zero", str(tmp_path / "pipe"), str(tmp_path), "/nowhere", name):
            (folder / name).unlink()
            (folder / name).symlink_to(target)
            refused(model, folder, "path")  # and does not wait for ever
        (folder / name).unlink()
        (folder / name).symlink_to(tmp_path / f"blob-{name}")
    raw(model, folder)


def test_only_the_two_files_are_opened(model, copy, monkeypatch):
    folder = copy()
    (folder / "adapter_model.bin").write_bytes(b"x")
    (folder / "tokenizer.json").write_bytes(b"x")
    opened = []
    real = os.open
    monkeypatch.setattr(
        os, "open", lambda path, *more, **named: opened.append(Path(path).name) or real(path, *more, **named)
    )
    raw(model, folder)
    assert sorted(opened) == [CONFIG, WEIGHTS]


def test_the_file_may_change_while_an_adapter_is_in_use(model, copy):
    """It was copied, not mapped."""
    folder = copy()
    found = raw(model, folder)
    before = logits(model, [ready([(found, 1.0)])] * 3)
    os.truncate(folder / WEIGHTS, 100)
    after = logits(model, [ready([(found, 1.0)])] * 3)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
