"""Stop strings in text that comes in pieces, pure: what may go out now, and whether one has come."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Finds the first of several stop strings, however the text is cut.

    The match that ends first wins; of two that end together, the longer. include: the stop string itself goes out too.
    """

    def __init__(self, stops: Sequence[str], include: bool = False):
        self._stops = sorted({s for s in stops if s}, key=len, reverse=True)
        self._include = include
        self._longest = max(map(len, self._stops), default=0)
        self._held = ""
        self._matched: str | None = None

    def feed(self, text: str) -> tuple[str, str | None]:
        """(text that can go out, the stop string that came or None). After a match nothing more goes out."""
        if self._matched is not None:
            return "", self._matched
        if not self._stops:
            return text, None
        whole = self._held + text
        if found := self._first(whole):
            begin, stop = found
            self._matched, self._held = stop, ""
            return whole[: begin + len(stop) if self._include else begin], stop
        keep = self._pending(whole)
        self._held = whole[len(whole) - keep :]
        return whole[: len(whole) - keep], None

    def flush(self) -> str:
        """What was held back in case it became a stop string."""
        held, self._held = self._held, ""
        return held

    def _first(self, text: str) -> tuple[int, str] | None:
        """Where the first match begins, and which it is."""
        hits = [(text.index(s) + len(s), text.index(s), s) for s in self._stops if s in text]
        if not hits:
            return None
        _, begin, stop = min(hits)
        return begin, stop

    def _pending(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            tail = text[len(text) - size :]
            if any(s.startswith(tail) for s in self._stops):
                return size
        return 0
