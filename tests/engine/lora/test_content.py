"""An adapter is known by what it does: its weights, its scales and its base."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from peft_models import edit, raw
from safetensors.torch import load_file, save_file

from quire.engine.lora.read import ready
from quire.engine.messages import Merge

WEIGHTS = "adapter_model.safetensors"


def test_the_same_weights_elsewhere_under_other_names_have_the_same_key(model, small, copy):
    key = raw(model, small / "plain").key
    folder = copy()
    held = load_file(folder / WEIGHTS)
    backwards = {name.replace("base_model.model.", ""): held[name] for name in sorted(held, reverse=True)}
    save_file(backwards, folder / WEIGHTS, metadata={"format": "pt", "who": "somebody"})
    edit(folder, lora_dropout=0.3, base_model_name_or_path="other", peft_version="0.1", inference_mode=False)
    assert raw(model, folder).key == key
    edit(folder, target_modules=r".*_proj", r=8, rank_pattern={".*": 4})  # said in another way
    assert raw(model, folder).key == key
    edit(folder, lora_alpha=3, use_rslora=True)  # 6 / 4 as well
    assert raw(model, folder).key == key


@pytest.mark.parametrize(
    "fields", [{"lora_alpha": 7}, {"use_rslora": True}, {"alpha_pattern": {"layers.1.mlp.up_proj": 3}}]
)
def test_another_scale_is_another_adapter(fields, model, small, copy):
    folder = copy()
    edit(folder, **fields)
    assert raw(model, folder).key != raw(model, small / "plain").key


def test_another_number_kind_or_base_is_another_adapter(model, small, copy):
    keys = {raw(model, small / "plain").key, raw(model, small / "plain", base="other").key}
    folder = copy()
    held = load_file(folder / WEIGHTS)
    name = next(iter(held))
    held[name].view(-1)[3] += 1e-6
    save_file(held, folder / WEIGHTS)
    keys.add(raw(model, folder).key)
    save_file({n: t.to(torch.bfloat16) for n, t in held.items()}, folder / WEIGHTS)
    keys.add(raw(model, folder).key)
    assert len(keys) == 4


def test_two_modules_that_swap_their_matrices_are_another_adapter(model, small, copy):
    folder = copy()
    held = load_file(folder / WEIGHTS)
    one, two = (f"base_model.model.model.layers.0.mlp.{m}_proj.lora_B.weight" for m in ("gate", "up"))
    held[one], held[two] = held[two], held[one]
    save_file(held, folder / WEIGHTS)
    assert raw(model, folder).key != raw(model, small / "plain").key


def test_a_single_adapter_at_scale_one_keeps_its_key(model, small):
    plain = raw(model, small / "plain")
    assert ready([(plain, 1.0)]).key == plain.key
    assert ready([(plain, 0.25), (plain, 0.75)]).key == plain.key


def test_keys_of_several_depend_on_scales_and_merge_and_not_on_order(model, small):
    one, two = raw(model, small / "plain"), raw(model, small / "plain too")
    ties = Merge("ties", density=0.5)
    keys = [
        ready(parts, merge).key
        for parts, merge in [
            ([(one, 0.5)], Merge()),
            ([(one, 1.0), (two, 1.0)], Merge()),
            ([(one, 1.0), (two, 0.5)], Merge()),
            ([(one, 0.5), (two, 1.0)], Merge()),
            ([(one, 1.0), (two, 1.0)], ties),
            ([(one, 1.0), (two, 1.0)], Merge("ties", density=0.4)),
            ([(one, 1.0), (two, 1.0)], Merge("ties", density=0.5, majority="frequency")),
            ([(one, 1.0), (two, 1.0)], Merge("dare_ties", density=0.5)),
        ]
    ]
    assert len(set(keys)) == len(keys)
    for merge in (Merge(), ties):
        there, back = ready([(one, 0.3), (two, 0.7)], merge), ready([(two, 0.7), (one, 0.3)], merge)
        assert there.key == back.key
        for (product, a), (other, b) in zip(there.changes, back.changes, strict=True):
            assert product is other
            assert all(torch.equal(p.a, q.a) and torch.equal(p.b, q.b) for p, q in zip(a.pieces, b.pieces, strict=True))
    assert ready([(one, 1.0), (two, 0.0)]).key == one.key


def test_weights_of_the_base_that_are_saved_beside_are_no_content(model, small, copy):
    """peft writes embeddings out when they have an adapter."""
    folder = copy("fewer")
    held = load_file(folder / WEIGHTS)
    beside = [name for name in held if "base_layer" in name]
    assert beside
    key = raw(model, folder).key
    save_file({n: t for n, t in held.items() if n not in beside}, folder / WEIGHTS)
    assert raw(model, folder).key == key
    held[beside[0]][5] += 1.0
    save_file(held, folder / WEIGHTS)
    assert raw(model, folder).key != key


def test_many_threads_read_the_same(model, small):
    names = ["plain", "dora", "saved", "ia3", "wide", "biased"] * 4

    def one(name: str) -> tuple[str, str, int]:
        found = raw(model, small / name)
        adapter = ready([(found, 0.5)])
        return found.key, adapter.key, adapter.bytes

    alone = [one(name) for name in names]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, names)) == alone


def test_what_is_told_of_an_adapter(model, small):
    found = raw(model, small / "wide")
    assert (found.kind, found.rank, found.name) == ("LORA", 12, "wide")
    assert found.base_name == str(small / "base")
    assert raw(model, small / "ia3").rank == 0
    adapter = ready([(found, 1.0), (raw(model, small / "dora"), 1.0)])
    assert adapter.rank == 15
    assert set(adapter.deltas) == {id(product) for product, _ in adapter.changes}
    assert adapter.bytes > 0


def test_the_adapters_of_pocket_are_read():
    from peft_models import load

    import quire

    pocket = Path(quire.__file__).parent / "pocket"
    folders = (
        sorted(p for p in (pocket / "adapters").iterdir() if (p / WEIGHTS).is_file())
        if (pocket / "adapters").is_dir()
        else []
    )
    if not folders:
        pytest.skip("pocket has no adapters in this checkout")
    model = load(pocket / "model")
    keys = {ready([(raw(model, folder, max_rank=256), 1.0)]).key for folder in folders}
    assert len(keys) == len(folders)
    assert all(json.loads((f / "adapter_config.json").read_text())["peft_type"] == "LORA" for f in folders)
