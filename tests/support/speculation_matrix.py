"""Who guesses x what a request asks for, over HTTP: each answer against that of a server that guesses nothing.

`python tests/support/speculation_matrix.py` rewrites what stands between the marks in docs/speculation.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from docs_part import Part
from draft_pair import eagle_head, untrained_heads
from running_server import RunningServer, running

from quire import pocket

PART = Part("speculation.md", "<!-- matrix: from a run of the tests -->", "<!-- end of the matrix -->")
ROOM = (  # prompts come in chunks, answers in turns; four servers share the cores
    *("--kv-cache-memory", "4M"),
    *("--max-num-batched-tokens", "64"),
    *("--threads", "1"),
)
LOOKUPS = {"method": "suffix", "adaptive": False}
MODEL = {"model": str(pocket.DRAFT), "adaptive": False}
SELDOM = {"prompt_lookup_min": 64, "prompt_lookup_max": 64}
SIDES = {
    "off": {"method": "none"},
    "lookups": LOOKUPS,
    "model": {**MODEL, **SELDOM},
    "medusa": {"method": "medusa", "adaptive": False, **SELDOM},
    "eagle3": {"method": "eagle3", "adaptive": False, **SELDOM},
    "all": {**MODEL, "method": "suffix"},
}
PROPOSERS = {
    "prediction": "lookups",
    "ngram": "lookups",
    "suffix": "lookups",
    "draft_model": "model",
    "medusa": "medusa",
    "eagle3": "eagle3",
    "stack": "all",
}

HTTP = httpx.Client(timeout=120)

Body = dict[str, Any]
Answers = list[list[Any]]
SENTENCE = "The old farmer sold 12 red apples and 30 green pears to the baker in the small town by the river."
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SALE = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "fruit": {"enum": ["apple", "pear"]}, "count": {"type": "integer"}},
    "required": ["name", "fruit", "count"],
    "additionalProperties": False,
}
SCHEMA = {  # the second of its rows begins as the first one did
    "type": "object",
    "properties": {"sales": {"type": "array", "items": SALE, "minItems": 3, "maxItems": 3}},
    "required": ["sales"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Feature:
    """fields: of each request. prompts: one request each, all at once where together. seen: a counter of /metrics that
    shows that the feature was at work."""

    fields: Body
    prompts: tuple[str, ...] = (f"Repeat this: {SENTENCE} {SENTENCE}",)
    together: bool = False
    seen: str = ""


COLD, LONG = {"temperature": 0}, f"Repeat this: {SENTENCE * 3}"
FEATURES = {
    "greedy": Feature(COLD),
    "seed": Feature({"temperature": 1.0, "seed": 11, "top_p": 0.9}),
    "penalties": Feature({"temperature": 0.7, "frequency_penalty": 0.4, "presence_penalty": 0.2}),
    "logprobs": Feature({**COLD, "logprobs": True, "top_logprobs": 3}),
    "stop strings": Feature({**COLD, "stop": ["the river", "qqq"]}),
    "n > 1": Feature({"temperature": 1.0, "n": 3}),
    "LoRA": Feature({**COLD, "model": "capitals"}, (f"Repeat this: {SENTENCE} {SENTENCE}".upper(),)),
    "grammar": Feature(
        {
            "temperature": 0.7,
            "max_tokens": 110,
            "response_format": {"type": "json_schema", "json_schema": {"name": "sale", "schema": SCHEMA}},
        },
        tuple(
            f"{name} sold 3 pears. {name} sold 4 pears. {name} sold 5 pears. Who sold what?" for name in ("Tom", "Lily")
        ),
    ),
    "tools": Feature(
        {**COLD, "tools": [WEATHER], "tool_choice": "required"},
        ("What is the weather in Paris?", "What is the weather in Paris, and what in Rome?"),
    ),
    "prefix cache": Feature(COLD, (LONG, LONG), seen="quire:prefix_cache_hits_total"),
    "chunked prefill": Feature(COLD, (LONG + " Write it twice.",)),
    "preemption": Feature(
        {"temperature": 1.0, "max_tokens": 128, "ignore_eos": True},
        tuple(f"Tell me a story about {name}." for name in ("Tom", "Sue", "Max", "Mia", "Ben", "Lily")),
        together=True,
        seen="quire:num_preemptions_total",
    ),
}


@dataclass(slots=True)
class Found:
    """differ: cells whose answers are others than without guesses. idle: cells in which nothing was guessed."""

    differ: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    asleep: list[str] = field(default_factory=list)  # features that were not at work


@contextmanager
def servers(wanted: Collection[str]) -> Iterator[dict[str, RunningServer]]:
    with ExitStack() as stack:
        found, scratch = {}, Path(stack.enter_context(TemporaryDirectory()))
        heads = {
            "medusa": untrained_heads(pocket.FOLDER, scratch / "medusa", 3),
            "eagle3": eagle_head(pocket.FOLDER, scratch / "eagle3"),
        }
        for name in wanted:
            speculation = SIDES[name]
            if name in heads:
                speculation = {**speculation, "model": str(heads[name])}
            flags = ["--speculative-config", json.dumps(speculation), *ROOM, "--lora-modules"]
            flags += [f"{adapter}={path}" for adapter, path in pocket.ADAPTERS.items()]
            found[name] = stack.enter_context(running(None, *flags))
        yield {name: server.wait_ready() for name, server in found.items()}


def run(wanted: Collection[str] = tuple(SIDES)) -> Found:
    """wanted: sides, of which one is off."""
    found, plain = Found(), {}
    with servers(wanted) as sides:
        off = sides.pop("off")
        for name, feature in FEATURES.items():
            before = _seen(off, feature)
            plain[name] = _ask(off, feature)
            if feature.seen and _seen(off, feature) == before:
                found.asleep.append(name)
        with ThreadPoolExecutor(len(sides)) as pool:
            list(pool.map(lambda side: _compare(found, side, sides[side], plain), sides))
    found.differ.sort()
    found.idle.sort()
    return found


def _compare(found: Found, side: str, server: RunningServer, plain: dict[str, Answers]) -> None:
    """All cells of the proposers of one server."""
    for name, feature in FEATURES.items():
        for proposer in (proposer for proposer, where in PROPOSERS.items() if where == side):
            predicted = [_said(answer) for answer in plain[name]] if proposer == "prediction" else None
            made = guesses(server, proposer)
            answers = [_ask(server, feature, predicted) for _ in range(2 if proposer == "suffix" else 1)]
            cell = f"{proposer} x {name}"
            if any(answer != plain[name] for answer in answers):
                found.differ.append(cell)
            if guesses(server, proposer) == made:
                found.idle.append(cell)


def _ask(server: RunningServer, feature: Feature, predicted: list[str] | None = None) -> Answers:
    """Of each request what came, in what must be equal."""
    bodies = []
    for n, prompt in enumerate(feature.prompts):
        body = {"model": "pocket", "max_tokens": 56, "seed": 5, "messages": [{"role": "user", "content": prompt}]}
        more = {} if predicted is None else {"prediction": {"type": "content", "content": predicted[n]}}
        bodies.append({**body, **feature.fields, **more})
    with ThreadPoolExecutor(len(bodies) if feature.together else 1) as pool:
        return list(pool.map(lambda body: _post(server, body), bodies))


def _post(server: RunningServer, body: Body) -> list[Any]:
    response = HTTP.post(f"{server.url}/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    found = response.json()
    choices = []
    for choice in found["choices"]:
        calls = [call["function"] for call in choice["message"].get("tool_calls") or ()]
        tokens = [
            (one["token"], [top["token"] for top in one["top_logprobs"]])
            for one in (choice.get("logprobs") or {}).get("content") or ()
        ]
        choices.append([choice["message"].get("content"), calls, choice["finish_reason"], tokens])
    return [*choices, found["usage"]["completion_tokens"]]


def _said(answer: list[Any]) -> str:
    """The first choice as text, with a word that is another."""
    content, calls, _, _ = answer[0]
    text = content or "".join(f'<tool_call>\n{{"name": "{c["name"]}", "arguments": {c["arguments"]}}}' for c in calls)
    parts = text.split(" ")
    if len(parts) > 6:
        parts[len(parts) // 2] = "blue"
    return " ".join(parts)


def guesses(server: RunningServer, proposer: str) -> int:
    """Checked so far. stack: whoever made them."""
    wanted = "[a-z_]+" if proposer == "stack" else proposer
    name = r"quire:spec_decode_num_draft_tokens_per_pos_total"
    text = HTTP.get(f"{server.url}/metrics").text
    return sum(int(float(n)) for n in re.findall(rf'^{name}{{.*proposer="{wanted}".*}} (\S+)$', text, re.MULTILINE))


def _seen(server: RunningServer, feature: Feature) -> float:
    return server.metric(feature.seen) if feature.seen else 0.0


def printed(found: Found) -> str:
    lines = [f"| | {' | '.join(PROPOSERS)} |", "|---|" + "---|" * len(PROPOSERS)]
    for name in FEATURES:
        cells = [f"{proposer} x {name}" for proposer in PROPOSERS]
        told = ["differs" if cell in found.differ else "idle" if cell in found.idle else "same" for cell in cells]
        lines.append(f"| {name} | {' | '.join(told)} |")
    return "\n".join(lines)


def main() -> None:
    found = run()
    print(found)
    PART.write(printed(found))


if __name__ == "__main__":
    main()
