"""A counter-based random stream: the number for (seed, position, stream) is a pure function of the three.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): the 64-bit seed is the key, position
and stream are the counter. Nothing is drawn in order, so nothing depends on who else is in the batch or on how often a
sequence was preempted.
"""

from __future__ import annotations

import numpy as np

SAMPLE, XTC = 0, 1  # streams

_ROUNDS = 10
_FEW = 16
_MULTIPLY = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)


def philox(counter: np.ndarray, key: np.ndarray) -> np.ndarray:
    """counter [n, 4], key [n, 2], 32-bit words in uint64 -> [n, 4] random 32-bit words in uint64."""
    c0, c1, c2, c3 = counter.T.astype(np.uint64)
    k0, k1 = key.T.astype(np.uint64)
    for _ in range(_ROUNDS):
        a, b = c0 * _MULTIPLY[0], c2 * _MULTIPLY[1]
        c0, c1, c2, c3 = (b >> _SHIFT) ^ c1 ^ k0, b & _LOW, (a >> _SHIFT) ^ c3 ^ k1, a & _LOW
        k0, k1 = (k0 + np.uint64(_WEYL[0])) & _LOW, (k1 + np.uint64(_WEYL[1])) & _LOW
    return np.stack([c0, c1, c2, c3], axis=1)


def _words(seed: int, position: int, stream: int) -> tuple[int, int]:
    """The first two of `philox`, for one: some tens of operations on arrays take longer than those on ten numbers."""
    low, (m0, m1) = 0xFFFFFFFF, map(int, _MULTIPLY)
    c0, c1, c2, c3 = position, stream, 0, 0
    k0, k1 = seed & low, seed >> 32
    for _ in range(_ROUNDS):
        a, b = c0 * m0, c2 * m1
        c0, c1, c2, c3 = b >> 32 ^ c1 ^ k0, b & low, a >> 32 ^ c3 ^ k1, a & low
        k0, k1 = k0 + _WEYL[0] & low, k1 + _WEYL[1] & low
    return c0, c1


def uniforms(seeds: list[int], positions: list[int], stream: int) -> np.ndarray:
    """float64 [n] in [0, 1), 53 random bits each: seeds < 2**64, positions < 2**32."""
    n = len(seeds)
    if n <= _FEW:
        each = (_words(seed, position, stream) for seed, position in zip(seeds, positions, strict=True))
        return np.array([(a >> 5 << 26 | b >> 6) / 2.0**53 for a, b in each])
    seed = np.array(seeds, dtype=np.uint64)
    counter = np.zeros((n, 4), dtype=np.uint64)
    counter[:, 0] = positions
    counter[:, 1] = stream
    words = philox(counter, np.stack([seed & _LOW, seed >> _SHIFT], axis=1))
    bits = (words[:, 0] >> np.uint64(5)) << np.uint64(26) | words[:, 1] >> np.uint64(6)
    return bits.astype(np.float64) / 2.0**53
