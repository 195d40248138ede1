"""Engines with and without graphs under the same load, over attention in Triton. A graph here is its launches, made
again."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import paged
import torch
from adapters import Bench, ask

from quire.engine import messages as m
from quire.engine.config import BLOCK_SIZE, Speculation
from quire.engine.graphs import graphs_of

DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
NAN = float("nan")
CONTEXT = 96
SILENT = Speculation(method="none")


class Recorded:
    """What a graph does, without CUDA: the same launches again, of what is at the same addresses then."""

    def capture(self, step: Callable[[], None]) -> None:
        step()
        step()
        self._step = step

    def replay(self) -> None:
        self._step()


def poison(monkeypatch: Any) -> None:
    """Fresh memory holds NaN, or -1."""
    empty = torch.Tensor.new_empty

    def poisoned(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        found = empty(self, *args, **kwargs)
        return found.fill_(NAN) if found.is_floating_point() else found.fill_(-1)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)


def small_model(folder: Path, layers: int = 2) -> Path:
    paged.make(
        "Llama", folder, hidden_size=32, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=layers,
        max_position_embeddings=CONTEXT,
    )  # fmt: skip
    return folder


def bench(folder: Path, graphs: bool, **fields: Any) -> Bench:
    """An engine whose pages hold NaN, on the GPU where there is one; its graphs are CUDA's then."""
    fields = {"attention": "triton", "device": str(DEVICE), "max_num_seqs": 4, **fields}
    # On a GPU torch's products of padded steps may round otherwise.
    found = Bench(folder, deterministic=fields["device"] != "cpu", **fields)
    runner = found.runner
    for x in (*runner.cache.k, *runner.cache.v):
        x[:-1] = NAN
    taps = runner.speculator.taps
    runner.graphs = None if not graphs else graphs_of(
        runner.config, runner._backend, runner.model, runner.cache, runner.max_model_len,
        partial(runner._forward, taps), len(taps), Recorded if runner.device.type == "cpu" else None,
    )  # fmt: skip
    return found


def answers(found: Bench, arrivals: list[list[m.Generate]]) -> dict[str, object]:
    """What all requests give, those of arrivals[i] arriving before step i. The page of nobody is left as it was."""
    for requests in arrivals:
        found.take(requests)
    found.run([])
    assert not found.failed
    cache = found.runner.cache
    assert not any(x[-1].any() for x in (*cache.k, *cache.v))
    return {"tokens": found.tokens, "logprobs": found.logprobs}


def workload(seed: int, count: int, longest: int = 20) -> list[list[m.Generate]]:
    """Prompts that share prefixes or not, greedy and drawn, of one answer or two."""
    chance = random.Random(seed)
    shared = [chance.randrange(3, paged.VOCAB) for _ in range(2 * BLOCK_SIZE)]
    found: list[list[m.Generate]] = []
    for i in range(count):
        found += [[] for _ in range(chance.choice([0, 0, 1, 3]))]
        own = [chance.randrange(3, paged.VOCAB) for _ in range(chance.randint(1, longest))]
        prompt = shared[: chance.choice([0, 0, 20, 32])] + own
        more: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9} if chance.random() < 0.4 else {}
        if chance.random() < 0.3:
            more["prompt_logprobs"] = 2
        n = 2 if chance.random() < 0.3 else 1
        found.append([ask(f"r{i}", prompt, tokens=chance.randint(1, 40), n=n, seed=i, **more)])
    return found


def compared(folder: Path, load: list[list[m.Generate]], **fields: Any) -> Bench:
    """Runs it without graphs and with them. Returns what ran it with them."""
    plain, graphed = (bench(folder, graphs, **fields) for graphs in (False, True))
    assert answers(plain, load) == answers(graphed, load)
    graphs, counts = graphed.runner.graphs, graphed.engine.stats()
    assert graphs is not None
    assert counts.replays > 0
    assert counts.captures == sum(graph is not None for graph in graphs._graphs.values()) > 0
    assert (plain.engine.stats().captures, plain.engine.stats().replays, plain.engine.stats().eager) == (0, 0, 0)
    return graphed
