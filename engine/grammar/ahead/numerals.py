"""Numbers within bounds, as they are written: what may come next, and the shortest way to the end of one.

Which texts may be written the engine underneath decides, and is asked; which of them is the shortest is arithmetic.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction

from .. import probe
from ..nodes import Number
from .writing import first

_MOST = 40  # characters added


class Numerals:
    """The texts of one kind of number. schema: the same as a plain JSON Schema."""

    def __init__(self, option: Number, schema: dict[str, object]):
        self._option = option
        self._matcher = probe.matcher_of(json.dumps(schema))

    def may_come(self, text: bytes, byte: int) -> bool:
        state = self._matcher.deep_copy()
        whole = [*text, byte]
        return bool(state.try_consume_tokens(whole) == len(whole))

    def ends(self, text: bytes) -> bool:
        state = self._matcher.deep_copy()
        return bool(state.try_consume_tokens(list(text)) == len(text) and state.is_accepting())

    def rest(self, text: bytes) -> bytes | None:
        """What is best added; None if no number begins so."""
        if self.ends(text):
            return b""
        for size in range(1, _MOST):
            best: bytes | None = None
            for added in set(self._added(text.decode(), size)):
                if self.ends(text + added.encode()):
                    best = first(best, added.encode())
            if best is not None:
                return best
        return None

    def _added(self, text: str, size: int) -> Iterator[str]:
        """So many characters that may make a number of a text, of each form the first. The engine underneath knows no
        -0, and not every 0 at the end of a fraction; so the second too."""
        sign = "-" if text.startswith("-") else ""
        whole, point, behind = text.lstrip("-").partition(".")
        if not text:
            yield from self._within("", "", size)
            yield from (f"-{added}" for added in self._within("-", "", size - 1))
        elif point:
            low = int(whole + behind) * 10**size
            for digits in self._digits(sign, low, low + 10**size - 1, len(behind) + size):
                yield digits.rjust(size, "0")[-size:]
        else:
            yield from self._within(sign, whole, size)

    def _within(self, sign: str, written: str, size: int) -> Iterator[str]:
        """What follows the first digits of a number: more of them, a point with digits behind it, or both."""
        for places in range(1 if self._option.integer else size):
            more = size - (places + 1 if places else 0)  # digits before the point
            if more < 0 or (written == "0" and more) or not (written or more):
                continue
            low = int(written) * 10**more if written else 10 ** (more - 1) if more > 1 else 0
            high = low + 10**more - 1 if written else 10**more - 1
            for digits in self._digits(sign, low * 10**places, (high + 1) * 10**places - 1, places):
                text = digits.rjust(places + 1, "0")
                yield (f"{text[:-places]}.{text[-places:]}" if places else text)[len(written) :]

    def _digits(self, sign: str, low: int, high: int, places: int) -> Iterator[str]:
        """The least number from low to high that is a value of the option, read with so many digits behind the
        point."""
        option, unit = self._option, 10**places
        least, most, least_open, most_open = option.low, option.high, option.low_open, option.high_open
        if sign:
            least, most = None if most is None else -most, None if least is None else -least
            least_open, most_open = most_open, least_open
        step = 1 if option.multiple is None else (Fraction(option.multiple) * unit).numerator
        for begin in (low, low + 1) if sign or places else (low,):
            found = -(-begin // step) * step
            if least is not None:
                bound = Fraction(least) * unit
                at = -(-bound // step) * step
                found = max(found, at + step if least_open and at == bound else at)
            bound = Fraction(high + 1) if most is None else Fraction(most) * unit
            if found <= high and (found < bound or (found == bound and not most_open)):
                yield str(found)
