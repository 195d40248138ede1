"""Penalties and the bias, against their definitions in plain Python."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sampling import NEVER, acted, sequence, some_logits, steady, step

from quire.engine.sampling import Sampler

VOCAB = 12
FEW = 4  # ids that texts are made of, so that they repeat

texts = st.lists(st.integers(0, FEW - 1), min_size=1, max_size=30)
answers = st.lists(st.integers(0, FEW - 1), max_size=10)
penalties = st.floats(-2, 2)


def close(row: torch.Tensor, wanted: list[float]) -> None:
    torch.testing.assert_close(row.double(), torch.tensor(wanted, dtype=torch.float64), rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- presence and frequency


def less_counted(row: torch.Tensor, answer: list[int], presence: float, frequency: float) -> list[float]:
    counts = Counter(answer)
    return [x - presence * (counts[i] > 0) - frequency * counts[i] for i, x in enumerate(row.tolist())]


@steady
@given(rows=st.lists(st.tuples(texts, answers, penalties, penalties), min_size=1, max_size=5), seed=st.integers(0, 999))
def test_presence_and_frequency_follow_the_openai_formula_over_the_answer_alone(rows, seed) -> None:
    logits = some_logits(len(rows), VOCAB, seed)
    seqs = [
        sequence(prompt, answer, name=str(i), presence_penalty=presence, frequency_penalty=frequency)
        for i, (prompt, answer, presence, frequency) in enumerate(rows)
    ]
    for row, raw, (_, answer, presence, frequency) in zip(acted(logits, *seqs), logits, rows, strict=True):
        close(row, less_counted(raw, answer, presence, frequency))


@steady
@given(prompt=texts, answer=st.lists(st.integers(0, FEW - 1), min_size=4, max_size=12), back=st.integers(1, 3))
def test_counts_follow_the_sequence_forwards_and_back(prompt, answer, back) -> None:
    sampler = Sampler(VOCAB)
    seq = sequence(prompt, presence_penalty=0.5, frequency_penalty=0.25)
    logits = some_logits(1, VOCAB, len(answer))
    for end in [*range(len(answer)), len(answer) - back, len(answer)]:  # tokens taken back, then given again
        seq.tokens[len(prompt) :] = answer[:end]
        close(step(sampler, logits, [seq])[1][0], less_counted(logits[0], answer[:end], 0.5, 0.25))


# ---------------------------------------------------------------- DRY


def repeats(tokens: list[int], breakers: set[int]) -> dict[int, int]:
    """Token -> the most tokens n such that the last n of the text stand right before an earlier one of it, none of
    the n a breaker; breakers themselves are never held back."""
    found: dict[int, int] = {}
    for i in range(1, len(tokens)):
        n = 0
        while n < i and tokens[i - 1 - n] == tokens[-1 - n] and tokens[-1 - n] not in breakers:
            n += 1
        if n and tokens[i] not in breakers:
            found[tokens[i]] = max(n, found.get(tokens[i], 0))
    return found


dry_options = st.fixed_dictionaries(
    {
        "dry_multiplier": st.floats(0.1, 2),
        "dry_base": st.floats(1, 2),
        "dry_allowed_length": st.integers(1, 4),
        "dry_penalty_last_n": st.integers(-1, 40),
        "dry_sequence_breakers": st.sampled_from([(), (0,), (1, 3)]),
    }
)


@steady
@given(rows=st.lists(st.tuples(texts, answers, dry_options), min_size=1, max_size=6), seed=st.integers(0, 999))
def test_dry_equals_its_quadratic_definition(rows, seed) -> None:
    logits = some_logits(len(rows), VOCAB, seed)
    seqs = [sequence(prompt, answer, name=str(i), **o) for i, (prompt, answer, o) in enumerate(rows)]
    for row, raw, (prompt, answer, o) in zip(acted(logits, *seqs), logits, rows, strict=True):
        text, last = prompt + answer, o["dry_penalty_last_n"]
        if last >= 0:
            text = text[-last:] if last else []
        wanted = raw.tolist()
        for token, n in repeats(text, set(o["dry_sequence_breakers"])).items():
            if n >= o["dry_allowed_length"]:
                wanted[token] -= o["dry_multiplier"] * o["dry_base"] ** (n - o["dry_allowed_length"])
        close(row, wanted)


def test_dry_by_hand() -> None:
    """1 2 3 | 1 2: two tokens at the end stood before 3, so 3 costs multiplier * base ** (2 - 1)."""
    row = acted(torch.zeros(1, VOCAB), sequence([1, 2, 3, 1, 2], dry_multiplier=1.0, dry_base=3, dry_allowed_length=1))
    assert row[0].tolist() == [0, 0, 0, -3] + [0] * (VOCAB - 4)


def test_dry_looks_at_the_whole_text_where_the_window_is_longer() -> None:
    text = [1, 2, 3, 1, 2]
    options = {"dry_multiplier": 1.0, "dry_allowed_length": 1}
    for window in (5, 6, 7, 9, 100):
        row = acted(torch.zeros(1, VOCAB), sequence(text, dry_penalty_last_n=window, **options))
        assert row[0, 3] == -1.75, window


def test_a_repeat_too_long_for_a_float_rules_its_token_out_and_no_other() -> None:
    row = acted(torch.zeros(1, VOCAB), sequence([1] * 3000 + [2] + [1] * 2000, dry_multiplier=1.0))
    assert [i for i, x in enumerate(row[0].tolist()) if x != 0] == [1, 2]
    assert row[0, 1] == row[0, 2] == NEVER


# ---------------------------------------------------------------- bias


@steady
@given(
    rows=st.lists(st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-100, 100), min_size=1), min_size=1, max_size=5),
    seed=st.integers(0, 999),
)
def test_logit_bias_is_added(rows, seed) -> None:
    logits = some_logits(len(rows), VOCAB, seed)
    seqs = [sequence(name=str(i), logit_bias=bias) for i, bias in enumerate(rows)]
    for row, raw, bias in zip(acted(logits, *seqs), logits, rows, strict=True):
        close(row, [x + bias.get(i, 0) for i, x in enumerate(raw.tolist())])


@pytest.mark.parametrize("bias", [100.0, -100.0])
def test_a_bias_of_a_hundred_decides(bias) -> None:
    outcomes, _ = step(Sampler(2), torch.zeros(1, 2), [sequence(logit_bias={0: bias})])
    assert outcomes[0].tokens == [int(bias < 0)]


@steady
@given(prompt=texts, answer=answers, penalty=st.floats(0.1, 5), seed=st.integers(0, 999))
def test_repetition_penalty_divides_what_is_positive_and_multiplies_what_is_negative(
    prompt, answer, penalty, seed
) -> None:
    logits = some_logits(1, VOCAB, seed)
    seen = {*prompt, *answer}
    wanted = [x if i not in seen else x / penalty if x > 0 else x * penalty for i, x in enumerate(logits[0].tolist())]
    row = acted(logits, sequence(prompt, answer, repetition_penalty=penalty))[0]
    close(row, wanted)
    assert all(math.isfinite(x) for x in row.tolist())
