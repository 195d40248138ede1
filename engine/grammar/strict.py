"""JSON in which nothing is read otherwise than it was meant: no name twice, no number that cannot be held."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

_MOST = 400  # digits of a whole number; doubles end before


def loads(text: str) -> Any:
    """Raises ValueError with what is wrong."""
    try:
        return json.loads(
            text, parse_constant=_no_constant, parse_int=_whole, parse_float=_number, object_pairs_hook=_once
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{json.dumps(next(n for n in names if names.count(n) > 1))[:60]} stands twice in an object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON value")


def _whole(digits: str) -> int:
    if len(digits) > _MOST:
        raise ValueError(f"a number of {len(digits)} digits; at most {_MOST} are read")
    return int(digits)


def _number(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text[:60]} is larger than any double")
    return number
