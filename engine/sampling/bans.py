"""What may be sampled at all: grammars, allowed_token_ids, min_tokens, bad_words; and logit_bias, a person's own.

Each function takes logits [n, vocab] of the n sequences that use the option, and changes them in place.
"""

from __future__ import annotations

import torch

from ...kernels.bitmask import apply_bitmask
from ..sequence import Sequence
from .memory import Memory

NEVER = float("-inf")


def grammar(logits: torch.Tensor, seqs: list[Sequence], memory: Memory) -> None:
    """What a sequence's grammar does not allow is out; its mask is here by now, and its guide is told what was left."""
    guides = [seq.guide for seq in seqs]
    rows = [i for i, guide in enumerate(guides) if guide is not None and guide.bound]
    if not rows:
        return
    masks = torch.stack([guide.mask for guide in guides if guide is not None and guide.bound]).to(logits.device)
    part = logits[rows]
    before = part.logsumexp(-1)
    apply_bitmask(part, masks)
    kept = (part.logsumexp(-1) - before).exp().clamp_(max=1).tolist()
    logits[rows] = part
    for i, share in zip(rows, kept, strict=True):
        seqs[i].guide.kept = share  # type: ignore[union-attr]


def allowed_token_ids(logits: torch.Tensor, seqs: list[Sequence], memory: Memory) -> None:
    """All other tokens are out."""
    for row, seq in zip(logits, seqs, strict=True):

        def outside(seq: Sequence = seq) -> torch.Tensor:
            mask = torch.ones(memory.vocab_size, dtype=torch.bool, device=logits.device)
            mask[torch.tensor(seq.params.allowed_token_ids, dtype=torch.int64, device=logits.device)] = False
            return mask

        row.masked_fill_(memory.once(seq, "allowed", outside), NEVER)


def min_tokens(logits: torch.Tensor, seqs: list[Sequence], memory: Memory) -> None:
    """No stop token until the answer has that many tokens."""
    for row, seq in zip(logits, seqs, strict=True):
        if seq.generated < seq.params.min_tokens:
            row[list(seq.params.stop_token_ids)] = NEVER


def bad_words(logits: torch.Tensor, seqs: list[Sequence], memory: Memory) -> None:
    """The last token of a word is out where the tokens before it stand at the end of the text."""
    for row, seq in zip(logits, seqs, strict=True):
        for word in seq.params.bad_words:
            head = list(word[:-1])
            if not head or seq.tokens[-len(head) :] == head:
                row[word[-1]] = NEVER


def logit_bias(logits: torch.Tensor, seqs: list[Sequence], memory: Memory) -> None:
    """logit += bias."""
    for row, seq in zip(logits, seqs, strict=True):
        bias = seq.params.logit_bias
        ids = memory.once(seq, "bias ids", lambda b=bias: torch.tensor(list(b), device=logits.device))  # type: ignore[misc]
        add = memory.once(seq, "bias", lambda b=bias: torch.tensor(list(b.values()), device=logits.device))  # type: ignore[misc]
        row.index_add_(0, ids, add.to(row.dtype))
