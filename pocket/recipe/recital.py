"""Random tokens said again and again: what teaches a small model, early, to copy.

To copy a name from a question is to find where the last token stood before and to say what followed it (an induction
head, Olsson et al. 2022). Ordinary text rewards that so seldom that the cpu preset had not learned it after 10 million
tokens: it called tools by names that it had made up. With recitals beside the text it came within 600,000 tokens, and
what is learned on random tokens serves for names, numbers and tools never seen before.
"""

from __future__ import annotations

import numpy as np

FIRST = 267  # ids below are control tokens and single bytes
COMMON = 3000  # ids below are the most frequent pieces
EARLY, LATER = 0.3, 0.03  # tokens of recitals for each token of text, in the prelude and after it
LONGEST = 256  # tokens


def documents(seed: int, step: int, tokens: int, vocab: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """About so many tokens of recitals, ids [n] and mask [n] each; targets are what was said before."""
    rng = np.random.default_rng((seed, step, tokens))
    found = []
    while tokens > 0:
        length = int(rng.integers(4, 50))
        top = min(vocab, COMMON) if rng.random() < 0.7 else vocab
        times = int(rng.integers(2, max(2, min(4, LONGEST // length)) + 1))
        ids = np.tile(rng.integers(FIRST, top, length).astype(np.uint16), times)
        mask = np.ones(len(ids), bool)
        mask[: length + 1] = False  # that it begins again, nobody can know
        found.append((ids, mask))
        tokens -= len(ids)
    return found
