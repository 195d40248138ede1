"""A draft model: a smaller one of the same vocabulary runs ahead (Leviathan et al. 2023; Chen et al. 2023).

It draws by the numbers that the sequence's own tokens are drawn by, so where the two models agree on a distribution
they agree on the token, at any temperature.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from pathlib import Path
from types import ModuleType

import torch

from ..batch import Batch
from ..cache import KVCache
from ..config import BLOCK_SIZE
from ..errors import ConfigError, ModelError
from ..messages import SamplingParams
from ..models import CausalLM
from ..models.load import load_model
from ..plan import Outcome, Plan, Slice
from ..sampling import Sampler
from ..sequence import Sequence
from .maker import FIELD, Drafts, States, Want
from .pace import Costs
from .pair import compare
from .shadows import Shadows

TRIED = 8  # sequences whose price is measured at the start
CATCH_UP = 512  # tokens of prompts in a step, at most: nobody waits for long


class Drafter:
    """Of one runner."""

    name = "draft_model"
    taps: tuple[int, ...] = ()

    def __init__(self, model: CausalLM, vocab_size: int):
        """vocab_size: of the model that is drafted for; either may have rows more that no token has."""
        self.model = model
        self.layers = model.layers
        self._vocab = min(vocab_size, model.vocab_size)
        self._sampler = Sampler(self._vocab, model.device)
        self._costs = Costs()
        self._prompts = 0.0  # seconds that a token of a prompt took last

    def open(self, pages: int, backend: ModuleType) -> None:
        self.shadows = Shadows(pages)
        self._backend = backend
        self._cache: KVCache = backend.cache(self.layers, pages, self.model.dtype, self.model.device)
        for _ in range(2):  # what is done for the first time takes longer
            self._costs = Costs()
            self._try(min(pages, TRIED))

    @torch.inference_mode()
    def _try(self, count: int) -> None:
        """Learn what it costs before anyone asks: prompts, and a draft of one sequence and of some."""
        params = SamplingParams(max_tokens=2, seed=0, temperature=0.0)
        own = [Sequence(f"warm-up {n}", 0, [0] * (BLOCK_SIZE - 1), params) for n in range(count)]
        for page, seq in enumerate(own):
            seq.blocks = [page]
        self._run([Slice(seq, 0, seq.tokens[:-1], sample=False) for seq in own])
        for some in (own[:1], own):
            self._run([Slice(seq, seq.computed, seq.tokens[seq.computed :]) for seq in some])
        self._sampler.forget([seq.id for seq in own])

    def read(self, slices: Seq[Slice], outcomes: Seq[Outcome], states: States) -> None:
        """A text is read when it is drafted for, not before."""

    def room(self, seq: Sequence, new: list[int], count: int) -> int:
        """Those that it has positions for."""
        return min(count, self.model.max_position - len(seq.tokens) - len(new))

    def price(self, sequences: int) -> float:
        return (self._costs.of(sequences) or 0.0) * self._costs.speed

    def entry(self, seq: Sequence) -> float:
        """Its text may have to be read first."""
        shadow = self.shadows.known(seq)
        behind = len(seq.tokens) - (shadow.seq.computed if shadow is not None else 0)
        return self._prompts * behind if behind > BLOCK_SIZE else 0.0

    def draft(self, wanted: Seq[Want]) -> list[Drafts]:
        """None for a sequence whose text is not read yet, or has no pages."""
        budget, due = CATCH_UP, []
        busy = {want.seq.id for want in wanted}
        own = [self.shadows.follow(want.seq, want.new) for want in wanted]
        texts = [len(shadow.seq.tokens) for shadow in own]
        for shadow, text, want in zip(own, texts, wanted, strict=True):
            at = shadow.seq.computed
            end = min(text, at + budget)
            if end > at and self.shadows.grow(shadow, text + want.count, busy):
                budget -= end - at
                piece = Slice(shadow.seq, at, shadow.seq.tokens[at:end], sample=end == text)
                due.append((piece, text, want.count))
        self._run([piece for piece, _, _ in due])
        running = [(piece.seq, text, count) for piece, text, count in due if piece.sample]
        for _ in range(max((count for _, _, count in running), default=1) - 1):
            running = [(seq, text, count) for seq, text, count in running if 0 < len(seq.tokens) - text < count]
            self._run([Slice(seq, seq.computed, seq.tokens[seq.computed :]) for seq, _, _ in running])
        for want in wanted:
            self.shadows.publish(want.seq)
        return [Drafts(shadow.seq.tokens[text:]) for shadow, text in zip(own, texts, strict=True)]

    def _run(self, pieces: list[Slice]) -> None:
        """A step of the draft model: each slice's tokens are computed, and one that samples gets its next token."""
        if not pieces:
            return
        began = time.perf_counter()
        batch = Batch.of(Plan(pieces), self.model.device)
        attend = self._backend.plan(batch, self.model.layers, self._cache)
        known = batch.tokens.clamp(max=self.model.vocab_size - 1)  # ids of rows that only the model has
        hidden = self.model.forward(known, batch.positions, attend, wanted=batch.wanted)
        sampled = [piece for piece in pieces if piece.sample]
        if sampled:
            logits = self.model.logits(hidden)[:, : self._vocab]
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
        self.shadows.forget(ids)
        self._sampler.forget([f"{id_}/0" for id_ in ids])


def load(folder: Path, target_folder: Path, target: CausalLM, quantization: str | None = None) -> Drafter:
    """The draft model of `folder`, in the dtype and on the device of `target`. quantization: of its weights, at load.
    Raises ConfigError where there is none, or its vocabulary is another than that of the model in `target_folder`."""
    if not (folder / "config.json").is_file():
        raise ConfigError(FIELD, f"has {str(folder)!r} as model", "a folder with a config.json and safetensors")
    try:
        kind = "auto" if target.device.type == "cpu" else str(target.dtype).removeprefix("torch.")
        draft = load_model(folder, dtype=kind, device=target.device, quantization=quantization)
    except (ModelError, ConfigError) as error:
        raise ConfigError(FIELD, f"has a draft model that cannot be loaded: {error}", "one that can") from error
    compare(folder, draft, target_folder, target)
    return Drafter(draft, target.vocab_size)
