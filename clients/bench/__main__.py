"""Measure an OpenAI-compatible server, or several in turn.

    quire bench http://127.0.0.1:8000/v1
    quire bench --side ours http://127.0.0.1:8101/v1 "quire serve DIR --port 8101" DIR \\
                --side peer http://127.0.0.1:9104/v1 "other serve DIR --port 9104" DIR --rounds 3

    quire bench gpu --out DIR     everything that a GPU is needed for: see gpu.py

With several sides they take turns (A B A B ...), each started for its turn and stopped after it, and every ratio is
taken inside a round: two servers measured minutes apart on one machine are seldom comparable.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from .load import BenchError, Measure, Server, Work
from .sides import Side, first_model, running

Results = dict[tuple[str, int], list[Measure]]  # by side and concurrency, one a round


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="quire bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("url", nargs="?", help="address of a running server, with /v1")
    p.add_argument("--model", default="", help="model to ask for [the first of /v1/models]")
    p.add_argument(
        "--side", nargs="+", action="append", default=[], metavar="NAME URL [COMMAND [MODEL]]",
        help="a server to compare; COMMAND starts it",
    )  # fmt: skip
    p.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32], help="requests in flight [1 8 32]")
    p.add_argument("--requests", type=int, help="requests of each workload [as many as are in flight, at least 4]")
    p.add_argument("--prompt-tokens", type=int, default=128)
    p.add_argument("--shared-tokens", type=int, default=0, help="tokens of the prompt that all requests share")
    p.add_argument("--max-tokens", type=int, default=64)
    p.add_argument("--temperature", type=float, default=0.0)
    p.add_argument("--ignore-eos", action="store_true", help="answers of full length, where the server can")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--timeout", type=float, default=600, help="seconds a request or a start may take")
    p.add_argument("--json", type=Path, help="write every measurement there")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["gpu"]:
        from .gpu import main as gpu

        return gpu(argv[1:])
    p = parser()
    args = p.parse_args(argv)
    if bool(args.url) == bool(args.side) or any(not 2 <= len(s) <= 4 for s in args.side):
        p.error("give either a URL, or --side NAME URL [COMMAND [MODEL]] once or more")
    sides = [Side(*_pad(parts)) for parts in args.side] or [Side("server", args.url, model=args.model)]
    try:
        results = compare(sides, args)
    except BenchError as error:
        print(f"quire bench: {error}", file=sys.stderr)
        return 1
    report(results, [s.name for s in sides], args)
    return 0


def _pad(parts: list[str]) -> tuple[str, str, str | None, str]:
    name, base, command, model = [*parts, "", ""][:4]
    return name, base, command or None, model


def compare(sides: list[Side], args: argparse.Namespace) -> Results:
    """Every workload on every side, round after round."""
    results: Results = {}
    logs = Path(tempfile.mkdtemp(prefix="quire-bench-"))
    for number in range(args.rounds):
        for side in sides:
            with running(side, logs / f"{side.name}.log", args.timeout):
                found = asyncio.run(_measure(side, args, number))
            for one in found:
                results.setdefault((side.name, one.concurrency), []).append(one)
                print(f"round {number + 1} {side.name}: {one.concurrency} in flight, "
                      f"{one.output_tok_s:.1f} output tok/s", file=sys.stderr)  # fmt: skip
    return results


async def _measure(side: Side, args: argparse.Namespace, number: int) -> list[Measure]:
    model = side.model or first_model(side.base)
    limits = httpx.Limits(max_connections=None)
    try:
        async with httpx.AsyncClient(timeout=args.timeout, limits=limits) as client:
            server = Server(client, side.base, model)
            return [
                await server.measure(
                    Work(
                        concurrency=n,
                        requests=args.requests or max(4, n),
                        prompt_tokens=args.prompt_tokens,
                        shared_tokens=args.shared_tokens,
                        max_tokens=args.max_tokens,
                        temperature=args.temperature,
                        ignore_eos=args.ignore_eos,
                        seed=args.seed + 1000 * number + n,
                    )
                )
                for n in args.concurrency
            ]
    except httpx.HTTPError as error:
        raise BenchError(f"{side.name} at {side.base}: {type(error).__name__}: {error}") from error


def report(results: Results, names: list[str], args: argparse.Namespace) -> None:
    """Medians over the rounds; beside several sides, the first one's rate over each other's, round by round."""
    columns = ("in flight", "side", "output tok/s", "TTFT ms p50", "p99", "ITL ms p50", "p99", "prompt", "output",
               f"{names[0]} / side")  # fmt: skip
    table = Table(*columns, title=f"{args.prompt_tokens} in, {args.max_tokens} out, medians of {args.rounds} rounds")
    for concurrency in args.concurrency:
        for name in names:
            found = results[name, concurrency]
            median = lambda key, found=found: statistics.median(getattr(m, key) for m in found)  # noqa: E731
            keys = ("output_tok_s", "ttft_ms_p50", "ttft_ms_p99", "itl_ms_p50", "itl_ms_p99", "prompt_tokens_mean",
                    "output_tokens_mean")  # fmt: skip
            pairs = zip(results[names[0], concurrency], found, strict=True)
            ratios = [a.output_tok_s / b.output_tok_s for a, b in pairs]
            table.add_row(
                str(concurrency), name, *(f"{median(key):.1f}" for key in keys),
                "" if name == names[0] else f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
            )  # fmt: skip
    Console(width=140).print(table)
    if args.json:
        rows = [{"side": n, "round": i, **m.as_dict()} for (n, _), ms in results.items() for i, m in enumerate(ms)]
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    sys.exit(main())
