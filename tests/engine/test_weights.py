"""Weights by name: what is missing, misshapen, extra or unreadable is named with its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from paged import CPU, PROMPTS, make, run
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from quire.engine.errors import ModelError
from quire.engine.models.load import load_model


@pytest.fixture
def folder(tmp_path):
    make("Llama", tmp_path)
    return tmp_path


def load(folder: Path, progress=lambda done, total: None):
    return load_model(folder, dtype="auto", device=CPU, progress=progress)


def change(folder: Path, edit) -> None:
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


Q = "model.layers.1.self_attn.q_proj.weight"


def test_a_missing_tensor_is_named(folder):
    change(folder, lambda t: t.pop(Q))
    with pytest.raises(ModelError, match=r"layers\.1\.self_attn\.q_proj\.weight is missing"):
        load(folder)


def test_a_misshapen_tensor_is_named_with_both_shapes(folder):
    change(folder, lambda t: t.update({Q: torch.zeros(32, 31)}))
    with pytest.raises(ModelError, match=rf"{Q} has shape \[32, 31\]; expected \[32, 32\]"):
        load(folder)


def test_an_extra_tensor_is_named(folder):
    change(folder, lambda t: t.update({"model.layers.0.adapter.weight": torch.zeros(2)}))
    with pytest.raises(ModelError, match=r"layers\.0\.adapter\.weight"):
        load(folder)


def test_a_tensor_that_is_there_under_two_names_is_named(folder):
    change(folder, lambda tensors: tensors.update({"norm.weight": torch.zeros(32)}))
    with pytest.raises(ModelError, match=r"has model\.norm\.weight and norm\.weight; expected one of the two"):
        load(folder)


def test_a_tensor_of_integers_is_refused(folder):
    change(folder, lambda t: t.update({Q: torch.zeros(32, 32, dtype=torch.int32)}))
    with pytest.raises(ModelError, match="int32"):
        load(folder)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float8_e4m3fn])
@pytest.mark.parametrize("quantization", [None, "int8", "int4"])
def test_weights_of_a_kind_that_no_product_keeps_are_quantized_as_others(folder, dtype, quantization):
    wanted = {} if quantization is None else {"quantization": quantization}
    found = []
    for kind in (dtype, torch.float32):
        change(folder, lambda t, kind=kind: t.update({name: x.to(dtype).to(kind) for name, x in t.items()}))
        model = load_model(folder, dtype="auto", device=CPU, **wanted)
        found.append((run(model, [PROMPTS[2]], [[(0, 5)], [(0, 18)]])[0], model.kinds, model.weight_bytes))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]


def test_buffers_that_hold_nothing_are_let_be(folder):
    change(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}))
    load(folder)


def test_a_truncated_file_is_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        load(folder)


def test_pickles_are_refused_with_the_reason(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin: a pickle file can run any code"):
        load(folder)


def test_a_folder_without_weights_says_so(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights"):
        load(folder)


def shard(folder: Path) -> dict:
    """Split the file in two and write an index; returns it."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    table = {}
    for i, part in enumerate((names[::2], names[1::2])):
        file = f"part-{i}.safetensors"
        save_file({n: tensors[n] for n in part}, folder / file)
        table.update(dict.fromkeys(part, file))
    index = {"metadata": {}, "weight_map": table}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


def test_shards_give_the_same_model(folder):
    whole = run(load(folder), [PROMPTS[2]], [[(0, 23)]])[0]
    shard(folder)
    assert torch.equal(run(load(folder), [PROMPTS[2]], [[(0, 23)]])[0], whole)


@pytest.mark.parametrize("other", ["part-0.safetensors", "part-1.safetensors"])
def test_a_tensor_is_read_from_the_shard_that_the_index_names(folder, other):
    whole = run(load(folder), [PROMPTS[2]], [[(0, 23)]])[0]
    shards = shard(folder)["weight_map"]
    name = next(name for name, file in shards.items() if file != other and name.endswith("q_proj.weight"))
    stale = load_file(folder / other)
    save_file({**stale, name: torch.zeros(32, 32)}, folder / other)
    assert torch.equal(run(load(folder), [PROMPTS[2]], [[(0, 23)]])[0], whole)


def test_a_single_file_goes_before_shards_that_lie_there_too_as_in_transformers(folder):
    truth = make("Llama", folder)
    shard(folder)
    save_file({name: value + 1 for name, value in truth.state_dict().items()}, folder / "model.safetensors")
    truth = LlamaForCausalLM.from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = truth(torch.tensor([PROMPTS[2]])).logits[0]
    torch.testing.assert_close(run(load(folder), [PROMPTS[2]], [[(0, 23)]])[0], expected, rtol=1e-4, atol=1e-4)


def test_an_absent_shard_is_named(folder):
    shard(folder)
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(ModelError, match=r"part-1\.safetensors"):
        load(folder)


def test_a_shard_outside_the_folder_is_refused(folder):
    index = shard(folder)
    index["weight_map"][Q] = "../elsewhere.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"\.\./elsewhere"):
        load(folder)


def test_a_shard_without_its_tensor_is_named(folder):
    index = shard(folder)
    index["weight_map"]["model.absent.weight"] = "part-0.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model\.absent\.weight"):
        load(folder)


def test_a_broken_index_or_config_is_named(folder):
    shard(folder)
    (folder / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ModelError, match=r"index\.json"):
        load(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ModelError, match=r"config\.json"):
        load(folder)


def test_progress_counts_every_byte_once(folder):
    seen: list[tuple[int, int]] = []
    load(folder, lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    size = sum(t.nbytes for t in load_file(folder / "model.safetensors").values())
    assert seen[-1] == (size, size)


def test_packed_matrices_keep_no_unpacked_copy(folder):
    model = load(folder)
    linears = [x for block in model.blocks for x in (block.qkv, block.out, block.gate_up, block.down)]
    assert all(x.shared is None or x.matrix is not None for x in linears)
