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
    best = logp.topk(most) if most else None
    found = []
    for i, (token, top) in enumerate(zip(tokens, tops, strict=True)):
        pairs: list[tuple[int, float]] = []
        if best is not None:
            pairs = list(zip(best.indices[i, :top].tolist(), best.values[i, :top].tolist(), strict=True))
            pairs.sort(key=lambda pair: (-pair[1], pair[0]))
        found.append(TokenLogprob(token, chosen[i], int(ranks[i]), pairs))
    return found
