"""Guesses in a batch of several adapters: each row of a slice goes through the slice's own."""

from __future__ import annotations

from random import Random

import pytest
from adapters import Bench, ask, encoded, make_adapter

from quire import pocket
from quire.engine.config import Speculation

MODULES = (["q_proj", "v_proj", "down_proj"], ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj"])
TOKENS = 32


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {
        f"a{i}": make_adapter(
            pocket.FOLDER, tmp_path_factory.mktemp(f"a{i}"), i, r=rank, lora_alpha=2 * rank, target_modules=modules
        )
        for i, (rank, modules) in enumerate(zip((4, 16, 40), MODULES, strict=True))
    }


def asked(bench: Bench, folders) -> Bench:
    """All adapters and the base, greedy and sampled, at once."""
    for name, folder in folders.items():
        bench.load(name, folder)
    requests = []
    for n, uses in enumerate(([], *([(name, 1.0)] for name in folders), [("a0", 0.5), ("a2", 1.5)])):
        prompt = encoded(
            pocket.FOLDER, "<|im_start|>user\nTell me a story about the sea.<|im_end|>\n<|im_start|>assistant\n"
        )
        for temperature in (0.0, 1.0):
            name = f"{n} {temperature}"
            requests.append(ask(name, prompt, *uses, tokens=TOKENS, temperature=temperature))
    bench.run(requests)
    return bench


@pytest.fixture(scope="module")
def plain(folders):
    return asked(Bench(pocket.FOLDER, speculative_config=Speculation(method="none")), folders)


@pytest.mark.parametrize("right", [1.0, 0.6])
def test_the_answers_are_those_without_guesses(folders, plain, monkeypatch, right):
    bench = Bench(pocket.FOLDER, speculative_config=Speculation(adaptive=False))
    random, made = Random(str(right)), []

    def drafts(seq, new, known, count) -> tuple[list[int], int]:
        place = seq.generated + len(new)
        guess = plain.tokens[seq.request][place : place + random.randrange(7)]
        made.extend(guess)
        return [t if random.random() < right else random.randrange(300, 900) for t in guess][:count], 0

    monkeypatch.setattr(bench.runner.speculator, "proposers", [("ngram", drafts)])
    asked(bench, folders)
    assert bench.tokens == plain.tokens
    assert len(made) > 100
    greedy = {tuple(tokens) for name, tokens in plain.tokens.items() if name.endswith(" 0.0")}
    assert len(greedy) > 2, "adapters change the answer"
