"""Norms, gates and masks in Triton beside float64: on a GPU as they are, elsewhere by Triton's interpreter."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from quire.kernels import ops
from quire.kernels.triton import chosen, mask, rows
from quire.kernels.vocabulary import apply_bitmask

DEVICE = "cuda:0" if torch.cuda.is_available() else "cpu"
BOUNDS = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
NAN = float("nan")
few = settings(derandomize=True, deadline=None, max_examples=10)
kinds = st.sampled_from(list(BOUNDS))
widths = st.one_of(st.integers(1, 140), st.integers(1000, 1050), st.just(2500))


def some(seed: int, count: int, width: int, dtype: torch.dtype, gap: int = 0) -> torch.Tensor:
    """[count, width], its rows `gap` further apart, and no number between them."""
    g = torch.Generator().manual_seed(seed)
    room = torch.full((count, width + gap), NAN, device=DEVICE, dtype=dtype)
    room[:, :width] = (torch.randn(count, width, generator=g) * 2 + 0.3).to(DEVICE, dtype)
    return room[:, :width]


def off(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Relative to the norm, which is not nought."""
    truth = truth.cpu()
    assert truth.norm() > 0
    return float((found.double().cpu() - truth).norm() / truth.norm())


def normed(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    wide = x.double()
    return wide / (wide.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


@few
@given(
    count=st.integers(1, 5), width=widths, gap=st.integers(0, 5), dtype=kinds, wide=st.booleans(),
    eps=st.sampled_from([1e-6, 1e-5, 0.1]),
)  # fmt: skip
def test_a_norm_of_any_shape(count, width, gap, dtype, wide, eps):
    x = some(width, count, width, dtype, gap)
    weight = some(1, 1, width, torch.float32 if wide else dtype)[0]
    found = rows.rms_norm(x, weight, eps)
    assert off(found, normed(x, weight, eps)) < BOUNDS[dtype]
    assert torch.equal(rows.rms_norm(x[-1:], weight, eps), found[-1:])


@few
@given(count=st.integers(1, 4), width=widths, gap=st.integers(0, 5), dtype=kinds)
def test_the_sum_with_a_residual_is_the_sum_and_the_norm_one_after_the_other(count, width, gap, dtype):
    x, residual = some(width, count, width, dtype, gap), some(width + 1, count, width, dtype, 2 * gap)
    weight = some(2, 1, width, dtype)[0]
    total = residual + x
    out = rows.add_rms_norm(x, residual, weight, 1e-6)
    # Triton's interpreter cuts float32 off where it becomes bfloat16, and does not round it.
    apart = 2**-7 if DEVICE == "cpu" and dtype == torch.bfloat16 else 0
    assert torch.allclose(residual.double(), total.double(), rtol=apart, atol=0)
    total = residual.clone()
    assert torch.equal(out, rows.rms_norm(total, weight, 1e-6))
    assert off(out, normed(total, weight, 1e-6)) < BOUNDS[dtype]


@pytest.mark.parametrize("dtype", BOUNDS)
def test_what_the_models_norm_gives(dtype, monkeypatch):
    """Heads too: three dimensions. ops.Norm in torch rounds before it multiplies by the weights."""
    monkeypatch.setitem(chosen.WAYS, "norm", "torch")
    x = some(3, 6, 64, dtype).view(2, 3, 64)
    weight = some(4, 1, 64, dtype)[0]
    found = rows.rms_norm(x, weight, 1e-5)
    assert found.shape == x.shape
    assert off(found, ops.Norm(weight, 1e-5)(x).double()) < BOUNDS[dtype]


def test_a_row_of_nothing_is_nothing_and_not_no_number():
    ones = torch.ones(70, device=DEVICE)
    assert not bool(rows.rms_norm(torch.zeros(1, 70, device=DEVICE), ones, 1e-6).any())
    assert rows.rms_norm(torch.zeros(0, 70, device=DEVICE), ones, 1e-6).shape == (0, 70)


@few
@given(count=st.integers(1, 5), width=widths, gap=st.integers(0, 5), dtype=kinds, wide=st.booleans())
def test_a_layer_norm_of_any_shape(count, width, gap, dtype, wide):
    x = some(width, count, width, dtype, gap)
    weight, bias = (some(seed, 1, width, torch.float32 if wide else dtype)[0] for seed in (1, 2))
    out = rows.layer_norm(x, weight, bias, 1e-5)
    truth = functional.layer_norm(x.double(), (width,), weight.double(), bias.double(), 1e-5)
    assert off(out, truth) < BOUNDS[dtype]
    assert torch.equal(rows.layer_norm(x[-1:], weight, bias, 1e-5), out[-1:])


def test_a_layer_norm_far_from_nought_and_what_does_not_fit():
    x = some(1, 3, 300, torch.float32)
    ones, nought = torch.ones(300, device=DEVICE), torch.zeros(300, device=DEVICE)
    found = rows.layer_norm(x + 4096, ones, nought, 1e-5)
    assert off(found, functional.layer_norm((x + 4096).double(), (300,), eps=1e-5)) < 1e-3
    with pytest.raises(ValueError, match=r"bias is torch.float32 \[299\], expected \[300\]"):
        rows.layer_norm(x, ones, nought[1:], 1e-5)


def activated(name: str, x: torch.Tensor) -> torch.Tensor:
    wide = x.double()
    if name == "silu":
        return wide * torch.sigmoid(wide)
    if name == "gelu":
        return wide / 2 * (1 + torch.erf(wide / math.sqrt(2)))
    if name == "relu":
        return wide.clamp(min=0)
    return wide / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))


