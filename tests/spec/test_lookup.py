"""What followed the last tokens where they stood before, against a plain search."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.engine.spec import lookup
from quire.engine.spec.lookup import Trail, repeated

texts = st.lists(st.sampled_from([0, 1, 256, 65536]), max_size=40)  # of which some stand across two others


def written(text: list[int]) -> bytearray:
    return bytearray(array("i", text).tobytes())


def plain(text: list[int], least: int, most: int, count: int) -> list[int]:
    """The same, place by place."""
    best: tuple[int, int] = (0, -1)
    for end in range(len(text) - 1):
        length = 0
        while length < most and length <= end and text[end - length] == text[len(text) - 1 - length]:
            length += 1
        best = max(best, (length, end))
    if best[0] < least:
        return []
    longer = list(text)
    for n in range(count):
        longer.append(longer[best[1] + 1 + n])
    return longer[len(text) :]


@pytest.mark.parametrize("short", [0, lookup.SHORT])
@given(text=texts, least=st.integers(1, 4), more=st.integers(0, 4), count=st.integers(1, 12))
def test_it_is_the_last_place_of_the_longest_end(text, least, more, count, short):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "SHORT", short)
        found, length = repeated(written(text), least, least + more, count)
    assert found == plain(text, least, least + more, count)
    assert (least <= length <= least + more) if found else not length


def test_a_text_that_repeats_itself_goes_on_to():
    assert repeated(written([9, 1, 2, 1, 2]), 2, 8, 5) == ([1, 2, 1, 2, 1], 2)


@given(st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=400), st.integers(0, 600)), max_size=8))
def test_a_trail_is_the_text_whatever_was_guessed_behind_it(steps):
    trail, tokens = Trail(), []
    for more, kept in steps:
        assert trail.follow(tokens, more) == written(tokens + more)
        tokens = (tokens + more)[:kept] if kept < len(tokens) else tokens + more[: kept - len(tokens)]
