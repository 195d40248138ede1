"""Packed masks: bit i of word w is token 32 w + i."""

from __future__ import annotations

import pytest
import torch

from quire.kernels.bitmask import apply_bitmask


@pytest.mark.parametrize("vocab", [1, 31, 32, 33, 512, 1000])
def test_what_is_not_set_is_out_and_what_is_stays_as_it_was(vocab):
    torch.manual_seed(vocab)
    logits = torch.randn(5, vocab)
    bits = torch.rand(5, -(-vocab // 32) * 32) < 0.5
    weights = 1 << torch.arange(32, dtype=torch.int64)
    words = (bits.view(5, -1, 32).long() * weights).sum(-1)
    masks = torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
    after = logits.clone()
    apply_bitmask(after, masks)
    assert torch.equal(after, logits.masked_fill(~bits[:, :vocab], float("-inf")))
