"""Activations equal torch's, and an element has the same bits wherever it stands."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from quire.kernels import elementwise

PAIRS = {
    "sigmoid": (elementwise.sigmoid, torch.sigmoid),
    "silu": (elementwise.silu, functional.silu),
    "gelu": (elementwise.gelu, functional.gelu),
    "gelu_tanh": (elementwise.gelu_tanh, lambda x: functional.gelu(x, approximate="tanh")),
}


@pytest.mark.parametrize(("ours", "theirs"), PAIRS.values(), ids=PAIRS)
def test_activations_equal_torch(ours, theirs):
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-200.0, -90.0, -0.0, 0.0, 90.0, 200.0])])
    torch.testing.assert_close(ours(x), theirs(x), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("width", [1, 4, 100, 172, 1000])
@pytest.mark.parametrize("threads", [1, 2])
def test_an_element_has_the_same_bits_in_any_number_of_rows(name, width, threads):
    torch.set_num_threads(threads)
    ours = PAIRS[name][0]
    x = torch.randn(301, width, generator=torch.Generator().manual_seed(0)) * 4
    whole = ours(x)
    for rows in (1, 2, 3, 5, 8, 97):
        assert torch.equal(ours(x[-rows:].clone()), whole[-rows:])
    torch.set_num_threads(1)
