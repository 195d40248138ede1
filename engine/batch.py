"""The ragged tensors of one step. Rows of all sequences lie end to end; there is no padding."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .config import BLOCK_SIZE
from .plan import Plan


@dataclass(slots=True)
class Batch:
    """One step's input: T tokens of R sequences.

    Row `t` belongs to sequence r where query_start[r] <= t < query_start[r + 1].
    """

    tokens: torch.Tensor  # [T] int64
    positions: torch.Tensor  # [T] int64, position of each token in its sequence
    slots: torch.Tensor  # [T] int64, page * BLOCK_SIZE + offset: where its key and value are written
    query_start: list[int]  # [R + 1]
    seq_lens: list[int]  # [R] tokens of each sequence once this step is written (context including its own rows)
    blocks: list[list[int]]  # [R] pages of each sequence, in order (not to be changed)
    sample_rows: torch.Tensor  # [S] int64, rows whose logits are wanted, in the order of the slices

    @classmethod
    def of(cls, plan: Plan, device: torch.device) -> Batch:
        """Fill from a plan. A slice that samples wants its last `drafts + 1` rows."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        starts = [0]
        rows: list[int] = []
        for s in plan.slices:
            tokens += s.tokens
            positions += range(s.start, s.end)
            blocks = s.seq.blocks
            slots += [blocks[p // BLOCK_SIZE] * BLOCK_SIZE + p % BLOCK_SIZE for p in range(s.start, s.end)]
            starts.append(len(tokens))
            if s.sample:
                rows += range(len(tokens) - s.drafts - 1, len(tokens))
        make = lambda xs: torch.tensor(xs, dtype=torch.int64, device=device)  # noqa: E731
        return cls(
            tokens=make(tokens),
            positions=make(positions),
            slots=make(slots),
            query_start=starts,
            seq_lens=[s.end for s in plan.slices],
            blocks=[s.seq.blocks for s in plan.slices],
            sample_rows=make(rows),
        )
