"""EAGLE-3 heads (Li et al. 2025): one layer that goes on from what the model itself computed.

The hidden states that enter three layers of the model become one feature a token. The head reads each feature beside
the token that follows it, in pages of its own, and says what comes next; its own state then stands for the feature of
that guess. Files are as the authors save them, or as vLLM reads them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Seq
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ...kernels import ops
from ..attention import Attend, LayerSpec, Turn
from ..batch import Batch
from ..cache import KVCache
from ..errors import ConfigError, ModelError
from ..models.config import Fields, read_config
from ..models.decoder import Decoder, Shape, read_shape
from ..models.rope import make_rope
from ..plan import Outcome, Plan, Slice
from ..sampling import Sampler
from ..sequence import Sequence
from ..weights import Weights, open_weights
from .maker import FIELD, Drafts, States, Want
from .pace import Costs
from .shadows import Shadow, Shadows

HARMLESS = ("d2t", "t2d", ".rotary_emb.inv_freq")  # t2d says again what d2t says


class Head:
    """The layer, and what is before and behind it."""

    def __init__(self, shape: Shape, weights: Weights, target: Decoder, rows: int, *, early: bool):
        """rows: of its own vocabulary. early: the residual is the feature behind its norm, not before it."""
        s = self.shape = shape
        self.taps = (2, len(target.layers) // 2, len(target.layers) - 3)  # layers of the model
        self.early = early
        self.dtype, self.device = weights.dtype, weights.device
        at = "midlayer" if "midlayer.hidden_norm.weight" in weights else "layers.0"
        q, kv = s.heads * s.head_dim, s.kv_heads * s.head_dim
        own = "embed_tokens.weight" in weights
        self.embedding = weights.embedding("embed_tokens", (s.vocab, s.width)) if own else target.embedding
        self.join = weights.linear(["fc"], len(self.taps) * target.width, [s.width])
        self.token_norm = weights.norm(f"{at}.input_layernorm", s.width, s.eps)
        self.feature_norm = weights.norm(f"{at}.hidden_norm", s.width, s.eps)
        names = [f"{at}.self_attn.{x}_proj" for x in "qkv"]
        self.qkv = weights.linear(names, 2 * s.width, [q, kv, kv], bias=s.qkv_bias)
        self.out = weights.linear([f"{at}.self_attn.o_proj"], q, [s.width])
        self.mlp_norm = weights.norm(f"{at}.post_attention_layernorm", s.width, s.eps)
        self.gate_up = weights.linear([f"{at}.mlp.gate_proj", f"{at}.mlp.up_proj"], s.width, [s.inner, s.inner])
        self.down = weights.linear([f"{at}.mlp.down_proj"], s.inner, [s.width])
        self.norm = weights.norm("norm", s.width, s.eps)
        self.gate = ops.Gate(s.activation)
        self.head = weights.linear(["lm_head"], s.width, [rows]) if "lm_head.weight" in weights else target.head
        self.layers = [LayerSpec(s.heads, s.kv_heads, s.head_dim, s.head_dim**-0.5)]
        self.rope = make_rope(
            s.rope,
            theta=s.theta,
            head_dim=s.head_dim,
            max_position=s.max_position,
            context=s.max_position,
            device=weights.device,
        )

    def forward(
        self, tokens: torch.Tensor, features: torch.Tensor, positions: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        """Each token [n] beside the feature [n, width] of the one before it, which stands at positions [n] -> states
        [n, width]."""
        s = self.shape
        x = features
        known = self.feature_norm(x)
        x = known if self.early else x
        both = torch.cat([self.token_norm(self.embedding(tokens, None)), known], -1)
        cos, sin = self.rope.angles(positions, self.dtype)
        qkv = self.qkv(both, None).view(-1, s.heads + 2 * s.kv_heads, s.head_dim)
        q, k, v = qkv.split([s.heads, s.kv_heads, s.kv_heads], dim=1)
        mixed = attend(0, q, k, v, Turn(cos, sin))
        x = self.out(mixed.reshape(-1, s.heads * s.head_dim), add=x)
        return self.down(self.gate_up(x, before=self.mlp_norm), before=self.gate, add=x)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """states [n, width] -> float32 [n, rows of its own vocabulary]."""
        return self.head(states, before=self.norm).float()


class Eagle:
    """Of one runner. Reads every step, so that it can guess at any."""

    name = "eagle3"

    def __init__(self, head: Head, targets: torch.Tensor | None, vocab_size: int):
        """targets [rows]: the model's token of each row of the head's vocabulary; None: they are the same."""
        self.head = head
        self.layers = head.layers
        self.taps: tuple[int, ...] = head.taps
        self._targets, self._vocab = targets, vocab_size
        self._sampler = Sampler(vocab_size)
        self._states: dict[str, tuple[int, torch.Tensor]] = {}  # id -> places read, the state of the last
        self._costs = Costs()

    def open(self, pages: int, backend: ModuleType) -> None:
        self.shadows = Shadows(pages)
        self._backend = backend
        self._cache: KVCache = backend.cache(self.layers, pages, self.head.dtype, self.head.device)

    def room(self, seq: Sequence, new: list[int], count: int) -> int:
        """Those that it has positions for; none where pages of the text were found that it has not read."""
        known = self._states.get(seq.id)
        if known is None or known[0] != len(seq.tokens) + len(new) - 1:
            return 0
        return min(count, self.head.shape.max_position - known[0] - 1)

    def price(self, sequences: int) -> float:
        return (self._costs.of(sequences) or 0.0) * self._costs.speed

    def entry(self, seq: Sequence) -> float:
        return 0.0

    def read(self, slices: Seq[Slice], outcomes: Seq[Outcome], states: States) -> None:
        """Every place whose token came to stay, with the token that follows it."""
        assert states.tapped is not None
        pieces: list[Slice] = []
        read: list[tuple[str, Shadow]] = []
        rows: list[int] = []
        busy = {piece.seq.id for piece in slices}
        for piece, outcome, first in zip(slices, outcomes, states.starts[:-1], strict=True):
            if piece.seq.params.num_speculative_tokens == 0:
                continue
            shadow = self.shadows.of(piece.seq)
            shadow.seq.tokens[shadow.sure :] = piece.seq.tokens[shadow.sure :]
            shadow.sure = len(piece.seq.tokens)
            own, following = _stayed(piece, outcome)
            skipped = shadow.seq.computed - piece.start  # negative: pages were found that the head has not read
            if 0 <= skipped < len(own) and self.shadows.grow(shadow, piece.start + len(own), busy):
                rows += [first + n for n in own[skipped:]]
                pieces.append(Slice(shadow.seq, shadow.seq.computed, following[skipped:]))
                read.append((piece.seq.id, shadow))
        if not pieces:
            return
        features = self.head.join(states.tapped[torch.tensor(rows, device=states.tapped.device)], None)
        last = self._run(pieces, features)
        for (id_, shadow), piece, state in zip(read, pieces, last, strict=True):
            shadow.seq.computed = piece.end
            self._states[id_] = piece.end, state
        for piece in slices:  # a page's last place knows the token behind the page, which others' texts may not have
            self.shadows.publish(piece.seq)  # there; a guess is not worth more

    def draft(self, wanted: Seq[Want]) -> list[Drafts]:
        busy = {want.seq.id for want in wanted}
        found: list[list[int]] = [[] for _ in wanted]
        due: list[tuple[Shadow, list[int], int, int]] = []  # with its drafts, how many are wanted, and places read
        for want, made in zip(wanted, found, strict=True):
            shadow, text = self.shadows.of(want.seq), len(want.seq.tokens) + len(want.new)
            if self.room(want.seq, want.new, want.count) and self.shadows.grow(shadow, text + want.count, busy):
                shadow.seq.tokens[shadow.sure :] = want.new
                due.append((shadow, made, want.count, text - 1))
        states = torch.stack([self._states[shadow.seq.request][1] for shadow, *_ in due]) if due else None
        depth = 0
        while due:
            assert states is not None
            depth += 1
            began = time.perf_counter()
            pieces = [Slice(shadow.seq, at + len(made) - 1, made[-1:]) for shadow, made, _, at in due]
            if due[0][1]:
                states = self._run(pieces, states)
            for (shadow, made, _, _), outcome in zip(
                due, self._sampler.sample(self._logits(states), pieces), strict=True
            ):
                made += outcome.tokens
                shadow.seq.tokens += outcome.tokens
            on = [n for n, (_, made, count, _) in enumerate(due) if depth == len(made) < count]
            self._costs.learn(len(due), time.perf_counter() - began)
            due, states = [due[n] for n in on], states[on]
        return [Drafts(made) for made in found]

    def _run(self, pieces: list[Slice], features: torch.Tensor) -> torch.Tensor:
        """The head over the tokens of the slices and their features [T, width] -> the last state of each slice."""
        batch = Batch.of(Plan(pieces), self.head.device)
        attend = self._backend.plan(batch, self.head.layers, self._cache)
        states = self.head.forward(batch.tokens, features, batch.positions, attend)
        return states[[end - 1 for end in batch.query_start[1:]]]

    def _logits(self, states: torch.Tensor) -> torch.Tensor:
        """[n, vocab_size] of the model's vocabulary."""
        logits = self.head.logits(states)
        if self._targets is None:
            return logits
        found = torch.full((len(states), self._vocab), -torch.inf, device=logits.device)
        found[:, self._targets] = logits
        return found

    def forget(self, ids: Seq[str]) -> None:
        self.shadows.forget(ids)
        self._sampler.forget([f"{id_}/0" for id_ in ids])  # it knows the shadows
        for id_ in ids:
            self._states.pop(id_, None)


