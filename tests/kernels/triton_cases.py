"""The Triton kernels: on a GPU as they are, elsewhere by Triton's interpreter. Run by test_lora_triton.py."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loras import a_piece

from quire.kernels import lora as loras
from quire.kernels import reference
from quire.kernels.linear import Linear
from quire.kernels.lora import Delta, Rows
from quire.kernels.triton import lora as kernel

DEVICE = "cuda:0" if torch.cuda.is_available() else "cpu"
BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 1e-2}  # bfloat16: three pieces, each rounded to 8 bits
WAYS = {"bgmv": kernel.by_row, "sgmv": kernel.by_tile}


@pytest.fixture(autouse=True)
def triton_everywhere(monkeypatch):
    monkeypatch.setattr(loras, "way_of", lambda dtype, device: "triton")


def a_product(seed: int, inputs: int, outputs: int, ranks: dict[int, list[int]], dtype: torch.dtype, vectors: bool):
    """-> (the product with deltas of these ranks in these slots, its weight, the deltas)"""
    g = torch.Generator().manual_seed(seed)
    weight = (torch.randn(outputs, inputs, generator=g) / inputs**0.5).to(DEVICE, dtype)
    linear, deltas = Linear(weight), {}
    for slot, several in ranks.items():
        pieces = [a_piece(g, inputs, outputs, rank, dtype) for rank in several]
        deltas[slot] = Delta(
            gain=torch.randn(outputs, generator=g).to(DEVICE, dtype) if vectors else None,
            offset=torch.randn(outputs, generator=g).to(DEVICE, dtype) if vectors else None,
            pieces=tuple(loras.Piece(p.a.to(DEVICE), p.b.to(DEVICE), p.start) for p in pieces),
        )
        linear.put(slot, deltas[slot])
    return linear, weight, deltas


def check(way, seed, inputs, outputs, ranks, slots, dtype, vectors=False):
    linear, weight, deltas = a_product(seed, inputs, outputs, ranks, dtype, vectors)
    g = torch.Generator().manual_seed(seed + 1)
    x = torch.randn(len(slots), inputs, generator=g).to(DEVICE, dtype)
    rows = Rows.of(slots, DEVICE)
    base = linear(x)
    y = base.clone()
    if rows is not None and deltas:
        WAYS[way](x, y, linear.deltas._known(), rows.tiles)
    # What the base gave is the kernels' input, so that its rounding is not counted as theirs.
    wanted = base.double().cpu()
    eye = torch.eye(outputs, dtype=torch.float64)
    for i, slot in enumerate(slots):
        if slot in deltas:
            d = deltas[slot]
            plain = Delta(gain=d.gain, offset=d.offset)
            wanted[i] = reference.lora(wanted[i : i + 1], eye, None, [0], {0: plain})[0]
            wanted[i] += reference.lora(x[i : i + 1], 0 * weight, None, [0], {0: Delta(pieces=d.pieces)})[0]
    assert ((y.double().cpu() - wanted).norm() / wanted.norm()).item() < BOUNDS[dtype]
    alone = [i for i, slot in enumerate(slots) if slot not in deltas]
    assert torch.equal(y[alone], base[alone])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", BOUNDS)
def test_ranks_1_to_64_in_one_batch(way, dtype):
    ranks = {0: [1], 1: [64], 3: [16, 16, 5], 4: [33], 9: [2, 64]}
    slots = [0, 3, -1, 9, 4, 77, 2] + [1] * (1 if way == "bgmv" else 19)
    check(way, 1, 96, 140, ranks, slots, dtype)
    check(way, 2, 33, 70, ranks, slots, dtype, vectors=True)


@pytest.mark.parametrize("way", WAYS)
@given(
    ranks=st.dictionaries(st.sampled_from([0, 1, 5, 20]), st.lists(st.integers(1, 40), max_size=3), max_size=4),
    slots=st.lists(st.sampled_from([-1, 0, 1, 5, 20, 50]), min_size=1, max_size=24),
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    vectors=st.booleans(),
    dtype=st.sampled_from(list(BOUNDS)),
)
@settings(max_examples=25, deadline=None)
def test_any_shape_rank_and_order(way, ranks, slots, shape, vectors, dtype):
    vectors = vectors or [] in ranks.values()
    check(way, len(slots), *shape, ranks, slots, dtype, vectors)


@pytest.mark.parametrize("rows", [3, kernel.SMALL + 1])
def test_a_product_takes_the_way_for_its_number_of_rows(rows):
    """Through the product itself, and with pieces that overlap."""
    linear, weight, deltas = a_product(3, 40, 50, {0: [4, 4, 4], 2: [9]}, torch.float32, True)
    slots = [(0, 2, -1)[i % 3] for i in range(rows)]
    x = torch.randn(rows, 40, device=DEVICE)
    found = linear(x, Rows.of(slots, DEVICE))
    truth = reference.lora(x, weight, None, slots, deltas)
    assert ((found.double().cpu() - truth).norm() / truth.norm()).item() < 2e-6
    linear.drop(0)
    linear.put(70, deltas[0])
    found = linear(x, Rows.of(slots, DEVICE))
    truth = reference.lora(x, weight, None, slots, {2: deltas[2]})
    assert ((found.double().cpu() - truth).norm() / truth.norm()).item() < 2e-6


# The interpreter's tl.dot is numpy's product, whose rows do depend on each other.
@pytest.mark.parametrize("way", WAYS if DEVICE != "cpu" else ["bgmv"])
def test_a_row_is_the_same_in_any_company_of_its_way(way):
    linear, _, _ = a_product(4, 70, 90, {0: [8], 1: [3, 20], 6: [64]}, torch.float32, True)
    x = torch.randn(12, 70, device=DEVICE)
    slots = [(0, 1, 6, -1, 1)[i % 5] for i in range(12)]

    plain = linear(x)  # a library's product, whose rows may depend on their number

    def run(at):
        y = plain[at]
        WAYS[way](x[at], y, linear.deltas._known(), Rows.of([slots[i] for i in at], DEVICE).tiles)
        return y

    whole = run(list(range(12)))
    for at in ([1], [0, 2], [10, 5, 1, 6, 11], list(range(7))):
        assert torch.equal(run(at), whole[at])
