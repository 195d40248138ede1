"""The sampler without a sort beside the engine's own: on a GPU as it is, elsewhere by Triton's interpreter."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from sampling import NEVER, sequence

from quire.engine.messages import SamplingParams
from quire.engine.plan import Slice
from quire.engine.sampling import Sampler
from quire.engine.sampling.memory import Memory
from quire.engine.sampling.random import SAMPLE, uniforms
from quire.engine.sampling.rows import Row as EngineRow
from quire.engine.sequence import Sequence
from quire.kernels import native
from quire.kernels.triton import sampler as kernel

DEVICE = "cuda:0" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def small_tiles(monkeypatch):
    """So that a small vocabulary has several, and the room for the few that are left is soon full."""
    monkeypatch.setattr(kernel, "TILE", 128)
    monkeypatch.setattr(kernel, "TILES", 2)
    monkeypatch.setattr(kernel, "FEW", 48)


def asked(seq: Sequence, vocab: int) -> kernel.Row:
    """What the kernel is told of a sequence: as the engine would."""
    p, row = seq.params, EngineRow(seq, [], None)
    counts = None
    if p.repetition_penalty != 1 or p.presence_penalty or p.frequency_penalty:
        counts = Memory(vocab).counts(row, torch.device(DEVICE))
    return kernel.Row(
        seed=row.seed, position=len(row.tokens), temperature=p.temperature, top_k=p.top_k, top_p=p.top_p, min_p=p.min_p,
        repetition_penalty=p.repetition_penalty, presence_penalty=p.presence_penalty,
        frequency_penalty=p.frequency_penalty, in_prompt=None if counts is None else counts.in_prompt,
        answer=None if counts is None else counts.answer,
    )  # fmt: skip


def drawn(logits: torch.Tensor, seqs: list[Sequence]) -> list[int]:
    table = kernel.Table.of([asked(seq, logits.shape[1]) for seq in seqs], logits.shape[1], DEVICE)
    return kernel.sample(logits.to(DEVICE, copy=True), table).tolist()


def engines(logits: torch.Tensor, seqs: list[Sequence]) -> tuple[list[int], torch.Tensor]:
    """-> (the tokens of the engine's own path, -1 where none is left; what its chain left of the logits)"""
    acted = logits.to(DEVICE, copy=True)
    outcomes = Sampler(logits.shape[1]).sample(acted, [Slice(s, len(s.tokens) - 1, s.tokens[-1:], 0) for s in seqs])
    return [o.tokens[0] if o.tokens else -1 for o in outcomes], acted.cpu()


def some_rows(count: int, vocab: int, seed: int) -> tuple[torch.Tensor, list[Sequence]]:
    """Rows of all sorts with options of all sorts. Equal logits, rows with hardly a token, flat ones and steep ones."""
    chance, g = random.Random(seed), torch.Generator().manual_seed(seed)
    logits, seqs = torch.randn(count, vocab, generator=g), []
    for i, row in enumerate(logits):
        row *= chance.choice([0.01, 0.5, 2.0, 4.0, 12.0])
        row += chance.choice([0.0, 0.0, -40.0, 1000.0])
        if chance.random() < 0.2:
            row.copy_((row * 2).round() / 2)
        if chance.random() < 0.2:
            row[torch.rand(vocab, generator=g) < chance.choice([0.5, 0.95])] = NEVER
        options: dict = {"temperature": chance.choice([0.0, 0.3, 0.7, 1.0, 1.0, 1.6, 1e-40])}
        if chance.random() < 0.5:
            options["top_k"] = chance.choice([1, 2, 5, 20, 40, vocab - 1, vocab])
        if chance.random() < 0.6:
            options["top_p"] = chance.choice([0.0, 1e-9, 0.1, 0.5, 0.9, 0.95, 0.999])
        if chance.random() < 0.3:
            options["min_p"] = chance.choice([0.001, 0.05, 0.3, 1.0])
        if chance.random() < 0.3:
            options["repetition_penalty"] = chance.choice([0.8, 1.1, 1.3, 2.0])
        if chance.random() < 0.3:
            options["presence_penalty"] = chance.choice([-0.7, 0.4, 1.5])
        if chance.random() < 0.3:
            options["frequency_penalty"] = chance.choice([-0.3, 0.1, 0.9])
        prompt = chance.choices(range(vocab), k=chance.randint(1, 20))
        answer = chance.choices(range(vocab), k=chance.randint(0, 30))
        seqs.append(sequence(prompt, answer, name=str(i), seed=chance.getrandbits(64), **options))
    return logits, seqs


def border(row: torch.Tensor, seq: Sequence) -> float:
    """How far the number drawn lies from the nearest border between two tokens of what the chain left."""
    weights = (row.double() - row.max()).exp()
    sums = weights.cumsum(0) / weights.sum()
    u = float(uniforms([seq.seed], [len(seq.tokens)], SAMPLE)[0])
    return float((sums - u).abs().min())


def check_equal(logits: torch.Tensor, seqs: list[Sequence]) -> int:
    """-> how many rows differ, all of them where a rounding of weights can make them."""
    wanted, acted = engines(logits, seqs)
    found = drawn(logits, seqs)
    differ = [i for i in range(len(seqs)) if found[i] != wanted[i]]
    for i in differ:
        assert seqs[i].params.temperature != 0, (i, seqs[i].params)
        assert border(acted[i], seqs[i]) < 2**-22, (i, seqs[i].params, found[i], wanted[i])
    return len(differ)


def test_the_token_is_the_one_of_the_engines_own_path(small_tiles, monkeypatch):
    """In torch, as on a GPU; the tests over thousands of rows take its C++ where there is any."""
    monkeypatch.setattr(native, "cpu", None)
    for n, vocab in enumerate([3, 300]):
        assert check_equal(*some_rows(6, vocab, n)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("part", range(30))
def test_the_token_is_the_one_of_the_engines_own_path_over_thousands_of_rows(part, small_tiles):
    chance = random.Random(part)
    assert check_equal(*some_rows(100, chance.choice([2, 17, 200, 500]), 1000 + part)) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("vocab", [1023, 1025, 5000, 32_001])
def test_the_token_is_the_one_of_the_engines_own_path_with_tiles_as_they_are(vocab):
    assert check_equal(*some_rows(12, vocab, vocab)) <= 1


def test_tiles_and_neighbours_change_no_token(small_tiles, monkeypatch):
    logits, seqs = some_rows(4, 200, 5)
    whole = drawn(logits, seqs)
    assert whole == [drawn(logits[i : i + 1], seqs[i : i + 1])[0] for i in range(4)]
    monkeypatch.setattr(kernel, "TILE", 64)
    monkeypatch.setattr(kernel, "TILES", 4)
    monkeypatch.setattr(kernel, "FEW", 512)
    monkeypatch.setattr(kernel, "COARSE", 1)
    monkeypatch.setattr(kernel, "PIVOTS", 16)
    assert drawn(logits, seqs) == whole


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_16_bits_are_read_as_they_are_and_left(dtype, small_tiles):
    logits, seqs = some_rows(4, 100, 6)
    narrow = logits.clamp(max=6e4).to(DEVICE, dtype)
    table = kernel.Table.of([asked(seq, 100) for seq in seqs], 100, DEVICE)
    before = narrow.clone()
    assert kernel.sample(narrow, table).tolist() == drawn(narrow.float().cpu(), seqs)
    assert torch.equal(narrow, before)


def test_rows_of_a_wider_tensor(small_tiles):
    logits, seqs = some_rows(3, 90, 7)
    wide = torch.full((3, 131), 1e9)
    wide[:, :90] = logits
    table = kernel.Table.of([asked(seq, 90) for seq in seqs], 90, DEVICE)
    wide = wide.to(DEVICE)
    assert kernel.sample(wide[:, :90], table).tolist() == drawn(logits, seqs)
    assert bool((wide[:, 90:] == 1e9).all())


def test_what_has_nothing_left_is_minus_one_and_infinity_and_no_number_do_no_harm(small_tiles):
    nan, inf = float("nan"), float("inf")
    logits = torch.tensor([[NEVER] * 3, [nan, NEVER, NEVER], [nan, 1.0, NEVER], [0.0, inf, inf], [NEVER, NEVER, -5.0]])
    for temperature in (0.0, 1.0, 0.5):
        seqs = [sequence([0], name=str(i), temperature=temperature, top_k=2, top_p=0.9) for i in range(5)]
        assert drawn(logits, seqs) == [-1, -1, 1, 1, 2]


@pytest.mark.parametrize("options", [{"top_k": 2}, {"top_p": 0.3}, {"min_p": 1.0}])
def test_what_ties_with_the_last_one_kept_is_kept(options, small_tiles):
    logits = torch.tensor([1.0, 2.0, 0.0, 2.0, 2.0, -1.0, NEVER]).expand(10, 7)
    assert set(drawn(logits, [sequence(name=str(i), seed=i, **options) for i in range(10)])) == {1, 3, 4}


def test_zero_of_either_sign_ties(small_tiles):
    logits = torch.tensor([-1.0, 0.0, -0.0, -3.0]).expand(6, 4)
    assert set(drawn(logits, [sequence(name=str(i), seed=i, top_k=1) for i in range(6)])) == {1, 2}


QUICK = {"temperature": 0.8, "min_p": 0.05, "frequency_penalty": 0.5, "repetition_penalty": 1.2}
LAWS = [
    {"temperature": 0.8},
    {"top_p": 0.8, "temperature": 1.3},
    {"top_k": 4, "min_p": 0.05, "frequency_penalty": 0.5, "presence_penalty": -0.4, "repetition_penalty": 1.2},
]


@pytest.mark.slow
def test_the_law_of_the_draws(small_tiles):
    check_law(QUICK, 100)


@pytest.mark.slow
@pytest.mark.parametrize("options", LAWS)
def test_the_law_of_many_draws(options, small_tiles):
    check_law(options, 300)


def check_law(options: dict, count: int) -> None:
    """Chi-square of draws at positions one after the other, against what is worked out in float64."""
    vocab, prompt, answer = 9, [1, 2, 2], [3, 3, 4]
    logits = torch.tensor([0.3, 1.9, 1.4, 2.2, 0.1, -1.0, 0.9, -2.0, 0.5])
    law = expected(logits.tolist(), SamplingParams(max_tokens=1, seed=0, **options), prompt, answer)
    seqs = [sequence(prompt, answer, name=str(i), seed=77 + i, **options) for i in range(count)]
    found = np.bincount(drawn(logits.expand(count, vocab).contiguous(), seqs), minlength=vocab)
    there = law > 0
    assert there.sum() > 2
    assert found[~there].sum() == 0
    chi = float(((found - count * law)[there] ** 2 / (count * law[there])).sum())
    freedom = int(there.sum()) - 1
    assert chi < freedom + 5 * (2 * freedom) ** 0.5, (chi, freedom)


def expected(logits: list[float], p: SamplingParams, prompt: list[int], answer: list[int]) -> np.ndarray:
    """The law, in float64 and by sorting."""
    x = np.array(logits)
    count = np.bincount(answer, minlength=len(x))
    seen = [i for i in range(len(x)) if i in prompt or i in answer]
    x[seen] = np.where(x[seen] > 0, x[seen] / p.repetition_penalty, x[seen] * p.repetition_penalty)
    x -= p.presence_penalty * (count > 0) + p.frequency_penalty * count
    x /= p.temperature
    order = np.argsort(-x)
    if p.top_k:
        x[order[p.top_k :]] = -np.inf
    mass = np.exp(x[order] - x[order[0]])
    before = np.cumsum(mass) - mass
    x[order[before >= p.top_p * mass.sum()]] = -np.inf
    if p.min_p:
        x[x < x.max() + np.log(p.min_p)] = -np.inf
    law = np.exp(x - x.max())
    return law / law.sum()


def test_a_weight_is_e_to_the_x_to_a_unit_in_the_last_place():
    """By the draw itself: of two tokens the number drawn lies in the first one's share, up to 2^-23 of it."""
    g = torch.Generator().manual_seed(9)
    for i, gap in enumerate((torch.rand(20, generator=g) * 12).tolist()):
        u = float(uniforms([i], [1], SAMPLE)[0])
        low = np.float64(np.float32(-gap))
        share = 1 / (1 + np.exp(low))  # of the token of logit 0, which comes first
        (token,) = drawn(torch.tensor([[0.0, -gap]]), [sequence([1], seed=i)])
        assert token == int(u >= share) or abs(u - share) < 2**-23


def test_what_does_not_fit_is_refused():
    table = kernel.Table.of([kernel.Row(seed=0, position=0)], 8, DEVICE)
    for logits, said in (
        (torch.zeros(1, 8, dtype=torch.float64), "logits is torch.float64 \\[1, 8\\]"),
        (torch.zeros(8, 1).t().expand(1, 8)[:, ::2], "rows contiguous"),
        (torch.zeros(2, 8), "table has 1 rows of 8 tokens, expected 2 of 8"),
        (torch.zeros(1, 9), "table has 1 rows of 8 tokens, expected 1 of 9"),
        (torch.zeros(1, 0), "logits has 0 tokens"),
    ):
        with pytest.raises(ValueError, match=said):
            kernel.sample(logits, table)
    counts = torch.zeros(8)
    for row, said in (
        (kernel.Row(seed=0, position=0, repetition_penalty=1.1, answer=counts), "in_prompt is None"),
        (kernel.Row(seed=0, position=0, presence_penalty=1.0), "answer is None"),
        (kernel.Row(seed=0, position=0, presence_penalty=1.0, answer=counts[:7]), "answer is torch.float32 \\[7\\]"),
        (kernel.Row(seed=0, position=0, in_prompt=counts), "in_prompt is torch.float32"),
    ):
        with pytest.raises(ValueError, match=said):
            kernel.Table.of([row], 8, "cpu")
