"""Answers that a grammar binds beside free ones: what is asked, and how fast its tokens come.

Of each prompt the bound answer comes first; the free one then has as many tokens. The rate is that of decoding: tokens
behind the first piece of an answer over the time they took, summed over the answers that are written at once. What a
grammar forces before the first piece does not count in it; it does in the time of whole requests, where its compiling
counts too.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from .load import WORDS, BenchError

Body = dict[str, Any]
PROMPT_WORDS = 24
FAR = 500  # tokens behind what is read; every ending of DOCUMENT has fewer bytes
DOCUMENT: Body = {  # never complete before its budget ends it: neither its list nor a random model's strings are short
    "type": "object",
    "properties": {
        "title": {"type": "string", "minLength": 20},
        "chapters": {
            "type": "array",
            "minItems": 3,
            "items": {
                "type": "object",
                "properties": {"head": {"type": "string"}, "lines": {"type": "array", "items": {"type": "string"}}},
                "required": ["head", "lines"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["title", "chapters"],
    "additionalProperties": False,
}
FUNCTIONS: list[Body] = [  # where no file of tools is given: as strict function schemas are
    {"name": "get_weather_forecast", "parameters": {"type": "object", "properties": {
        "location": {"type": "string", "maxLength": 24}, "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 14}}, "required": ["location", "unit", "days"],
        "additionalProperties": False}},
    {"name": "book_restaurant_table", "parameters": {"type": "object", "properties": {
        "restaurant_name": {"type": "string", "maxLength": 24}, "number_of_guests": {"type": "integer"},
        "date_and_time": {"type": "string", "format": "date-time"}},
        "required": ["restaurant_name", "number_of_guests", "date_and_time"], "additionalProperties": False}},
    {"name": "convert_currency", "parameters": {"type": "object", "properties": {
        "amount": {"type": "number"}, "from_currency": {"enum": ["EUR", "USD", "GBP"]},
        "to_currency": {"enum": ["EUR", "USD", "GBP"]}}, "required": ["amount", "from_currency", "to_currency"],
        "additionalProperties": False}},
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Workload:
    """bound, free: for each prompt the bodies of its two requests, but for model and number of tokens. max_tokens: of
    the bound one. leave: tokens after which the client goes, None: it stays to the end."""

    name: str
    bound: tuple[Body, ...]
    free: tuple[Body, ...]
    max_tokens: int
    leave: int | None = None


@dataclass(slots=True)
class Answer:
    """One answer's course: (seconds on one clock, tokens so far) at each piece."""

    pieces: list[tuple[float, int]] = field(default_factory=list)
    forced: int = 0

    @property
    def tokens(self) -> int:
        return self.pieces[-1][1] if self.pieces else 0

    @property
    def decoded(self) -> tuple[int, float]:
        """Tokens behind the first piece, and the seconds they took."""
        (began, first), (ended, last) = self.pieces[0], self.pieces[-1]
        return last - first, ended - began


@dataclass(frozen=True, slots=True)
class Pair:
    """One round: tokens/s of decoding, free and bound; seconds of all requests; of the bound answers how many tokens
    they had and how many of those were forced (told of those only that were read to the end)."""

    free: float
    bound: float
    free_seconds: float
    bound_seconds: float
    tokens: int
    forced: int
    answers: int

    @property
    def ratio(self) -> float:
        return self.bound / self.free


# ---------------------------------------------------------------- what is asked


def prompts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=PROMPT_WORDS)) for _ in range(count)]


def _asked(prompt: str, number: int, **more: Any) -> Body:
    return {"messages": [{"role": "user", "content": prompt}], "temperature": 1.0, "seed": number, **more}


def documents(count: int, tokens: int, *, roomy: bool) -> Workload:
    """roomy: the budget ends far behind what is read; else it ends the answer."""
    schema = {"type": "json_schema", "json_schema": {"name": "document", "schema": DOCUMENT}}
    asked = [_asked(prompt, i) for i, prompt in enumerate(prompts(count, 1))]
    return Workload(
        "document, far from its budget's end" if roomy else "document, ended by its budget",
        tuple({**body, "response_format": schema} for body in asked),
        tuple(asked),
        max_tokens=tokens + FAR if roomy else tokens,
        leave=tokens if roomy else None,
    )


def calls(count: int, tokens: int, tools: Sequence[Sequence[Body]]) -> Workload:
    """One call that must be, of one of each set of functions; free: the same prompt, with the functions in it."""
    bound, free = [], []
    for i, prompt in enumerate(prompts(count, 2)):
        declared = [{"type": "function", "function": function} for function in tools[i % len(tools)]]
        asked = _asked(prompt, i, tools=declared)
        bound.append({**asked, "tool_choice": "required", "parallel_tool_calls": False})
        free.append({**asked, "tool_choice": "none"})
    return Workload("function calls", tuple(bound), tuple(free), max_tokens=tokens)


