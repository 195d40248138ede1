"""Measure what grammars cost: `python -m quire.clients.bench.grammars [--tokenizer FILE] [--tools FILE] [--url URL]`.

Without a URL a model with random weights is made, and a server started for it. Three things come out, as Markdown:
the speed of answers bound by a JSON schema, and of function calls that must be, beside free answers to the same prompts
with as many tokens; and the gaps between the tokens of free streams while hostile grammars come. Bound and free take
turns (A B A B ...), and every ratio is taken inside a round; what counts are their medians. The first round is not
counted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shlex
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx

from . import bound, hostile
from .bound import Chat, Result, Workload
from .load import BenchError
from .make_model import SHAPES, make_model
from .sides import Side, first_model, running

TAGS = ("<tool_call>", "</tool_call>")  # control tokens, as the models have them that call in this format
PARTS = ("documents", "calls", "hostile")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="python -m quire.clients.bench.grammars", description=__doc__.splitlines()[0])
    p.add_argument("--url", help="address of a running server, with /v1, that forces calls [one is started]")
    p.add_argument(
        "--model", default="llama-110m", choices=list(SHAPES), help="shape of the model to make [llama-110m]"
    )
    p.add_argument("--tokenizer", type=Path, metavar="FILE", help="its tokenizer.json [a byte-level BPE is trained]")
    p.add_argument("--folder", type=Path, help="where the model is made, or was made before [a temporary folder]")
    p.add_argument("--serve", default="", metavar="FLAGS", help="further flags of the server that is started")
    p.add_argument("--tools", type=Path, metavar="FILE", help="JSON lines with `tools`, plain or .gz [three functions]")
    p.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure [all]")
    p.add_argument("--concurrency", type=int, nargs="+", default=[1, 32], help="answers at once [1 32]")
    p.add_argument("--requests", type=int, help="answers a round [as many as at once, at least 4]")
    p.add_argument("--tokens", type=int, default=128, help="tokens of an answer, of a call at most [128]")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--seconds", type=float, default=20.0, help="of each phase with or without hostile requests [20]")
    p.add_argument("--phases", type=int, default=2, help="of each of the three [2]")
    p.add_argument("--streams", type=int, default=4, help="free streams beside them [4]")
    p.add_argument("--bound", type=int, default=0, help="streams of an ordinary schema beside them [0]")
    p.add_argument("--senders", type=int, default=4, help="hostile requests at once [4]")
    p.add_argument("--timeout", type=float, default=600.0, help="seconds a request or the start may take [600]")
    p.add_argument("--json", type=Path, help="write every measurement there")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server that was started ends too
    try:
        with tempfile.TemporaryDirectory(prefix="quire-grammars-") as scratch:
            side = Side("server", args.url) if args.url else _own(args, Path(scratch))
            with running(side, Path(scratch) / "server.log", args.timeout):
                model = first_model(side.base)
                results, phases = asyncio.run(_measure(args, side.base, model))
    except (BenchError, httpx.HTTPError, ValueError) as error:
        print(f"grammars: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    print(report(results, phases))
    if args.json:
        rows = [
            {"workload": r.name, "concurrency": r.concurrency, "rounds": list(map(asdict, r.rounds))} for r in results
        ]
        found = {"speed": rows, "gaps_ms": {name: asdict(phase) for name, phase in phases.items()}}
        args.json.write_text(json.dumps(found, indent=1))
    return 0


def _own(args: argparse.Namespace, scratch: Path) -> Side:
    """A server of a model that is made here, unless the folder holds one."""
    folder = args.folder or scratch / "model"
    if not (folder / "config.json").exists():
        _say(f"making {args.model} in {folder}")
        make_model(args.model, folder, tokenizer=args.tokenizer, tokens=TAGS if args.tokenizer else ())
    with contextlib.closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "quire.server.cli", "serve", str(folder), "--port", str(port),
               "--tool-call-parser", "hermes", *shlex.split(args.serve)]  # fmt: skip
    return Side("quire", f"http://127.0.0.1:{port}/v1", shlex.join(command))


async def _measure(args: argparse.Namespace, base: str, model: str) -> tuple[list[Result], dict[str, hostile.Phase]]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(timeout=args.timeout, limits=limits) as client:
        chat = Chat(client, base, model)
        await _warm(chat, args.timeout)
        results = [await _rounds(args, chat, work, n) for work in _workloads(args) for n in args.concurrency]
        phases = await _phases(args, chat) if "hostile" in args.parts else {}
    return results, phases


async def _warm(chat: Chat, seconds: float) -> None:
    """A server may make ready for its vocabulary at the first grammar, which can take longer than a request may."""
    end = time.monotonic() + seconds
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "guided_choice": ["yes", "no"]}
    while True:
        try:
            await chat.ask(body)
            return
        except BenchError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(1)


def _workloads(args: argparse.Namespace) -> Iterator[Workload]:
    most = args.requests or max(4, *args.concurrency)
    if "documents" in args.parts:
        yield bound.documents(most, args.tokens, roomy=True)
        yield bound.documents(most, args.tokens, roomy=False)
    if "calls" in args.parts:
        yield bound.calls(most, args.tokens, bound.read_tools(args.tools, most))


async def _rounds(args: argparse.Namespace, chat: Chat, work: Workload, concurrency: int) -> Result:
    work = bound.sized(work, args.requests or max(4, concurrency))
    rounds = []
    for number in range(args.rounds + 1):
        pair = await chat.pair(work, concurrency)
        _say(f"{work.name}, {concurrency} at once, round {number or '0 (not counted)'}: {pair.ratio:.3f}")
        if number:
            rounds.append(pair)
    return Result(work.name, concurrency, tuple(rounds))


async def _phases(args: argparse.Namespace, chat: Chat) -> dict[str, hostile.Phase]:
    """Nobody, ordinary requests and hostile ones, in turn: the same number of senders, so that what an answer more in
    the step costs is not taken for what its grammar does."""
    neighbours = hostile.Neighbours(chat, await hostile.word_tokens(chat.client, chat.base, chat.model))
    kinds = {"nothing": (0, hostile.ordinary), "ordinary requests": (args.senders, hostile.ordinary)}
    kinds["hostile grammars"] = args.senders, hostile.hostile
    found = {name: hostile.Phase() for name in kinds}
    await neighbours.phase(min(2.0, args.seconds), args.streams, 0, hostile.ordinary(0))
    for number in range(args.phases):
        for name, (senders, made) in kinds.items():
            requests, phase = made(1_000 * number), found[name]
            phase.add(await neighbours.phase(args.seconds, args.streams, senders, requests, args.bound))
            _say(f"{name}, phase {number + 1}: {len(phase.gaps)} gaps, {sum(phase.statuses.values())} requests")
    return found


def report(results: Sequence[Result], phases: dict[str, hostile.Phase]) -> str:
    """The tables that are not empty."""
    tables = []
    if results:
        tables.append(table(bound.HEAD, (result.row() for result in results)))
    if phases:
        tables.append(table(hostile.HEAD, (row for name, phase in phases.items() for row in phase.rows(name))))
        slowest = sorted(phases["hostile grammars"].slowest.items(), key=lambda one: -one[1])
        tables.append("Slowest answer by kind, s: " + ", ".join(f"{kind} {seconds:.2f}" for kind, seconds in slowest))
    return "\n\n".join(tables)


def table(head: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = ["| " + " | ".join(map(str, cells)) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "| --- |" + " ---: |" * (len(head) - 1), *lines[1:]])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
