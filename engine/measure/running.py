"""The engine without its process: the loop over a wire that is a list, and the times at which it gave tokens."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from .. import messages as m
from ..channel import Channel
from ..config import EngineConfig, Speculation
from ..core import Engine
from ..errors import ConfigError
from ..runner import Runner
from ..state import State
from .report import Place

SILENT = Speculation(method="none")  # random weights repeat themselves: what is guessed of that tells nothing


@dataclass(slots=True)
class Course:
    """What came of a run. times: of each frame with tokens, seconds; given: tokens of each request in it."""

    began: float
    times: list[float] = field(default_factory=list)
    given: list[dict[str, int]] = field(default_factory=list)
    tokens: dict[str, list[int]] = field(default_factory=dict)  # of each request

    def whole(self, count: int) -> list[float]:
        """Seconds from one frame to the next, where both gave a token to `count` requests or more."""
        full = [len(given) >= count for given in self.given]
        pairs = zip(self.times, self.times[1:], full, full[1:], strict=False)
        return [b - a for a, b, x, y in pairs if x and y]

    def gaps(self, requests: Iterable[str], begin: float, end: float) -> list[float]:
        """Seconds between two tokens of one request, of those that came in between."""
        wanted, last, found = set(requests), dict[str, float](), []
        for at, given in zip(self.times, self.given, strict=True):
            for name in wanted & given.keys():
                if name in last and begin < at <= end:
                    found.append(at - last[name])
                last[name] = at
        return found

    def when(self, request: str, count: int) -> float:
        """When it had so many tokens."""
        had = 0
        for at, given in zip(self.times, self.given, strict=True):
            had += given.get(request, 0)
            if had >= count:
                return at
        raise RuntimeError(f"{request} has {had} tokens, not {count}")


class Wire:
    """The other end of the engine's channel: requests go in at once, later ones when `more` gives them after a frame;
    when nothing runs any more, or `end` (seconds, as perf_counter has them) is over, it shuts the engine down."""

    def __init__(
        self, requests: list[m.Generate], end: float, more: Callable[[Course], list[m.ToEngine]] | None = None
    ):
        self.course = Course(time.perf_counter())
        self._inbox: list[m.ToEngine] = list(requests)
        self._open = {request.id for request in requests}
        self._end, self._more, self._over = end, more, False

    def receive(self, wait: int = 0) -> list[m.ToEngine]:
        if not self._over and time.perf_counter() > self._end:
            self._over = True
            self._inbox = [m.Abort(name) for name in sorted(self._open)]
        found, self._inbox = self._inbox, []
        return found if found or wait >= 0 else [m.Shutdown()]

    def send(self, out: Iterable[m.FromEngine]) -> None:
        at, given = time.perf_counter(), dict[str, int]()
        for news in out:
            if isinstance(news, m.Failed):
                raise RuntimeError(f"{news.id} failed: {news.message}")
            if isinstance(news, m.TokenDelta):
                if news.tokens:
                    given[news.id] = given.get(news.id, 0) + len(news.tokens)
                    self.course.tokens.setdefault(news.id, []).extend(news.tokens)
                if news.finish is not None:
                    self._open.discard(news.id)
        if given:
            self.course.times.append(at)
            self.course.given.append(given)
        if self._more is not None and not self._over:
            asked = self._more(self.course)
            self._open |= {request.id for request in asked if isinstance(request, m.Generate)}
            self._inbox += asked


class Bench:
    """A model, and its engine. `fields` are those of EngineConfig."""

    def __init__(self, place: Place, model: str, **fields: Any):
        free()  # what an earlier one that failed has left
        known = EngineConfig.__struct_fields__
        for name in fields:
            if name not in known:
                raise ConfigError(name, "is not a setting of this engine", "a later version")
        fields = {"attention": "triton" if place.cuda else "auto", "speculative_config": SILENT} | fields
        config = EngineConfig(model=str(place.models / model), device=str(place.device), **fields)
        self.runner = Runner(config, lambda done, total: None)
        self.config = config
        self.seed = 0
        gc.collect()
        gc.freeze()  # as the engine's process does: no collection looks at the model in mid-step

    def run(
        self,
        requests: list[m.Generate],
        *,
        seconds: float = 1e9,
        more: Callable[[Course], list[m.ToEngine]] | None = None,
    ) -> Course:
        """With pages that are all free. seconds: then what still runs is dropped."""
        ready = self.runner.ready()
        wire = Wire(requests, time.perf_counter() + seconds, more)
        channel = cast("Channel[m.ToEngine, m.FromEngine]", wire)
        Engine(self.runner, State(self.runner.limits(), ready.num_blocks, self.config.prefix_caching), channel).run()
        return wire.course

    def asked(self, count: int, prompt: int, answer: int, name: str = "", **more: Any) -> list[m.Generate]:
        """Requests with prompts of their own, never the same twice."""
        self.seed += 1
        made = (random_prompt(prompt, self.runner.model.vocab_size, f"{self.seed} {i}") for i in range(count))
        params = m.SamplingParams(max_tokens=answer, seed=self.seed, **({"temperature": 0.0} | more))
        return [m.Generate(id=f"{name}{self.seed}-{i}", prompt=one, params=params) for i, one in enumerate(made)]

    def step_seconds(self, count: int, prompt: int, answer: int, **more: Any) -> float:
        """The median time of a step that gives a token to each of `count` requests, once it is warm."""
        found = self.run(self.asked(count, prompt, answer, **more)).whole(count)
        return statistics.median(found[len(found) // 4 :])

    def close(self) -> None:
        """Give its memory back."""
        del self.runner
        free()


def free() -> None:
    gc.unfreeze()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def random_prompt(length: int, vocab: int, seed: object) -> list[int]:
    chance = random.Random(str(seed))
    return [chance.randrange(3, vocab) for _ in range(length)]
