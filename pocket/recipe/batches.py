"""What a step takes: whole documents in an order that only the seed and the step decide."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from . import recital
from .data import Documents
from .net import IGNORED, Segments
from .presets import VOCAB

ALIGN = 16  # lengths are rounded up to this, so that more documents have the same


@dataclass(frozen=True, slots=True)
class Batch:
    """tokens [N], targets [N] (IGNORED where nothing is trained), and which runs of documents have equal lengths."""

    tokens: torch.Tensor
    targets: torch.Tensor
    segments: Segments

    @classmethod
    def of(cls, documents: list[tuple[np.ndarray, np.ndarray]]) -> Batch:
        """documents: ids [n] and mask [n] each. The target of a token is the next one, where the mask has that. Padding
        stands behind a document, where causal attention never looks."""
        ordered = sorted(documents, key=lambda found: _aligned(len(found[0])))
        sizes = [_aligned(len(ids)) for ids, _ in ordered]
        tokens = np.zeros(sum(sizes), np.int64)
        targets = np.full(sum(sizes), IGNORED, np.int64)
        at = 0
        for (ids, mask), size in zip(ordered, sizes, strict=True):
            end = at + len(ids) - 1
            tokens[at:end] = ids[:-1]
            targets[at:end] = np.where(mask[1:], ids[1:].astype(np.int64), IGNORED)
            at += size
        segments = tuple((len(list(group)), size) for size, group in groupby(sizes))
        return cls(torch.from_numpy(tokens), torch.from_numpy(targets), segments)

    def to(self, device: torch.device) -> Batch:
        return Batch(self.tokens.to(device), self.targets.to(device), self.segments)


class Batches:
    """Step -> batch, over and over through all documents, each time in another order."""

    def __init__(self, documents: Documents, tokens: int, seed: int, prelude: int = 0, vocab: int = VOCAB):
        """tokens: of a step, about. prelude: steps that take many recitals too; later ones take a few. 0: none ever
        does. Raises ValueError where the documents do not fill a step."""
        self._documents = documents
        self._tokens = tokens
        self._seed = seed
        self._prelude, self._vocab = prelude, vocab
        self._sizes = np.array([_aligned(n) for n in documents.lengths])
        self.steps = int(self._sizes.sum()) // tokens  # of one pass
        if not self.steps:
            raise ValueError(f"the corpus has {self._sizes.sum()} tokens; a step takes {tokens}")
        self._pass = -1
        self._order = self._ends = np.empty(0, np.int64)

    def __getitem__(self, step: int) -> Batch:
        turn, place = divmod(step, self.steps)
        if turn != self._pass:
            self._order = np.random.default_rng((self._seed, turn)).permutation(len(self._sizes))
            self._ends = self._sizes[self._order].cumsum()
            self._pass = turn
        first, end = self._ends.searchsorted([place * self._tokens, (place + 1) * self._tokens], side="right")
        chosen = [self._documents[n] for n in self._order[first : max(end, first + 1)]]
        if self._prelude:
            share = recital.EARLY if step < self._prelude else recital.LATER
            chosen += recital.documents(self._seed, step, int(share * self._tokens), self._vocab)
        return Batch.of(chosen)


def _aligned(length: int) -> int:
    """Places that a document of so many tokens takes: its last token is a target only."""
    return -(-max(1, length - 1) // ALIGN) * ALIGN
