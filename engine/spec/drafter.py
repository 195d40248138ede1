"""A draft model: a smaller one of the same vocabulary runs ahead (Leviathan et al. 2023; Chen et al. 2023).

It has pages of its own, and a shadow of each sequence that holds them: what it has computed stays when the sequence
itself is preempted, and goes when the sequence leaves. It draws by the numbers that the sequence's own tokens are drawn
by, so where the two models agree on a distribution they agree on the token, at any temperature.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from types import ModuleType

from ..batch import Batch
from ..blocks import BlockPool
from ..cache import KVCache
from ..config import BLOCK_SIZE
from ..messages import SamplingParams
from ..models import CausalLM
from ..plan import Plan, Slice
from ..sampling import Sampler
from ..sequence import Sequence
from .maker import Drafts, Want
from .pace import Costs

CATCH_UP = 512  # tokens of prompts in a step, at most: nobody waits for long


@dataclass(slots=True)
class _Shadow:
    """seq: the text with the drafts behind it, and what of it is in the draft model's pages. sure: tokens of it that
    are the sequence's own for good."""

    seq: Sequence
    sure: int = 0


class Drafter:
    """Of one runner. pages: of its cache, which is as long as the sequences' own where there are as many."""

    name = "draft_model"

    def __init__(self, model: CausalLM, vocab_size: int, pages: int, backend: ModuleType):
        """vocab_size: of the model that is drafted for; either may have rows more that no token has."""
        self.model = model
        self._vocab = min(vocab_size, model.vocab_size)
        self._backend = backend
        self._cache = KVCache(model.layers, pages, model.dtype, model.device)
        self._pool = BlockPool(pages)
        self._sampler = Sampler(self._vocab)
        self._shadows: dict[str, _Shadow] = {}
        self._costs = Costs()
        self._prompts = 0.0  # seconds that a token of a prompt took last

    def room(self, seq: Sequence, new: list[int], count: int) -> int:
        """Those that it has positions for."""
        return min(count, self.model.max_position - len(seq.tokens) - len(new))

    def price(self, sequences: int) -> float:
        return (self._costs.of(sequences) or 0.0) * self._costs.speed / sequences

    def entry(self, seq: Sequence) -> float:
        """Its text may have to be read first."""
        shadow = self._shadows.get(seq.id)
        behind = len(seq.tokens) - (shadow.seq.computed if shadow is not None else 0)
        return self._prompts * behind if behind > BLOCK_SIZE else 0.0

    def draft(self, wanted: Seq[Want]) -> list[Drafts]:
        """None for a sequence whose text is not read yet, or has no pages."""
        budget, due = CATCH_UP, []
        counts = dict.fromkeys((want.seq.id for want in wanted), 0)
        for want in wanted:
            shadow = self._follow(want)
            text = len(shadow.seq.tokens)
            end = min(text, shadow.seq.computed + budget)
            if end > shadow.seq.computed and self._grow(shadow.seq, text + want.count, counts):
                budget -= end - shadow.seq.computed
                at = shadow.seq.computed
                due.append((want, Slice(shadow.seq, at, shadow.seq.tokens[at:end], sample=end == text)))
        self._run([piece for _, piece in due])
        running = [(want, piece.seq) for want, piece in due if piece.sample]
        for _ in range(max((want.count for want, _ in running), default=1) - 1):
            running = [(want, seq) for want, seq in running if 0 < len(seq.tokens) - self._text(want) < want.count]
            self._run([Slice(seq, seq.computed, seq.tokens[seq.computed :]) for _, seq in running])
        for want in wanted:
            self._publish(self._shadows[want.seq.id], want.seq)
        return [Drafts(self._shadows[want.seq.id].seq.tokens[self._text(want) :]) for want in wanted]

    @staticmethod
    def _text(want: Want) -> int:
        return len(want.seq.tokens) + len(want.new)

    def _follow(self, want: Want) -> _Shadow:
        """The shadow, with the text as it is now: drafts that came to stay are computed already."""
        seq = want.seq
        shadow = self._shadows.get(seq.id)
        if shadow is None:
            shadow = self._shadows[seq.id] = _Shadow(_shadow_of(seq))
            self._share(shadow, seq)
        tail = seq.tokens[shadow.sure :] + want.new
        had = shadow.seq.tokens[shadow.sure :]
        same = next((n for n, (one, other) in enumerate(zip(tail, had, strict=False)) if one != other), None)
        kept = shadow.sure + (min(len(tail), len(had)) if same is None else same)
        shadow.seq.computed = min(shadow.seq.computed, kept, shadow.sure + len(tail) - 1)
        shadow.seq.tokens[shadow.sure :] = tail
        shadow.sure = len(seq.tokens)  # what is new may not come to stay
        return shadow

    def _share(self, shadow: _Shadow, seq: Sequence) -> None:
        """Pages that others filled with the same text; `hashes` are known where the sequence's own are shared too."""
        for name in seq.hashes[: (len(seq.tokens) - 1) // BLOCK_SIZE]:
            page = self._pool.block_of.get(name)
            if page is None:
                break
            self._pool.share(page)
            shadow.seq.blocks.append(page)
        found = len(shadow.seq.blocks)
        shadow.seq.computed = shadow.sure = found * BLOCK_SIZE
        shadow.seq.published = found
        shadow.seq.tokens = seq.tokens[: shadow.sure]

    def _publish(self, shadow: _Shadow, seq: Sequence) -> None:
        """Let others find the pages that are full of the sequence's own tokens."""
        own = shadow.seq
        full = min(own.computed, shadow.sure) // BLOCK_SIZE
        for page, name in zip(own.blocks[own.published : full], seq.hashes[own.published :], strict=False):
            self._pool.publish(page, name)
            own.published += 1

    def _grow(self, shadow: Sequence, tokens: int, busy: dict[str, int]) -> bool:
        """Pages for so many tokens, if need be those of sequences that want nothing now."""
        missing = -(-tokens // BLOCK_SIZE) - len(shadow.blocks)
        if missing > len(self._pool.free):
            self.forget([id_ for id_ in self._shadows if id_ not in busy])
        if missing > len(self._pool.free):
            return False
        shadow.blocks.extend(self._pool.take() for _ in range(missing))
        return True

    def _run(self, pieces: list[Slice]) -> None:
        """A step of the draft model: each slice's tokens are computed, and one that samples gets its next token."""
        if not pieces:
            return
        began = time.perf_counter()
        batch = Batch.of(Plan(pieces), self.model.device)
        attend = self._backend.plan(batch, self.model.layers, self._cache)
        hidden = self.model.forward(batch.tokens, batch.positions, attend)
        sampled = [piece for piece in pieces if piece.sample]
        if sampled:
            logits = self.model.logits(hidden.index_select(0, batch.sample_rows))[:, : self._vocab]
            for piece, outcome in zip(sampled, self._sampler.sample(logits, sampled), strict=True):
                piece.seq.tokens += outcome.tokens
        for piece in pieces:
            piece.seq.computed = piece.end
        seconds, tokens = time.perf_counter() - began, sum(len(piece.tokens) for piece in pieces)
        if max(len(piece.tokens) for piece in pieces) <= 2:  # a draft that was right was not computed itself
            self._costs.learn(len(pieces), seconds)
        else:
            self._prompts = seconds / tokens

    def forget(self, ids: Seq[str]) -> None:
        for id_ in ids:
            if (shadow := self._shadows.pop(id_, None)) is not None:
                self._pool.release(shadow.seq.blocks)
                self._sampler.forget([shadow.seq.id])


def _shadow_of(seq: Sequence) -> Sequence:
    """Nothing of the text yet. Of the options those are kept that say which of the likely tokens is drawn."""
    p = seq.params
    params = SamplingParams(
        max_tokens=1,
        seed=seq.seed,
        temperature=p.temperature,
        top_k=p.top_k,
        top_p=p.top_p,
        min_p=p.min_p,
    )
    return Sequence(seq.id, 0, [], params)
