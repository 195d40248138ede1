"""Our own model families: transformers' logits at every position, however the prompts are cut and mixed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from paged import CPU, PROMPTS, RAGGED, make, run
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, LlamaForCausalLM

from quire.engine.errors import ConfigError, ModelError
from quire.engine.models.load import load_model
from quire.kernels import native

WINDOW = {"sliding_window": 9}
SHAPES = {
    "llama": ("Llama", {}),
    "llama tied": ("Llama", {"tie_word_embeddings": True}),
    "llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 12}),
    "mistral with a window": ("Mistral", {**WINDOW, "head_dim": 8}),
    "mistral without": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2 with windows": ("Qwen2", {**WINDOW, "use_sliding_window": True, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3 with windows": ("Qwen3", {**WINDOW, "use_sliding_window": True, "max_window_layers": 1, "head_dim": 8}),
    "gpt2": ("GPT2", {}),
    "gpt2 odd": ("GPT2", {"scale_attn_by_inverse_layer_idx": True, "n_inner": 40, "activation_function": "relu"}),
}  # fmt: skip
ROPES = {
    "default": {"rope_type": "default", "rope_theta": 500.0},
    "linear": {"rope_type": "linear", "factor": 2.5, "rope_theta": 10000.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0},
    "llama3": {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64, "rope_theta": 10000.0,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0},
    "yarn with mscale": {
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0,
        "mscale": 0.7, "mscale_all_dim": 0.9, "beta_fast": 16, "beta_slow": 2, "truncate": False,
    },
    "longrope": {
        "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.5, 2.0, 3.0, 4.0],
        "original_max_position_embeddings": 32, "rope_theta": 10000.0,
    },
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


def load(folder: Path, **more):
    return load_model(folder, dtype="float32", device=CPU, impl="quire", **more)


@pytest.mark.parametrize("name", SHAPES)
def test_logits_equal_transformers_at_every_position_chunked_and_batched(name, tmp_path):
    family, fields = SHAPES[name]
    truth = make(family, tmp_path, **fields)
    model = load(tmp_path)
    ragged = run(model, PROMPTS, RAGGED)
    for i, prompt in enumerate(PROMPTS):
        with torch.inference_mode():
            expected = truth(torch.tensor([prompt])).logits[0]
        torch.testing.assert_close(ragged[i], expected, rtol=1e-4, atol=1e-4)
        alone = run(model, [prompt], [[(0, len(prompt))]])[0]
        assert torch.equal(ragged[i], alone), "the bits depend on the batch"


@pytest.mark.parametrize("quantization", [None, "int8"])
@pytest.mark.parametrize(
    ("family", "table"), [("Llama", "model.embed_tokens.weight"), ("GPT2", "transformer.wte.weight")]
)
def test_a_head_in_the_file_that_is_not_the_table_it_is_tied_to_is_its_own(family, table, quantization, tmp_path):
    truth = make(family, tmp_path, tie_word_embeddings=True)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    alike = {**tensors, "lm_head.weight": tensors[table].clone()}
    other = {**tensors, "lm_head.weight": tensors[table].flip(0)}
    for head, written in ((truth.lm_head.weight, alike), (other["lm_head.weight"], other)):
        save_file(written, file, {"format": "pt"})
        with torch.inference_mode():
            hidden = truth.base_model(torch.tensor([PROMPTS[2]])).last_hidden_state[0]
            expected = hidden @ head.T
            theirs = type(truth).from_pretrained(tmp_path)(torch.tensor([PROMPTS[2]])).logits[0]
        torch.testing.assert_close(theirs, expected, rtol=1e-4, atol=1e-4)
        model = load_model(tmp_path, dtype="auto", device=CPU, quantization=quantization)
        found = run(model, [PROMPTS[2]], [[(0, 23)]])[0]
        assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.999


@pytest.mark.parametrize("kind", ROPES)
def test_every_kind_of_rope_equals_transformers(kind, tmp_path):
    """A prompt that fills the served context: there the kinds that depend on length have transformers' numbers."""
    longest = 64 if kind == "dynamic" else 256
    truth = make("Llama", tmp_path, rope_parameters=ROPES[kind], max_position_embeddings=longest)
    prompt = [(5 * i * i + i) % 101 for i in range(96)]
    model = load(tmp_path, context=len(prompt))
    with torch.inference_mode():
        expected = truth(torch.tensor([prompt])).logits[0]
    torch.testing.assert_close(run(model, [prompt], [[(0, 96)]])[0], expected, rtol=1e-4, atol=1e-4)


