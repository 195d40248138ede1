"""XTC, top-n-sigma and mirostat, against their definitions in plain Python."""

from __future__ import annotations

import math
from statistics import pstdev

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from sampling import NEVER, acted, kept, sequence, softmax, some_logits, steady, step

from quire.engine.sampling import Sampler

seeds = st.integers(0, 2**32)


def without_some(logits: torch.Tensor) -> torch.Tensor:
    """Every fifth token is ruled out, as by a ban."""
    logits = logits.clone()
    logits[:, ::5] = NEVER
    return logits


# ---------------------------------------------------------------- top-n-sigma


@steady
@given(ns=st.lists(st.floats(0.05, 4), min_size=1, max_size=5), seed=seeds, vocab=st.sampled_from([7, 150]))
def test_top_n_sigma_keeps_what_is_within_n_deviations_of_the_greatest(ns, seed, vocab) -> None:
    logits = without_some(some_logits(len(ns), vocab, seed))
    seqs = [sequence(name=str(i), top_n_sigma=n) for i, n in enumerate(ns)]
    for row, raw, n in zip(acted(logits, *seqs), logits.tolist(), ns, strict=True):
        there = [x for x in raw if x > NEVER]
        floor = max(there) - n * pstdev(there)
        assume(all(abs(x - floor) > 1e-5 for x in there))
        assert kept(row) == {i for i, x in enumerate(raw) if x >= floor}
        assert [row[i] for i in kept(row)] == [raw[i] for i in kept(row)]


# ---------------------------------------------------------------- XTC


@steady
@given(thresholds=st.lists(st.floats(0.01, 0.5), min_size=1, max_size=5), seed=seeds, vocab=st.sampled_from([6, 40]))
def test_xtc_drops_all_above_the_threshold_but_the_least_likely_of_them(thresholds, seed, vocab) -> None:
    logits = without_some(some_logits(len(thresholds), vocab, seed, 1.0))
    seqs = [sequence(name=str(i), xtc_probability=1.0, xtc_threshold=t) for i, t in enumerate(thresholds)]
    for row, raw, threshold in zip(acted(logits, *seqs), logits, thresholds, strict=True):
        p = softmax(raw)
        above = sorted((i for i in range(vocab) if p[i] >= threshold), key=lambda i: p[i])
        assert kept(row) == kept(raw) - set(above[1:])


def test_xtc_by_hand() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    assert kept(acted(logits, sequence(xtc_probability=1.0, xtc_threshold=0.15))[0]) == {2, 3}
    assert kept(acted(logits, sequence(xtc_probability=1.0, xtc_threshold=0.35))[0]) == {0, 1, 2, 3}


# ---------------------------------------------------------------- mirostat


def zipf_k(row: torch.Tensor, mu: float) -> int:
    """Basu et al. 2021, algorithm 1: the exponent s by least squares over the 100 most likely, then k from mu."""
    p = sorted((x for x in softmax(row) if x > 0), reverse=True)
    pairs = [(math.log((i + 2) / (i + 1)), math.log(p[i] / p[i + 1])) for i in range(min(100, len(p)) - 1)]
    s = sum(t * b for t, b in pairs) / sum(t * t for t, _ in pairs)
    eps = s - 1
    return max(1, min(len(p), round((eps * 2**mu / (1 - len(p) ** -eps)) ** (1 / s))))


def expected(row: torch.Tensor, version: int, mu: float) -> set[int]:
    if version == 2:
        surprise = [-math.log2(x) if x > 0 else math.inf for x in softmax(row)]
        return {i for i, bits in enumerate(surprise) if bits <= mu or bits == min(surprise)}
    ordered = sorted(kept(row), key=lambda i: -row[i])
    return set(ordered[: zipf_k(row, mu)])


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_mirostat_keeps_and_learns_as_defined_over_many_steps(version, seed) -> None:
    """Rows of different tau, eta and temperature run together; each one's mu is followed in plain Python."""
    targets = [(3.0, 0.1, 1.0), (1.0, 0.5, 1.0), (5.0, 1.0, 1.7), (2.0, 0.3, 0.6)]
    seqs = [
        sequence([1], name=str(i), seed=seed + i, mirostat=version, mirostat_tau=tau, mirostat_eta=eta, temperature=t)
        for i, (tau, eta, t) in enumerate(targets)
    ]
    sampler = Sampler(300)
    mus = [2 * tau for tau, _, _ in targets]
    sizes = set()
    for number in range(25):
        logits = without_some(some_logits(len(seqs), 300, 1000 * seed + number, 2.0))
        outcomes, rows = step(sampler, logits, seqs)
        for i, (tau, eta, temperature) in enumerate(targets):
            left = expected(logits[i].double() / temperature, version, mus[i])
            assert kept(rows[i]) == left, (number, i)
            token = outcomes[i].tokens[0]
            mass = math.fsum(math.exp(x / temperature) for j, x in enumerate(logits[i].tolist()) if j in left)
            surprise = math.log2(mass) - float(logits[i, token]) / temperature / math.log(2)
            mus[i] -= eta * (surprise - tau)
            seqs[i].tokens.append(token)
            sizes.add(len(left))
    assert len(sizes) > 10  # the bound did move


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("tau", [1.5, 3.0])
def test_mirostat_brings_the_mean_surprise_to_tau(version, tau) -> None:
    sampler, seq = Sampler(200), sequence(mirostat=version, mirostat_tau=tau, mirostat_eta=0.2, seed=5)
    surprises = []
    for number in range(400):
        outcomes, rows = step(sampler, some_logits(1, 200, number, 2.0), [seq])
        token = outcomes[0].tokens[0]
        surprises.append(-math.log2(softmax(rows[0])[token]))
        seq.tokens.append(token)
    assert abs(sum(surprises[50:]) / 350 - tau) < 0.15


@pytest.mark.parametrize("version", [1, 2])
def test_a_step_run_again_does_not_move_mirostat_twice(version) -> None:
    """A step may be repeated, after a preemption or where one row of a batch failed."""

    def run(times: int) -> list[set[int]]:
        sampler, seq = Sampler(100), sequence(mirostat=version, mirostat_tau=2.0, mirostat_eta=1.0)
        found = []
        for number in range(10):
            for _ in range(times):
                outcomes, rows = step(sampler, some_logits(1, 100, number), [seq])
            seq.tokens += outcomes[0].tokens
            found.append(kept(rows[0]))
        return found

    assert run(3) == run(1)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("temperature", [1e-3, 1e-2, 1e-30])
def test_mirostat_survives_probabilities_of_zero(version, temperature) -> None:
    logits = some_logits(1, 200, 3, 4.0)
    outcomes, _ = step(Sampler(200), logits, [sequence(mirostat=version, temperature=temperature)])
    assert outcomes[0].tokens == [int(logits[0].argmax())]
