"""Several adapters as one: linear is exact, the others are peft's add_weighted_adapter."""

from __future__ import annotations

import itertools
import shutil

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from paged import PROMPTS
from peft.tuners.lora import LoraLayer
from peft_models import expected, load, logits, raw, rounded_to, truth_of

from quire.engine.errors import RequestError
from quire.engine.lora import merge as merging
from quire.engine.lora.read import ready
from quire.engine.messages import Merge
from quire.kernels import native


def close(found, truth):
    for a, b in zip(found, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def together(small, names: list[str], weights: list[float], **how):
    """peft's merge of adapters into one."""
    trained = peft.PeftModel.from_pretrained(
        truth_of(small / "base"), small / names[0], adapter_name=names[0].replace(" ", "_")
    )
    for name in names[1:]:
        trained.load_adapter(small / name, adapter_name=name.replace(" ", "_"))
    trained.add_weighted_adapter([n.replace(" ", "_") for n in names], weights, "merged", **how)
    trained.set_adapter("merged")
    return trained.eval()


@pytest.mark.parametrize("scale", [0.5, 2.0, -1.0])
def test_a_scale_multiplies_what_an_adapter_changes(scale, small, model):
    trained = peft.PeftModel.from_pretrained(truth_of(small / "base"), small / "wide").eval()
    for module in trained.modules():
        if isinstance(module, LoraLayer):
            module.set_scale("default", scale)
    close(logits(model, [ready([(raw(model, small / "wide"), scale)])] * 3), expected(trained))


@pytest.mark.parametrize(
    ("names", "weights"), [(["plain", "plain too"], [0.7, 0.4]), (["wide", "fewer", "plain"], [1.0, 0.5, 0.25])]
)
def test_linear_is_the_exact_sum(names, weights, small, model):
    """peft's "cat", which is the sum of the products."""
    truth = expected(together(small, names, weights, combination_type="cat"))
    adapter = ready([(raw(model, small / n), w) for n, w in zip(names, weights, strict=True)])
    close(logits(model, [adapter] * 3), truth)


@pytest.mark.parametrize("kinds", [("bfloat16", "bfloat16"), ("float16", "bfloat16"), ("float32", "float16")])
def test_a_sum_of_files_of_16_bits_is_exact_too(kinds, small, model, tmp_path):
    """peft gets the same numbers in float32, in which it adds them up."""
    parts = []
    shutil.copytree(small / "base", tmp_path / "base")
    for kind, name in zip(kinds, ("plain", "wide"), strict=True):
        shutil.copytree(small / name, tmp_path / name)
        rounded = rounded_to(getattr(torch, kind), tmp_path / name, tmp_path / kind / name)
        parts.append((raw(model, rounded), 0.7))
    truth = expected(together(tmp_path, ["plain", "wide"], [0.7, 0.7], combination_type="cat"))
    close(logits(model, [ready(parts)] * 3), truth)


@pytest.mark.parametrize("majority", ["total", "frequency"])
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_is_that_of_peft(density, majority, small, model):
    names, weights = ["plain", "plain too", "fewer"], [0.9, -0.6, 0.4]
    truth = expected(
        together(small, names, weights, combination_type="ties", density=density, majority_sign_method=majority)
    )
    parts = [(raw(model, small / n), w) for n, w in zip(names, weights, strict=True)]
    close(logits(model, [ready(parts, Merge("ties", density, majority))] * 3), truth)


@pytest.mark.parametrize("kind", ["dare_linear", "dare_ties"])
def test_dare_is_that_of_peft_with_what_is_drawn_here(kind, small, model, monkeypatch):
    names, weights, density = ["plain", "plain too"], [0.9, 0.6], 0.6
    parts = [(raw(model, small / n), w) for n, w in zip(names, weights, strict=True)]
    masks = {}
    for found, _ in parts:
        for part in found.parts:
            for role in "ab":
                kept = merging.drawn(part.tensors[role], density, f"{found.key}/{part.module}/{role}") != 0
                masks[part.tensors[role].double().sum().item()] = kept

    def pruning(tensor, density, rescale):
        assert rescale
        return tensor * masks[tensor.double().sum().item()] / density

    monkeypatch.setattr("peft.utils.merge_utils.random_pruning", pruning)
    truth = expected(together(small, names, weights, combination_type=kind, density=density))
    close(logits(model, [ready(parts, Merge(kind, density))] * 3), truth)


def test_what_dare_draws_is_the_same_every_time_and_of_each_adapter_its_own(small, model):
    one, two = (raw(model, small / n) for n in ("plain", "plain too"))
    draw = [[(delta.pieces[0].a, delta.pieces[0].b) for _, delta in ready(parts, Merge("dare_linear", 0.5)).changes]
            for parts in ([(one, 1.0), (two, 1.0)], [(two, 1.0), (one, 1.0)])]  # fmt: skip
    assert all(torch.equal(p, q) for x, y in zip(*draw, strict=True) for p, q in zip(x, y, strict=True))
    big = torch.ones(400, 500)
    masks = [merging.drawn(big, 0.3, seed) for seed in ("x", "y")]
    assert all(set(m.unique().tolist()) == {0.0, torch.tensor(1.0).div(0.3).item()} for m in masks)
    assert all(abs((m != 0).float().mean().item() - 0.3) < 0.01 for m in masks)
    assert abs(((masks[0] != 0) & (masks[1] != 0)).float().mean().item() - 0.09) < 0.01


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_trimming_and_election_element_by_element(data):
    """Against the definitions in plain Python."""
    numbers = st.floats(-4, 4, width=16).map(lambda x: x + 0.0)
    count, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
    rows = [data.draw(st.lists(numbers, min_size=size, max_size=size)) for _ in range(count)]
    factors = [data.draw(st.floats(-2, 2, width=16)) for _ in range(count)]
    density = data.draw(st.sampled_from([0.01, 0.25, 0.5, 0.8, 1.0]))
    majority = data.draw(st.sampled_from(["total", "frequency"]))

    trimmed = [merging.trimmed(torch.tensor(row), density) for row in rows]
    for row, found in zip(rows, trimmed, strict=True):
        kept = size if density >= 1 else int(density * size)
        largest = sorted((abs(x) for x in row), reverse=True)[:kept]
        assert sorted((abs(x) for x in found.tolist() if x), reverse=True) == [x for x in largest if x]
        assert all(f in (0.0, x) for f, x in zip(found.tolist(), row, strict=True))

    found = merging.elected(trimmed, factors, Merge("ties", density, majority)).tolist()
    sign = lambda x: (x > 0) - (x < 0)  # noqa: E731
    for i in range(size):
        column = [t[i].item() for t in trimmed]
        votes = sum(column) if majority == "total" else sum(map(sign, column))
        winner = 1 if votes >= 0 else -1
        voters = [x * f for x, f in zip(column, factors, strict=True) if sign(x) == winner]
        assert found[i] == pytest.approx(sum(voters) / max(len(voters), 1), rel=1e-5, abs=1e-5)


def weights_of(model, adapter) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Of each product that an adapter changes: what unit vectors give, less what zero gives, and what zero gives."""
    from quire.kernels.linear import Linear
    from quire.kernels.lora import Rows

    found = {}
    for product, delta in adapter.changes:
        product.put(0, delta)
        if isinstance(product, Linear):
            x = torch.cat([torch.eye(product.in_features), torch.zeros(1, product.in_features)])
        else:
            x = torch.arange(product.vocab)
        y, base = product(x, Rows.of([0] * len(x))), product(x)
        product.drop(0)
        if isinstance(product, Linear):
            y, base = ((t[:-1] - t[-1], t[-1]) for t in (y, base))
        else:
            y, base = (y, torch.zeros(())), (base, torch.zeros(()))
        found[id(product)] = (y[0] - base[0], y[1] - base[1])
    return found


NAMES = ["plain", "fewer", "wide", "dora", "biased", "saved", "ia3"]


@pytest.mark.parametrize(("one", "two"), list(itertools.combinations(NAMES, 2)))
def test_linear_adds_what_each_kind_changes_in_weights_and_biases(one, two, small, model):
    a, b = raw(model, small / one), raw(model, small / two)
    if {one, two} == {"dora", "ia3"}:  # both change down_proj: one its inputs, one its outputs
        with pytest.raises(RequestError, match=r"cannot be combined") as refused:
            ready([(a, 1.0), (b, 1.0)])
        assert "dora" in refused.value.message
        assert "ia3" in refused.value.message
        return
    singles = [weights_of(model, ready([(r, 1.0)])) for r in (a, b)]
    for s, t in ((1.0, 1.0), (0.5, -2.0)):
        both = weights_of(model, ready([(a, s), (b, t)]))
        assert set(both) == set(singles[0]) | set(singles[1])
        for at, (weight, bias) in both.items():
            none = (torch.zeros(()), torch.zeros(()))
            (w1, b1), (w2, b2) = (single.get(at, none) for single in singles)
            torch.testing.assert_close(weight, (s * w1 + t * w2).expand_as(weight), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(bias, (s * b1 + t * b2).expand_as(bias), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["ties", "dare_linear", "dare_ties"])
@pytest.mark.parametrize(
    ("name", "why"),
    [("dora", "use_dora"), ("ia3", "peft_type"), ("saved", "modules_to_save"), ("biased", "bias")],
)
def test_merges_that_are_undefined_are_refused_by_name(kind, name, why, small, model):
    with pytest.raises(RequestError, match=why) as refused:
        ready([(raw(model, small / "plain"), 1.0), (raw(model, small / name), 1.0)], Merge(kind, 0.5))
    assert name in refused.value.message
    assert refused.value.param == "adapters"


def test_unequal_ranks_are_refused_naming_both(small, model):
    with pytest.raises(RequestError, match=r"rank 4.*rank 12|rank 12.*rank 4") as refused:
        ready([(raw(model, small / "plain"), 1.0), (raw(model, small / "wide"), 1.0)], Merge("ties", 0.5))
    assert "plain" in refused.value.message
    assert "wide" in refused.value.message


@pytest.mark.parametrize(
    ("merge", "param"),
    [
        (Merge("ties", 0.0), "density"),
        (Merge("ties", 1.5), "density"),
        (Merge("dare_ties", float("nan")), "density"),
        (Merge("linear", 0.5), "density"),
        (Merge("linear", majority="frequency"), "majority"),
        (Merge("dare_linear", 0.5, "frequency"), "majority"),
    ],
)
def test_settings_that_a_merge_has_no_use_for_are_refused(merge, param, small, model):
    with pytest.raises(RequestError) as refused:
        ready([(raw(model, small / "plain"), 1.0)], merge)
    assert refused.value.param == param


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e9])
def test_a_scale_must_be_a_number(scale, small, model):
    with pytest.raises(RequestError, match="scale"):
        ready([(raw(model, small / "plain"), scale)])


@pytest.mark.parametrize("name", ["plain", "wide", "dora", "biased", "saved", "ia3"])
def test_a_scale_of_zero_is_the_base(name, small, model):
    adapter = ready([(raw(model, small / name), 0.0)])
    assert not adapter.changes
    assert adapter.key != raw(model, small / name).key


@pytest.mark.skipif(native.cpu is None, reason="the C++ kernels were not built")
@pytest.mark.parametrize("names", [("plain", "wide"), ("dora", "biased"), ("saved", "plain"), ("ia3", "fewer")])
def test_all_layers_in_one_call_are_those_one_by_one_with_adapters(names, small, model, monkeypatch):
    """With those that do more than C++ knows of, too: they go through the layers one by one."""
    mixed = [*(ready([(raw(model, small / name), 1.3)]) for name in names), None]
    calls = []
    monkeypatch.setattr(native, "cpu", Calls(native.cpu, calls))
    found = logits(model, mixed)
    assert ("decoder" in calls) == (not {"saved", "ia3"} & set(names))
    monkeypatch.setattr(type(model), "_in_one_call", lambda self: None)
    for one, other in zip(found, logits(model, mixed), strict=True):
        assert torch.equal(one, other)


class Calls:
    """A module, with the names of the functions that were asked of it."""

    def __init__(self, module, seen: list[str]):
        self._module, self._seen = module, seen

    def __getattr__(self, name: str):
        self._seen.append(name)
        return getattr(self._module, name)


def test_a_mixed_batch_is_each_alone(small, model):
    mixed = [
        ready([(raw(model, small / "wide"), 1.0)]),
        ready([(raw(model, small / "dora"), 0.5), (raw(model, small / "plain"), 2.0)]),
        ready([(raw(model, small / "plain"), 1.0), (raw(model, small / "plain too"), 1.0)], Merge("ties", 0.5)),
    ]
    found = logits(model, mixed)
    for i, adapter in enumerate(mixed):
        alone = logits(model, [None] * i + [adapter] + [None] * (2 - i))
        assert torch.equal(found[i], alone[i])


def test_in_bfloat16_too(small):
    from quire.engine.models.load import load_model

    model = load_model(small / "base", dtype="bfloat16", device=torch.device("cpu"))
    full = load(small / "base")
    for name in NAMES:
        wanted = logits(full, [ready([(raw(full, small / name), 1.0)])] * 3)
        found = logits(model, [ready([(raw(model, small / name), 1.0)])] * 3)
        for a, b in zip(found, wanted, strict=True):
            assert (a - b).norm() / b.norm() < 0.05
    assert len(PROMPTS) == 3
