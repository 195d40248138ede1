"""What speculation gives, and that it costs nothing: `python -m quire.clients.bench.speculation MODEL_FOLDER`.

One server is asked for the same answers with speculation and without (`num_speculative_tokens` of the request), by
turns; every ratio is taken inside a round, and both must give the same answers. Asked for are

- greedy answers, as they come: random weights soon repeat themselves, trained ones do not;
- edits: the answer that was given without speculation is sent as a prediction, with every twelfth word another;
- answers at temperature 1, of which random weights repeat nothing: what is guessed there is wrong;
- prose, with --config of a draft model: answers at a temperature at which random weights are as sure of themselves as
  trained ones, and repeat little;
- json: documents of a schema whose keys are known; without speculation these are taken token by token.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from .load import WORDS, BenchError
from .sides import Side, first_model, running

Body = dict[str, Any]
KINDS = {"greedy": 0.0, "edits": 0.0, "sampled": 1.0, "prose": 0.05, "json": 1.0}  # and their temperatures
PROMPT_WORDS, EDITED = 32, 12
KEYS = ("first_name", "last_name", "street_address", "postal_code", "country_of_residence", "preferred_language")
SCHEMA = {
    "type": "object",
    "properties": {key: {"type": "integer", "minimum": 0, "maximum": 99} for key in KEYS},
    "required": list(KEYS),
    "additionalProperties": False,
}


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m quire.clients.bench.speculation", description=__doc__.splitlines()[0])
    p.add_argument("model", type=Path, help="a model folder with a chat template")
    p.add_argument("--kinds", nargs="+", choices=KINDS, default=["greedy", "edits", "sampled"])
    p.add_argument("--config", help="--speculative-config of the server")
    p.add_argument("--concurrency", type=int, nargs="+", default=[1, 4, 16], help="answers at once [1 4 16]")
    p.add_argument("--tokens", type=int, default=128, help="of an answer [128]")
    p.add_argument("--rounds", type=int, default=3, help="behind one that is not counted [3]")
    p.add_argument("--port", type=int, default=8481)
    p.add_argument("--timeout", type=float, default=600.0, help="seconds a request or the start may take [600]")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="quire-speculation-") as scratch:
            print(run(args, Path(scratch)))
    except (BenchError, httpx.HTTPError) as error:
        print(f"speculation: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def run(args: argparse.Namespace, scratch: Path) -> str:
    """Do it all; the table, in Markdown."""
    command = [sys.executable, "-m", "quire.server.cli", "serve", str(args.model), "--port", str(args.port)]
    command += ["--speculative-config", args.config] if args.config else []
    side = Side("quire", f"http://127.0.0.1:{args.port}/v1", shlex.join(command))
    with running(side, scratch / "quire.log", args.timeout):
        rows = asyncio.run(_measure(args, side.base))
    head = "| answers | at once | on, tokens/s | off | on / off, by round | guesses, of which right |"
    return "\n".join([head, "| --- | ---: | ---: | ---: | --- | --- |", *rows])


@dataclass(slots=True)
class Rates:
    """Of one kind and number at once: output tokens/s of each round."""

    on: list[float] = field(default_factory=list)
    off: list[float] = field(default_factory=list)

    def row(self, kind: str, concurrency: int, guesses: int, right: int) -> str:
        ratios = [a / b for a, b in zip(self.on, self.off, strict=True)]
        told = f"{guesses}, {right / guesses:.0%}" if guesses else "none"
        return (
            f"| {kind} | {concurrency} | {statistics.median(self.on):.0f} | {statistics.median(self.off):.0f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {told} |"
        )


async def _measure(args: argparse.Namespace, base: str) -> list[str]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(timeout=args.timeout, limits=limits) as client:
        model = first_model(base)
        rows = []
        for kind in args.kinds:
            for concurrency in args.concurrency:
                before, rates = await guesses(client, base), Rates()
                for number in range(args.rounds + 1):
                    bodies = asked(kind, max(2, concurrency), number, model, args.tokens)
                    if kind == "edits":
                        _, plain = await rate(client, base, [single(body, "plain") for body in bodies], concurrency)
                        bodies = [edited(body, text, number) for body, text in zip(bodies, plain, strict=True)]
                    ways = {"on": bodies, "off": [single(body, "off") for body in bodies]}
                    found = {}
                    for way in ("on", "off") if number % 2 else ("off", "on"):
                        found[way] = await rate(client, base, ways[way], concurrency)
                    if found["on"][1] != found["off"][1]:
                        raise BenchError(f"{kind}, {concurrency} at once: the answers differ")
                    if number:
                        rates.on.append(found["on"][0])
                        rates.off.append(found["off"][0])
                made, right = (b - a for a, b in zip(before, await guesses(client, base), strict=True))
                rows.append(rates.row(kind, concurrency, made, right))
                print(rows[-1], file=sys.stderr, flush=True)
        return rows


def asked(kind: str, count: int, number: int, model: str, tokens: int) -> list[Body]:
    rng = random.Random(f"{kind} {count} {number}")
    schema = {"name": "person", "schema": SCHEMA, "strict": True}
    return [
        {
            "model": model,
            "messages": [{"role": "user", "content": " ".join(rng.choices(WORDS, k=PROMPT_WORDS))}],
            "max_tokens": tokens,
            "temperature": KINDS[kind],
            "seed": seed,
            "ignore_eos": kind != "json",
            **({"response_format": {"type": "json_schema", "json_schema": schema}} if kind == "json" else {}),
        }
        for seed in range(count)
    ]


def single(body: Body, salt: str) -> Body:
    """With a token a step, and no page of the same request that was asked the other way."""
    return {**body, "num_speculative_tokens": 0, "cache_salt": salt}


def edited(body: Body, text: str, number: int) -> Body:
    """With the answer as its prediction, of which every twelfth word is another."""
    rng = random.Random(f"{text} {number}")
    parts = re.split(r"(\s+)", text)
    for at in range(2 * (EDITED - 1), len(parts), 2 * EDITED):  # white space stands between
        parts[at] = rng.choice(WORDS)
    return {**body, "prediction": {"type": "content", "content": "".join(parts)}}


async def rate(
    client: httpx.AsyncClient, base: str, bodies: Sequence[Body], concurrency: int
) -> tuple[float, list[str]]:
    """Output tokens/s of all requests together, so many at once; and their texts."""
    turns = asyncio.Semaphore(concurrency)

    async def one(body: Body) -> tuple[int, str]:
        async with turns:
            response = await client.post(f"{base}/chat/completions", json=body)
        if response.status_code != 200:
            raise BenchError(f"{base}: HTTP {response.status_code}: {response.text[:300]}")
        found = response.json()
        return found["usage"]["completion_tokens"], found["choices"][0]["message"]["content"] or ""

    began = time.perf_counter()
    got = await asyncio.gather(*map(one, bodies))
    return sum(tokens for tokens, _ in got) / (time.perf_counter() - began), [text for _, text in got]


async def guesses(client: httpx.AsyncClient, base: str) -> tuple[int, int]:
    """Since the server's start: those that were checked, and those that were right."""
    text = (await client.get(f"{base.removesuffix('/v1')}/metrics")).text
    names = ("draft", "accepted")
    found = [re.search(rf"^quire:spec_decode_num_{name}_tokens_total (\S+)$", text, re.MULTILINE) for name in names]
    if not all(found):
        raise BenchError(f"{base}: /metrics does not count guesses")
    made, right = (int(float(one[1])) for one in found if one)
    return made, right


if __name__ == "__main__":
    sys.exit(main())
