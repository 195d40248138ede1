"""One answer's text as events, however it is cut: thoughts apart, then calls, and what is left is content."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .reasoning import Splitter
from .tools.events import CallEnd, CallStart, Content, Event, Thought
from .tools.parser import Parser


class Hidden:
    """Takes texts out of text that comes in pieces. `feed` gives what is sure, `flush` the rest."""

    def __init__(self, texts: Sequence[str]):
        ordered = sorted(texts, key=len)
        self._found = re.compile("|".join(map(re.escape, ordered))) if texts else None
        self._heads = {text[:n] for text in texts for n in range(1, len(text))}
        self._longest = max(map(len, texts), default=0)
        self._held = ""

    def feed(self, text: str) -> str:
        if self._found is None:
            return text
        *before, last = self._found.split(self._held + text)
        keep = next((n for n in range(min(self._longest - 1, len(last)), 0, -1) if last[-n:] in self._heads), 0)
        self._held = last[len(last) - keep :]
        return "".join(before) + last[: len(last) - keep]

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held


class Reader:
    """`feed` gives what is sure, `finish` the rest. done: nothing more of the answer is wanted."""

    def __init__(self, splitter: Splitter, parser: Parser | None, hidden: Hidden, *, thoughts: bool, one: bool):
        """hidden: special tokens, taken out of content. thoughts: they go out. one: the first call ends the answer."""
        self.done = False
        self._splitter = splitter
        self._parser = parser
        self._hidden = hidden
        self._thoughts = thoughts
        self._one = one
        self._begun = 0  # calls
        self._complete = 0

    @property
    def thinking(self) -> bool:
        """Whether what came last belongs to a thought."""
        return self._splitter.thinking

    def feed(self, text: str) -> list[Event]:
        return self._passed(self._splitter.feed(text)) if text and not self.done else []

    def finish(self) -> list[Event]:
        """The answer has ended."""
        if self.done:
            return []
        out = self._passed(self._splitter.finish())
        if self._parser is not None and not self.done:
            out += self._shown(self._parser.finish())
        return out + self._rest()

    def ended_as(self, finish: str) -> str:
        """The finish_reason of an answer that the engine ended with `finish`: a call that was cut off is "length"."""
        if finish == "length" and self._begun > self._complete:
            return finish
        return "tool_calls" if self._complete else finish

    def _passed(self, events: list[Thought | Content]) -> list[Event]:
        out: list[Event] = []
        for event in events:
            if isinstance(event, Thought):
                out += self._rest() + [event] if self._thoughts else []
            elif self._parser is None:
                out += self._shown([event])
            else:
                out += self._shown(self._parser.feed(event.text))
        return out

    def _shown(self, events: list[Event]) -> list[Event]:
        """Content without special tokens; and an account of the calls."""
        out: list[Event] = []
        for event in events:
            if isinstance(event, Content):
                out += [Content(text)] if (text := self._hidden.feed(event.text)) else []
                continue
            out += [*self._rest(), event]
            self._begun += isinstance(event, CallStart)
            if isinstance(event, CallEnd):
                self._complete += 1
                if self._one:
                    self.done = True
                    break
        return out

    def _rest(self) -> list[Event]:
        return [Content(text)] if (text := self._hidden.flush()) else []
