"""One workload against one server: requests that stream, a fixed number of them in flight.

Time to first token is from sending the request to its first text; inter-token latency is the time between two pieces
of text that carry a token. Tokens are counted by the server's `usage`, and by the pieces of text where it gives none.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import httpx

WORDS = (
    "amber basin candle delta ember forest garden harbor island jungle kettle lantern meadow needle orchard pebble "
    "quarry river saddle timber umbrella valley window yellow zipper anchor bridge copper dragon engine feather glacier"
).split()


WARM_UP_TOKENS = 8


class BenchError(Exception):
    """The server cannot be measured; the message says why."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked of the server. Lengths are tokens."""

    concurrency: int
    requests: int
    prompt_tokens: int = 128
    shared_tokens: int = 0  # of the prompt: the same for all requests
    max_tokens: int = 64
    temperature: float = 0.0
    ignore_eos: bool = False
    seed: int = 0


@dataclass(slots=True)
class Answer:
    """One request's course. Times are seconds on one clock."""

    began: float
    pieces: list[float] = field(default_factory=list)  # when each piece of text came
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Measure:
    """What a workload gave. Milliseconds where the name says so, else seconds and tokens."""

    concurrency: int
    requests: int
    wall_s: float
    prompt_tokens_mean: float
    cached_tokens: int
    output_tokens_mean: float
    output_tok_s: float
    ttft_ms_p50: float
    ttft_ms_p99: float
    itl_ms_p50: float
    itl_ms_p99: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Prompts:
    """Distinct prompts of a wanted length, by a rate of tokens a word that one trial request measures."""

    def __init__(self, work: Work, tokens_per_word: float):
        self.rng = random.Random(work.seed)
        self.rate = tokens_per_word
        self.own = work.prompt_tokens - work.shared_tokens
        self.shared = self.words(work.shared_tokens)

    def words(self, tokens: int) -> str:
        return " ".join(self.rng.choices(WORDS, k=round(tokens / self.rate)))

    def __iter__(self) -> Iterator[str]:
        """Without end. Each begins, after what is shared, with a number of its own, so that no cache can know it."""
        while True:
            yield f"{self.shared} {self.rng.randrange(10**8):08d} {self.words(max(1, self.own - 9))}".strip()


class Server:
    """An OpenAI-compatible server: `base` is its address with /v1."""

    def __init__(self, client: httpx.AsyncClient, base: str, model: str):
        self.client = client
        self.base = base.rstrip("/")
        self.model = model

    async def measure(self, work: Work) -> Measure:
        """Run `work` with short answers to warm up, then in earnest. Raises BenchError if a request fails."""
        prompts = iter(await self._prompts(work))
        await self._run(replace(work, max_tokens=min(work.max_tokens, WARM_UP_TOKENS)), prompts)
        return await self._run(work, prompts)

    async def _run(self, work: Work, prompts: Iterator[str]) -> Measure:
        queue = [next(prompts) for _ in range(work.requests)][::-1]
        answers: list[Answer] = []

        async def stream() -> None:
            while queue:
                answers.append(await self._ask(queue.pop(), work))

        began = time.perf_counter()
        await asyncio.gather(*(stream() for _ in range(min(work.concurrency, work.requests))))
        return summarize(work, answers, time.perf_counter() - began)

    async def _prompts(self, work: Work) -> Prompts:
        """Prompts of the wanted length as this server counts it, by what it says of three trial requests."""
        prompts = Prompts(work, await self._tokens_per_word(work))
        trial = await self._ask(next(iter(prompts)), Work(1, 1, max_tokens=2))
        prompts.own += work.prompt_tokens - trial.prompt_tokens
        return prompts

    async def _tokens_per_word(self, work: Work) -> float:
        """Two prompts of known words; what the server counts more for the longer one, by its extra words."""
        sizes = (10, 50)
        rng = random.Random(work.seed + 1)
        counts = []
        for size in sizes:
            text = " ".join(rng.choices(WORDS, k=size))
            counts.append((await self._ask(text, Work(1, 1, max_tokens=2))).prompt_tokens)
        return (counts[1] - counts[0]) / (sizes[1] - sizes[0]) or 1.0

    async def _ask(self, prompt: str, work: Work) -> Answer:
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": prompt,
            "max_tokens": work.max_tokens,
            "temperature": work.temperature,
            "seed": work.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if work.ignore_eos:
            body["ignore_eos"] = True
        answer = Answer(time.perf_counter())
        async with self.client.stream("POST", f"{self.base}/completions", json=body) as response:
            if response.status_code != 200:
                raise BenchError(f"{self.base}: HTTP {response.status_code}: {(await response.aread())[:500]!r}")
            async for line in response.aiter_lines():
                if line.startswith("data:") and (data := line[5:].strip()) != "[DONE]":
                    take(answer, json.loads(data))
        if not answer.pieces:
            raise BenchError(f"{self.base}: a stream ended without any text")
        answer.output_tokens = answer.output_tokens or len(answer.pieces)
        return answer


def take(answer: Answer, chunk: dict[str, Any]) -> None:
    """Note what one event of a stream says."""
    if chunk.get("error"):
        raise BenchError(f"the server sent an error in mid-stream: {chunk['error']}")
    if any(choice.get("text") for choice in chunk.get("choices") or ()):
        answer.pieces.append(time.perf_counter())
    if usage := chunk.get("usage"):
        answer.prompt_tokens = usage.get("prompt_tokens") or 0
        answer.output_tokens = usage.get("completion_tokens") or 0
        answer.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0


def summarize(work: Work, answers: list[Answer], wall: float) -> Measure:
    first = [1e3 * (a.pieces[0] - a.began) for a in answers]
    gaps = [1e3 * (b - a) for answer in answers for a, b in zip(answer.pieces, answer.pieces[1:], strict=False)]
    output = sum(a.output_tokens for a in answers)
    return Measure(
        concurrency=work.concurrency,
        requests=len(answers),
        wall_s=wall,
        prompt_tokens_mean=statistics.fmean(a.prompt_tokens for a in answers),
        cached_tokens=sum(a.cached_tokens for a in answers),
        output_tokens_mean=output / len(answers),
        output_tok_s=output / wall,
        ttft_ms_p50=percentile(first, 50),
        ttft_ms_p99=percentile(first, 99),
        itl_ms_p50=percentile(gaps, 50),
        itl_ms_p99=percentile(gaps, 99),
    )


def percentile(values: list[float], p: float) -> float:
    """Linear between the two nearest; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    place = (len(ordered) - 1) * p / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
