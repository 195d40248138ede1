"""Greedy answers of really trained models, by every proposer and stack: those without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from draft_pair import blurred, eagle_head, untrained_heads

from quire import pocket
from quire.engine import messages as m
from quire.engine import scheduler
from quire.engine.config import EngineConfig, Speculation
from quire.engine.runner import Runner
from quire.engine.state import Limits, State

NAMES = ("Lily", "Tom", "Sue", "Max", "Mia", "Ben", "Anna", "Sam", "Zoe", "Tim")
PLACES = ("the park", "a big house", "the zoo", "a red car", "the sea", "a farm", "the shop", "bed", "a tree", "school")
DEEDS = ("saw a dog", "ate a cake", "lost a toy", "ran home", "was sad")
TOKENS = 48


def prompts(folder: Path, chat: bool, count: int) -> list[list[int]]:
    """Half of them ask for, or begin, what they have said before."""
    from tokenizers import Tokenizer

    encode = Tokenizer.from_file(str(folder / "tokenizer.json")).encode
    told = [f"{name} went to {place} and {deed}." for deed in DEEDS for place in PLACES for name in NAMES][:count]
    found = []
    for n, text in enumerate(told):
        if chat:
            asked = f"Repeat this: {text}" if n % 2 else f"Tell me about {text}"
            text = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
        else:
            text = f"{text} {text} {text[:20]}" if n % 2 else text
        found.append(([] if chat else [1]) + encode(text, add_special_tokens=False).ids)
    return found


def answers(runner: Runner, asked: list[list[int]], at_once: int, pages: int) -> dict[str, list[int]]:
    limits = Limits(max_model_len=512, max_num_seqs=at_once, max_num_batched_tokens=256, max_waiting=1000)
    state = State(limits, min(pages, runner.cache.num_blocks))
    for n, prompt in enumerate(asked):
        params = m.SamplingParams(max_tokens=TOKENS, seed=0, temperature=0.0)
        scheduler.add(state, m.Generate(id=str(n), prompt=prompt, params=params))
    found: dict[str, list[int]] = {str(n): [] for n in range(len(asked))}
    while state.has_work():
        plan = scheduler.schedule(state)
        for delta in scheduler.commit(state, plan, runner.execute(plan)):
            assert isinstance(delta, m.TokenDelta), delta
            found[delta.id] += delta.tokens
        state.check()
    return found


def check(folder: Path, chat: bool, count: int, speculation: Speculation, rooms) -> None:
    torch.set_num_threads(1)
    asked = prompts(folder, chat, count)
    sizes = {"model": str(folder), "kv_cache_memory": 2**26, "threads": 1}
    off, on = (
        Runner(EngineConfig(**sizes, speculative_config=one), lambda done, total: None)
        for one in (Speculation(method="none"), speculation)
    )
    plain = answers(off, asked, 16, 4000)
    for at_once, pages in rooms:
        assert answers(on, asked, at_once, pages) == plain, f"{at_once} at once in {pages} pages"
    accepted = on.speculator.tally.accepted
    if not speculation.adaptive:  # else the machine decides what pays
        least = 0 if "eagle3" in speculation.stack else count  # its head is random
        assert sum(map(sum, accepted.values())) >= least, "hardly anything was guessed"
        assert set(speculation.stack) <= accepted.keys() | {"suffix"}, "the prompts may have all that answers say"


def stacks(draft: str, heads: str, eagle: str) -> dict[str, Speculation]:
    """Every proposer, alone and on the others, at its own pace and always."""
    return {
        "ngram": Speculation(adaptive=False),
        "suffix": Speculation(method="suffix", adaptive=False),
        "draft_model": Speculation(model=draft, adaptive=False),
        "medusa": Speculation(method="medusa", model=heads, adaptive=False),
        "eagle3": Speculation(method="eagle3", model=eagle, adaptive=False),
        "all": Speculation(method="suffix", model=draft, adaptive=False),
        "all, as it pays": Speculation(method="suffix", model=draft),
    }


STACKS = tuple(stacks("", "", ""))
ROOMS = [(1, 4000), (16, 4000), (16, 60)]


@pytest.mark.parametrize("stack", ["as it comes", "all"])
def test_forty_answers_of_pocket(stack):
    speculation = stacks(str(pocket.DRAFT), "", "").get(stack, Speculation())
    check(pocket.FOLDER, True, 40, speculation, [(4, 4000)])


@pytest.mark.slow
@pytest.mark.parametrize("stack", STACKS)
def test_five_hundred_answers_of_pocket(stack, tmp_path):
    heads = untrained_heads(pocket.FOLDER, tmp_path / "heads", 3)
    eagle = eagle_head(pocket.FOLDER, tmp_path / "eagle")
    check(pocket.FOLDER, True, 500, stacks(str(pocket.DRAFT), str(heads), str(eagle))[stack], ROOMS)


@pytest.mark.slow
@pytest.mark.parametrize("stack", STACKS)
def test_five_hundred_answers_of_stories260k(stories, stack, tmp_path):
    """Its draft model is itself, with noise: about every second guess is right."""
    draft = blurred(stories, tmp_path / "draft", 0.1)
    heads = untrained_heads(stories, tmp_path / "heads", 3)
    eagle = eagle_head(stories, tmp_path / "eagle")
    check(stories, False, 500, stacks(str(draft), str(heads), str(eagle))[stack], ROOMS)
