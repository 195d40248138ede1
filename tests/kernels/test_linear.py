"""The packed product: equal to torch's, and every row the same bits whatever the number of rows."""

from __future__ import annotations

import pytest
import torch

from quire.kernels import ops
from quire.kernels.linear import Linear

SHAPES = [(64, 172), (64, 512), (172, 64), (768, 1280), (896, 300), (2048, 64), (1100, 7), (4864, 96), (33, 7), (32, 1)]


@pytest.fixture(autouse=True, params=[1, 2])
def threads(request):
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("pack", [False, True])
def test_product_equals_float64(inputs, outputs, bias, pack):
    torch.manual_seed(0)
    weight, x = torch.randn(outputs, inputs), torch.randn(37, inputs)
    b = torch.randn(outputs) if bias else None
    truth = torch.nn.functional.linear(x.double(), weight.double(), b.double() if bias else None)
    torch.testing.assert_close(Linear(weight, b, pack=pack)(x).double(), truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_a_rows_bits_do_not_depend_on_the_number_of_rows(inputs, outputs, pack):
    torch.manual_seed(1)
    linear = Linear(torch.randn(outputs, inputs), pack=pack)
    x = torch.randn(333, inputs)
    whole = linear(x)
    for rows in (*range(1, 41), 64, 128):
        assert torch.equal(linear(x[:rows]), whole[:rows]), f"{rows} rows"
    assert torch.equal(linear(x[100:101]), whole[100:101])
    assert linear(x[:0]).shape == (0, outputs)


@pytest.mark.parametrize("name", ops.ACTIVATIONS)
@pytest.mark.parametrize("width", [172, 2048])
def test_gated_rows_do_not_depend_on_each_other(name, width):
    torch.manual_seed(2)
    x = torch.randn(129, 2 * width)
    gate = ops.Gate(name)
    whole = gate(x)
    for rows in (1, 2, 3, 7, 16, 31, 128):
        assert torch.equal(gate(x[:rows]), whole[:rows])


@pytest.mark.parametrize("width", [64, 172, 768])
def test_norms_and_rotary_rows_do_not_depend_on_each_other(width):
    torch.manual_seed(3)
    x, weight, bias = torch.randn(129, width), torch.randn(width), torch.randn(width)
    heads, norm = x.view(129, 2, width // 2), ops.Norm(weight, 1e-5)
    cos, sin = torch.randn(129, 1, width // 4), torch.randn(129, 1, width // 4)
    for rows in (1, 2, 3, 7, 16, 31, 128):
        part = slice(0, rows)
        assert torch.equal(norm(x[part]), norm(x)[part])
        assert torch.equal(ops.layer_norm(x[part], weight, bias, 1e-5), ops.layer_norm(x, weight, bias, 1e-5)[part])
        assert torch.equal(ops.rotary(heads[part], cos[part], sin[part]), ops.rotary(heads, cos, sin)[part])
