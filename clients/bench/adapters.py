"""What adapters cost: `python -m quire.clients.bench.adapters MODEL_FOLDER`.

It makes random LoRA adapters for the model, starts `quire serve` on it, and prints one table of ratios:

- output tokens/s with 1, 2, 4 ... adapters in the batch against the base alone and against the least, in turns;
- with many adapters registered and 8 of them in use, against 8 registered;
- the gaps between the tokens of base streams, without and while adapters are loaded one after the other.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from .load import Answer, BenchError, Measure, Server, Work, percentile
from .sides import Side, running

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
READY_SECONDS = 600.0


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m quire.clients.bench.adapters", description=__doc__.splitlines()[0])
    p.add_argument("model", type=Path, help="a model folder of the Llama kind")
    p.add_argument("--adapters", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64], help="in use at once")
    p.add_argument("--concurrency", type=int, nargs="+", default=[16, 64], help="requests at once")
    p.add_argument("--ranks", type=int, nargs="+", default=[8, 16, 32, 64], help="of the adapters, in turns")
    p.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of their files")
    p.add_argument(
        "--registered", type=int, default=1000, help="adapters of the crowded server; 0: leave that part out"
    )
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--prompt-tokens", type=int, default=128)
    p.add_argument("--max-tokens", type=int, default=64)
    p.add_argument("--seconds", type=float, default=15.0, help="of each part of the gaps; 0: leave that part out")
    p.add_argument("--port", type=int, default=8471)
    p.add_argument("--work", type=Path, help="folder for the adapters and logs [a temporary one]")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            print(run(args, args.work or Path(scratch)))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    return 0


def run(args: argparse.Namespace, folder: Path) -> str:
    """Do it all; the report, in Markdown."""
    count = max(*args.adapters, 8)
    names = make_adapters(args.model, folder / "adapters", count, args.ranks, args.dtype)
    fewest = min(args.adapters)
    lines = [f"| requests at once | adapters | output tokens/s | of the base alone | of {fewest} |", f"|{'---|' * 5}"]
    with serving(args, folder, names, count) as base:
        for concurrency in args.concurrency:
            kinds = [n for n in args.adapters if n <= concurrency or n == fewest]
            measured = asyncio.run(throughput(args, base, concurrency, [0, *kinds], list(names), range(args.rounds)))
            for n, rates in measured.items():
                ratios = " | ".join(f"{_ratio(rates, measured[of]):.2f}" for of in (0, fewest))
                lines.append(f"| {concurrency} | {n or 'none'} | {statistics.median(rates):.0f} | {ratios} |")
        gaps = asyncio.run(stalls(args, base, folder / "adapters", list(names))) if args.seconds else []
    if args.registered:
        lines += ["", crowded(args, folder, names)]
    return "\n".join([*lines, "", *gaps])


def make_adapters(
    model: Path, folder: Path, count: int, ranks: Sequence[int], dtype: str = "float32"
) -> dict[str, Path]:
    """Random adapters of the model, in PEFT's format: name -> folder. Those that are there already are taken."""
    import torch
    from safetensors.torch import save_file

    config = json.loads((model / "config.json").read_text())
    width, inner, layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or width // heads
    kv = head * config.get("num_key_value_heads", heads)
    sizes = dict(zip(TARGETS, [(width, head * heads), (width, kv), (width, kv), (head * heads, width),
                               (width, inner), (width, inner), (inner, width)], strict=True))  # fmt: skip
    found = {}
    for number in range(count):
        path = folder / f"a{number}"
        found[f"a{number}"] = path
        if (path / "adapter_config.json").is_file():
            continue
        path.mkdir(parents=True, exist_ok=True)
        rank, generator = ranks[number % len(ranks)], torch.Generator().manual_seed(number)
        tensors = {}
        for layer, (target, (inputs, outputs)) in itertools.product(range(layers), sizes.items()):
            room = "self_attn" if target in TARGETS[:4] else "mlp"
            at = f"base_model.model.model.layers.{layer}.{room}.{target}"
            tensors[f"{at}.lora_A.weight"] = torch.randn((rank, inputs), generator=generator) * inputs**-0.5
            tensors[f"{at}.lora_B.weight"] = torch.randn((outputs, rank), generator=generator) * 0.01
        held = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
        save_file(held, path / "adapter_model.safetensors", {"format": "pt"})
        described = {
            "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": rank, "lora_dropout": 0.0,
            "bias": "none", "target_modules": list(TARGETS), "base_model_name_or_path": str(model),
            "inference_mode": True,
        }  # fmt: skip
        (path / "adapter_config.json").write_text(json.dumps(described))
    return found


@contextmanager
def serving(args: argparse.Namespace, folder: Path, names: dict[str, Path], slots: int) -> Iterator[str]:
    """`quire serve` with these adapters; its address with /v1."""
    modules = [f"{name}={path}" for name, path in names.items()]
    command = shlex.join([
        sys.executable, "-m", "quire.server.cli", "serve", str(args.model), "--port", str(args.port),
        "--max-loras", str(slots), "--admin-key", "bench", "--lora-memory", "8G", "--lora-modules", *modules,
    ])  # fmt: skip
    base = f"http://127.0.0.1:{args.port}/v1"
    with running(Side("quire", base, command), folder / "server.log", READY_SECONDS):
        yield base


