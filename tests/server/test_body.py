"""A body's JSON is read in one way or not at all."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.engine.errors import RequestError
from quire.server.body import _json_body

NAMES = st.text(st.sampled_from('a":\\{}[],\n\u00e9\u2028') | st.characters(codec="utf-8"), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(NAMES, VALUES, max_size=5), st.booleans(), st.sampled_from([None, 1]))
def test_what_is_written_once_is_read_as_it_is(body, escaped, indent):
    text = json.dumps(body, ensure_ascii=escaped, indent=indent)
    assert _json_body(text.encode()) == {name: value for name, value in body.items() if value is not None}


@given(VALUES, NAMES, VALUES, VALUES, st.integers(0, 3))
def test_a_name_that_stands_twice_is_refused_wherever_it_does(before, name, first, second, depth):
    twice = f"{{{json.dumps(name)}: {json.dumps(first)}, {json.dumps(name)}: {json.dumps(second)}}}"
    for _ in range(depth):
        twice = f'{{"before": {json.dumps(before)}, "x": [{twice}]}}'
    with pytest.raises(RequestError, match="stands twice in an object"):
        _json_body(twice.encode())