def read_tools(path: Path | None, count: int) -> list[list[Body]]:
    """Sets of functions: of the first lines of a .jsonl or .jsonl.gz file whose objects have `tools`, each a function
    or one under "function"; without a file those in here. Raises BenchError."""
    if path is None:
        return [FUNCTIONS[i:] + FUNCTIONS[:i] for i in range(len(FUNCTIONS))]
    found: list[list[Body]] = []
    try:
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
            for line in lines:
                tools = json.loads(line).get("tools")
                if tools:
                    found.append([tool.get("function", tool) for tool in tools])
                if len(found) == count:
                    break
    except (OSError, ValueError, AttributeError) as error:
        raise BenchError(f"{path}: cannot be read as JSON lines with tools ({error})") from error
    if not found:
        raise BenchError(f"{path}: no line has tools")
    return found


# ---------------------------------------------------------------- how fast it comes


class Chat:
    """Streams of /v1/chat/completions. base: the address with /v1."""

    def __init__(self, client: httpx.AsyncClient, base: str, model: str):
        self.client, self.base, self.model = client, base.rstrip("/"), model

    def events(self, body: Body) -> Any:
        options = {"include_usage": True, "continuous_usage_stats": True}
        body = {**body, "model": self.model, "stream": True, "stream_options": options}
        return self.client.stream("POST", f"{self.base}/chat/completions", json=body)

    async def ask(self, body: Body, leave: int | None = None) -> Answer:
        """Raises BenchError where it is not answered to the end, or up to `leave` tokens."""
        answer = Answer()
        async with self.events(body) as response:
            if response.status_code != 200:
                raise BenchError(f"{self.base}: HTTP {response.status_code}: {(await response.aread())[:500]!r}")
            async for chunk in chunks(response):
                _take(answer, chunk)
                if leave is not None and answer.tokens >= leave:
                    break
        if not answer.pieces:
            raise BenchError(f"{self.base}: a stream ended without usage; continuous_usage_stats has to be known")
        return answer

    async def all_of(self, bodies: Sequence[Body], concurrency: int, leave: int | None) -> list[Answer]:
        """Answers in the order of the bodies, so many at once."""
        answers: list[Answer] = [Answer()] * len(bodies)
        left = iter(enumerate(bodies))

        async def one() -> None:
            for i, body in left:
                answers[i] = await self.ask(body, leave)

        await asyncio.gather(*(one() for _ in range(min(concurrency, len(bodies)))))
        return answers

    async def pair(self, work: Workload, concurrency: int) -> Pair:
        """One round of a workload: bound, then free with as many tokens."""
        bodies = [{**body, "max_tokens": work.max_tokens} for body in work.bound]
        began = time.perf_counter()
        bound = await self.all_of(bodies, concurrency, work.leave)
        between = time.perf_counter()
        bodies = [
            {**body, "max_tokens": answer.tokens, "ignore_eos": True}
            for body, answer in zip(work.free, bound, strict=True)
        ]
        free = await self.all_of(bodies, concurrency, None)
        ended = time.perf_counter()
        at_once = min(concurrency, len(bodies))
        tokens, forced = sum(a.tokens for a in bound), sum(a.forced for a in bound)
        speeds = at_once * rate(free), at_once * rate(bound)
        return Pair(*speeds, ended - between, between - began, tokens, forced, len(bound))


async def chunks(response: httpx.Response) -> Any:
    """The objects of a stream. Raises BenchError where one is an error."""
    async for line in response.aiter_lines():
        if line.startswith("data:") and (data := line[5:].strip()) != "[DONE]":
            chunk = json.loads(data)
            if chunk.get("error"):
                raise BenchError(f"the server sent an error in mid-stream: {chunk['error']}")
            yield chunk


def _take(answer: Answer, chunk: Body) -> None:
    usage = chunk.get("usage") or {}
    tokens = usage.get("completion_tokens") or 0
    if tokens > answer.tokens:
        answer.pieces.append((time.perf_counter(), tokens))
    answer.forced = (usage.get("completion_tokens_details") or {}).get("forced_tokens") or 0


def rate(answers: Sequence[Answer]) -> float:
    """Tokens/s of one stream, over all answers."""
    tokens = sum(answer.decoded[0] for answer in answers)
    seconds = sum(answer.decoded[1] for answer in answers)
    return tokens / seconds if seconds else 0.0


def sized(work: Workload, count: int) -> Workload:
    """The same with the first `count` prompts only."""
    return replace(work, bound=work.bound[:count], free=work.free[:count])


@dataclass(frozen=True, slots=True)
class Result:
    """A workload at one concurrency, its rounds in order."""

    name: str
    concurrency: int
    rounds: tuple[Pair, ...]

    def row(self) -> Iterator[str]:
        """Cells of the table, as HEAD names them."""
        ratios = [pair.ratio for pair in self.rounds]
        tokens, forced = sum(p.tokens for p in self.rounds), sum(p.forced for p in self.rounds)
        yield self.name
        yield str(self.concurrency)
        yield f"{statistics.median(pair.free for pair in self.rounds):.1f}"
        yield f"{statistics.median(pair.bound for pair in self.rounds):.1f}"
        yield f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        yield f"{statistics.median(p.free_seconds / p.bound_seconds for p in self.rounds):.3f}"
        yield f"{tokens / sum(p.answers for p in self.rounds):.0f}"
        yield f"{forced / tokens:.1%}" if tokens else "-"


HEAD = (
    "workload", "at once", "free, tokens/s", "bound, tokens/s", "bound / free, by token", "by request",
    "tokens an answer", "forced",
)  # fmt: skip
