"""Random weights, random schemas and tools: every answer of a real server is whole and valid, from the shortest on."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import tool_models
from random_schemas import complaint, keywords, random_schema, random_tools, schema_of

from quire.engine.grammar.keywords import ENFORCED

AT_ONCE = 16  # cases
SHORTEST = re.compile(r"the shortest answer that the grammar allows has (\d+)")
FEW, MANY = {"schema": 14, "tools": 2}, {"schema": 700, "tools": 100}  # cases; of tools for each of MODELS
MODELS = {  # name: (format, its tags are control tokens)
    "hermes": ("hermes", False),
    "hermes-control": ("hermes", True),
    "mistral-control": ("mistral", True),
}
Body = dict[str, Any]


@dataclass
class Served:
    """A server of one of MODELS. tags: its tags by token id; closers: tokens that end what is open in JSON."""

    url: str
    tags: dict[str, int]
    closers: list[int]
    control: bool


@dataclass
class Tally:
    """What came of all cases. wrong: what must not be; each says how to repeat it."""

    wrong: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    def note(self, *events: str) -> None:
        self.seen.update(events)


class Case:
    """One seed against one server: its requests, and what is said of their answers."""

    def __init__(self, served: Served, client: httpx.AsyncClient, seed: int, tally: Tally):
        self.served, self.client, self.seed, self.tally = served, client, seed, tally
        self.pick = random.Random(seed)

    async def post(self, body: Body) -> httpx.Response:
        return await self.client.post(f"{self.served.url}/v1/chat/completions", json=body)

    def sampled(self, body: Body, budget: int) -> Body:
        """With a budget and random settings; some make a model end what it opened sooner, or call more often."""
        pick = self.pick
        bias: dict[str, float] = {}
        if pick.random() < 0.5:
            bias |= {str(token): pick.choice([2.0, 5.0]) for token in self.served.closers}
        if "tools" in body:
            opener = next(iter(self.served.tags.values()))
            bias[str(opener)] = pick.choice([0.0, 4.0, 100.0])
        asked = {"max_tokens": budget, "seed": pick.getrandbits(32), "n": pick.choice([1, 1, 1, 2]), "logit_bias": bias}
        return {**body, **asked, "temperature": pick.choice([0.0, 1.0, 1.0, 3.0])}

    async def shortest(self, body: Body) -> int | None:
        """Tokens of the shortest answer, as the refusal of a budget of 1 says; 1 where that is none; None where the
        request is refused for its schema, which has to be said by name."""
        got = await self.post({**body, "max_tokens": 1})
        if got.status_code == 200:
            return 1
        error = got.json()["error"]
        if got.status_code == 400 and error["param"] == "max_tokens" and (found := SHORTEST.search(error["message"])):
            return int(found[1])
        if got.status_code == 400 and error["code"] == "invalid_grammar" and error["param"] in error["message"]:
            self.tally.note("refused")
        else:
            self.wrong(body, f"HTTP {got.status_code}: {got.text[:500]}")
        return None

    def wrong(self, body: Body, why: str) -> None:
        self.tally.wrong.append(f"seed {self.seed}: {why}\n  asked {json.dumps(body, ensure_ascii=False)}")

    def budgets(self, shortest: int) -> list[int]:
        return [shortest, shortest + self.pick.randint(1, 4), shortest + self.pick.randint(5, 80)]

    async def choices(self, body: Body) -> list[Body]:
        got = await self.post(body)
        if got.status_code != 200:
            self.wrong(body, f"HTTP {got.status_code}: {got.text[:500]}")
            return []
        answer = got.json()
        if answer["usage"]["completion_tokens"] > body["max_tokens"] * body["n"]:
            self.wrong(body, f"{answer['usage']} is beyond the budget")
        if answer["usage"]["completion_tokens_details"]["forced_tokens"]:
            self.tally.note("forced")
        for choice in answer["choices"]:
            self.tally.note("answers", choice["finish_reason"])
        return answer["choices"]

    # ------------------------------------------------------------ a schema

    async def schema(self) -> None:
        names = list(ENFORCED)
        schema = random_schema(self.pick, names[self.seed % len(names)])
        body = {**ASK, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}
        shortest = await self.shortest(body)
        if shortest is None:
            return
        self.tally.note(*(f"keyword {keyword}" for keyword in keywords(schema)))
        for budget in self.budgets(shortest):
            asked = self.sampled(body, budget)
            for choice in await self.choices(asked):
                text = choice["message"]["content"]
                if choice["finish_reason"] not in ("stop", "length") or (why := complaint(schema, text or "")):
                    self.wrong(asked, f"{why or choice['finish_reason']} in {text!r}")

    # ------------------------------------------------------------ tools

    async def tools(self) -> None:
        tools = random_tools(self.pick)
        name = self.pick.choice(tools)["function"]["name"]
        choices: list[Any] = ["required", {"type": "function", "function": {"name": name}}, "auto"]
        choice = choices[self.seed % len(choices)]
        body = {**ASK, "tools": tools, "tool_choice": choice, "parallel_tool_calls": self.pick.random() < 0.6}
        shortest = await self.shortest(body)
        if shortest is None:
            return
        kind = choice if isinstance(choice, str) else "named"
        for budget in self.budgets(shortest) if shortest > 1 else self.pick.sample(range(30, 300), 2):
            asked = self.sampled(body, budget)
            for answer in await self.choices(asked):
                self.calls(asked, answer, kind, must=kind != "auto")

    def calls(self, asked: Body, choice: Body, kind: str, *, must: bool) -> None:
        message, finish = choice["message"], choice["finish_reason"]
        calls = message.get("tool_calls") or []
        self.tally.note(kind, *([f"{kind} called"] if calls else []), *(["several"] if len(calls) > 1 else []))
        tools = {tool["function"]["name"]: tool for tool in asked["tools"]}
        for call in calls:
            text, tool = call["function"]["arguments"], tools.get(call["function"]["name"])
            if tool is None:
                self.wrong(asked, f"no tool of this name: {call}")
                continue
            enforced = must or tool["function"].get("strict")
            if why := complaint(schema_of(tool) if enforced else {"type": "object"}, text):
                self.wrong(asked, f"{why} in {call}")
        if must and (not calls or message["content"]):
            self.wrong(asked, f"{finish} with {message}")
        if calls and finish != "tool_calls":
            self.wrong(asked, f"{finish} with {message}")
        if len(calls) > 1 and (kind == "named" or not asked["parallel_tool_calls"]):
            self.wrong(asked, f"{len(calls)} calls: {message}")
        if kind == "named" and {call["function"]["name"] for call in calls} - {
            asked["tool_choice"]["function"]["name"]
        }:
            self.wrong(asked, f"another function: {message}")


ASK: Body = {"model": "random", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def servers(serve, tiny_model, tmp_path_factory) -> Iterator[dict[str, Served]]:
    """Of each of MODELS one, started where a test first asks for it."""
    with Servers(serve, tiny_model, tmp_path_factory.mktemp("tool-models")) as found:
        yield found


class Servers(dict[str, Served]):
    def __init__(self, serve: Any, source: Any, folder: Any):
        self._serve, self._source, self._folder = serve, source, folder
        self._open: list[Any] = []

    def __missing__(self, name: str) -> Served:
        format, control = MODELS[name]
        tags = tool_models.make(self._source, self._folder / name, format, control=control)
        context = self._serve(self._folder / name, "--served-model-name", "random", "--max-num-seqs", "64")
        self._open.append(context)
        url = context.__enter__().wait_ready().url
        ids = [httpx.post(f"{url}/tokenize", json={"prompt": text}).json()["tokens"] for text in '"}]']
        self[name] = Served(url, tags, [found[0] for found in ids], control)
        return self[name]

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *error: Any) -> None:
        for context in self._open:
            context.__exit__(None, None, None)


def run(served: Served, way: str, first: int, count: int) -> Tally:
    """The cases of `count` seeds, some at once. way: "schema" or "tools". Fails if any answer is wrong, and if hardly
    anything was asked."""
    tally = Tally()

    async def all_of() -> None:
        gate = asyncio.Semaphore(AT_ONCE)
        async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as client:

            async def one(seed: int) -> None:
                async with gate:
                    await getattr(Case(served, client, seed, tally), way)()

            await asyncio.gather(*map(one, range(first, first + count)))

    asyncio.run(all_of())
    print(f"{way}, {count} seeds: {dict(sorted(tally.seen.items()))}")
    wrong = "\n".join(tally.wrong[:20])
    assert not tally.wrong, f"{len(tally.wrong)} of {tally.seen['answers']} answers are wrong:\n{wrong}"
    assert tally.seen["refused"] <= 0.1 * count
    assert tally.seen["answers"] >= 2 * (count - tally.seen["refused"])
    return tally


def check_coverage(tally: Tally) -> None:
    """Everything that can happen did."""
    assert {name for name in ENFORCED if not tally.seen[f"keyword {name}"]} == set()
    assert min(tally.seen["stop"], tally.seen["length"], tally.seen["forced"]) > 0


def test_answers_are_valid_for_random_schemas_at_any_budget(servers):
    seen = run(servers["hermes"], "schema", 0, FEW["schema"]).seen
    assert min(seen["stop"], seen["length"], seen["forced"]) > 0


@pytest.mark.parametrize("model", MODELS)
def test_calls_are_valid_for_random_tools(servers, model):
    assert run(servers[model], "tools", 0, FEW["tools"]).seen["tool_calls"] > 0


@pytest.mark.slow
def test_answers_are_valid_for_hundreds_of_random_schemas(servers):
    check_coverage(run(servers["hermes"], "schema", FEW["schema"], MANY["schema"]))


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_calls_are_valid_for_hundreds_of_random_sets_of_tools(servers, model):
    seen = run(servers[model], "tools", FEW["tools"], MANY["tools"]).seen
    assert min(seen["required called"], seen["named called"], seen["auto called"], seen["several"]) > 0
