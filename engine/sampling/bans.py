"""What may be sampled at all: grammars, allowed_token_ids, min_tokens, bad_words; and logit_bias, a person's own.

Each function takes logits [n, vocab] of the n sequences that use the option, and changes them in place.
"""

from __future__ import annotations

import itertools

import torch

from ...kernels.transfer import sent
from ...kernels.vocabulary import constrain
from .memory import Memory
from .rows import NEVER, Row


def grammar(logits: torch.Tensor, seqs: list[Row], memory: Memory) -> None:
    """What a row's mask does not allow is out; the row keeps what share of the probability was left."""
    given = [seq.mask for seq in seqs if seq.mask is not None]
    if not given:
        return
    masks = torch.frombuffer(bytearray().join(given), dtype=torch.int32).view(len(given), -1)
    places = itertools.count()
    which = [-1 if seq.mask is None else next(places) for seq in seqs]
    kept = constrain(logits, sent(masks, logits.device), which).tolist()
    for seq, share in zip(seqs, kept, strict=True):
        if seq.mask is not None:
            seq.kept = share


def allowed_token_ids(logits: torch.Tensor, seqs: list[Row], memory: Memory) -> None:
    """All other tokens are out."""
    for row, seq in zip(logits, seqs, strict=True):

        def outside(seq: Row = seq) -> torch.Tensor:
            mask = torch.ones(memory.vocab_size, dtype=torch.bool, device=logits.device)
            mask[torch.tensor(seq.params.allowed_token_ids, dtype=torch.int64, device=logits.device)] = False
            return mask

        row.masked_fill_(memory.once(seq, "allowed", outside), NEVER)


def min_tokens(logits: torch.Tensor, seqs: list[Row], memory: Memory) -> None:
    """No stop token until the answer has that many tokens."""
    for row, seq in zip(logits, seqs, strict=True):
        if seq.generated < seq.params.min_tokens:
            row[list(seq.params.stop_token_ids)] = NEVER


def bad_words(logits: torch.Tensor, seqs: list[Row], memory: Memory) -> None:
    """The last token of a word is out where the tokens before it stand at the end of the text."""
    for row, seq in zip(logits, seqs, strict=True):
        for word in seq.params.bad_words:
            head = list(word[:-1])
            if not head or seq.tokens[-len(head) :] == head:
                row[word[-1]] = NEVER


def logit_bias(logits: torch.Tensor, seqs: list[Row], memory: Memory) -> None:
    """logit += bias."""
    for row, seq in zip(logits, seqs, strict=True):
        bias = seq.params.logit_bias
        ids = memory.once(seq, "bias ids", lambda b=bias: torch.tensor(list(b), device=logits.device))  # type: ignore[misc]
        add = memory.once(seq, "bias", lambda b=bias: torch.tensor(list(b.values()), device=logits.device))  # type: ignore[misc]
        row.index_add_(0, ids, add.to(row.dtype))
