"""The random stream: Philox4x32-10 as published, uniform, and independent from seed to seed and place to place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampling import steady

from quire.engine.sampling.random import SAMPLE, XTC, philox, uniforms

KNOWN = [  # counter, key, output: Random123's kat_vectors (Salmon et al. 2011)
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> np.ndarray:
    return np.array([[int(word, 16) for word in text.split()]], dtype=np.uint64)


@pytest.mark.parametrize(("counter", "key", "wanted"), KNOWN)
def test_philox_gives_the_published_answers(counter, key, wanted) -> None:
    assert philox(words(counter), words(key)).tolist() == words(wanted).tolist()


def test_philox_rows_are_independent() -> None:
    counters, keys, wanted = (np.concatenate([words(line[i]) for line in KNOWN]) for i in range(3))
    assert philox(counters, keys).tolist() == wanted.tolist()


def plain(seed: int, position: int, stream: int) -> float:
    """Philox4x32-10 once more, in Python's integers."""
    c, k = [position, stream, 0, 0], [seed % 2**32, seed >> 32]
    for _ in range(10):
        a, b = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(b >> 32) ^ c[1] ^ k[0], b % 2**32, (a >> 32) ^ c[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return ((c[0] >> 5) * 2**26 + (c[1] >> 6)) / 2**53


@steady
@given(
    st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)), min_size=1, max_size=8),
    st.sampled_from([SAMPLE, XTC]),
)
def test_a_number_is_a_function_of_seed_position_and_stream_alone(places, stream) -> None:
    found = uniforms([seed for seed, _ in places], [position for _, position in places], stream)
    assert found.tolist() == [plain(seed, position, stream) for seed, position in places]


N = 40_000
SERIES = {
    "positions of one seed": lambda: uniforms([7] * N, list(range(N)), SAMPLE),
    "neighbouring seeds": lambda: uniforms(list(range(N)), [5] * N, SAMPLE),
    "seeds that differ in the high word": lambda: uniforms([i << 32 for i in range(N)], [5] * N, SAMPLE),
    "the stream of xtc": lambda: uniforms([7] * N, list(range(N)), XTC),
}
PAIRS = {
    "a position and the next": lambda: (
        uniforms([7] * N, list(range(N)), SAMPLE),
        uniforms([7] * N, list(range(1, N + 1)), SAMPLE),
    ),
    "a seed and the next": lambda: (
        uniforms([7] * N, list(range(N)), SAMPLE),
        uniforms([8] * N, list(range(N)), SAMPLE),
    ),
    "seed + 1 and position + 1": lambda: (
        uniforms(list(range(N)), [9] * N, SAMPLE),
        uniforms(list(range(1, N + 1)), [10] * N, SAMPLE),
    ),
    "two streams": lambda: (uniforms([7] * N, list(range(N)), SAMPLE), uniforms([7] * N, list(range(N)), XTC)),
}


def chi_square(observed: np.ndarray) -> float:
    """Against equal chances, as a number of standard deviations."""
    expected = observed.sum() / observed.size
    freedom = observed.size - 1
    return (((observed - expected) ** 2 / expected).sum() - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize("name", SERIES)
def test_numbers_are_uniform(name) -> None:
    u = SERIES[name]()
    assert u.min() >= 0
    assert u.max() < 1
    assert len(set(u.tolist())) == N
    assert abs(chi_square(np.histogram(u, 100, (0, 1))[0])) < 4
    assert abs(chi_square(np.histogram(u * 2**20 % 1, 100, (0, 1))[0])) < 4  # the bits far down too


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_fill_the_square_evenly(name) -> None:
    first, second = PAIRS[name]()
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(N)
    cells, _, _ = np.histogram2d(first, second, 20, ((0, 1), (0, 1)))
    assert abs(chi_square(cells.ravel())) < 4
