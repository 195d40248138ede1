"""Sampling: from logits to tokens, the options of each request in one documented order, CHAIN.

An option that no request in the batch uses is not looked at; rows never see their neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...kernels.transfer import sent
from ...kernels.vocabulary import greatest
from ..messages import SamplingParams, TokenLogprob
from ..plan import Outcome, Slice
from . import bans, fused, mirostat, penalties, truncation
from .draw import draw, drawn
from .logprobs import token_logprobs
from .memory import Memory
from .rows import NEVER, Row, rows_of

Act = Callable[[torch.Tensor, list[Row], Memory], None]


@dataclass(frozen=True, slots=True)
class Link:
    """One option: whether a request uses it, what it does to the logits, and whether greedy decoding can notice."""

    name: str
    used: Callable[[SamplingParams], bool]
    act: Act
    greedy: bool = False


CHAIN = (  # the order in which options act
    Link("grammar", lambda p: p.grammar is not None or p.thought is not None, bans.grammar, greedy=True),
    Link("allowed_token_ids", lambda p: p.allowed_token_ids is not None, bans.allowed_token_ids, greedy=True),
    Link("min_tokens", lambda p: p.min_tokens > 0 and bool(p.stop_token_ids), bans.min_tokens, greedy=True),
    Link("bad_words", lambda p: bool(p.bad_words), bans.bad_words, greedy=True),
    Link("logit_bias", lambda p: bool(p.logit_bias), bans.logit_bias, greedy=True),
    Link("repetition_penalty", lambda p: p.repetition_penalty != 1, penalties.repetition, greedy=True),
    Link(
        "presence_penalty, frequency_penalty",
        lambda p: bool(p.presence_penalty or p.frequency_penalty),
        penalties.presence_and_frequency,
        greedy=True,
    ),
    Link("dry", lambda p: p.dry_multiplier != 0, penalties.dry, greedy=True),
    Link("top_n_sigma", lambda p: p.top_n_sigma > 0, truncation.top_n_sigma),
    Link("temperature", lambda p: p.temperature != 1, truncation.temperature),
    Link("top_k", lambda p: p.top_k > 0, truncation.top_k),
    Link("typical_p", lambda p: p.typical_p < 1, truncation.typical_p),
    Link("top_p", lambda p: p.top_p < 1, truncation.top_p),
    Link("min_p", lambda p: p.min_p > 0, truncation.min_p),
    Link("xtc", lambda p: p.xtc_probability > 0 and p.xtc_threshold <= 0.5, truncation.xtc),
    Link("mirostat", lambda p: p.mirostat != 0, mirostat.truncate),
)

NOTHING_LEFT = (
    "no token can be sampled: the grammar, allowed_token_ids, bad_words, logit_bias and min_tokens together rule out "
    "every one"
)
NOT_ALLOWED = "invalid_value"  # it is the request that asks for it


def _right(piece: Slice, sampled: list[int]) -> tuple[list[int], list[int]]:
    """The tokens that stand, of those sampled behind the last accepted token and behind each draft; and the drafts that
    are right, by place. From the last accepted token on: where a draft is the token that was sampled there, it goes on
    with what was sampled behind that draft. No tokens: not even one can be sampled."""
    drafts, tokens, path = piece.drafted, [], []
    at = -1
    while (token := sampled[at + 1]) >= 0:
        tokens.append(token)
        if piece.parents:
            at = next((n for n, p in enumerate(piece.parents) if p == at and drafts[n] == token), -1)
        else:
            at = at + 1 if at + 1 < len(drafts) and drafts[at + 1] == token else -1
        if at < 0:
            break
        path.append(at)
    return tokens, path[: max(0, len(tokens) - 1)]


class Sampler:
    """Turns rows of logits into outcomes. Holds what options remember of a sequence, by its id, until `forget`.

    device: where the logits are; None: torch does all of it, wherever they are. alone: what sums along a row gets one
    at a time, as on a GPU torch sums in an order that depends on how many there are, and on where they lie.
    """

    def __init__(self, vocab_size: int, device: torch.device | None = None, *, alone: bool = False):
        self._memory = Memory(vocab_size)
        self._links: dict[str, tuple[Link, ...]] = {}  # options of each sequence that act here
        self._fused: set[str] = set()  # sequences of which the kernel does the rest
        self._able = device is not None and fused.able(vocab_size, torch.float32, device)
        self._alone = alone

    def sample(self, logits: torch.Tensor, slices: list[Slice]) -> list[Outcome]:
        """logits float32 [R, vocab], a row for each slice and each of its drafts (`rows_of`); may be changed.

        A draft is right where it is the token that is sampled there. So every token is drawn as it is without drafts,
        from the model's own distribution and by the number of its (seed, position): what drafts change is how many of
        them one step gives. This is the rejection rule of Leviathan et al. 2023 for drafts that are given and not
        drawn: a draft x is accepted with min(1, p(x) / 1) = p(x), and the token behind a rejected one is drawn from
        norm(max(0, p - q)), which is p given that it is not x.
        """
        rows = rows_of(slices)
        asking = [i for i, row in enumerate(rows) if row.params.logprobs is not None]
        own = logits[asking] if asking else None  # as the model gave them
        self._apply(logits, rows)
        tokens = self._drawn(logits, rows)
        logprobs: dict[int, TokenLogprob] = {}
        if own is not None:
            tops = [rows[i].params.logprobs or 0 for i in asking]
            found = self._logprobs(own, [max(tokens[i], 0) for i in asking], tops)
            logprobs = dict(zip(asking, found, strict=True))
        outcomes, at = [], 0
        for piece in slices:
            taken, path = _right(piece, tokens[at : at + piece.drafts + 1])
            used = [at, *(at + 1 + n for n in path)] if taken else []  # rows
            outcome = Outcome(tokens=taken, path=path) if taken else Outcome(error=NOTHING_LEFT, code=NOT_ALLOWED)
            if taken and at in logprobs:
                outcome.logprobs = [logprobs[i] for i in used]
            outcome.kept = [rows[i].kept for i in used]
            outcomes.append(outcome)
            at += piece.drafts + 1
        return outcomes

    def tokens(self, logits: torch.Tensor, slices: list[Slice]) -> torch.Tensor:
        """The tokens of `sample`, of slices that may fly (engine/ahead.py), where the logits are: int64 [R], -1 where
        not even one can be sampled. Nothing is read of them."""
        rows = rows_of(slices)
        self._apply(logits, rows)
        mine = [i for i, row in enumerate(rows) if row.id in self._fused]
        if mine and len(mine) == len(rows):
            return fused.tokens(logits, rows, self._memory)
        best, tokens = greatest(logits)
        if warm := [row.params.temperature != 0 for row in rows]:
            if self._alone:
                found = torch.cat([drawn(part.clone()[None], [row]) for part, row in zip(logits, rows, strict=True)])
            else:
                found = drawn(logits, rows)
            tokens = torch.where(sent(torch.tensor(warm), logits.device), found, tokens)
        tokens = torch.where(best == float("-inf"), -1, tokens)
        if mine:
            at = sent(torch.tensor(mine), logits.device)
            tokens[at] = fused.tokens(logits[at], [rows[i] for i in mine], self._memory)
        return tokens

    def prompt_logprobs(self, logits: torch.Tensor, targets: list[int], top: int) -> list[TokenLogprob]:
        """logits [P, vocab]; targets: the token that follows each row; top: alternatives wanted."""
        return self._logprobs(logits, targets, [top] * len(targets))

    def _logprobs(self, logits: torch.Tensor, tokens: list[int], tops: list[int]) -> list[TokenLogprob]:
        if not self._alone:
            return token_logprobs(logits, tokens, tops)
        each = zip(logits, tokens, tops, strict=True)
        return [token_logprobs(row.clone()[None], [token], [top])[0] for row, token, top in each]

    def forget(self, ids: list[str]) -> None:
        """Drop what is remembered of sequences that are gone."""
        for id_ in ids:
            self._links.pop(id_, None)
            self._fused.discard(id_)
        self._memory.forget(ids)

    def _apply(self, logits: torch.Tensor, seqs: list[Row]) -> None:
        """Let every used option act on the rows that use it, in the order of CHAIN."""
        users: dict[str, list[int]] = {}
        for i, seq in enumerate(seqs):
            links = self._links.get(seq.id)
            if links is None:
                greedy = seq.params.temperature == 0
                links = tuple(x for x in CHAIN if x.used(seq.params) and (x.greedy or not greedy))
                if self._able and (few := fused.before(links)) is not None:
                    links = few
                    self._fused.add(seq.id)
                self._links[seq.id] = links
            for link in links:
                users.setdefault(link.name, []).append(i)
        if not users:
            return
        for link in CHAIN:
            if rows := users.get(link.name):
                if self._alone:
                    for i in rows:
                        part = logits[i : i + 1].clone()
                        link.act(part, [seqs[i]], self._memory)
                        logits[i : i + 1] = part
                    continue
                mine = [seqs[i] for i in rows]
                if len(rows) == len(seqs):
                    link.act(logits, mine, self._memory)
                else:
                    part = logits[rows]
                    link.act(part, mine, self._memory)
                    logits[rows] = part

    def _drawn(self, logits: torch.Tensor, seqs: list[Row]) -> list[int]:
        """A token a row; -1 where no token is left."""
        if not self._able and not self._alone:
            return self._choose(logits, seqs)
        tokens = [-1] * len(seqs)
        mine = [i for i, seq in enumerate(seqs) if seq.id in self._fused]
        if mine:
            some = logits if len(mine) == len(seqs) else logits[mine]
            found = fused.tokens(some, [seqs[i] for i in mine], self._memory).tolist()
            for i, token in zip(mine, found, strict=True):
                tokens[i] = token
        rest = [i for i, seq in enumerate(seqs) if seq.id not in self._fused]
        for group in [[i] for i in rest] if self._alone else [rest] if rest else []:
            found = self._choose(logits[group], [seqs[i] for i in group])
            for i, token in zip(group, found, strict=True):
                tokens[i] = token
        return tokens

    def _choose(self, logits: torch.Tensor, seqs: list[Row]) -> list[int]:
        """A token a row; -1 where no token is left."""
        tops, best = (x.tolist() for x in greatest(logits))
        tokens = [-1 if top == NEVER else token for top, token in zip(tops, best, strict=True)]
        rows = [i for i, seq in enumerate(seqs) if seq.params.temperature != 0 and tokens[i] >= 0]
        if rows:
            part = logits if len(rows) == len(seqs) else logits[rows]
            for i, token in zip(rows, draw(part, [seqs[i] for i in rows]), strict=True):
                tokens[i] = token
            steered = [i for i in rows if seqs[i].params.mirostat]
            if steered:
                mirostat.observe(
                    logits[steered], [seqs[i] for i in steered], [tokens[i] for i in steered], self._memory
                )
        return tokens
