"""Products with weights in 8 and 4 bits in Triton beside float64: on a GPU, elsewhere by Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.kernels.quantized import Quantized, join, quantize
from quire.kernels.triton import tiles
from quire.kernels.triton.matrix import Packed

DEVICE = "cuda:0" if torch.cuda.is_available() else "cpu"
BOUNDS = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
few = settings(derandomize=True, deadline=None, max_examples=10)


@pytest.fixture
def short_pieces(monkeypatch):
    """So that a small matrix is cut along its inputs."""
    monkeypatch.setattr(tiles, "SHORTEST", 100)


def whole(
    seed: int, outputs: int, inputs: int, bits: int, group: int, lows: bool, ordered: bool, channels: bool
) -> Quantized:
    """Weights in few bits: codes of every value, scales of both signs. channels: one scale an output."""
    g = torch.Generator().manual_seed(seed)
    shape = outputs, -(-inputs // group)
    if bits == 8:
        codes = torch.randint(-128, 128, (outputs, inputs), generator=g).to(torch.int8)
    else:
        codes = torch.randint(0, 16, (outputs, inputs), generator=g).to(torch.uint8)
    scale, low = torch.randn(shape, generator=g) / 2**bits, torch.randn(shape, generator=g) if lows else None
    if channels:
        scale, low = (None if v is None else v[:, :1].expand(shape).contiguous() for v in (scale, low))
    order = torch.randperm(inputs, generator=g) if ordered else None
    assert scale is not None
    return Quantized(codes, scale, bits, group, low, order)


def on_device(q: Quantized) -> Quantized:
    put = [None if v is None else v.to(DEVICE) for v in (q.codes, q.scale, q.low, q.order)]
    return Quantized(put[0], put[1], q.bits, q.group, put[2], put[3])


def rows(seed: int, count: int, width: int, dtype: torch.dtype, gap: int = 0) -> torch.Tensor:
    """[count, width], its rows `gap` further apart, and no number between them."""
    g = torch.Generator().manual_seed(seed)
    room = torch.full((count, width + gap), float("nan"), device=DEVICE, dtype=dtype)
    room[:, :width] = torch.randn(count, width, generator=g).to(DEVICE, dtype)
    return room[:, :width]


def check(packed: Packed, weight: torch.Tensor, count: int, dtype: torch.dtype, gap: int, added: bool) -> None:
    x = rows(count, count, packed.inputs, dtype, gap)
    add = rows(count + 1, count, packed.outputs, dtype, gap) if added else None
    out = torch.full((count, packed.outputs + gap), float("nan"), device=DEVICE, dtype=dtype)[:, : packed.outputs]
    assert packed.product(x, add, out=out) is out
    truth = x.double().cpu() @ weight.double().T
    if packed.bias is not None:
        truth += packed.bias.double().cpu()
    if add is not None:
        truth += add.double().cpu()
    assert truth.norm() > 0
    assert float((out.double().cpu() - truth).norm() / truth.norm()) < BOUNDS[dtype]


@few
@given(
    outputs=st.integers(1, 140), inputs=st.integers(1, 300), count=st.integers(1, 20), lows=st.booleans(),
    form=st.sampled_from([(8, 16), (8, 64), (8, 256), (4, 32), (4, 64), (4, 128), (4, 512)]), channels=st.booleans(),
    ordered=st.booleans(), biased=st.booleans(), added=st.booleans(), gap=st.sampled_from([0, 3, 8]),
    dtype=st.sampled_from(list(BOUNDS)),
)  # fmt: skip
def test_a_product_of_any_shape(outputs, inputs, count, lows, form, channels, ordered, biased, added, gap, dtype):
    q = whole(outputs, outputs, inputs, *form, lows, ordered, channels)
    bias = torch.randn(outputs, generator=torch.Generator().manual_seed(5)) if biased else None
    packed = Packed.of(on_device(q), None if bias is None else bias.to(DEVICE))
    assert torch.allclose(packed.dense().cpu(), q.dense(), rtol=1e-6, atol=1e-7)
    check(packed, q.dense(), count, dtype, gap, added)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("form", [(8, 128), (4, 32)])
def test_a_matrix_cut_along_its_inputs(form, dtype, short_pieces):
    q = whole(1, 70, 420, *form, lows=True, ordered=False, channels=False)
    packed = Packed.of(on_device(q), torch.ones(70, device=DEVICE))
    assert packed.pieces > 2
    check(packed, q.dense(), 5, dtype, 3, added=True)


@pytest.mark.parametrize("dtype", BOUNDS)
def test_a_matrix_read_by_16_bytes(dtype, short_pieces):
    q = whole(2, 64, 256, 4, 64, lows=False, ordered=False, channels=False)
    packed = Packed.of(on_device(q))
    assert packed._even(rows(1, 3, 256, dtype, gap=8))
    assert not packed._even(rows(1, 3, 256, dtype, gap=1))
    check(packed, q.dense(), 3, dtype, 8, added=False)


def test_parts_side_by_side_and_a_scale_an_output():
    parts = [quantize(torch.randn(40, 96), 8, 32), quantize(torch.randn(7, 96), 4, 64)]
    packed = Packed.of([on_device(part) for part in parts])
    assert packed.form == "int8"
    assert torch.equal(packed.dense().cpu(), join(parts).dense())
    q = whole(3, 30, 1000, 8, 16, lows=False, ordered=False, channels=True)
    packed = Packed.of(on_device(q))
    assert packed.scale.shape[1] == 1
    assert packed.bytes < 64 * 1024 + 64 * 4 + 1
    assert torch.equal(packed.dense().cpu(), q.dense())


def test_scales_take_16_bits_where_that_changes_none():
    q = whole(4, 10, 128, 4, 32, lows=True, ordered=False, channels=False)
    halved = Quantized(q.codes, q.scale.half().float(), 4, 32, q.low)
    packed = Packed.of(on_device(halved))
    assert (packed.scale.dtype, packed.low.dtype) == (torch.float16, torch.float32)
    assert torch.allclose(packed.dense().cpu(), halved.dense(), rtol=1e-6, atol=1e-7)
    tiny = Quantized(q.codes, torch.full_like(q.scale, 2.0**-40), 4, 32, None)
    assert Packed.of(tiny).scale.dtype == torch.bfloat16


FP8 = {"all": (), "one": (1,), "outputs": (70,), "a column": (70, 1)}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("shape", [*FP8, (128, 128), (1, 32), (16, 16)])
def test_weights_of_8_bits_in_floating_point(shape, dtype):
    g = torch.Generator().manual_seed(6)
    weight = (torch.randn(70, 300, generator=g) * 60).to(torch.float8_e4m3fn)
    weight[0, :254] = torch.cat([torch.arange(127), torch.arange(128, 255)]).to(torch.uint8).view(torch.float8_e4m3fn)
    block = None if shape in FP8 else shape
    of = FP8[shape] if block is None else (-(-70 // block[0]), -(-300 // block[1]))
    scale = torch.rand(of, generator=g) + 0.5
    packed = Packed.of_fp8(weight.to(DEVICE), scale.to(DEVICE), block)
    spread = scale.reshape(-1, 1)
    if block is not None:
        spread = scale.repeat_interleave(block[0], 0)[:70].repeat_interleave(block[1], 1)[:, :300]
    truth = weight.float() * spread
    assert torch.allclose(packed.dense().cpu(), truth, rtol=1e-6)
    check(packed, truth, 3, dtype, 0, added=False)


@pytest.mark.parametrize("form", ["int8", "int4", "fp8"])
def test_a_row_has_the_same_bits_among_any_number_of_rows(form, short_pieces):
    """1 to 64 and more: the programs take 1, 2 or 4 tiles of rows, and the matrix is cut into pieces all the same."""
    if form == "fp8":
        weight = torch.randn(20, 250, generator=torch.Generator().manual_seed(7)).to(torch.float8_e4m3fn)
        packed = Packed.of_fp8(weight.to(DEVICE), torch.ones(20, device=DEVICE))
    else:
        q = whole(7, 20, 250, int(form[-1]), 64, lows=True, ordered=False, channels=False)
        packed = Packed.of(on_device(q))
    assert packed.pieces > 1
    x = rows(8, 65, 250, torch.bfloat16)
    every = packed.product(x)
    assert len(every.unique(dim=0)) == 65
    for count in (1, 3, 16, 64):
        assert torch.equal(packed.product(x[:count]), every[:count]), count
    # The interpreter's tl.dot is numpy's product, in which a row's bits may depend on its place in a tile.
    if DEVICE != "cpu":
        order = torch.randperm(65, generator=torch.Generator().manual_seed(1)).to(DEVICE)
        assert torch.equal(packed.product(x[order]), every[order])


def test_no_rows_and_more_dimensions():
    q = whole(9, 20, 64, 4, 32, lows=False, ordered=False, channels=False)
    packed = Packed.of(on_device(q))
    assert packed.product(rows(1, 0, 64, torch.float32)).shape == (0, 20)
    x = rows(2, 6, 64, torch.float32)
    assert torch.equal(packed.product(x.view(2, 3, 64)), packed.product(x).view(2, 3, 20))


def test_what_does_not_fit_is_refused():
    q = whole(10, 20, 64, 4, 16, lows=False, ordered=False, channels=False)
    packed = Packed.of(quantize(torch.randn(20, 64), 8, 64))
    fp8 = torch.zeros(4, 64).to(torch.float8_e4m3fn)
    odd = torch.full((4, 64), 127, dtype=torch.uint8).view(torch.float8_e4m3fn)
    ones = torch.ones(4)
    for said, call in (
        ("group is 16 with 4 bits, expected 32 or more", lambda: Packed.of(q)),
        ("weight is torch.float32", lambda: Packed.of_fp8(torch.zeros(4, 64), ones)),
        ("scale is \\[3\\]", lambda: Packed.of_fp8(fp8, ones[:3])),
        ("scale is \\[4\\], expected \\[1, 2\\]", lambda: Packed.of_fp8(fp8, ones, (128, 32))),
        ("block is \\(128, 48\\)", lambda: Packed.of_fp8(fp8, ones, (128, 48))),
        ("weight has 256 that are no number", lambda: Packed.of_fp8(odd, ones)),
        ("x is \\[2, 63\\], expected \\[.., 64\\]", lambda: packed.product(torch.zeros(2, 63))),
        ("add is torch.float32 \\[2, 19\\]", lambda: packed.product(torch.zeros(2, 64), torch.zeros(2, 19))),
        ("x is torch.float64", lambda: packed.product(torch.zeros(2, 64).double())),
    ):
        with pytest.raises(ValueError, match=said):
            call()
