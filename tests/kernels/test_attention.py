"""The reference is the truth: it is held to torch's own attention, and its parts to what they promise."""

from __future__ import annotations

import pytest
import torch

from quire.kernels import attention as kernel

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("window", [None, 1, 5])
def test_reference_equals_torch_attention_with_the_mask_written_out(window):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(12, heads, 8, generator=g) for heads in (6, 2, 2))
    i, j = torch.arange(12)[:, None], torch.arange(12)[None, :]
    seen = (j <= i) & (j > i - (window or 99))
    found = torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(0, 1)[None] for x in (q, k, v)), attn_mask=seen, scale=0.3, enable_gqa=True
    )[0].transpose(0, 1)
    torch.testing.assert_close(kernel.reference(q, k, v, 0.3, window), found, rtol=1e-5, atol=1e-5)


def test_reference_takes_queries_as_the_last_positions():
    q, k, v = (torch.randn(9, 2, 4) for _ in range(3))
    assert torch.equal(kernel.reference(q, k, v, 1.0)[5:], kernel.reference(q[5:], k, v, 1.0))


def test_softcap_bounds_scores():
    q = torch.tensor([[[1000.0]]] * 2)
    k = torch.tensor([[[1.0]], [[-1.0]]])
    v = torch.tensor([[[0.0]], [[1.0]]])
    capped = kernel.reference(q, k, v, 1.0, softcap=1.0)[1].item()
    assert capped == pytest.approx(1 / (1 + torch.e**2), abs=1e-6)
    assert kernel.reference(q, k, v, 1.0)[1].item() == 0


@pytest.mark.parametrize("group", range(1, 13))
def test_products_have_at_least_the_rows_that_round_alike(group):
    assert kernel.padded_rows(group) >= max(group, kernel.MIN_ROWS)
    assert kernel.padded_rows(group) % 4 == 0


@pytest.mark.parametrize("rows", [1, 4, 7, 24])
def test_a_product_by_pieces_is_the_product(rows):
    a, b = torch.randn(3, rows, 16), torch.randn(3, 16, 40)
    out = torch.empty(3, rows, 40)
    kernel.product_by_pieces(4, a, b, out)
    torch.testing.assert_close(out, a @ b)
    wide = torch.randn(3, 2 * kernel.TILE, 16).transpose(1, 2)
    out = torch.empty(3, rows, 2 * kernel.TILE)
    kernel.product_by_pieces(4, a, wide, out)
    torch.testing.assert_close(out, a @ wide)


def test_scratch_is_used_again_and_grows():
    scratch = kernel.Scratch()
    first = scratch.get("a", (4, 8), torch.float32, torch.device("cpu"))
    assert scratch.get("a", (2, 8), torch.float32, torch.device("cpu")).data_ptr() == first.data_ptr()
    assert scratch.get("b", (2, 8), torch.float32, torch.device("cpu")).data_ptr() != first.data_ptr()
    assert scratch.get("a", (40, 8), torch.float32, torch.device("cpu")).shape == (40, 8)


def test_scratch_keeps_no_buffer_past_its_bound():
    scratch = kernel.Scratch()
    scratch.KEEP = 10
    big = scratch.get("a", (11,), torch.float32, torch.device("cpu"))
    assert scratch.get("a", (11,), torch.float32, torch.device("cpu")).data_ptr() != big.data_ptr()
