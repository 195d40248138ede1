"""Weights are recovered from a product however it holds them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engine.lora import base
from quire.engine.lora.adapter import Place, Places
from quire.kernels.embedding import Embedding
from quire.kernels.linear import Linear


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 600), st.booleans(), st.booleans())
def test_the_weight_of_any_product(outputs, inputs, biased, pack):
    g = torch.Generator().manual_seed(outputs * 1000 + inputs)
    weight = torch.randn(outputs, inputs, generator=g)
    bias = torch.randn(outputs, generator=g) if biased else None
    product = Linear(weight.clone(), bias, pack=pack)
    found = product.dense()
    assert torch.equal(found, weight)
    found.zero_()  # a copy
    assert torch.count_nonzero(product.dense())
    x = torch.randn(3, inputs, generator=g)
    torch.testing.assert_close(base.image(product, x), x @ weight.T, rtol=1e-4, atol=1e-4)
    places = Places()
    for _ in range(2):
        torch.testing.assert_close(base.squares(places, product), weight.square().sum(1))


def test_beside_a_cpu_nothing_but_torch_is_asked_as_this_is_not_the_thread_that_launches(monkeypatch):
    def launched(*_) -> None:
        raise AssertionError("a product of Triton's, perhaps")

    monkeypatch.setattr(Linear, "__call__", launched)
    product = Linear(torch.empty(5, 4, device="meta", dtype=torch.bfloat16))
    found = base.image(product, torch.empty(3, 4, device="meta", dtype=torch.bfloat16))
    assert (found.shape, found.dtype) == ((3, 5), torch.float32)


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


@pytest.mark.parametrize("packed", [True, False])
def test_tied_weights_are_found(packed):
    weight = torch.randn(7, 4)
    matrix = Linear(weight).matrix if packed else None
    table = Embedding(weight if matrix is None else matrix)
    places = Places()
    places.add("embed_tokens", Place(table))
    places.add("lm_head", Place(table.product()))
    places.add("other", Place(Linear(torch.randn(4, 4))))
    places.add("copy", Place(Linear(weight)))
    assert places.twins("embed_tokens") == ["lm_head"]
    assert places.twins("lm_head") == ["embed_tokens"]
    assert places.twins("other") == places.twins("copy") == []