class Mixed(Server):
    """Requests that name one model after the other."""

    def __init__(self, client: httpx.AsyncClient, base: str, models: Sequence[str]):
        super().__init__(client, base, models[0])
        self._turns = itertools.cycle(models)

    async def _ask(self, prompt: str, work: Work) -> Answer:
        self.model = next(self._turns)
        return await super()._ask(prompt, work)


async def throughput(
    args: argparse.Namespace, base: str, concurrency: int, kinds: Sequence[int], names: list[str], rounds: Sequence[int]
) -> dict[int, list[float]]:
    """Number of adapters in use (0: the base alone) -> output tokens/s of each round; the kinds take turns."""
    rates: dict[int, list[float]] = {n: [] for n in kinds}
    async with client() as http:
        own = (await http.get(f"{base}/models")).json()["data"][0]["id"]
        for number in rounds:
            for turn, n in enumerate(kinds):
                # No prompt twice: pages of a prompt that an adapter has read in another turn would be found again.
                seed = number * len(kinds) + turn
                found = await _measure(args, Mixed(http, base, names[:n] or [own]), concurrency, seed)
                rates[n].append(found.output_tok_s)
                say(f"{concurrency} at once, {n} adapters: {found.output_tok_s:.0f} tokens/s")
    return rates


async def _measure(args: argparse.Namespace, server: Server, concurrency: int, seed: int) -> Measure:
    work = Work(
        concurrency, 2 * concurrency, prompt_tokens=args.prompt_tokens, max_tokens=args.max_tokens, ignore_eos=True,
        seed=seed,
    )  # fmt: skip
    return await server.measure(work)


def crowded(args: argparse.Namespace, folder: Path, names: dict[str, Path]) -> str:
    """Many registered, 8 of them in use, against 8 registered; the two servers take turns."""
    eight = dict(list(names.items())[:8])
    many = make_adapters(args.model, folder / "many", args.registered, [8], args.dtype)
    sides = {"8": eight, str(args.registered): {**{f"m{k}": v for k, v in many.items()}, **eight}}
    rates: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(args.rounds):
        for side, registered in sides.items():
            with serving(args, folder, registered, 8) as base:
                rates[side] += asyncio.run(throughput(args, base, 16, [8], list(eight), [number]))[8]
    few, lots = rates.values()
    ratio = _ratio(lots, few)
    return (
        f"16 at once over 8 adapters: {statistics.median(lots):.0f} tokens/s with {args.registered} registered, "
        f"{statistics.median(few):.0f} with 8: {ratio:.2f}."
    )


def _ratio(rates: list[float], others: list[float]) -> float:
    """The median over the rounds."""
    return statistics.median(a / b for a, b in zip(rates, others, strict=True))


async def stalls(args: argparse.Namespace, base: str, folder: Path, names: list[str]) -> list[str]:
    """Gaps between the tokens of 4 base streams, quiet and while adapters are loaded and unloaded without a pause."""
    lines = [
        "| 4 streams | gap p50 ms | p99 | longest | longest, in steps | longer than two | loads |",
        "|---|---|---|---|---|---|---|",
    ]
    async with client() as http:
        own = (await http.get(f"{base}/models")).json()["data"][0]["id"]
        for title, loading in (("quiet", False), ("while adapters load", True), ("quiet again", False)):
            until = time.perf_counter() + args.seconds
            loads = asyncio.create_task(_load_on(http, base, folder, names, until)) if loading else None
            gaps = [
                g for found in await asyncio.gather(*(_stream(http, base, own, until) for _ in range(4))) for g in found
            ]
            done = await loads if loads else 0
            middle = percentile(gaps, 50)
            long = sum(gap > 2 * middle for gap in gaps) / len(gaps)
            lines.append(
                f"| {title} | {middle:.1f} | {percentile(gaps, 99):.1f} | {max(gaps):.1f} "
                f"| {max(gaps) / middle:.1f} | {long:.2%} | {done} |"
            )
    return lines


async def _stream(http: httpx.AsyncClient, base: str, model: str, until: float) -> list[float]:
    """Milliseconds between the pieces of one answer after the other."""
    gaps = []
    while time.perf_counter() < until:
        body = {"model": model, "prompt": "Once upon a time", "max_tokens": 400, "stream": True, "ignore_eos": True}
        last: float | None = None
        async with http.stream("POST", f"{base}/completions", json=body) as response:
            async for line in response.aiter_lines():
                if line.startswith("data:") and '"text"' in line:
                    now = time.perf_counter()
                    if last is not None:
                        gaps.append(1e3 * (now - last))
                    last = now
    return gaps


async def _load_on(http: httpx.AsyncClient, base: str, folder: Path, names: list[str], until: float) -> int:
    headers = {"Authorization": "Bearer bench"}
    done = 0
    for number in itertools.count():
        if time.perf_counter() > until:
            return done
        source = folder / names[number % len(names)]
        asked: dict[str, Any] = {"lora_name": "bench-loaded", "lora_path": str(source), "load_inplace": True}
        answer = await http.post(f"{base}/load_lora_adapter", json=asked, headers=headers)
        if answer.status_code != 200:
            raise BenchError(f"load_lora_adapter: HTTP {answer.status_code}: {answer.text[:300]}")
        body = {"model": "bench-loaded", "prompt": "Once", "max_tokens": 4}
        (await http.post(f"{base}/completions", json=body)).raise_for_status()
        done += 1
    return done


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None, max_keepalive_connections=256))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
