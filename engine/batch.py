"""The ragged tensors of one step. Rows of all sequences lie end to end; there is no padding."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import torch

from ..kernels.transfer import sent
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
    sampled: list[int]  # the same for the host
    trees: dict[int, list[list[int]]]  # of sequences with trees of drafts: `Slice.behind` of their last rows

    @property
    def wanted(self) -> torch.Tensor | None:
        """The rows that a model's hidden states are asked of, `sample_rows`; None: those are all."""
        return None if len(self.sampled) == self.query_start[-1] else self.sample_rows

    @classmethod
    def of(cls, plan: Plan, device: torch.device, flying: torch.Tensor | None = None) -> Batch:
        """Fill from a plan of at least one slice. A slice that samples wants its last `drafts + 1` rows.

        flying: int64 [S], the tokens of the step that flies, where this one is behind it: they stand for the numbers
        below 0 of the plan (ahead.py). Where that step failed for a sequence, it is any token.
        """
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
        # One tensor, so that it is sent at once.
        lengths = [len(tokens), len(tokens), len(tokens), len(rows)]
        whole = torch.frombuffer(array("q", tokens + positions + slots + rows), dtype=torch.int64)
        made = list((whole if device.type == "cpu" else sent(whole, device)).split_with_sizes(lengths))
        if flying is not None and len(flying):
            found = flying[(-1 - made[0]).clamp_(min=0)].clamp_(min=0)
            made[0] = torch.where(made[0] < 0, found, made[0])
        return cls(
            tokens=made[0],
            positions=made[1],
            slots=made[2],
            query_start=starts,
            seq_lens=[s.end for s in plan.slices],
            blocks=[s.seq.blocks for s in plan.slices],
            sample_rows=made[3],
            sampled=rows,
            trees=trees,
        )


def slot(blocks: list[int], place: int) -> int:
    """Where the pages of a sequence hold a place of it."""
    return blocks[place // BLOCK_SIZE] * BLOCK_SIZE + place % BLOCK_SIZE
