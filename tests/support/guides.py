"""A matcher that allows the same tokens at every place; sequences bound by it or by another, without a process."""

from __future__ import annotations

from quire.engine.grammar import wire
from quire.engine.grammar.answer import Answer
from quire.engine.grammar.desk import Desk
from quire.engine.grammar.thoughts import Thoughts
from quire.engine.guides import Guide, Guides
from quire.engine.plan import Slice


class Allowing:
    """Every answer of `allowed` tokens that is `length` long; `eos` ends it. forced: what must come, by place."""

    def __init__(self, allowed, length: int = 1000, eos: int = 0, forced: dict[int, list[int]] | None = None):
        self.allowed, self.length, self.eos = list(allowed), length, eos
        self.must = forced or {}
        self.taken: list[int] = []
        self.lefts: list[int | None] = []

    @property
    def may_end(self) -> bool:
        return len(self.taken) >= self.length

    must_end = may_end

    def fill_mask(self, row, left: int | None = None) -> None:
        self.lefts.append(left)
        row[:] = 0
        bits = 0
        for token in [self.eos] if self.must_end else self.allowed:
            bits |= 1 << token
        for word in range(len(row)):
            value = (bits >> 32 * word) & 0xFFFFFFFF
            row[word] = value - (1 << 32) if value >= 1 << 31 else value

    def accept(self, tokens: list[int]) -> int:
        self.taken += tokens
        return len(tokens)

    def rollback(self, count: int) -> None:
        del self.taken[len(self.taken) - count :]

    def forced(self, left: int | None = None) -> list[int]:
        return self.must.get(len(self.taken), [])


class LocalLink:
    """A desk in this process, which is asked whenever something is awaited."""

    channel = None

    def __init__(self, desk: Desk):
        self.desk = desk

    def send(self, messages) -> None:
        self.desk.hear(wire.decode_to_desk(wire.encode(list(messages))))

    def receive(self) -> list[wire.FromDesk]:
        out: list[wire.FromDesk] = []
        while self.desk.busy:
            out += self.desk.work()
        return wire.decode_from_desk(wire.encode(out))


class OneAnswer(Desk):
    """A desk of one answer, under the matcher that a test gives."""

    def __init__(self, matcher, written, vocab: int, eos: int):
        super().__init__(lambda: None, vocab)
        self.given = matcher, written, eos

    def _answer(self, one) -> Answer:
        (matcher, written, eos), opened = self.given, one.opened
        thoughts = Thoughts(opened.thought, written) if opened.thought is not None else None
        return Answer(
            matcher, self._vocab_size, eos, opened.most, opened.after, thoughts, written, opened.every
        )  # fmt: skip


_HOMES: dict[int, Guides] = {}


def guides_of(seq) -> Guides:
    return _HOMES[id(seq.guide)]


def guided(seq, matcher, vocab: int, eos: int = 0, after: tuple[int, ...] = (), thought=None, written=None):
    """`seq` bound by the matcher, and looking at its next token. written: the bytes of a token."""
    seq.guide = Guide(None, after, thought)
    _HOMES[id(seq.guide)] = Guides(LocalLink(OneAnswer(matcher, written, vocab, eos)))
    return look(seq)


def look(seq):
    """As a step does before it runs the model."""
    guides_of(seq).look([Slice(seq, len(seq.tokens) - 1, seq.tokens[-1:] + seq.drafts, len(seq.drafts))])
    guides_of(seq).wait([seq], True)
    return seq
