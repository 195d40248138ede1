"""The engine without its process: requests in, answers as tokens and text out."""

from __future__ import annotations

import functools
import json
from pathlib import Path

from guides import LocalLink

from quire.engine import messages as m
from quire.engine import scheduler
from quire.engine.config import EngineConfig
from quire.engine.grammar.desk import Desk
from quire.engine.grammar.spec import GrammarSpec
from quire.engine.grammar.vocabulary import Vocabulary
from quire.engine.guides import Guide
from quire.engine.runner import Runner
from quire.engine.state import Limits, State


def local_runner(folder: Path, **fields) -> Runner:
    """One that follows its grammars in this process, on one thread."""
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    desk = Desk(lambda: Vocabulary.load(folder, size), size)
    config = EngineConfig(model=str(folder), kv_cache_memory=1 << 22, threads=1, **fields)
    return Runner(config, lambda done, total: None, LocalLink(desk))


@functools.cache
def vocabulary_of(runner: Runner) -> Vocabulary:
    return Vocabulary.load(Path(runner.config.model), runner.model.vocab_size)


class Place:
    """`add` requests, `run` until all have ended; `answers` and the `ends` of those, by (name, index)."""

    def __init__(self, runner: Runner, *, pages: int = 200, budget: int = 64):
        self.runner = runner
        self.state = State(Limits(512, 32, budget, 999), min(pages, runner.cache.num_blocks))
        self.answers: dict[tuple[str, int], list[int]] = {}
        self.deltas: dict[tuple[str, int], list[m.TokenDelta]] = {}
        self.ends: dict[tuple[str, int], m.TokenDelta] = {}
        self.failed: dict[str, m.Failed] = {}

    def add(
        self,
        name: str,
        spec: GrammarSpec | None,
        budget: int,
        *,
        seed: int = 0,
        n: int = 1,
        prompt=(),
        prediction=(),
        **more,
    ) -> None:
        eos = vocabulary_of(self.runner).eos_ids
        params = m.SamplingParams(max_tokens=budget, seed=seed, stop_token_ids=eos, grammar=spec, **more)
        request = m.Generate(
            id=name, prompt=list(prompt) or [3 + seed % 50, 5, 8], params=params, n=n, prediction=prediction
        )
        bound = spec is not None or params.thought is not None
        grammar = self.runner.guides.compiled(spec) if spec is not None else None
        guide = lambda: Guide(grammar, params.grammar_after, params.thought)  # noqa: E731
        scheduler.add(self.state, request, [guide() for _ in range(n)] if bound else [])

    def run(self) -> Place:
        while self.state.has_work():
            plan = scheduler.schedule(self.state)
            self.take_in(scheduler.commit(self.state, plan, self.runner.execute(plan)))
            self.state.check()
        self.runner.execute(scheduler.schedule(self.state))  # it hears who left
        return self

    def take_in(self, found: list[m.TokenDelta | m.Failed]) -> None:
        for news in found:
            if isinstance(news, m.Failed):
                self.failed[news.id] = news
                continue
            key = (news.id, news.index)
            self.answers.setdefault(key, []).extend(news.tokens)
            self.deltas.setdefault(key, []).append(news)
            if news.finish:
                self.ends[key] = news

    def figures(self, key: tuple[str, int]) -> tuple[float | None, float | None, int] | None:
        """What the grammar of an answer did to it."""
        guided = self.ends[key].guided
        return None if guided is None else (guided.lowest, guided.mean, guided.forced)

    def text(self, name: str, index: int = 0) -> str:
        eos = set(vocabulary_of(self.runner).eos_ids)
        tokens = [t for t in self.answers[name, index] if t not in eos]
        return vocabulary_of(self.runner).spell(tokens).decode()
