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

_MOST = 20  # digits added before and behind the point
_TRIED = 64  # texts that arithmetic finds and the engine does not know


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
        found = sorted(set(self._added(text.decode())), key=len)
        best: bytes | None = None
        for added in found[:_TRIED]:
            if best is not None and len(added) > len(best):
                break
            if self.ends(text + added.encode()):
                best = first(best, added.encode())
        return best

    def _added(self, text: str) -> Iterator[str]:
        """What may make a number of a text, of each form the first. The engine underneath knows no -0, and not every
        0 at the end of a fraction; so the second too."""
        if not text:
            yield from self._added_to_sign("", "")
            yield from self._added_to_sign("-", "-")
        elif text == "-":
            yield from self._added_to_sign("-", "")
        else:
            sign = "-" if text.startswith("-") else ""
            whole, point, behind = text.lstrip("-").partition(".")
            if point:
                for size in range(0 if behind else 1, _MOST):
                    low = int(whole + behind) * 10**size
                    for digits in self._digits(sign, low, low + 10**size - 1, len(behind) + size):
                        yield digits.rjust(size, "0")[-size:] if size else ""
            for size in range(0 if point else 1 if whole == "0" else _MOST):
                low = int(whole) * 10**size
                yield from self._within(sign, low, low + 10**size - 1, whole)

    def _added_to_sign(self, sign: str, added: str) -> Iterator[str]:
        for size in range(1, _MOST):
            for digits in self._within(sign, 10 ** (size - 1) if size > 1 else 0, 10**size - 1, ""):
                yield added + digits

    def _within(self, sign: str, low: int, high: int, written: str) -> Iterator[str]:
        """What follows `written` in numbers whose whole part is from low to high, with digits behind a point or
        without."""
        for places in range(1 if self._option.integer else _MOST):
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