def test_longrope_takes_the_short_factors_for_a_short_context(tmp_path):
    truth = make("Llama", tmp_path, rope_parameters=ROPES["longrope"])
    with torch.inference_mode():
        expected = truth(torch.tensor([PROMPTS[2]])).logits[0]
    found = run(load(tmp_path, context=32), [PROMPTS[2]], [[(0, 23)]])[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_old_name_of_rope_settings_is_understood(tmp_path):
    truth = make("Llama", tmp_path, rope_parameters=ROPES["linear"])
    edit(tmp_path, rope_parameters=None, rope_theta=10000.0, rope_scaling={"type": "linear", "factor": 2.5})
    with torch.inference_mode():
        expected = truth(torch.tensor([PROMPTS[0]])).logits[0]
    found = run(load(tmp_path), [PROMPTS[0]], [[(0, 40)]])[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def edit(folder: Path, **fields) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"surprise_factor": 2}, "surprise_factor"),
        ({"hidden_act": "swish2"}, "hidden_act"),
        ({"pretraining_tp": 2}, "pretraining_tp"),
        ({"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}}, "spiral"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "factor"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "twist": 1}}, "twist"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"architectures": []}, "architectures"),
        ({"architectures": [["LlamaForCausalLM"]]}, "architectures is"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1; expected a finite number above 0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps is nan"),
        ({"rope_theta": 0, "rope_parameters": None}, "rope_theta is 0"),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 0}}, "rope_theta of the rope is 0"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": "2"}}, "factor of the rope is '2'"),
        ({"dtype": "float77"}, "dtype is 'float77'"),
        ({"dtype": None, "torch_dtype": "float77"}, "torch_dtype is 'float77'"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3; expected a divisor of the 4 heads"),
        ({"head_dim": 7}, "head_dim is 7; expected an even number"),
        ({"rope_parameters": [1]}, r"rope_parameters is \[1\]; expected an object"),
        ({"rope_parameters": {"rope_type": ["linear"]}}, r"rope_type is \['linear'\]"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"rope_parameters": {**ROPES["longrope"], "short_factor": "1"}}, "short_factor of the rope is '1'"),
        ({"rope_parameters": {**ROPES["longrope"], "long_factor": [1, 1, 0, 1]}}, "an item of long_factor .* is 0"),
    ],
)
def test_what_would_change_the_maths_is_an_error_at_load(fields, named, tmp_path):
    make("Llama", tmp_path)
    edit(tmp_path, **fields)
    with pytest.raises(ModelError, match=named):
        load(tmp_path)


@pytest.mark.parametrize(
    ("family", "fields", "named"),
    [
        *(("Mistral", {"sliding_window": x}, f"sliding_window is {x!r}; expected") for x in (0, -1, True, 9.0, "9")),
        ("Mistral", {"num_hidden_layers": "2"}, "num_hidden_layers is '2'"),
        ("Qwen2", {"use_sliding_window": True, "sliding_window": "9"}, "sliding_window is '9'"),
        ("Qwen2", {"use_sliding_window": True, "layer_types": None, "max_window_layers": "1"}, "max_window_layers is"),
        ("Qwen2", {"layer_types": 2}, "layer_types is 2; expected 2 of sliding_attention"),
        ("Qwen3", {"layer_types": [["full_attention"], []]}, r"layer_types is \[\['full_attention'\], \[\]\]"),
        ("GPT2", {"n_head": 3}, "n_head is 3; expected a divisor of n_embd, which is 32"),
    ],
)
def test_what_only_some_families_have_is_looked_at_as_well(family, fields, named, tmp_path):
    make(family, tmp_path)
    edit(tmp_path, **fields)
    with pytest.raises(ModelError, match=named):
        load(tmp_path)


