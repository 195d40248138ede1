"""Models whose weights are drawn as they are asked for (random.json)."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from quire.clients.bench.published import PUBLISHED, tensors, write_model
from quire.engine.errors import ModelError
from quire.engine.models.load import fingerprint, load_model
from quire.engine.weights import open_weights

CPU = torch.device("cpu")


@pytest.fixture(params=PUBLISHED)
def folder(tmp_path, request):
    write_model(request.param, tmp_path, tiny=True)
    return tmp_path


def test_the_tensors_are_those_of_a_checkpoint(folder):
    config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    found = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del found["lm_head.weight"]
    assert json.loads((folder / "random.json").read_text())["tensors"] == found


@pytest.mark.parametrize(("name", "billions"), [("llama-3.2-1b", 1.236), ("llama-3.1-8b", 8.03), ("qwen3-0.6b", 0.596)])
def test_the_published_shapes_have_the_published_sizes(name, billions):
    count = sum(torch.Size(shape).numel() for shape in tensors(PUBLISHED[name]).values())
    assert count / 1e9 == pytest.approx(billions, rel=1e-3)


def test_such_a_model_loads_and_every_id_is_text(folder):
    model = load_model(folder, dtype="auto", device=CPU)
    assert model.vocab_size == 640
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer.encode("héllo, you")) == "héllo, you"
    # Bytes that are no text by themselves may come as a mark; nothing else is silent but the special tokens.
    assert all(tokenizer.decode([i]) for i in range(640))


def test_a_tensor_is_the_same_whenever_it_is_read_and_another_from_another_seed(tmp_path):
    write_model("qwen3-0.6b", tmp_path / "a", tiny=True)
    write_model("qwen3-0.6b", tmp_path / "b", seed=1, tiny=True)
    a, again, b = (open_weights(tmp_path / name, CPU) for name in "aab")
    name, other = "model.layers.1.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(a.read(name), again.read(name))
    assert not torch.equal(a.read(name), a.read(other))
    assert not torch.equal(a.read(name), b.read(name))
    assert a.read(name).dtype == torch.bfloat16
    assert float(a.read(name).float().std()) == pytest.approx(0.02, rel=0.1)
    assert torch.equal(a.read("model.norm.weight"), torch.ones(64, dtype=torch.bfloat16))
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": True}, "seed is True"),
        ({"dtype": "int8"}, "dtype is 'int8'; expected one of float32, bfloat16, float16"),
        ({"tensors": []}, "tensors is list"),
        ({"tensors": {"a": [0]}}, r"tensors\.a is \[0\]"),
        ({"tensors": {"a": 3}}, r"tensors\.a is 3"),
        ({"more": 1}, "holds dtype, more, seed, tensors; expected an object of seed, dtype, tensors"),
    ],
)
def test_what_the_file_may_not_say_is_named(change, said, tmp_path):
    write_model("llama-3.2-1b", tmp_path, tiny=True)
    path = tmp_path / "random.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ModelError, match=said):
        open_weights(tmp_path, CPU)


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_what_is_no_such_file_is_named(text, tmp_path):
    (tmp_path / "random.json").write_text(text)
    with pytest.raises(ModelError, match=r"random\.json"):
        open_weights(tmp_path, CPU)


def test_a_tensor_of_another_shape_and_one_that_is_not_there_are_named(tmp_path):
    write_model("llama-3.1-8b", tmp_path, tiny=True)
    path = tmp_path / "random.json"
    content = json.loads(path.read_text())
    content["tensors"]["lm_head.weight"] = [640, 63]
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"lm_head\.weight has shape \[640, 63\]; expected \[640, 64\]"):
        load_model(tmp_path, dtype="auto", device=CPU)
    del content["tensors"]["lm_head.weight"]
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"lm_head\.weight is missing"):
        load_model(tmp_path, dtype="auto", device=CPU)


def test_real_weights_beside_it_are_the_ones_that_count(tmp_path):
    from safetensors.torch import save_file

    write_model("llama-3.1-8b", tmp_path, tiny=True)
    reader = open_weights(tmp_path, CPU)
    save_file({name: reader.read(name) * 0 + 5 for name in reader.names}, tmp_path / "model.safetensors")
    assert float(open_weights(tmp_path, CPU).read("model.norm.weight")[0]) == 5
