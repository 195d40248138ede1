"""The law of sampled answers is the model's own, whoever guesses: counts of whole answers against their exact
probabilities."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
import torch
from draft_pair import blurred, eagle_head, untrained_heads

from quire.engine import messages as m
from quire.engine import scheduler
from quire.engine.config import EngineConfig, Speculation
from quire.engine.runner import Runner
from quire.engine.state import Limits, State

VOCAB, LENGTH = 6, 4
PROMPT = [1, 2, 3, 4, 1, 2, 3, 4, 1, 2]
TEMPERATURE, TOP_P = 1.8, 0.95


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A Llama of six tokens, random, far from uniform."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=False, initializer_range=0.6,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("law") / "model"
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def law(model) -> dict[tuple[int, ...], float]:
    """The probability of each answer, by transformers and a plain nucleus."""
    from transformers import LlamaForCausalLM

    reference = LlamaForCausalLM.from_pretrained(model, dtype=torch.float32)
    answers = list(product(range(VOCAB), repeat=LENGTH))
    with torch.inference_mode():
        logits = reference(torch.tensor([PROMPT + list(answer) for answer in answers])).logits
    found = {}
    for answer, rows in zip(answers, logits[:, len(PROMPT) - 1 : -1].double(), strict=True):
        chance = 1.0
        for token, row in zip(answer, rows, strict=True):
            p = (row / TEMPERATURE).softmax(-1)
            ordered = p.sort(descending=True).values
            before = ordered.cumsum(-1) - ordered
            least = ordered[int((before < TOP_P).sum()) - 1]
            kept = torch.where(p >= least, p, 0)
            chance *= float(kept[token] / kept.sum())
        found[answer] = chance
    assert sum(found.values()) == pytest.approx(1)
    return found


def drawn(runner: Runner, count: int, prediction: tuple[int, ...] = ()) -> Counter:
    """Answers of so many seeds."""
    state = State(Limits(32, 128, 4096, count), runner.cache.num_blocks)
    found: dict[str, list[int]] = {}
    for seed in range(count):
        params = m.SamplingParams(max_tokens=LENGTH, seed=seed, temperature=TEMPERATURE, top_p=TOP_P)
        request = m.Generate(id=str(seed), prompt=PROMPT, params=params, prediction=prediction)
        scheduler.add(state, request)
        found[request.id] = []
    while state.has_work():
        plan = scheduler.schedule(state)
        for delta in scheduler.commit(state, plan, runner.execute(plan)):
            assert isinstance(delta, m.TokenDelta), delta
            found[delta.id] += delta.tokens
    return Counter(map(tuple, found.values()))


def check(counts: Counter, law: dict[tuple[int, ...], float]) -> None:
    """Chi-square over the answers that are to be expected five times, the others together; a right sampler fails in
    one of 10,000 runs, were the seeds others."""
    total = counts.total()
    assert all(law[answer] > 0 for answer in counts)
    often = [answer for answer, p in law.items() if p * total >= 5]
    pairs = [(counts[answer], law[answer] * total) for answer in often]
    rest = total - sum(found for found, _ in pairs), total - sum(expected for _, expected in pairs)
    pairs += [rest] if rest[1] >= 5 else []
    statistic, degrees = sum((found - wanted) ** 2 / wanted for found, wanted in pairs), len(pairs) - 1
    assert degrees > 30
    assert (statistic - degrees) / math.sqrt(2 * degrees) < 4
    distance = sum(abs(counts[answer] / total - p) for answer, p in law.items()) / 2
    assert distance < math.sqrt(len(law) / total), "total variation of so many draws is about half of it"


def runner_of(model: Path, speculation: Speculation) -> Runner:
    torch.set_num_threads(1)
    config = EngineConfig(model=str(model), kv_cache_memory=1 << 22, threads=1, speculative_config=speculation)
    return Runner(config, lambda done, total: None)


def run(model: Path, law, proposer: str, count: int, tmp_path: Path) -> None:
    more = None
    if proposer == "draft_model":
        more = str(blurred(model, tmp_path / "draft", 0.4))
    elif proposer == "medusa":  # the only one whose guesses are trees
        more = str(untrained_heads(model, tmp_path / "heads", 2))
    elif proposer == "eagle3":
        more = str(eagle_head(model, tmp_path / "head"))
    method = {"off": "none", "suffix": "suffix", "medusa": "medusa", "eagle3": "eagle3"}.get(proposer)
    runner = runner_of(model, Speculation(method=method, model=more, adaptive=False))
    speculator = runner.speculator
    speculator.proposers = [(name, ask) for name, ask in speculator.proposers if name == proposer]
    likely = max(law, key=lambda answer: law[answer])
    counts = drawn(runner, count, likely if proposer == "prediction" else ())
    check(counts, law)
    if proposer != "off":
        drafted, accepted = sum(speculator.tally.drafted[proposer]), sum(speculator.tally.accepted[proposer])
        assert 0.03 * drafted < accepted < 0.95 * drafted
        assert drafted > count / 10


PROPOSERS = ("off", "prediction", "ngram", "suffix", "draft_model", "medusa", "eagle3")


@pytest.mark.parametrize("proposer", ["draft_model", "medusa"])
def test_the_law_of_twelve_thousand_draws(model, law, proposer, tmp_path):
    run(model, law, proposer, 3000, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("proposer", PROPOSERS)
def test_the_law_of_a_hundred_and_twenty_thousand_draws(model, law, proposer, tmp_path):
    run(model, law, proposer, 30_000, tmp_path)
