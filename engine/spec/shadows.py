"""What a model that guesses has computed of the sequences: pages of its own, and a shadow of each that holds them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ..blocks import BlockPool
from ..config import BLOCK_SIZE
from ..messages import SamplingParams
from ..sequence import Sequence


@dataclass(slots=True)
class Shadow:
    """seq: the text with guesses behind it, and what of it is in pages. sure: tokens of it that are the sequence's own
    for good."""

    seq: Sequence
    sure: int = 0


class Shadows:
    """By id, until `forget`. What is computed stays when the sequence itself is preempted."""

    def __init__(self, pages: int):
        self.pool = BlockPool(pages)
        self._shadows: dict[str, Shadow] = {}

    def __len__(self) -> int:
        return len(self._shadows)

    def known(self, seq: Sequence) -> Shadow | None:
        return self._shadows.get(seq.id)

    def of(self, seq: Sequence) -> Shadow:
        """The shadow; a new one begins with the pages that others filled with the same text. (`hashes` are known where
        the sequence's own pages are shared too.)"""
        shadow = self._shadows.get(seq.id)
        if shadow is not None:
            return shadow
        shadow = self._shadows[seq.id] = Shadow(_empty(seq))
        for name in seq.hashes[: (len(seq.tokens) - 1) // BLOCK_SIZE]:
            page = self.pool.block_of.get(name)
            if page is None:
                break
            self.pool.share(page)
            shadow.seq.blocks.append(page)
        found = len(shadow.seq.blocks)
        shadow.seq.published = found
        shadow.seq.computed = shadow.sure = found * BLOCK_SIZE
        shadow.seq.tokens = seq.tokens[: shadow.sure]
        return shadow

    def follow(self, seq: Sequence, new: list[int]) -> Shadow:
        """The shadow, with the text as it is now, and `new` behind it; guesses that came to stay are computed
        already."""
        shadow = self.of(seq)
        tail = seq.tokens[shadow.sure :] + new
        had = shadow.seq.tokens[shadow.sure :]
        same = next((n for n, (one, other) in enumerate(zip(tail, had, strict=False)) if one != other), None)
        kept = shadow.sure + (min(len(tail), len(had)) if same is None else same)
        shadow.seq.computed = min(shadow.seq.computed, kept, shadow.sure + len(tail) - 1)
        shadow.seq.tokens[shadow.sure :] = tail
        shadow.sure = len(seq.tokens)  # what is new may not come to stay
        return shadow

    def grow(self, shadow: Shadow, tokens: int, busy: Collection[str]) -> bool:
        """Pages for so many tokens, if need be those of sequences that are not `busy`. False: there are none."""
        missing = -(-tokens // BLOCK_SIZE) - len(shadow.seq.blocks)
        if missing > len(self.pool.free):
            self.forget([id_ for id_ in self._shadows if id_ not in busy])
        if missing > len(self.pool.free):
            return False
        shadow.seq.blocks.extend(self.pool.take() for _ in range(missing))
        return True

    def publish(self, seq: Sequence) -> None:
        """Let others find the pages that are full of the sequence's own tokens."""
        shadow = self._shadows[seq.id]
        own = shadow.seq
        full = min(own.computed, shadow.sure) // BLOCK_SIZE
        for page, name in zip(own.blocks[own.published : full], seq.hashes[own.published :], strict=False):
            self.pool.publish(page, name)
            own.published += 1

    def forget(self, ids: Iterable[str]) -> None:
        for id_ in ids:
            if (shadow := self._shadows.pop(id_, None)) is not None:
                self.pool.release(shadow.seq.blocks)


def _empty(seq: Sequence) -> Sequence:
    """Nothing of the text yet. Of the options those are kept that say which of the likely tokens is drawn."""
    p = seq.params
    params = SamplingParams(
        max_tokens=1, seed=seq.seed, temperature=p.temperature, top_k=p.top_k, top_p=p.top_p, min_p=p.min_p
    )
    return Sequence(seq.id, 0, [], params)