def _stayed(piece: Slice, outcome: Outcome) -> tuple[list[int], list[int]]:
    """Of the rows of a slice those whose tokens stay, and the token that follows each as far as it is known."""
    plain = len(piece.tokens) - piece.drafts
    rows = list(range(plain))
    text = piece.seq.tokens
    if piece.sample:
        right = len(outcome.tokens) - 1
        rows += [plain + n for n in outcome.path[: max(0, right)]]
        text = text[piece.start :] + outcome.tokens
    else:
        text = text[piece.start : piece.end + 1]
    following = text[1 : len(rows) + 1]
    return rows[: len(following)], following


def load(folder: Path, target_folder: Path, target: Any) -> Eagle:
    """The head of `folder`, in the dtype and on the device of `target`.

    Raises ConfigError where it is for another width or vocabulary, or the model is of no family whose layers can be
    seen.
    """
    if not isinstance(target, Decoder) or len(target.layers) < 4:
        kinds = "a model of four layers or more of the Llama, Mistral or Qwen families"
        raise ConfigError(FIELD, "asks for an EAGLE head on a model whose layers it cannot see", kinds)
    try:
        config = read_config(folder)
        fields = Fields(config)
        bias = fields.flag("attention_bias", False)
        shape = read_shape(fields, qkv_bias=bias)
        reader = open_weights(folder)
        ignore = lambda done, total: None  # noqa: E731
        weights = Weights(
            reader, dtype=target.dtype, device=target.device, progress=ignore, prefix="model.", harmless=HARMLESS
        )
        if shape.vocab != target.vocab_size:
            raise ModelError(
                f"{folder / 'config.json'}: vocab_size is {shape.vocab}; the model has {target.vocab_size}"
            )
        rows = fields.number("draft_vocab_size", shape.vocab)
        head = Head(shape, weights, target, rows, early=fields.flag("norm_before_residual", False))
        weights.finish()
        targets = None
        if "d2t" in reader.names:
            given = reader.read("d2t")
            assert isinstance(given, torch.Tensor)
            targets = torch.arange(rows) + given.long()
            if targets.shape != (rows,) or int(targets.min()) < 0 or int(targets.max()) >= target.vocab_size:
                raise ModelError(f"{reader.where('d2t')}: d2t does not say a token of the model for each of {rows}")
            targets = targets.to(target.device)
        elif rows != target.vocab_size:
            raise ModelError(f"{folder}: no d2t; expected one, as the head has {rows} tokens of its own")
    except ModelError as error:
        raise ConfigError(FIELD, f"has an EAGLE head that cannot be used: {error}", "one of this model") from error
    return Eagle(head, targets, target.vocab_size)
