"""What hostile grammars do to others: the gaps between the tokens of free streams, without them and while they come."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from .bound import Chat, chunks
from .load import WORDS, BenchError, percentile

Body = dict[str, Any]
LONGEST = 120.0  # seconds that a hostile request may take
STREAM_TOKENS = 1_000  # of one free answer; another follows


# ---------------------------------------------------------------- the requests


def _huge(i: int) -> Body:
    names = (f"{i}_{j}_{'x' * 40}" for j in range(1_800))
    return _schema(
        {"type": "object", "properties": {name: {"type": "integer", "minimum": j} for j, name in enumerate(names)}}
    )


def _large_enum(i: int) -> Body:
    rng = random.Random(i)
    return _schema({"enum": [f"{'ab' * 6}{rng.getrandbits(40):x}" for _ in range(8_000)]})


def _deep(i: int) -> Body:
    """Twice as large at each level."""
    found: Body = {"const": i}
    for level in range(11):
        found = {"anyOf": [{"type": "array", "items": found}, {"type": "object", "properties": {f"a{level}": found}}]}
    return _schema(found)


def _long_chain(i: int) -> Body:
    found: Body = {"type": "integer", "minimum": i}
    for _ in range(30):
        found = {"type": "object", "properties": {"a": found}, "required": ["a"], "additionalProperties": False}
    return _schema(found)


def _product(i: int) -> Body:
    """Members that multiply each other out."""
    members = [{"anyOf": [{"properties": {f"p{j}": {"const": k + i}}} for k in range(6)]} for j in range(9)]
    return _schema({"type": "object", "allOf": members})


def _many_exclusive(i: int) -> Body:
    return _schema({"oneOf": [{"properties": {"k": {"const": i + j}}, "required": ["k"]} for j in range(140)]})


def _many_patterns(i: int) -> Body:
    return _schema({"patternProperties": {f"^{j}(a|b|{i})*c{{1,40}}$": {"type": "null"} for j in range(48)}})


def _contradiction(i: int) -> Body:
    within = {f"p{j}": {"type": "integer", "minimum": i + 2, "maximum": i + 1} for j in range(300)}
    return _schema({"type": "object", "properties": within, "required": list(within)})


def _endless(i: int) -> Body:
    """No document is finite."""
    rings = {
        f"d{j}": {"type": "object", "properties": {"n": {"$ref": f"#/$defs/d{(j + 1) % 60}"}}, "required": ["n"]}
        for j in range(60)
    }
    return _schema({"$defs": rings, "$ref": "#/$defs/d0", "title": str(i)})


def _counted(i: int) -> Body:
    inner = {"type": "string", "minLength": 2, "maxLength": 4_000 + i % 900}
    return _schema({"type": "array", "items": {"type": "array", "items": inner, "maxItems": 4_900}, "minItems": 3})


def _multiples(i: int) -> Body:
    return _schema(
        {"type": "array", "items": {"type": "number", "multipleOf": 0.000123457, "minimum": i, "maximum": i + 9e9}}
    )


def _tree_at_its_end(i: int) -> Body:
    """Recursive, and its budget is small, so that every token is looked at."""
    node = {
        "type": "object",
        "properties": {
            "v": {"type": "string", "pattern": f"^(a|b{i})+z?$"},
            "l": {"$ref": "#/$defs/n"},
            "r": {"$ref": "#/$defs/n"},
            "k": {"type": "array", "items": {"$ref": "#/$defs/n"}},
        },
    }
    return {**_schema({"$defs": {"n": node}, "$ref": "#/$defs/n"}), "max_tokens": 40}


def _regex(pattern: str) -> Body:
    return {"structured_outputs": {"regex": pattern}}


EXPRESSIONS: tuple[Callable[[int], str], ...] = (
    lambda i: f"(x+x+)+y{i}",
    lambda i: f"((a{{0,300}}){{0,300}}){{0,{i % 300 + 2}}}",
    lambda i: f"[ab]*a[ab]{{{i % 20 + 12}}}c{i}",
    lambda i: f"(.*a){{{i % 10 + 14}}}{i}",
    lambda i: f".{{0,4000}}z{i}.{{0,4000}}",
    lambda i: f"(\\w+\\s?)+(\\d{{1,{i % 400 + 20}}}|é)*$",
    lambda i: "(" * 90 + f"a{i}" + ")*" * 90,
    lambda i: "|".join(f"{i}{j:x}[a-z]{{1,9}}" for j in range(1_500)),
)


def _expression(i: int) -> Body:
    return _regex(EXPRESSIONS[i % len(EXPRESSIONS)](i))


def _pattern(i: int) -> Body:
    patterns = [make(i + j) for j, make in enumerate(EXPRESSIONS)][:-1]
    return _schema(
        {"type": "object", "properties": {f"p{j}": {"type": "string", "pattern": p} for j, p in enumerate(patterns)}}
    )


def _ambiguous(i: int) -> Body:
    return {"grammar": f'root ::= root root root | "a" | "aa" | "b{i}" | root? root?'}


def _wide_rules(i: int) -> Body:
    rules = [f'r{j} ::= "{j}" r{(j * 7 + 1) % 400}? r{(j * 13 + i) % 400}? | [a-z]{{1,{j + 1}}}' for j in range(400)]
    return {"grammar": "root ::= r0\n" + "\n".join(rules)}


def _schema(schema: Body) -> Body:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


HOSTILE: tuple[Callable[[int], Body], ...] = (
    _huge, _large_enum, _deep, _long_chain, _product, _many_exclusive, _many_patterns, _contradiction, _endless,
    _counted, _multiples, _tree_at_its_end, _expression, _pattern, _ambiguous, _wide_rules,
)  # fmt: skip


def hostile(start: int) -> Iterator[tuple[str, Body]]:
    """(name of its kind, fields of a request) without end, no two alike."""
    for i in itertools.count(start):
        for make in HOSTILE:
            yield make.__name__.removeprefix("_"), {"max_tokens": 24, "seed": i, **make(i)}


def ordinary(start: int) -> Iterator[tuple[str, Body]]:
    """The same of what people ask for: a function's arguments, which end of themselves behind some 24 tokens."""
    for i in itertools.count(start):
        fields = {
            "place": {"type": "string", "maxLength": 12},
            "days": {"enum": [1, 2, i + 3]},
            "c": {"type": "boolean"},
        }
        wanted = {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}
        yield "ordinary", {"seed": i, **_schema(wanted)}


