"""Rows over a vocabulary: in C++ for each instruction set, and in torch."""

from __future__ import annotations

import math

import pytest
import torch

from quire.kernels import native
from quire.kernels.vocabulary import constrain, draw, greatest, log_sum_exp

NEVER = float("-inf")
VOCABULARIES = [1, 5, 31, 32, 33, 512, 1000, 1024, 1025, 5000]


@pytest.fixture(autouse=True, params=["torch", *(native.cpu.isas() if native.cpu else ())])
def way(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(native, "cpu", None)
        yield
        return
    before = native.kernels().isa()
    native.kernels().use(request.param)
    yield
    native.kernels().use(before)


def rows(vocab: int) -> torch.Tensor:
    """Some plain, one nearly all ruled out, one of a single token, one far from zero."""
    found = 4 * torch.randn(6, vocab, generator=torch.Generator().manual_seed(vocab))
    found[1, torch.arange(vocab) % 7 != 0] = NEVER
    found[2] = NEVER
    found[2, vocab // 2] = -3.0
    found[3] += 1e6
    return found


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_what_is_not_set_is_out_and_what_is_stays_as_it_was(vocab):
    torch.manual_seed(vocab)
    logits = torch.randn(5, vocab)
    bits = torch.rand(5, -(-vocab // 32) * 32) < 0.5
    bits[0], bits[1, : vocab // 2] = True, False
    weights = 1 << torch.arange(32, dtype=torch.int64)
    words = (bits.view(5, -1, 32).long() * weights).sum(-1)
    masks = torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
    after, which = logits.clone(), [3, -1, 0, 4, 1]
    kept = constrain(after, masks, which)
    wanted = torch.stack(
        [row if m < 0 else row.masked_fill(~bits[m, :vocab], NEVER) for row, m in zip(logits, which, strict=True)]
    )
    assert torch.equal(after, wanted)
    shares = [torch.softmax(row.double(), -1)[it > NEVER].sum() for row, it in zip(logits, wanted, strict=True)]
    torch.testing.assert_close(kept.double(), torch.stack(shares), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_the_greatest_is_the_first_of_equals(vocab):
    logits = rows(vocab).round()  # so that some are equal
    values, tokens = greatest(logits)
    assert torch.equal(values, logits.amax(-1))
    for row, token in zip(logits, tokens.tolist(), strict=True):
        assert token == row.tolist().index(max(row.tolist()))


def test_a_row_that_is_no_number_says_so():
    for where in (0, 3, 40, 76):
        for bad in (math.nan, math.inf, NEVER):
            logits = torch.randn(3, 77)
            logits[1, where] = bad
            values, _ = greatest(logits)
            torch.testing.assert_close(values, logits.amax(-1), rtol=0, atol=0, equal_nan=True)
    logits = torch.full((1, 77), NEVER)  # most of a row may be ruled out
    logits[0, 60] = math.nan
    assert math.isnan(greatest(logits)[0])
    values, _ = greatest(torch.full((1, 50), NEVER))
    assert values.tolist() == [NEVER]
    assert log_sum_exp(torch.full((1, 50), NEVER)).tolist() == [NEVER]


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_the_log_of_the_sum_of_exponentials_is_that_of_float64(vocab):
    logits = rows(vocab)
    torch.testing.assert_close(log_sum_exp(logits).double(), logits.double().logsumexp(-1), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_a_draw_is_the_inverse_of_the_cumulated_weights(vocab):
    logits = rows(vocab)
    weights = logits.double().softmax(-1)
    cumulated = weights.cumsum(-1)
    for u in (0.0, 1e-9, 0.1, 0.5, 0.77, 0.999999, 1 - 2**-53):
        found = draw(logits, torch.full((6,), u, dtype=torch.float64))
        for row, token in enumerate(found.tolist()):
            assert weights[row, token] > 0
            before = cumulated[row, token - 1] if token else 0.0
            assert before <= u + 1e-6
            assert cumulated[row, token] >= u - 1e-6
    assert torch.equal(found, draw(logits.repeat(1, 2)[:, :vocab], torch.full((6,), u, dtype=torch.float64)))
