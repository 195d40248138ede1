"""How far an answer has thought, and what must follow where its budget is spent. Pure.

Tags are looked for in the bytes of the tokens, as the reader of the answer does: a model may spell one by tokens that
reach beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple

from ..messages import ThoughtBudget

CHARACTER = 4  # bytes, at most


class _Phase(Enum):
    BEFORE = "before"  # nothing but white space came yet
    INSIDE = "inside"
    BEHIND = "behind"  # of a thought, or of an answer that began without one


class _At(NamedTuple):
    """Behind a token. used: tokens of thought; tail: the last bytes, as far as they matter; due: what must come next;
    closed: tokens that came because they were due."""

    phase: _Phase
    used: int = 0
    tail: bytes = b""
    due: tuple[int, ...] = ()
    closed: int = 0


class Thoughts:
    """Of one answer. Everything that is known belongs to a place in it, so that it rolls back by count."""

    def __init__(self, budget: ThoughtBudget, written: Callable[[int], bytes]):
        """written: the bytes of a token, a control token's being its name."""
        self._budget = budget
        self._written = written
        self._begin = budget.begin.encode()
        self._ends = [end.encode() for end in budget.ends]
        self._kept = max(CHARACTER, *map(len, self._ends))
        self._places = [_At(_Phase.INSIDE if budget.inside else _Phase.BEFORE)]

    def stand(self, answer: Sequence[int]) -> None:
        """Be behind the last token of `answer`; what is known of its beginning stays."""
        del self._places[len(answer) + 1 :]
        for token in answer[len(self._places) - 1 :]:
            self._places.append(self._behind(self._places[-1], token))

    def closed(self, place: int) -> int:
        """Of the first `place` tokens of the answer, those that ended thoughts whose budget was spent."""
        return self._places[min(place, len(self._places) - 1)].closed

    def due(self, accepted: Callable[[Sequence[int]], bool]) -> tuple[int, ...]:
        """The tokens that must follow; () where the model goes on as it likes. accepted: whether some may, else the
        thought goes on until they can."""
        at = self._places[-1]
        if at.due or at.phase is not _Phase.INSIDE or at.used < self._budget.tokens:
            return at.due
        late = at.used - self._budget.tokens
        if late < CHARACTER and _is_cut(at.tail):
            return ()
        if late < self._kept and any(at.tail.endswith(end[:n]) for end in self._ends for n in range(1, len(end))):
            return ()  # the model may be closing it by itself
        budget = self._budget
        lead = () if at.tail.endswith(b"\n") else budget.newline
        for tokens in dict.fromkeys(((*lead, *budget.close), budget.close)):
            if accepted(tokens):
                self._places[-1] = at._replace(due=tokens)
                return tokens
        return ()

    def _behind(self, at: _At, token: int) -> _At:
        if at.due and token == at.due[0]:
            phase = _Phase.INSIDE if at.due[1:] else _Phase.BEHIND
            return _At(phase, at.used, b"", at.due[1:], at.closed + 1)
        phase, text = at.phase, at.tail + self._written(token)
        used = at.used + (phase is _Phase.INSIDE)
        while True:  # several tags may stand in one token
            if phase is _Phase.INSIDE:
                found = [(begin, len(end)) for end in self._ends if (begin := text.find(end)) >= 0]
                if not found:
                    return _At(phase, used, text[-self._kept :], closed=at.closed)
                phase, text = _Phase.BEHIND, text[sum(min(found)) :]
            if phase is _Phase.BEFORE:
                text = text.lstrip()
                if len(text) < len(self._begin) and self._begin.startswith(text):
                    return _At(phase, used, text, closed=at.closed)
                first = text.startswith(self._begin)
                phase = _Phase.INSIDE if first and self._begin else _Phase.BEHIND
                text = text[len(self._begin) :] if first else text
            if phase is _Phase.BEHIND:
                begin = text.find(self._begin) if self._begin and self._budget.anywhere else -1
                if begin < 0:
                    keep = len(self._begin) - 1 if self._budget.anywhere else 0
                    return _At(phase, used, text[len(text) - keep :] if keep > 0 else b"", closed=at.closed)
                phase, text = _Phase.INSIDE, text[begin + len(self._begin) :]


def _is_cut(text: bytes) -> bool:
    """Whether it ends within a character of UTF-8."""
    for n in range(1, min(CHARACTER, len(text) + 1)):
        byte = text[-n]
        if byte & 0xC0 != 0x80:  # the first of its character
            return n < (4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1)
    return False
