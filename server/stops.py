"""Stop strings in text that comes in pieces, pure: what may go out now, and whether one has come."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence


class StopMatcher:
    """Finds the first of several stop strings, however the text is cut.

    The match that ends first wins; of two that end together, the longer. include: the stop string itself goes out too.
    """

    def __init__(self, stops: Sequence[str], include: bool = False):
        self._include = include
        self._longest = max(map(len, stops), default=0)
        self._begun_by: defaultdict[str, list[str]] = defaultdict(list)  # first character -> stop strings
        for stop in filter(None, stops):
            self._begun_by[stop[0]].append(stop)
        self._held = ""
        self._matched: str | None = None

    def feed(self, text: str) -> tuple[str, str | None]:
        """(text that can go out, the stop string that came or None). After a match nothing more goes out."""
        if self._matched is not None:
            return "", self._matched
        if not self._begun_by:
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
        hits = [
            (begin + len(stop), begin, stop)
            for character in set(text) & self._begun_by.keys()
            for stop in self._begun_by[character]
            if (begin := text.find(stop)) >= 0
        ]
        if not hits:
            return None
        _, begin, stop = min(hits)
        return begin, stop

    def _pending(self, text: str) -> int:
        """Length of the longest end of `text` that begins a stop string."""
        for begin in range(max(0, len(text) - self._longest + 1), len(text)):
            tail = text[begin:]
            if any(stop.startswith(tail) for stop in self._begun_by.get(tail[0], ())):
                return len(tail)
        return 0