# ---------------------------------------------------------------- the gaps


@dataclass(slots=True)
class Phase:
    """Gaps in ms between tokens of the free streams, and of those that an ordinary schema binds; what became of the
    requests beside them: by status, and the slowest answer of each kind, in seconds."""

    gaps: list[float] = field(default_factory=list)
    bound: list[float] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)
    slowest: dict[str, float] = field(default_factory=dict)

    def add(self, other: Phase) -> None:
        self.gaps += other.gaps
        self.bound += other.bound
        for status, count in other.statuses.items():
            self.statuses[status] = self.statuses.get(status, 0) + count
        for kind, seconds in other.slowest.items():
            self.slowest[kind] = max(self.slowest.get(kind, 0.0), seconds)

    def rows(self, name: str) -> Iterator[Iterator[str]]:
        """Cells of the table, as HEAD names them."""
        yield self._row(name, self.gaps)
        if self.bound:
            yield self._row(f"{name}; streams of a schema", self.bound)

    def _row(self, name: str, gaps: list[float]) -> Iterator[str]:
        yield name
        yield str(len(gaps))
        yield from (f"{percentile(gaps, p):.1f}" for p in (50, 99, 100))
        served, refused = self.statuses.get("200", 0), self.statuses.get("400", 0)
        others = {status: n for status, n in self.statuses.items() if status not in ("200", "400")}
        yield f"{sum(self.statuses.values())}: {served}, {refused}, {sum(others.values())}" + (
            f" {others}" if others else ""
        )


ORDINARY: Body = {
    "type": "object",
    "properties": {
        "title": {"type": "string"}, "text": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}},
        "count": {"type": "integer"},
    },
    "required": ["title", "text", "tags", "count"],
    "additionalProperties": False,
}  # fmt: skip
HEAD = ("beside the streams", "gaps", "p50, ms", "p99, ms", "longest, ms", "requests: served, refused, else")


class Neighbours:
    """Free streams on a server, and who comes beside them. words: token ids of which answers are made, so that every
    token has text of its own and none ends an answer."""

    def __init__(self, chat: Chat, words: list[int]):
        self.chat, self.words = chat, words
        self._numbers = itertools.count()

    async def phase(
        self, seconds: float, streams: int, senders: int, requests: Iterator[tuple[str, Body]], bound: int = 0
    ) -> Phase:
        """So many free streams for so long, so many that an ordinary schema binds, and so many senders of requests,
        each of which waits for its answer."""
        found = Phase()
        until = time.perf_counter() + seconds
        free = {"allowed_token_ids": self.words, "ignore_eos": True}
        neighbours = [self._stream(until, found.gaps, free) for _ in range(streams)]
        neighbours += [self._stream(until, found.bound, _schema(ORDINARY)) for _ in range(bound)]
        await asyncio.gather(*neighbours, *(self._send(until, requests, found) for _ in range(senders)))
        return found

    async def _stream(self, until: float, gaps: list[float], fields: Body) -> None:
        while time.perf_counter() < until:
            number = next(self._numbers)
            prompt = f"{number} {' '.join(WORDS[:16])}"
            body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": STREAM_TOKENS, "seed": number}
            last: float | None = None
            tokens = 0
            async with self.chat.events({**body, **fields}) as response:
                if response.status_code != 200:
                    raise BenchError(f"a stream got HTTP {response.status_code}: {(await response.aread())[:300]!r}")
                async for chunk in chunks(response):
                    count = (chunk.get("usage") or {}).get("completion_tokens") or 0
                    if count <= tokens:
                        continue
                    now = time.perf_counter()
                    if last is not None:
                        gaps.append(1e3 * (now - last))
                    last, tokens = now, count
                    if now >= until:
                        break

    async def _send(self, until: float, requests: Iterator[tuple[str, Body]], found: Phase) -> None:
        for kind, fields in requests:
            if (began := time.perf_counter()) >= until:
                return
            body = {"model": self.chat.model, "messages": [{"role": "user", "content": "Hello"}], **fields}
            try:
                got = await self.chat.client.post(f"{self.chat.base}/chat/completions", json=body, timeout=LONGEST)
                status = str(got.status_code)
            except httpx.HTTPError as error:
                status = type(error).__name__
            found.statuses[status] = found.statuses.get(status, 0) + 1
            found.slowest[kind] = max(found.slowest.get(kind, 0.0), time.perf_counter() - began)


async def word_tokens(client: httpx.AsyncClient, base: str, model: str) -> list[int]:
    """Ids of the tokens of plain words, as the server tells them."""
    root = base.rstrip("/").removesuffix("/v1")
    got = await client.post(
        f"{root}/tokenize", json={"model": model, "prompt": " ".join(WORDS), "add_special_tokens": False}
    )
    if got.status_code != 200:
        raise BenchError(f"{root}/tokenize: HTTP {got.status_code}: {got.text[:300]}")
    return sorted(set(got.json()["tokens"]))