def test_every_activation_of_ops_is_there():
    assert set(rows.ACTIVATIONS) == set(ops.ACTIVATIONS)


@settings(few, max_examples=20)
@given(
    name=st.sampled_from(list(rows.ACTIVATIONS)), count=st.integers(1, 4), width=widths, gap=st.integers(0, 5),
    dtype=kinds,
)  # fmt: skip
def test_a_gate_of_any_shape(name, count, width, gap, dtype):
    x = some(width, count, 2 * width, dtype, gap)
    out = rows.gate(x, name)
    truth = activated(name, x[:, :width]) * x[:, width:].double()
    if name != "relu" or truth.norm() > 0:
        assert off(out, truth) < BOUNDS[dtype]
    assert not bool(out.isnan().any())
    assert torch.equal(rows.gate(x[-1:], name), out[-1:])


@pytest.mark.parametrize("name", rows.ACTIVATIONS)
def test_a_gate_far_from_nought(name):
    gates = torch.tensor([-1e4, -200.0, -90.0, -20.0, 0.0, 20.0, 90.0, 1e4], device=DEVICE)
    found = rows.gate(torch.cat([gates, torch.ones_like(gates)])[None], name)[0].double().cpu()
    assert torch.allclose(found, activated(name, gates.cpu()), rtol=1e-5, atol=1e-6)


@few
@given(
    count=st.integers(1, 5), vocab=st.one_of(st.integers(1, 70), st.integers(1020, 1100)), gap=st.integers(0, 3),
    dtype=kinds, seed=st.integers(0, 99),
)  # fmt: skip
def test_a_mask_of_any_shape_and_rows_without_one(count, vocab, gap, dtype, seed):
    logits = some(seed, count, vocab, dtype, gap)
    around = logits._base if logits._base is not None else logits
    g = torch.Generator().manual_seed(seed)
    words = -(-vocab // 32) + gap % 2
    masks = torch.randint(-(1 << 31), 1 << 31, (3, words), generator=g).to(torch.int32)
    masks[2] = -1
    which = torch.randint(-1, 3, (count,), generator=g)
    truth = logits.float().cpu().clone()
    for row, m in zip(truth, which.tolist(), strict=True):
        if m >= 0:
            apply_bitmask(row[None], masks[m : m + 1])
    mask.apply_bitmask(logits, masks.to(DEVICE), which.to(DEVICE))
    assert torch.equal(logits.float().cpu(), truth)
    if gap:
        assert bool(around[:, vocab:].isnan().all())


def test_masks_in_the_order_of_the_rows():
    logits = some(5, 3, 40, torch.float32)
    before = logits.clone()
    masks = torch.tensor([[-1, -1], [0, 0], [0b101, 1 << 7]], dtype=torch.int32, device=DEVICE)
    mask.apply_bitmask(logits, masks)
    assert torch.equal(logits[0], before[0])
    assert bool((logits[1] == float("-inf")).all())
    assert (logits[2] > float("-inf")).nonzero()[:, 0].tolist() == [0, 2, 39]


def test_what_does_not_fit_is_refused():
    x, weight, words = torch.zeros(2, 6), torch.zeros(6), torch.zeros(2, 1, dtype=torch.int32)
    for said, call in (
        ("x is torch.float64", lambda: rows.rms_norm(x.double(), weight, 1e-6)),
        ("weight is torch.float32 \\[5\\]", lambda: rows.rms_norm(x, weight[:5], 1e-6)),
        ("residual is torch.float32 \\[1, 6\\]", lambda: rows.add_rms_norm(x, x[:1], weight, 1e-6)),
        ("activation is 'tanh', expected one of silu", lambda: rows.gate(x, "tanh")),
        ("expected gate and up side by side", lambda: rows.gate(x[:, :5], "silu")),
        ("logits is torch.int32", lambda: mask.apply_bitmask(words, words)),
        ("masks is torch.float32", lambda: mask.apply_bitmask(x, x)),
        ("expected 2 words for 40 tokens", lambda: mask.apply_bitmask(torch.zeros(2, 40), words)),
        ("for 1 rows of logits", lambda: mask.apply_bitmask(x[:1], words)),
        ("which is torch.int32 \\[2\\]", lambda: mask.apply_bitmask(x, words, words[:, 0])),
    ):
        with pytest.raises(ValueError, match=said):
            call()
