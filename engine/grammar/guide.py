"""One answer under its grammar: where the matcher stands, and the mask of what may come next."""

from __future__ import annotations

import torch

from ..errors import RequestError
from ..messages import Guided
from ..sequence import Sequence
from . import Matcher

MOST_FORCED = 12  # tokens taken in one step at most, so that they fit the budget of any step


class Guide:
    """Follows one sequence's tokens with its matcher.

    A step may be run again, so nothing here is ahead of the sequence for good: `look` takes back what was never
    committed.
    """

    def __init__(self, matcher: Matcher, vocab_size: int, eos_id: int, after: tuple[int, ...] = ()):
        """after: token ids behind whose first occurrence in the answer the grammar begins; (): at once."""
        self._matcher = matcher
        self._eos_id = eos_id
        self._after = after
        self._begin: int | None = None if after else 0  # place in the answer from which on it is bound
        self._searched = 0  # places up to which `after` was looked for
        self._taken = 0  # tokens the matcher has seen
        self._failed: RequestError | None = None
        self._left: dict[int, float] = {}  # place in the answer -> share of the probability that the mask left there
        self.kept = 1.0  # that of the next token; the sampler says it
        self.mask = torch.zeros((vocab_size + 31) // 32, dtype=torch.int32)  # of the next token, where it is bound

    @property
    def bound(self) -> bool:
        """Whether `mask` binds the next token. Raises RequestError where the grammar has become too much."""
        if self._failed is not None:
            raise self._failed
        return self._begin is not None

    def look(self, seq: Sequence) -> None:
        """Stand behind the tokens of `seq`, and fill `mask`."""
        try:
            self._stand(seq.tokens[seq.prompt_len :])
            if self._begin is not None:
                self._matcher.fill_mask(self.mask, seq.end - len(seq.tokens))
        except RequestError as error:
            self._failed = error

    def take(self, seq: Sequence, token: int) -> list[int]:
        """`token` was sampled. -> the tokens that must follow it: what admits no other, or the end of the text."""
        if self._begin is not None:
            self._left[seq.generated] = self.kept
        self._stand([*seq.tokens[seq.prompt_len :], token])
        if self._begin is None or token == self._eos_id:
            return []
        if self._matcher.must_end:
            return [self._eos_id]
        if seq.params.logprobs is not None or seq.params.mirostat:
            return []  # both ask for the model's word on every token
        room = seq.end - len(seq.tokens) - 1  # tokens that may still come; the last one is left to be sampled
        return self._matcher.forced()[: max(0, min(MOST_FORCED, room - 1))]

    def summary(self, answer: int) -> Guided:
        """Of an answer of so many tokens."""
        left = list(self._left.values()) or [1.0]
        bound = answer - self._begin if self._begin is not None else 0
        return Guided(min(left), sum(left) / len(left), max(0, bound - len(self._left)))

    def _stand(self, answer: list[int]) -> None:
        """Bring the matcher to the end of `answer`."""
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
        size = len(self._after)
        for end in range(max(size, min(self._searched, len(answer))), len(answer) + 1):
            if tuple(answer[end - size : end]) == self._after:
                return end
        self._searched = len(answer)
        return None
