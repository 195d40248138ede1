"""One answer under its grammar, or a budget for its thoughts: where it stands, and the mask of what may come next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import RequestError
from ..messages import Guided
from . import Matcher
from .thoughts import Thoughts

MOST_FORCED = 12  # tokens taken in one step at most, so that they fit the budget of any step


class _Left(NamedTuple):
    """What the masks left of the model's probability, up to a place in the answer that was sampled under one."""

    place: int
    lowest: float
    total: float


class Answer:
    """Follows the tokens of an answer with its matcher, and with its thoughts where those have a budget.

    A step may be run again, so nothing here is ahead of the sequence for good: `look` and `take` go back to the place
    that they are told.
    """

    def __init__(
        self,
        matcher: Matcher | None,
        vocab_size: int,
        eos_id: int,
        most: int,
        after: tuple[int, ...] = (),
        thoughts: Thoughts | None = None,
        written: Callable[[int], bytes] | None = None,
        every: bool = False,
    ):
        """matcher: None where only the thoughts are bound. most: tokens the answer may have. after: token ids behind
        whose first occurrence in the answer the grammar begins; (): at once. written: the bytes of a token, a control
        token's being its name: `after` is then found as the reader of the answer finds it, by whatever tokens the model
        spells it. every: the model's word on every token is wanted: what must come is all that the mask leaves, token by token."""
        self.tokens: list[int] = []
        self._matcher = matcher
        self._most, self._every = most, every
        self._thoughts = thoughts
        self._eos_id = eos_id
        self._after = after
        self._written = written
        self._tag = b"".join(map(written, after)) if written is not None else b""
        self._begin: int | None = None if after or matcher is None else 0  # place in the answer from which it is bound
        self._searched = 0  # places up to which `after` was looked for
        self._taken = 0  # tokens the matcher has seen
        self._closing = False  # the next token ends a thought whose budget is spent
        self._imposed = False  # the next token is the only one that can be
        self._coming: dict[int, int] = {}  # where none is forced: the tokens that must come, by place
        self._since = 0  # the first of these places
        self._ahead = 0  # tokens that do so, behind the one that was taken last
        self._left: list[_Left] = []
        self.mask = np.zeros((vocab_size + 31) // 32, dtype=np.int32)  # of the next token, where it is bound

    @property
    def bound(self) -> bool:
        """Whether `mask` binds the next token."""
        return self._begin is not None or self._closing

    def look(self, place: int, more: Sequence[int] = ()) -> None:
        """Stand behind the first `place` tokens and `more`, and fill `mask`. Raises RequestError where the grammar has
        become too much."""
        if place < len(self.tokens):
            del self.tokens[place:]
            if place < self._since:
                self._coming = {}
            self._stand()
        self.tokens += more
        self._stand()
        due = self._due()
        self._closing = bool(due)
        only = due[0] if due else self._coming.get(len(self.tokens))
        self._imposed = only is not None
        if only is not None:
            self.mask[:] = 0
            word, bit = divmod(only, 32)
            self.mask[word] = 1 << bit if bit < 31 else -(1 << 31)
        elif self._matcher is not None and self._begin is not None:
            self._matcher.fill_mask(self.mask, self._most - len(self.tokens))

    def take(self, token: int, kept: float) -> list[int]:
        """`token` was sampled where `look` stands; the mask left so large a share of the model's probability. -> the
        tokens that must follow it, which are now of the answer: what admits no other, the end of a thought, or of the
        text. Raises RequestError where the grammar has become too much."""
        if self._begin is not None and not self._imposed:
            self._note(len(self.tokens), kept)
        self.tokens.append(token)
        self._stand()
        self._ahead = 0
        if token == self._eos_id or len(self.tokens) - 1 in self._coming:
            return []
        forced = self._following()
        if self._every and forced != [self._eos_id]:
            self._since, self._ahead = len(self.tokens), 0
            self._coming = dict(enumerate(forced, self._since))
            return []
        self.tokens += forced
        return forced

    def _following(self) -> list[int]:
        """What must follow the token that was taken."""
        due = self._due()
        if not due and (self._matcher is None or self._begin is None):
            return []
        if not due and self._matcher is not None and self._matcher.must_end:
            return [self._eos_id]
        room = self._most - len(self.tokens)  # tokens that may still come; the last one is left to be sampled
        forced = list(due) if due or self._matcher is None else self._matcher.forced(room)
        forced = forced[: max(0, min(MOST_FORCED, room - 1))]
        self._ahead = len(forced) if due and self._begin is None else 0
        return forced

    def summary(self) -> Guided:
        """Of the answer so far, what must follow the last sampled token included."""
        answer = len(self.tokens)
        bound = answer - self._begin if self._begin is not None else 0
        forced = max(0, bound - len(self._left))
        if self._thoughts is not None:
            forced += self._thoughts.closed(answer if self._begin is None else self._begin) + self._ahead
        if self._matcher is None:
            return Guided(None, None, forced)
        if not self._left:
            return Guided(1.0, 1.0, forced)
        return Guided(self._left[-1].lowest, self._left[-1].total / len(self._left), forced)

    def _note(self, place: int, kept: float) -> None:
        while self._left and self._left[-1].place >= place:  # a step that is run again
            self._left.pop()
        lowest, total = (self._left[-1].lowest, self._left[-1].total) if self._left else (1.0, 0.0)
        self._left.append(_Left(place, min(lowest, kept), total + kept))

    def _due(self) -> tuple[int, ...]:
        return self._thoughts.due(self._accepted) if self._thoughts is not None else ()

    def _accepted(self, tokens: Sequence[int]) -> bool:
        """Whether the grammar lets these come next."""
        if self._matcher is None or self._begin is None:
            return True
        taken = self._matcher.accept(list(tokens))
        self._matcher.rollback(taken)
        return taken == len(tokens)

    def _stand(self) -> None:
        """Bring the matcher to the end of the answer, and the thoughts."""
        answer = self.tokens
        if self._thoughts is not None:
            self._thoughts.stand(answer)
        if self._matcher is None:
            return
        if self._begin is not None and self._begin > len(answer):
            self._begin = None
        if self._begin is None:
            self._begin = self._find(answer)
            if self._begin is None:
                return
        have = len(answer) - self._begin
        if have < self._taken:
            self._matcher.rollback(self._taken - have)
        elif have > self._taken:
            self._matcher.accept(answer[self._begin + self._taken :])
        self._taken = have

    def _find(self, answer: list[int]) -> int | None:
        """The place behind the first `after`. Raises RequestError where the answer begins within a token of it: what
        the reader takes for the answer would not be bound."""
        for end in range(max(1, min(self._searched, len(answer))), len(answer) + 1):  # the last may be another now
            rest = self._behind_tag(answer[:end])
            if rest is None:
                continue
            if rest.strip():
                raise RequestError(
                    f"the model ended its thought and began its answer in one token ({rest[:20]!r}), which no grammar "
                    "can bind",
                    code="invalid_grammar",
                )
            return end
        self._searched = len(answer)
        return None

    def _behind_tag(self, answer: list[int]) -> bytes | None:
        """What an answer whose last token completes the tag has behind it in that token; None of any other answer."""
        if self._written is None:
            return b"" if tuple(answer[-len(self._after) :]) == self._after else None
        text = b"".join(map(self._written, answer[-len(self._tag) :]))
        at = text.find(self._tag)
        return None if at < 0 else text[at + len(self._tag) :]
