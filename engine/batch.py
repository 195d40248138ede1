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
    positions: torch.Tensor  # [T] int64, position of each token in its sequence; of a draft, if it came to stay
    slots: torch.Tensor  # [T] int64, page * BLOCK_SIZE + offset: where its key and value are written
    query_start: list[int]  # [R + 1]
    seq_lens: list[int]  # [R] tokens of each sequence once this step is written (context including its own rows)
    blocks: list[list[int]]  # [R] pages of each sequence, in order (not to be changed)
    sample_rows: torch.Tensor  # [S] int64, rows whose logits are wanted, in the order of the slices
    trees: dict[int, list[list[int]]]  # of sequences with trees of drafts: `Slice.behind` of their last rows

    @classmethod
    def of(cls, plan: Plan, device: torch.device) -> Batch:
        """Fill from a plan. A slice that samples wants its last `drafts + 1` rows."""
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        starts = [0]
        rows: list[int] = []
        trees: dict[int, list[list[int]]] = {}
        for r, s in enumerate(plan.slices):
            tokens += s.tokens
            positions += range(s.start, s.end)
            if s.parents:
                trees[r] = s.behind()
                first = s.end - s.drafts
                positions[-s.drafts :] = [first + len(path) - 1 for path in trees[r][1:]]
            blocks = s.seq.blocks
            slots += [slot(blocks, p) for p in range(s.start, s.end)]
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
            trees=trees,
        )


def slot(blocks: list[int], place: int) -> int:
    """Where the pages of a sequence hold a place of it."""
    return blocks[place // BLOCK_SIZE] * BLOCK_SIZE + place % BLOCK_SIZE
