"""Log-probabilities under the model's own distribution, before any option acted."""

from __future__ import annotations

import torch

from ..messages import TokenLogprob


def token_logprobs(logits: torch.Tensor, tokens: list[int], tops: list[int]) -> list[TokenLogprob]:
    """logits [n, vocab] as the model gave them, one token and one number of alternatives a row.

    Equal logits rank by id, so each rank is taken once and the greedy token has rank 1.
    """
    logp = torch.log_softmax(logits.float(), -1)
    at = torch.tensor(tokens, device=logits.device)[:, None]
    own = logits.gather(-1, at)
    ids = torch.arange(logits.shape[-1], device=logits.device)
    ranks = 1 + ((logits > own) | ((logits == own) & (ids < at))).sum(-1)
    chosen = logp.gather(-1, at)[:, 0].tolist()
    most = min(max(tops), logits.shape[-1])
    floors = logits.topk(most).values if most else logits
    found = []
    for i, (token, top) in enumerate(zip(tokens, tops, strict=True)):
        pairs: list[tuple[int, float]] = []
        if top:
            best = _ranked(logits[i], floors[i, min(top, most) - 1])[:top]
            pairs = list(zip(best.tolist(), logp[i, best].tolist(), strict=True))
        found.append(TokenLogprob(token, chosen[i], int(ranks[i]), pairs))
    return found


def _ranked(row: torch.Tensor, floor: torch.Tensor) -> torch.Tensor:
    """row [vocab] -> ids of the logits >= floor, by rank. topk itself takes any of those that tie."""
    ids = (row >= floor).nonzero()[:, 0]
    return ids[row[ids].sort(descending=True, stable=True).indices]
