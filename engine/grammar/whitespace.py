"""What stands between the tokens of JSON."""

from __future__ import annotations

import functools
from typing import NamedTuple

from . import regexes
from .errors import GrammarRefused
from .spec import WHITESPACE


class Layout(NamedTuple):
    """comma, colon: between members, and behind a name. blank: what may stand beside them and the brackets; None:
    nothing."""

    comma: str = ","
    colon: str = ":"
    blank: regexes.Regex | None = None


PLAIN = Layout()
CALLS = Layout(", ", ": ")  # as chat templates write the calls of a conversation, so that keys and marks are forced
_BLANK = {0x20, 0x0A, 0x0D, 0x09}


@functools.lru_cache(maxsize=64)
def read(pattern: str | None) -> regexes.Regex | None:
    """What may stand there; None: nothing. It is matched at most once at each place, and need not be. Raises
    GrammarRefused if it matches more than white space."""
    if pattern == "":
        return None
    regex = regexes.parse(WHITESPACE if pattern is None else pattern, whole=True, path="whitespace_pattern")
    if not set(_characters(regex)) <= _BLANK:
        raise GrammarRefused(
            "whitespace_pattern: only space, tab, line feed and carriage return", path="whitespace_pattern"
        )
    return regex


def checked(pattern: str | None) -> str | None:
    """The same as an expression for llguidance."""
    regex = read(pattern)
    return WHITESPACE if pattern is None else None if regex is None else f"(?:{regexes.write(regex)})"


def _characters(regex: regexes.Regex) -> list[int]:
    if isinstance(regex, regexes.Chars):
        return [c for a, b in regex.ranges for c in range(a, min(b, a + 64) + 1)]
    if isinstance(regex, regexes.Concat):
        return [c for part in regex.parts for c in _characters(part)]
    if isinstance(regex, regexes.Either):
        return [c for option in regex.options for c in _characters(option)]
    return _characters(regex.body)
