"""Ids to text as they come: never half a character, and all deltas together are the decoding of the whole.

The text of new tokens is what they add to the text of the few before them, so the cost of a token does not grow with
the answer. What stands at the end and may still change is held back: bytes of an unfinished character and, in
byte-fallback vocabularies, any run of byte tokens, since one bad byte changes how the whole run is shown.
"""

from __future__ import annotations

from collections.abc import Iterable

from .tokenizer import Tokenizer

UNFINISHED = "\ufffd"


class Detokenizer:
    """Of one answer. `feed` gives the text that is sure, `flush` the rest."""

    def __init__(self, tokenizer: Tokenizer, *, skip_special_tokens: bool = True, shown: frozenset[int] = frozenset()):
        """shown: special tokens that are not skipped."""
        self._tokenizer = tokenizer
        self._skip = tokenizer.special_ids - shown if skip_special_tokens else frozenset()
        self._context: list[int] = []  # tokens whose text has gone out, kept for what depends on them
        self._context_text = ""
        self._held: list[int] = []

    def feed(self, ids: Iterable[int]) -> str:
        return "".join([self._one(token) for token in ids if token not in self._skip and self._tokenizer.knows(token)])

    def flush(self) -> str:
        """What is still held back; unfinished bytes show as U+FFFD. The answer has ended."""
        return self._release(self._text()) if self._held else ""

    def _one(self, token: int) -> str:
        self._held.append(token)
        if self._tokenizer.is_byte(token):
            return ""
        text = self._text()
        return "" if text.endswith(UNFINISHED) else self._release(text)

    def _text(self) -> str:
        whole = self._tokenizer.decode(self._context + self._held, skip_special_tokens=False)
        return whole[len(self._context_text) :]

    def _release(self, text: str) -> str:
        if text:  # tokens of no text are no context: the next may depend on what stands before them
            self._context = self._held
            self._context_text = self._tokenizer.decode(self._context, skip_special_tokens=False)
        else:
            self._context = self._context + self._held
        self._held = []
        return text
