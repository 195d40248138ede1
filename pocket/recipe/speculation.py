"""How much of an answer drafts would give: a step verifies up to DRAFTS of them and adds one token of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from .net import Llama

DRAFTS = 4
_NGRAM = 2  # ids at the end of the text that prompt lookup looks for
Propose = Callable[[list[int], int], list[int]]  # ids so far, how many -> drafts


def accepted(propose: Propose, prompts: Sequence[list[int]], answers: Sequence[list[int]]) -> dict[str, float]:
    """Share of the drafts that were accepted, and tokens a step, over answers that are known. Greedy verification
    accepts a draft where it is the answer's own token, so nothing need be generated again."""
    drafted = right = steps = tokens = 0
    for prompt, answer in zip(prompts, answers, strict=True):
        at = 0
        while at < len(answer):
            drafts = propose(prompt + answer[:at], DRAFTS)
            wanted = answer[at : at + len(drafts)]
            same = next(
                (i for i, pair in enumerate(zip(drafts, wanted, strict=False)) if pair[0] != pair[1]), len(wanted)
            )
            drafted += len(wanted)
            right += same
            gained = min(same + 1, len(answer) - at)
            tokens += gained
            steps += 1
            at += gained
    return {"accepted": right / max(1, drafted), "tokens_per_step": tokens / max(1, steps)}


def lookup(ids: list[int], count: int) -> list[int]:
    """Prompt lookup: what followed the last ids where they stood before, most recently."""
    end = ids[-_NGRAM:]
    for at in range(len(ids) - _NGRAM - 1, -1, -1):
        if ids[at : at + _NGRAM] == end:
            return ids[at + _NGRAM : at + _NGRAM + count]
    return []


def by_model(net: Llama) -> Propose:
    """Drafts of a draft model, greedy. It keeps no cache: for a few hundred answers of a tiny model that is enough."""

    @torch.inference_mode()
    def propose(ids: list[int], count: int) -> list[int]:
        found: list[int] = []
        for _ in range(count):
            text = torch.tensor(ids + found)
            found.append(int(net.logits(net(text, ((1, len(text)),))[-1]).argmax()))
        return found

    return propose
