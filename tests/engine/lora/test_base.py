"""Weights are recovered from a product however it holds them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engine.lora import base
from quire.engine.lora.adapter import Place, Places
from quire.kernels.linear import Linear

CPU = torch.device("cpu")


class Opaque:
    """A product that gives away nothing but its results, as a quantized one does."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None):
        self._weight = weight
        self.bias = bias
        self.out_features, self.in_features = weight.shape
        self.weight = torch.zeros(weight.numel() // 2, dtype=torch.uint8)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self._weight, self.bias)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 600), st.booleans(), st.sampled_from(["packed", "left", "opaque"]))
def test_the_weight_of_any_product(outputs, inputs, biased, how):
    g = torch.Generator().manual_seed(outputs * 1000 + inputs)
    weight = torch.randn(outputs, inputs, generator=g)
    bias = torch.randn(outputs, generator=g) if biased else None
    product = Opaque(weight, bias) if how == "opaque" else Linear(weight.clone(), bias, pack=how == "packed")
    found = base.dense(product, torch.float32, CPU)
    if how == "opaque" and biased:
        torch.testing.assert_close(found, weight, rtol=0, atol=1e-6)
    else:
        assert torch.equal(found, weight)
    found.zero_()  # a copy
    assert torch.count_nonzero(base.dense(product, torch.float32, CPU))
    x = torch.randn(3, inputs, generator=g)
    torch.testing.assert_close(base.image(product, x), x @ weight.T, rtol=1e-4, atol=1e-4)
    places = Places()
    for _ in range(2):
        torch.testing.assert_close(base.squares(places, product, torch.float32, CPU), weight.square().sum(1))


def test_paths_with_the_prefix_and_without():
    places = Places("model.")
    one, head = Place(Linear(torch.ones(2, 2))), Place(Linear(torch.ones(2, 2)))
    places.add("layers.0.q_proj", one)
    places.add("lm_head", head)
    assert places.find("model.layers.0.q_proj") is one
    assert places.find("layers.0.q_proj") is one
    assert places.find("model.model.layers.0.q_proj") is None
    assert places.find("layers.0") is None
    assert [places.path(name) for name in places.names()] == ["model.layers.0.q_proj", "lm_head"]
    assert len(places) == 2


@pytest.mark.parametrize("pack", [True, False])
def test_tied_weights_are_found(pack):
    from quire.kernels.embedding import Embedding

    table = Embedding(torch.randn(7, 4))
    places = Places()
    places.add("embed_tokens", Place(table))
    places.add("lm_head", Place(Linear(table.weight, pack=pack)))
    places.add("other", Place(Linear(torch.randn(4, 4))))
    assert places.twins("embed_tokens") == ([] if pack else ["lm_head"])
    assert places.twins("lm_head") == ([] if pack else ["embed_tokens"])
    assert places.twins("other") == []
