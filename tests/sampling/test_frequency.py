"""How often tokens are drawn, over fixed seeds: the draw follows the distribution that the options leave."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from sampling import NEVER, kept, sequence, softmax, some_logits, step, tokens_of

from quire.engine.sampling import Sampler
from quire.engine.sequence import Sequence
from quire.kernels.vocabulary import BLOCK, draw

VOCAB = 10
N = 4000


def assert_follows(tokens: list[int], p: list[float]) -> None:
    """Pearson's chi-square; the limit is its upper 1e-4 quantile, by Wilson and Hilferty's approximation."""
    counts = Counter(tokens)
    drawable = [i for i, x in enumerate(p) if x > 0]
    assert set(counts) <= set(drawable)
    if len(drawable) == 1:
        return
    found = sum((counts[i] - len(tokens) * p[i]) ** 2 / (len(tokens) * p[i]) for i in drawable)
    freedom = len(drawable) - 1
    spread = 2 / (9 * freedom)
    assert found < freedom * (1 - spread + 3.719 * math.sqrt(spread)) ** 3, (counts, p)


def draws(logits: torch.Tensor, **options) -> list[int]:
    """N tokens from one row [vocab], by seeds 0 to N - 1."""
    return tokens_of(logits.repeat(N, 1), [sequence(name=str(i), seed=i, **options) for i in range(N)])


@pytest.mark.parametrize("row", range(3))
def test_the_plain_draw_follows_softmax_over_seeds(row) -> None:
    logits = some_logits(1, VOCAB, row, 1.0)[0]
    assert_follows(draws(logits), softmax(logits))


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_the_plain_draw_follows_softmax_over_the_positions_of_one_sequence(seed) -> None:
    logits = some_logits(1, VOCAB, 4, 1.0)
    seqs = [sequence([1] * (i + 1), name=str(i), seed=seed) for i in range(N)]
    assert_follows(tokens_of(logits.repeat(N, 1), seqs), softmax(logits[0]))


@pytest.mark.parametrize("vocab", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 5])
def test_the_draw_crosses_blocks_of_the_vocabulary_in_proportion(vocab) -> None:
    """Weights lie at the ends of the blocks; all between is ruled out."""
    logits = torch.full((vocab,), NEVER)
    places = [i for start in range(0, vocab, BLOCK) for i in (start, min(start + BLOCK, vocab) - 1)]
    logits[places] = some_logits(1, len(places), 1, 1.0)[0]
    u = (torch.arange(N, dtype=torch.float64) + 0.5) / N
    counts = Counter(draw(logits.repeat(N, 1), u).tolist())
    p = softmax(logits)
    assert set(counts) <= set(places)
    assert all(abs(counts[i] - N * p[i]) <= 1 for i in places)


def test_the_ends_of_the_unit_interval_draw_the_first_and_the_last_that_have_weight() -> None:
    logits = torch.full((2, 3000), NEVER)
    logits[:, [700, 2000]] = 0.0
    assert draw(logits, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)).tolist() == [700, 2000]


TRUNCATIONS = {
    "temperature": {"temperature": 1.6},
    "top_k": {"top_k": 4},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.2},
    "typical_p": {"typical_p": 0.6},
    "top_n_sigma": {"top_n_sigma": 1.0},
    "xtc": {"xtc_probability": 1.0, "xtc_threshold": 0.1},
    "mirostat 1": {"mirostat": 1, "mirostat_tau": 1.5},
    "mirostat 2": {"mirostat": 2, "mirostat_tau": 1.5},
    "allowed": {"allowed_token_ids": (1, 4, 9)},
    "bias": {"logit_bias": {0: 1.0, 5: -100.0}},
    "several": {"temperature": 0.8, "top_k": 6, "top_p": 0.9, "min_p": 0.05},
}


@pytest.mark.parametrize("name", TRUNCATIONS)
def test_draws_follow_what_the_option_leaves_renormalized(name) -> None:
    options = TRUNCATIONS[name]
    logits = some_logits(1, VOCAB, 8, 1.0)
    left = step(Sampler(VOCAB), logits, [sequence(**options)])[1][0]
    if name not in ("temperature", "bias"):
        assert 1 < len(kept(left)) < VOCAB
    assert_follows(draws(logits[0], **options), softmax(left))


def test_temperature_sharpens_as_the_power_of_probabilities() -> None:
    logits = some_logits(1, VOCAB, 9, 1.0)[0]
    powers = [x**2 for x in softmax(logits)]
    assert_follows(draws(logits, temperature=0.5), [x / sum(powers) for x in powers])


def test_xtc_acts_with_its_probability() -> None:
    """Of 0.4 0.3 0.2 0.1 and the threshold 0.15 the first two go, half of the time."""
    p = [0.4, 0.3, 0.2, 0.1]
    mixed = [p[0] / 2, p[1] / 2, p[2] / 2 + 1 / 3, p[3] / 2 + 1 / 6]
    logits = torch.tensor(p).log()
    options = {"xtc_probability": 0.5, "xtc_threshold": 0.15}
    assert_follows(draws(logits, **options), mixed)
    _, rows = step(Sampler(4), logits.repeat(N, 1), [sequence(name=str(i), seed=i, **options) for i in range(N)])
    acted = sum(kept(row) == {2, 3} for row in rows)
    assert abs(acted - N / 2) < 4 * math.sqrt(N / 4)
    assert acted + sum(kept(row) == {0, 1, 2, 3} for row in rows) == N


def test_xtc_throws_its_own_coin() -> None:
    """Whether XTC acts says nothing of the number that draws: where it did not act, draws follow softmax."""
    logits = torch.tensor([0.0, 0.0, 0.0, -1e-3])  # the last alone stays where XTC acts
    options = {"xtc_probability": 0.5, "xtc_threshold": 0.2}
    outcomes, rows = step(Sampler(4), logits.repeat(N, 1), [sequence(name=str(i), seed=i, **options) for i in range(N)])
    idle = [o.tokens[0] for o, row in zip(outcomes, rows, strict=True) if len(kept(row)) == 4]
    assert N / 3 < len(idle) < 2 * N / 3
    assert_follows(idle, softmax(logits))


def test_answer_i_of_n_uses_seed_plus_i() -> None:
    logits = some_logits(1, VOCAB, 1, 1.0).repeat(20, 1)
    params = sequence(seed=2**64 - 5).params
    siblings = [Sequence("r", i, [1], params) for i in range(20)]
    alone = [sequence(name=str(i), seed=(2**64 - 5 + i) % 2**64) for i in range(20)]
    assert tokens_of(logits, siblings) == tokens_of(logits, alone)
    assert len(set(tokens_of(logits, siblings))) > 3
