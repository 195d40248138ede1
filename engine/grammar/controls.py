"""Text in which control tokens stand, cut at them."""

from __future__ import annotations

import re
from collections.abc import Mapping


class Controls:
    """controls: text -> id of the control tokens."""

    def __init__(self, controls: Mapping[str, int]):
        self._controls = controls
        ordered = sorted(controls, key=len, reverse=True)  # where one begins with another, it is the longer one
        self._found = re.compile(f"({'|'.join(map(re.escape, ordered))})") if ordered else None

    def split(self, text: str) -> list[str | int]:
        """Pieces of text, and the ids of the control tokens between them."""
        pieces = self._found.split(text) if self._found else [text]
        return [self._controls[piece] if i % 2 else piece for i, piece in enumerate(pieces) if piece]

    def within(self, text: str) -> dict[str, int]:
        """The control tokens in a text."""
        return {found: self._controls[found] for found in (self._found.findall(text) if self._found else ())}
