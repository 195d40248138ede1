"""Matchers that stand at the beginning of one grammar."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import llguidance

TRIES = 3  # with the lexer that one has, with the one that others have by now, and with one that nobody had
BETWEEN = (16, 1)  # tokens from one mask to the next, of those that follow the first try


class Beginning:
    """The copies of a matcher share what its lexer learns of texts, up to a limit (probe.LIMITS) that all answers of a
    grammar reach together, however little each of them asks for. From then on none can go where no other was. Another
    one then takes the place of the first, and who met the limit goes on with a copy of that. Only what a lexer that was
    nobody else's cannot do either is too much by itself (TRIES)."""

    def __init__(self, make: Callable[[], llguidance.LLMatcher]):
        self._make, self.first = make, make()

    def instead_of(self, spent: llguidance.LLMatcher) -> llguidance.LLMatcher:
        """`first`, which is another than `spent`, whose copy met the limit."""
        if self.first is spent:
            self.first = self._make()
        return self.first


def takes(matcher: llguidance.LLMatcher, tokens: Iterable[int], between: int) -> bool:
    """Whether it takes all of them, one after the other. What work a lexer may do is counted from mask to mask, so
    there are some; few where that is enough, as most of what a lexer learns is what may come beside the text."""
    for count, token in enumerate(tokens):
        if count % between == 0:
            matcher.compute_bitmask()
        if not matcher.try_consume_tokens([token]):
            return False
    return True
