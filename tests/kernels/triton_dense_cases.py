"""Products in one order of sums in Triton beside float64: on a GPU, elsewhere by Triton's interpreter."""

from __future__ import annotations

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.kernels.triton import dense, tiles

DEVICE = "cuda:0" if torch.cuda.is_available() else "cpu"
BOUNDS = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
few = settings(derandomize=True, deadline=None, max_examples=6)


@pytest.fixture
def short_pieces(monkeypatch):
    """So that a small matrix is cut along its inputs."""
    monkeypatch.setattr(tiles, "SHORTEST", 100)


def some(seed: int, count: int, width: int, dtype: torch.dtype, gap: int = 0) -> torch.Tensor:
    """[count, width], its rows `gap` further apart, and no number between them."""
    g = torch.Generator().manual_seed(seed)
    room = torch.full((count, width + gap), float("nan"), device=DEVICE, dtype=dtype)
    room[:, :width] = torch.randn(count, width, generator=g).to(DEVICE, dtype)
    return room[:, :width]


def check(x, weight, bias, add, gap: int = 0) -> None:
    out = torch.full((len(x), len(weight) + gap), float("nan"), device=DEVICE, dtype=x.dtype)[:, : len(weight)]
    assert dense.product(x, weight, bias, add, out=out) is out
    truth = x.double() @ weight.double().T
    for more in (bias, add):
        truth += 0 if more is None else more.double()
    assert truth.norm() > 0
    assert float((out.double() - truth).norm() / truth.norm()) < BOUNDS[x.dtype]


@few
@given(
    outputs=st.integers(1, 140), inputs=st.integers(1, 300), count=st.integers(1, 20), biased=st.booleans(),
    added=st.booleans(), gap=st.sampled_from([0, 3, 8]), dtype=st.sampled_from(list(BOUNDS)),
)  # fmt: skip
def test_a_product_of_any_shape(outputs, inputs, count, biased, added, gap, dtype):
    bias = some(3, 1, outputs, dtype)[0] if biased else None
    add = some(4, count, outputs, dtype, gap) if added else None
    check(some(1, count, inputs, dtype, gap), some(2, outputs, inputs, dtype, gap), bias, add, gap)


@pytest.mark.parametrize("dtype", BOUNDS)
def test_a_matrix_cut_along_its_inputs_and_one_read_by_16_bytes(dtype, short_pieces):
    for inputs, even in ((420, False), (448, True)):
        x, weight = some(1, 5, inputs, dtype), some(2, 70, inputs, dtype)
        assert (dense._even(x, 64) and dense._even(weight, 64)) == even
        check(x, weight, some(3, 1, 70, torch.float32)[0], some(4, 5, 70, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_has_the_same_bits_among_any_number_of_rows_and_in_any_place(dtype, short_pieces):
    x, weight = some(1, 70, 220, dtype), some(2, 20, 220, dtype)
    every = dense.product(x, weight)
    assert len(every.unique(dim=0)) == 70
    for rows in (slice(0, 1), slice(33, 34), slice(5, 22), slice(3, 67)):
        assert torch.equal(dense.product(x[rows], weight), every[rows]), rows
    order = torch.randperm(70, generator=torch.Generator().manual_seed(1)).to(DEVICE)
    assert torch.equal(dense.product(x[order], weight), every[order])


def test_no_rows_and_more_dimensions():
    weight = some(1, 20, 64, torch.float32)
    assert dense.product(some(2, 0, 64, torch.float32), weight).shape == (0, 20)
    x = some(3, 6, 64, torch.float32)
    assert torch.equal(dense.product(x.view(2, 3, 64), weight), dense.product(x, weight).view(2, 3, 20))


def test_what_does_not_fit_is_refused():
    x, weight = some(1, 2, 64, torch.float32), some(2, 20, 64, torch.float32)
    for said, call in (
        ("weight is torch.float16", lambda: dense.product(x, weight.half())),
        ("weight is .* with strides", lambda: dense.product(x[:, :20], weight.T)),
        (r"x is \[2, 63\], expected \[.., 64\]", lambda: dense.product(x[:, :63], weight)),
        (r"bias is torch.float32 \[19\]", lambda: dense.product(x, weight, torch.zeros(19))),
        (r"add is torch.float32 \[2, 19\]", lambda: dense.product(x, weight, None, torch.zeros(2, 19))),
        ("x is torch.float64", lambda: dense.product(x.double(), weight.double())),
    ):
        with pytest.raises(ValueError, match=said):
            call()


def test_counters_that_became_too_few_stay_where_graphs_count_in_them():
    x = torch.zeros(1, device=DEVICE)
    before = weakref.ref(tiles.room(x, 2, 1, 1, 1)[1])
    more = tiles.room(x, 2, 1, 1, before().numel() + 1)[1]
    assert not bool(more.any())
    assert before() is not None
    assert before().data_ptr() != more.data_ptr()
