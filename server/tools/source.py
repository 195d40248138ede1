"""Text that comes in pieces, for readers that are generators: one yields where it has to wait for more text.

A reader takes characters and decides by them alone, never by where a piece ended. So what it finds cannot depend on how
the text was cut. What was taken is held until someone drops it or lets it out.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from functools import lru_cache
from typing import TypeVar

T = TypeVar("T")
Step = Generator[None, None, T]

SPACE = " \t\n\r"  # white space, as JSON has it
SPACES = 64  # characters of white space that are held back at most, since a tag may follow them


class Ended(Exception):
    """The text is over before what is being read is."""


class Broken(Exception):
    """The text is not what is being read."""


class Stops:
    """Texts at which reading stops: finds the first, and what may still become one."""

    def __init__(self, texts: Iterable[str]):
        ordered = sorted(set(texts), key=len, reverse=True)
        self._found = re.compile("|".join(map(re.escape, ordered)) or "(?!)")
        self._heads = {t[:n] for t in ordered for n in range(1, len(t))}
        self._longest = max(map(len, ordered), default=1)

    def first(self, text: str, at: int, over: bool, limit: int | None = None) -> int:
        """Where the first stop begins, or what may become one once more text has come; the end, if nothing does. limit:
        how many characters before a stop matter."""
        match = self._found.search(text, at, len(text) if limit is None else at + limit + self._longest)
        found = match.start() if match else len(text)
        if over:
            return found
        for place in range(max(at, len(text) - self._longest + 1), found):
            if text[place:] in self._heads:
                return place
        return found

    def stands(self, text: str, at: int) -> bool:
        return self._found.match(text, at) is not None


@lru_cache(maxsize=256)
def stops(*texts: str) -> Stops:
    return Stops(texts)


class Source:
    """The text of one answer. `over`: no more will come."""

    def __init__(self) -> None:
        self.over = False
        self._text = ""
        self._at = 0
        self._held: list[str] = []

    @property
    def waiting(self) -> int:
        """Characters that came and were not taken."""
        return len(self._text) - self._at

    @property
    def empty(self) -> bool:
        """Whether all text that came was taken."""
        return self._at == len(self._text)

    def feed(self, text: str) -> None:
        self._text = self._text[self._at :] + text
        self._at = 0

    def drop(self) -> None:
        """Forget what was taken."""
        self._held.clear()

    def release(self) -> str:
        """What was taken and not dropped, all of it."""
        held = "".join(self._held)
        self._held.clear()
        return held

    def back(self) -> None:
        """Untake what is held."""
        self._text = self.release() + self._text[self._at :]
        self._at = 0

    def take(self, count: int) -> str:
        taken = self._text[self._at : self._at + count]
        self._at += len(taken)
        self._held.append(taken)
        return taken

    def next(self) -> Step[str]:
        """The next character, not taken. Raises Ended where there is none."""
        while self._at >= len(self._text):
            if self.over:
                raise Ended
            yield
        return self._text[self._at]

    def space(self) -> Step[str]:
        """Take white space; returns once something else, or the end, stands here."""
        taken = ""
        while True:
            match = _SPACES.match(self._text, self._at)
            taken += self.take(match.end() - self._at if match else 0)
            if self.over or self._at < len(self._text):
                return taken
            yield

    def literal(self, *options: str) -> Step[str]:
        """Take the longest of the options that stands here; "" if none does. Raises Ended in the middle of one, having
        taken that."""
        longest = max(map(len, options))
        while True:
            here = self._text[self._at : self._at + longest]
            if any(len(here) < len(o) and o.startswith(here) for o in options):
                if not self.over:
                    yield
                    continue
                if here not in options:
                    self.take(len(here))
                    raise Ended
            return self.take(max((len(o) for o in options if here.startswith(o)), default=0))

    def upto(self, ends: Stops, *, limit: int | None = None, free: bool = False) -> Step[str]:
        """Take some text before the next stop, all that is sure by now; "" where a stop stands here. At the end of all
        text it raises Ended, having taken what may have become a stop. Raises Broken where the limit is
        0 and more text than that stands here.

        free: it is text that needs no stop, so that its end is "" too; and white space before a stop belongs to that.
        """
        while True:
            over = self.over and free
            stop = place = ends.first(self._text, self._at, over, limit)
            if free and not (over and stop == len(self._text)):
                before = self._text[max(self._at, stop - SPACES) : stop]
                place -= len(before) - len(before.rstrip(SPACE))
            if limit is not None and place - self._at > limit:
                if not limit:
                    raise Broken
                place = self._at + limit
            if place > self._at or over or ends.stands(self._text, stop):
                return self.take(place - self._at)
            if self.over:
                self.take(len(self._text) - self._at)
                raise Ended
            yield

    def run(self, pattern: re.Pattern[str], limit: int) -> Step[str]:
        """Take all characters that match. Raises Broken beyond the limit, and Ended where the end cuts them off."""
        taken = ""
        while True:
            match = pattern.match(self._text, self._at)
            taken += self.take(min(match.end() - self._at if match else 0, limit + 1 - len(taken)))
            if len(taken) > limit:
                raise Broken
            if self._at < len(self._text):
                return taken
            if self.over:
                raise Ended
            yield

    def follows(self, *options: str) -> Step[bool]:
        """Whether, behind white space, one of the options stands here. Nothing is taken. Raises Ended where the
        end comes before that is sure."""
        longest = max(map(len, options))
        while True:
            rest = self._text[self._at : self._at + SPACES + longest + 1]
            shown = rest.lstrip(SPACE)
            if len(rest) - len(shown) > SPACES:
                return False
            if any(map(shown.startswith, options)):
                return True
            if not any(o.startswith(shown) for o in options):
                return False
            if self.over:
                self.take(len(rest))
                raise Ended
            yield


def pieces_of(text: str) -> list[str]:
    """What a tag or a row of tags is made of; white space between the pieces is free."""
    return _BETWEEN.split(text.strip())


def escaped(text: str) -> str:
    """As it stands inside a JSON string whose own escapes are left alone: bare control characters, and halves
    of surrogate pairs, are escaped."""
    return _CONTROL.sub(lambda found: _SHORT.get(found[0]) or f"\\u{ord(found[0]):04x}", text)


_CONTROL = re.compile(r"[\x00-\x1f\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f"}
_SPACES = re.compile(f"[{SPACE}]*")
_BETWEEN = re.compile(r"\s+|(?<=.)(?=<)")
