"""Ways to cut a text into the steps that compute it."""

from __future__ import annotations

from hypothesis import strategies as st


@st.composite
def steps(draw, length: int) -> list[int]:
    """Tokens of each step, four steps at most: decodes and chunks, `length` together."""
    found: list[int] = []
    while sum(found) < length:
        found.append(min(length - sum(found), draw(st.integers(1, 3) | st.integers(20, length + 20))))
        if len(found) == 4:
            found[-1] += length - sum(found)
    return found
