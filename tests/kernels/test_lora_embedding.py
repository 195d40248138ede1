"""Many adapters on one table of embeddings: every token gets its own row's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loras import error

from quire.kernels import reference
from quire.kernels.embedding import Embedding, EmbeddingDelta
from quire.kernels.lora import Rows


@given(
    slots=st.lists(st.sampled_from([-1, 0, 3, 9]), min_size=1, max_size=20),
    kinds=st.dictionaries(st.sampled_from([0, 3, 9]), st.sampled_from(["lora", "whole", "dora", "both"]), max_size=3),
    rank=st.integers(1, 20),
    width=st.integers(1, 70),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None)
def test_every_token_gets_its_own_adapters_embedding(slots, kinds, rank, width, seed):
    g = torch.Generator().manual_seed(seed)
    table = Embedding(torch.randn(30, width, generator=g))
    deltas = {
        slot: EmbeddingDelta(
            a=None if kind == "whole" else torch.randn(30, rank, generator=g),
            b=None if kind == "whole" else torch.randn(width, rank, generator=g),
            whole=torch.randn(30, width, generator=g) if kind in ("whole", "both") else None,
            gain=torch.randn(width, generator=g) if kind == "dora" else None,
        )
        for slot, kind in kinds.items()
    }
    for slot, delta in deltas.items():
        table.put(slot, delta)
    tokens = torch.randint(30, (len(slots),), generator=g)
    found = table(tokens, Rows.of(slots))
    assert error(found, reference.embedding(tokens.tolist(), table.dense(), slots, deltas)) < 1e-6
    alone = [i for i, slot in enumerate(slots) if slot not in deltas]
    assert torch.equal(found[alone], table.dense()[tokens[alone]])
    for i in range(len(slots)):
        assert torch.equal(table(tokens[i : i + 1], Rows.of(slots[i : i + 1])), found[i : i + 1])


def test_an_embedding_delta_that_does_not_fit_is_refused():
    table, z = Embedding(torch.zeros(30, 8)), torch.zeros
    for delta, message in (
        (EmbeddingDelta(z(29, 2), z(8, 2)), r"a is \[29, 2\], expected \[30, rank\]"),
        (EmbeddingDelta(z(30, 2), z(9, 2)), r"b is \[9, 2\], expected \[8, rank\]"),
        (EmbeddingDelta(whole=z(30, 9)), r"whole is \[30, 9\], expected \[30, 8\]"),
        (EmbeddingDelta(gain=z(30)), r"gain is \[30\], expected \[8\]"),
        (EmbeddingDelta(whole=z(30, 8).half()), "whole is torch.float16 on cpu, expected torch.float32"),
    ):
        with pytest.raises(ValueError, match=message):
            table.put(0, delta)
        assert table.deltas is None
    with pytest.raises(ValueError, match="b is missing"):
        EmbeddingDelta(z(30, 2))
    with pytest.raises(ValueError, match="rank > 0"):
        EmbeddingDelta(z(30, 2), z(8, 3))
    table.put(0, EmbeddingDelta(gain=z(8)))
    with pytest.raises(ValueError, match="rows tells of 2 rows, there are 3 tokens"):
        table(torch.tensor([1, 2, 3]), Rows.of([0, 0]))
    table.drop(5)
    assert len(table.deltas) == 1
    table.drop(0)
    assert table.deltas is None
