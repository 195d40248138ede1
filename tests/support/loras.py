"""Random adapters for one product."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from quire.kernels.linear import Linear
from quire.kernels.lora import Delta, Piece

KINDS = ("pieces", "many pieces", "gains", "offset", "all but whole", "whole", "all", "halves")
HALVES = (torch.bfloat16, torch.float16)


def error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """Of what was computed, against float64: its size beside that of the truth."""
    return ((found.double() - truth).norm() / truth.norm().clamp(min=1e-30)).item()


def kind_of():
    """(what is in it, the largest rank)"""
    return st.tuples(st.sampled_from(KINDS), st.integers(1, 70))


def a_piece(g: torch.Generator, inputs: int, outputs: int, rank: int, kind: torch.dtype = torch.float32) -> Piece:
    """Over some part of the outputs."""
    start = int(torch.randint(outputs, (), generator=g))
    rows = 1 + int(torch.randint(outputs - start, (), generator=g))
    a = torch.randn(rank, inputs, generator=g) / inputs**0.5
    return Piece(a.to(kind), torch.randn(rows, rank, generator=g).to(kind), start)


def in_halves(g: torch.Generator, piece: Piece, kind: torch.dtype) -> Piece:
    """The piece with factors of 16 bits and scales."""
    return Piece(piece.a.to(kind), piece.b.to(kind), piece.start, torch.randn(piece.rank, generator=g))


def a_delta(g: torch.Generator, inputs: int, outputs: int, kind: tuple[str, int]):
    """-> (delta, the weight and bias of its whole product or None)"""
    what, rank = kind
    vector = lambda n: torch.randn(n, generator=g)  # noqa: E731
    pieces: tuple[Piece, ...] = ()
    if what == "pieces":
        pieces = (a_piece(g, inputs, outputs, rank),)
    elif what not in ("gains", "offset", "whole"):
        pieces = tuple(a_piece(g, inputs, outputs, 1 + rank * i // 3) for i in range(4))
    if what == "halves":
        pieces = tuple(in_halves(g, piece, HALVES[i % 2]) for i, piece in enumerate(pieces))
    gains = what in ("gains", "all but whole", "all")
    whole = (torch.randn(outputs, inputs, generator=g), vector(outputs)) if what in ("whole", "all") else None
    return Delta(
        whole=Linear(*whole) if whole else None,
        gain_in=vector(inputs) if gains else None,
        gain=vector(outputs) if gains else None,
        offset=vector(outputs) if what in ("offset", "all but whole", "all") else None,
        pieces=pieces,
    ), whole
