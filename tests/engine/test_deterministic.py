"""What `deterministic` and `quantization` ask of a device: accepted where it is so anyhow, else refused by name."""

from __future__ import annotations

import pytest
import torch
from paged import PROMPTS, make, run

from quire.engine import deterministic
from quire.engine.errors import ConfigError
from quire.engine.models.load import load_model
from quire.kernels import native
from quire.kernels.triton import chosen, there

CPU, CUDA = torch.device("cpu"), torch.device("cuda")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def on_cuda(monkeypatch):
    """As if the kernels could run there."""
    monkeypatch.setattr(there, "lack", lambda dtype, device: None if device.type == "cuda" else "it is no GPU")


@pytest.mark.parametrize("kernels", ["as they are", "none"])
def test_on_the_cpu_nothing_changes(kernels, tmp_path, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if kernels == "none":
        monkeypatch.setattr(native, "cpu", None)
    make("Llama", tmp_path)
    plain, asked = (load_model(tmp_path, dtype="auto", device=CPU, deterministic=on) for on in (False, True))
    steps = [[(0, 40)]]
    assert torch.equal(run(plain, PROMPTS[:1], steps)[0], run(asked, PROMPTS[:1], steps)[0])
    assert plain.head._how == asked.head._how != "fixed"


def test_without_a_product_whose_order_is_known_it_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(native, "cpu", None)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    make("Llama", tmp_path)
    with pytest.raises(ConfigError, match=r"deterministic is true, .*float32 on cpu \(torch\); expected float32, and"):
        load_model(tmp_path, dtype="auto", device=CPU, deterministic=True)


def test_a_model_of_transformers_is_looked_at_to_the_bit(tmp_path):
    make("Gemma2", tmp_path, head_dim=8)
    model = load_model(tmp_path, dtype="auto", device=CPU, deterministic=True)
    model._exact = False  # as where its rows do depend on each other
    with pytest.raises(ConfigError, match=r"deterministic is true, and Gemma2ForCausalLM .* gives other bits in other"):
        model.check_rows_stand_alone(exact=True)
    with pytest.raises(ConfigError, match=r"deterministic is true, and the model runs in torch.bfloat16 on cpu"):
        load_model(tmp_path, dtype="bfloat16", device=CPU, deterministic=True)


def test_on_a_gpu_attention_is_tritons_or_refused():
    assert deterministic.attention("auto", CUDA, True) == deterministic.attention("triton", CUDA, True) == "triton"
    assert deterministic.attention("torch", CUDA, False) == deterministic.attention("torch", CPU, True) == "torch"
    with pytest.raises(ConfigError, match="attention is 'torch', and deterministic is true on cuda; expected auto or"):
        deterministic.attention("torch", CUDA, True)


def test_on_a_gpu_products_are_fixed_or_it_is_refused(on_cuda, monkeypatch):
    assert deterministic.products(torch.bfloat16, CUDA, True)
    for said, ours, dtype in (
        ("on cuda the model runs in transformers' own code", False, torch.bfloat16),
        ("is true, and torch computes layer_norm", True, torch.bfloat16),
        ("is true on cuda, and triton is not installed", True, torch.bfloat16),
    ):
        if "layer_norm" in said:
            monkeypatch.setitem(chosen.WAYS, "layer_norm", "torch")
        if "installed" in said:
            monkeypatch.setattr(there, "lack", lambda dtype, device: "triton is not installed")
        with pytest.raises(ConfigError, match=said):
            deterministic.products(dtype, CUDA, ours)


@pytest.mark.skipif(native.cpu is None, reason="the C++ kernels were not built")
def test_weights_in_e4m3_are_refused_on_the_cpu(tmp_path):
    make("Llama", tmp_path)
    with pytest.raises(ConfigError, match=r"quantization is 'fp8' on cpu; expected int8 or int4: the C\+\+ kernels"):
        load_model(tmp_path, dtype="auto", device=CPU, quantization="fp8")
