"""One answer under its grammar, or a budget for its thoughts: where it stands, and the mask of what may come next."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import RequestError
from ..messages import Guided
from . import Matcher
from .thoughts import Thoughts
from .vocabulary import Row

MOST_FORCED = 12  # tokens taken in one step at most, so that they fit the budget of any step


def _single(words: int, token: int) -> Row:
    """The mask of one token."""
    mask = np.zeros(words, dtype=np.int32)
    word, bit = divmod(token, 32)
    mask[word] = 1 << bit if bit < 31 else -(1 << 31)
    return mask


def _lets(mask: Row | None, token: int) -> bool:
    return mask is None or bool(int(mask[token >> 5]) >> (token & 31) & 1)


class _Left(NamedTuple):
    """What the masks left of the model's probability, up to a place in the answer that was sampled under one."""

    place: int
    lowest: float
    total: float


class Answer:
    """Follows the tokens of an answer with its matcher, and with its thoughts where those have a budget.

    A step may be run again, so nothing here is ahead of the sequence for good: `look` goes back to the place that it is
    told.
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
        spells it. every: the model's word on every token is wanted: what must come is all that masks leave."""
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
        self._coming: dict[int, int] = {}  # the tokens that must come, by place
        self._since = 0  # the first of these places
        self._marks: list[bool] = []  # of the tokens that were taken last, and what follows them: which were forced
        self._ahead = 0  # tokens that end a thought, behind the one that was sampled last
        self._left: list[_Left] = []
        self._words = (vocab_size + 31) // 32

    def look(self, place: int, more: Sequence[int] = (), drafts: Sequence[int] = ()) -> list[Row | None]:
        """Stand behind the first `place` tokens and `more`. -> a mask of the next token, None where anything may come;
        and one behind each draft, as far as these may come. Raises RequestError where the grammar has become too
        much."""
        if place < len(self.tokens):
            del self.tokens[place:]
            if place < self._since:
                self._coming = {}
            self._stand()
        self.tokens += more
        self._stand()
        masks = [self._mask()]
        if drafts:
            self._look_on(drafts, masks)
        return masks

    def _look_on(self, drafts: Sequence[int], masks: list[Row | None]) -> None:
        """The masks behind drafts, as if these were sampled one after the other."""
        place, since, coming = len(self.tokens), self._since, self._coming
        for token in drafts:
            if token == self._eos_id or not _lets(masks[-1], token):
                break
            try:
                self._add(token)
                masks.append(self._mask())
            except RequestError:
                break  # the model may never go there
        del self.tokens[place:]
        self._since, self._coming = since, coming
        self._stand()

    def _mask(self) -> Row | None:
        only = self._only()
        if only is not None:
            return _single(self._words, only)
        if self._matcher is None or self._begin is None:
            return None
        mask = np.zeros(self._words, dtype=np.int32)
        self._matcher.fill_mask(mask, self._most - len(self.tokens))
        return mask

    def _only(self) -> int | None:
        """The one token that can come next, where that is known."""
        due = self._due()
        return due[0] if due else self._coming.get(len(self.tokens))

    def take(self, tokens: Sequence[int], kept: Sequence[float]) -> list[int]:
        """Tokens were sampled where `look` stands, one after the other; of each, its mask left so large a share of the
        model's probability. -> the tokens that must follow the last one, which are now of the answer: what admits no
        other, the end of a thought, or of the text. Raises RequestError where the grammar has become too much."""
        self._marks = [self._add(token, share) for token, share in zip(tokens, kept, strict=True)]
        self._ahead = 0
        following = self.coming
        if self._every and following != [self._eos_id]:
            return []
        self._ahead = len(following) if self._begin is None and self._due() else 0
        self.tokens += following
        self._marks += [True] * len(following)
        return following

    @property
    def coming(self) -> list[int]:
        """The tokens that must come next, as far as they are known."""
        if not self._coming:
            return []
        places = itertools.takewhile(self._coming.__contains__, itertools.count(len(self.tokens)))
        return [self._coming[place] for place in places]

    def _add(self, token: int, kept: float | None = None) -> bool:
        """A token comes; kept: where it was sampled. -> whether no other could."""
        place, only = len(self.tokens), self._only()
        if kept is not None and only is None and self._begin is not None:
            self._note(place, kept)
        self.tokens.append(token)
        self._stand()
        if token != self._eos_id and place not in self._coming:
            self._since = place + 1
            self._coming = dict(enumerate(self._following(), self._since))
        return only is not None

    def _following(self) -> list[int]:
        """What must follow the last token."""
        due = self._due()
        if not due and (self._matcher is None or self._begin is None):
            return []
        if not due and self._matcher is not None and self._matcher.must_end:
            return [self._eos_id]
        room = self._most - len(self.tokens)  # tokens that may still come; the last one is left to be sampled
        forced = list(due) if due or self._matcher is None else self._matcher.forced(room)
        return forced[: max(0, min(MOST_FORCED, room - 1))]

    def summary(self) -> Guided:
        """Of the answer so far, what must follow the last sampled token included."""
        answer = len(self.tokens)
        bound = answer - self._begin if self._begin is not None else 0
        forced = max(0, bound - len(self._left))
        if self._thoughts is not None:
            forced += self._thoughts.closed(answer if self._begin is None else self._begin) + self._ahead
        lowest: float | None = None
        mean: float | None = None
        if self._matcher is not None:
            lowest, mean = 1.0, 1.0
        if self._matcher is not None and self._left:
            lowest, mean = self._left[-1].lowest, self._left[-1].total / len(self._left)
        return Guided(lowest, mean, forced, tuple(self._marks) if len(self._marks) > 1 else ())

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