@pytest.mark.parametrize("family", ["Mistral", "Qwen2", "Qwen3"])
def test_a_config_that_does_not_name_its_window_has_that_of_transformers(family, tmp_path):
    make(family, tmp_path)
    edit(
        tmp_path,
        sliding_window=None,
        layer_types=None,
        use_sliding_window=family != "Mistral" or None,
        max_window_layers=0,
    )
    config = AutoConfig.from_pretrained(tmp_path)
    assert [layer.window for layer in load(tmp_path).layers] == [config.sliding_window] * 2 == [4096, 4096]


def test_older_rope_settings_go_before_newer_ones_as_in_transformers(tmp_path):
    make("Llama", tmp_path)
    edit(tmp_path, rope_parameters=ROPES["default"], rope_scaling={"rope_type": "linear", "factor": 2.5})
    truth = LlamaForCausalLM.from_pretrained(tmp_path).eval()
    with torch.inference_mode():
        expected = truth(torch.tensor([PROMPTS[0]])).logits[0]
    found = run(load(tmp_path), [PROMPTS[0]], [[(0, 40)]])[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_an_adapter_beside_a_model_is_not_taken_for_it_in_silence(tmp_path, caplog):
    truth = make("Llama", tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/elsewhere"}))
    with torch.inference_mode():
        expected = truth(torch.tensor([PROMPTS[2]])).logits[0]
    torch.testing.assert_close(run(load(tmp_path), [PROMPTS[2]], [[(0, 23)]])[0], expected, rtol=1e-4, atol=1e-4)
    assert "adapter_config.json: the adapter is not a part of the model" in caplog.text
    with pytest.raises(ModelError, match=r"adapter_config\.json: an adapter beside a model; expected"):
        load_model(tmp_path, dtype="float32", device=CPU, impl="transformers")


def test_an_unknown_architecture_is_named_where_only_our_own_may_serve(tmp_path):
    make("Llama", tmp_path)
    edit(tmp_path, architectures=["OracleForCausalLM"])
    with pytest.raises(ModelError, match="OracleForCausalLM"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bit_weights_are_kept_and_computed_in_float32(dtype, tmp_path):
    truth = make("Llama", tmp_path)
    model = load_model(tmp_path, dtype=dtype, device=CPU)
    plain = load_model(tmp_path, dtype="float32", device=CPU)
    assert model.dtype == torch.float32
    assert model.weight_bytes < 0.6 * plain.weight_bytes or native.cpu is None
    with torch.no_grad():
        for parameter in truth.parameters():
            parameter.copy_(parameter.to(getattr(torch, dtype)))
        expected = truth(torch.tensor([PROMPTS[2]])).logits[0]
    found = run(model, [PROMPTS[2]], [[(0, 23)]])[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("quantization", "least"), [("int8", 0.9996), ("int4", 0.9)])
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "GPT2"])
def test_quantized_at_load_stays_near(family, quantization, least, tmp_path):
    truth = make(family, tmp_path)
    model = load_model(tmp_path, dtype="auto", device=CPU, quantization=quantization)
    with torch.inference_mode():
        expected = truth(torch.tensor([PROMPTS[2]])).logits[0]
    found = run(model, [PROMPTS[2]], [[(0, 23)]])[0]
    assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > least
    cut = run(model, [PROMPTS[2]], [[(0, 5)], [(0, 1)], [(0, 17)]])[0]
    assert torch.equal(cut, found)


@pytest.mark.skipif(native.cpu is None, reason="the C++ kernels were not built")
@pytest.mark.parametrize(
    ("family", "more"), [("Llama", {}), ("Qwen2", {}), ("Qwen3", {}), ("Mistral", {"sliding_window": 9})]
)
def test_all_layers_in_one_call_are_those_one_by_one(family, more, tmp_path, monkeypatch):
    make(family, tmp_path, **more)
    model = load(tmp_path)
    found = run(model, PROMPTS, RAGGED)
    monkeypatch.setattr(type(model), "_in_one_call", lambda self: None)
    for one, other in zip(found, run(model, PROMPTS, RAGGED), strict=True):
        assert torch.equal(one, other)


class Asked:
    """The model, asked for some rows of each step only. The others come out as NaN."""

    def __init__(self, model, which: slice):
        self.model, self.which = model, which

    def __getattr__(self, name: str):
        return getattr(self.model, name)

    def forward(self, tokens, positions, attend):
        wanted = torch.arange(len(tokens))[self.which]
        found = self.model.forward(tokens, positions, attend, wanted=wanted)
        assert found.shape == (len(wanted), self.model.width)
        every = torch.full((len(tokens), self.model.width), torch.nan)
        every[wanted] = found
        return every


@pytest.mark.parametrize("which", [slice(1, None, 3), slice(20, None), slice(0)], ids=["every third", "last", "none"])
@pytest.mark.parametrize("way", ["in one call", "layer by layer", "transformers"])
@pytest.mark.parametrize("family", ["llama", "mistral with a window", "qwen3 with windows", "gpt2"])
def test_rows_that_are_not_wanted_are_left_out_and_the_others_keep_their_bits(
    family, way, which, tmp_path, monkeypatch
):
    family, fields = SHAPES[family]
    make(family, tmp_path, **fields)
    model = load_model(
        tmp_path, dtype="float32", device=CPU, impl="transformers" if way == "transformers" else "quire", context=None
    )
    if way == "layer by layer":
        monkeypatch.setattr(type(model), "_in_one_call", lambda self: None, raising=False)
    found = run(model, PROMPTS, RAGGED)
    some = run(Asked(model, which), PROMPTS, RAGGED)
    for one, other in zip(found, some, strict=True):
        there = ~other.isnan().any(-1)
        assert torch.equal(one[there], other[there])
    rows = sum(len(range(sum(count for _, count in step))[which]) for step in RAGGED)
    assert sum(int((~other.isnan().any(-1)).sum()) for other in some) == rows


def test_a_model_of_transformers_is_quantized_too(tmp_path):
    truth = make("Gemma2", tmp_path, head_dim=8)
    model = load_model(tmp_path, dtype="auto", device=CPU, quantization="int8")
    plain = load_model(tmp_path, dtype="auto", device=CPU)
    assert model.weight_bytes < 0.8 * plain.weight_bytes
    assert "int8" in model.kinds
    with torch.inference_mode():
        expected = truth(torch.tensor([PROMPTS[2]])).logits[0]
    found = run(model, [PROMPTS[2]], [[(0, 23)]])[0]
    assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > 0.999


def test_what_stays_as_it_is_of_a_model_of_transformers_is_said(tmp_path, caplog):
    make("Mixtral", tmp_path / "experts", num_local_experts=4)
    assert load_model(tmp_path / "experts", dtype="auto", device=CPU).kinds == "float32"
    assert not caplog.records
    model = load_model(tmp_path / "experts", dtype="auto", device=CPU, quantization="int8")
    assert model.kinds == "float32 and int8"
    assert "MixtralForCausalLM: 0.1 MiB of its weights are in no linear layer" in caplog.text
    make("GPT2", tmp_path / "none")
    with pytest.raises(ConfigError, match="quantization is 'int4'; expected none for GPT2LMHeadModel"):
        load_model(tmp_path / "none", dtype="auto", device=CPU, quantization="int4", impl="transformers")


def test_what_cannot_be_quantized_is_refused(tmp_path, monkeypatch):
    make("Llama", tmp_path)
    monkeypatch.setattr(native, "cpu", None)
    with pytest.raises(ConfigError, match=r"quantization is 'int8' on cpu \(torch\).*C\+\+ kernels on the CPU"):
        load_model(tmp_path, dtype="auto", device=CPU, quantization="int8")


def test_the_story_model_says_its_golden_ids(stories, golden):
    model = load(stories)
    ids = golden["prompt_ids"] + golden["completion_ids"]
    logits = run(model, [ids], [[(0, len(ids))]])[0]
    assert logits[:-1].argmax(-1).tolist() == golden["completion_ids"]
