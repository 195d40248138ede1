"""Texts with control tokens in them, byte by byte: what is searched for is spelled in these symbols.

A symbol below 256 is a byte; 256 is the end; the others are the control tokens that a grammar names, one each.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby

import llguidance

from . import probe
from .vocabulary import Vocabulary, canonical

Way = tuple[int, ...]


class Symbols:
    """Of one vocabulary and the control tokens that a grammar names."""

    def __init__(self, vocabulary: Vocabulary, controls: Sequence[int] = ()):
        self.vocabulary, self.controls = vocabulary, tuple(controls)
        self._of = {token: probe.EOS + 1 + i for i, token in enumerate(controls)}

    @property
    def tokenizer(self) -> llguidance.LLTokenizer:
        """One whose tokens are the symbols."""
        return probe.byte_tokenizer(len(self.controls))

    def number(self, control: int) -> int:
        return self._of[control]

    def token_of(self, symbol: int) -> int:
        """The control token of a symbol behind the end."""
        return self.controls[symbol - probe.EOS - 1]

    def of(self, token: int) -> list[int]:
        """A token, spelled; [] where it says nothing."""
        return [self._of[token]] if token in self._of else list(self.vocabulary.pieces[token])

    def spell(self, tokens: Iterable[int]) -> list[int]:
        return [symbol for token in tokens for symbol in self.of(token)]

    def tokens(self, way: Way) -> list[int] | None:
        """The fewest tokens that spell a way; None if some byte of it has no token."""
        found: list[int] = []
        for is_text, symbols in groupby(way, lambda symbol: symbol < probe.EOS):
            if is_text:
                tokens = self.vocabulary.fewest_tokens(bytes(symbols))
                if tokens is None:
                    return None
                found += tokens
            else:
                found += [self.controls[symbol - probe.EOS - 1] for symbol in symbols]
        return found

    def behind(self, tokens: Sequence[int]) -> int:
        """The place behind the last control token among some tokens."""
        return next((i + 1 for i in range(len(tokens) - 1, -1, -1) if tokens[i] in self._of), 0)

    def text(self, tokens: Sequence[int]) -> bytes:
        """What tokens spell behind the last control token among them."""
        return self.vocabulary.spell(list(tokens[self.behind(tokens) :]))

    def canonical(self, before: list[int], way: Sequence[int], *, ends: bool) -> list[int]:
        """The tokens of a way as the tokenizer writes them, as far as nothing that may follow can change them. before:
        tokens without control tokens; ends: the answer does behind it."""
        found: list[int] = []
        parts = [(is_text, list(part)) for is_text, part in groupby(way, lambda symbol: symbol < probe.EOS)]
        for i, (is_text, part) in enumerate(parts):
            if not is_text:
                found += [self.controls[symbol - probe.EOS - 1] for symbol in part]
                continue
            last = i == len(parts) - 1
            tokens = canonical(self.vocabulary, before if not i else [], bytes(part), ends or not last)
            found += tokens
            if not last and self.vocabulary.spell(tokens) != bytes(part):
                break
        return found


@lru_cache(maxsize=4_096)
def fewest(vocabulary: Vocabulary, text: bytes) -> tuple[float, ...]:
    """[len(text) + 1] the fewest tokens that spell the text from each place on; inf where none do."""
    found = [0.0] * (len(text) + 1)
    for begin in range(len(text) - 1, -1, -1):
        best, end = float("inf"), begin + 1
        while end <= len(text):
            piece = text[begin:end]
            if piece in vocabulary.by_bytes:
                best = min(best, 1 + found[end])
            if piece not in vocabulary.beginnings:
                break
            end += 1
        found[begin] = best
    return tuple(found)
