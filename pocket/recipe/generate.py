"""Answers from quire's own engine, in this process: what is evaluated is what is served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...engine import messages as m
from ...engine import scheduler
from ...engine.config import EngineConfig
from ...engine.errors import RequestError
from ...engine.grammar.spec import GrammarSpec
from ...engine.guides import Guide
from ...engine.runner import Runner
from ...engine.state import Limits, State

CACHE_BYTES = 1 << 27
TOGETHER = 32  # sequences at once


class Generator:
    """One model folder, greedy."""

    def __init__(self, folder: Path, stops: Sequence[int]):
        config = EngineConfig(model=str(folder), kv_cache_memory=CACHE_BYTES, max_num_seqs=TOGETHER)
        self._runner = Runner(config, lambda done, total: None)
        ready = self._runner.ready()
        self._limits = Limits(
            max_model_len=ready.max_model_len, max_num_seqs=TOGETHER,
            max_num_batched_tokens=self._runner.step_tokens, max_waiting=1 << 20,
        )  # fmt: skip
        self._blocks = ready.num_blocks
        self._stops = tuple(stops)

    def answers(
        self, prompts: list[list[int]], max_tokens: int, grammars: Sequence[GrammarSpec | None] = ()
    ) -> list[list[int]]:
        """Ids of each answer, without the one that ended it. grammars: what binds each of them. A grammar that is
        refused leaves its answer empty. Raises RuntimeError where the engine fails on one."""
        state = State(self._limits, self._blocks, prefix_caching=True)
        for n, prompt in enumerate(prompts):
            grammar = grammars[n] if grammars else None
            room = min(max_tokens, self._limits.max_model_len - len(prompt))
            params = m.SamplingParams(
                max_tokens=room, seed=0, temperature=0.0, stop_token_ids=self._stops, grammar=grammar
            )
            try:
                guides = [Guide(self._runner.guides.compiled(grammar))] if grammar is not None else []
            except RequestError:
                continue
            scheduler.add(state, m.Generate(id=str(n), prompt=prompt, params=params), guides)
        found: list[list[int]] = [[] for _ in prompts]
        while state.has_work():
            plan = scheduler.schedule(state)
            for news in scheduler.commit(state, plan, self._runner.execute(plan)):
                if isinstance(news, m.Failed):
                    raise RuntimeError(f"prompt {news.id}: {news.message}")
                found[int(news.id)] += news.tokens
        self._runner.execute(scheduler.schedule(state))  # who left last is forgotten: the next call has the same ids
        return [ids[:-1] if ids and ids[-1] in self._stops else ids for ids in found]
