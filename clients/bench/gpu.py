"""All of it on one GPU: `python -m quire.clients.bench gpu --out DIR`.

First the tests that a GPU is needed for, if a checkout is there; then what is to be measured, part by part, each in a
process of its own with a time limit of its own, on models of published shapes whose weights are random. DIR/gpu.json
is written anew after each part, DIR/gpu.md at the end: every figure beside what was predicted.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from .gpu_report import Part, Report, Row, ratios, read_rows
from .load import BenchError, Server, Work
from .published import PUBLISHED, write_model
from .sides import Side, first_model, running, stop

ROOT = Path(__file__).resolve().parents[2]  # of the checkout, where there is one
# What is measured, in the order of how much it matters, and the seconds after which each begins nothing more.
MEASURED = {
    "machine": 15, "throughput": 90, "decode": 70, "attention": 30, "gap": 40, "transformers": 70, "modes": 60,
    "server": 50, "kernels": 45,
}  # fmt: skip
ENGINES = ("server",)  # not a part of quire.engine.measure, but of this program
GRACE = 20.0  # seconds that a part may take beyond its own, for what it is in the middle of
PROCESSES = 14  # of tests, at most: each has a share of the GPU's memory
LEAST = 8.0  # a part is not begun with fewer seconds left
SERVED = "llama-3.1-8b"
WORK = Work(concurrency=256, requests=256, prompt_tokens=1000, max_tokens=128, ignore_eos=True)
WORK_TINY = Work(concurrency=4, requests=4, prompt_tokens=64, max_tokens=8, ignore_eos=True)


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m quire.clients.bench gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = ("tests", *MEASURED)
    p.add_argument("--out", type=Path, required=True, help="folder for gpu.json, gpu.md and the logs")
    p.add_argument("--parts", nargs="+", choices=names, default=list(names), help=f"of {', '.join(names)} [all]")
    p.add_argument("--minutes", type=float, default=9.0, help="that all but the tests take, at most [9]")
    p.add_argument("--test-minutes", type=float, default=8.0, help="that the tests take, at most [8]")
    p.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu to try the command itself [cuda]")
    p.add_argument("--tiny", action="store_true", help="tiny models and sizes: to try the command itself")
    p.add_argument("--port", type=int, default=8611, help="of the server that is measured [8611]")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """0 where all went well; 1 where something failed, which gpu.md names."""
    args = parser().parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    report = Report(args.out)
    if "tests" in args.parts:
        report.add(tests(args.out, 60 * args.test_minutes))
    models = args.out / "models"
    wanted = [name for name in MEASURED if name in args.parts]
    if wanted:
        for name in PUBLISHED:
            write_model(name, models / name, tiny=args.tiny)
    end = time.monotonic() + 60 * args.minutes
    for name in wanted:
        room = end - time.monotonic()
        if room < LEAST:
            report.add(Part(name, ended=f"not begun: {room:.0f} s were left"))
            continue
        measure = served if name in ENGINES else measured
        part = timed(name, lambda name=name, room=room, measure=measure: measure(args, name, models, room))  # type: ignore[misc]
        if name == "transformers":
            part.rows += ratios(report, part)
        report.add(part)
        print(f"{name}: {part.seconds:.0f} s, {len(part.rows)} rows {part.ended}", file=sys.stderr, flush=True)
    print(report.write())
    return int(report.failed)


def timed(name: str, work: Callable[[], tuple[list[Row], str]]) -> Part:
    """A part that cannot end the others."""
    began = time.monotonic()
    try:
        rows, ended = work()
    except Exception as error:
        rows, ended = [], f"failed: {type(error).__name__}: {error}"
    return Part(name, time.monotonic() - began, ended, rows)


def measured(args: argparse.Namespace, name: str, models: Path, room: float) -> tuple[list[Row], str]:
    """A part of quire.engine.measure -> (its rows, what went wrong with it as a whole)."""
    limit = min(MEASURED[name] + GRACE, room)
    soft = min(float(MEASURED[name]), max(room - GRACE, room / 2))
    found = args.out / f"{name}.jsonl"
    found.unlink(missing_ok=True)
    command = [sys.executable, "-m", "quire.engine.measure", name, "--models", str(models), "--out", str(found)]
    command += ["--device", args.device, "--seconds", str(soft), *(["--tiny"] if args.tiny else [])]
    env = dict(os.environ)
    if args.device == "cpu" and name in ("kernels", "attention"):
        env["TRITON_INTERPRET"] = "1"  # their Triton kernels are interpreted; anything else is not asked for them
    code = run(command, args.out / f"{name}.log", limit, env)
    rows = read_rows(found)
    if code is None:
        return rows, f"ended after {limit:.0f} s, in the midst of it"
    if code and not any("error" in row for row in rows):
        return rows, f"ended by itself ({code}): {last_line(args.out / f'{name}.log')}"
    return rows, ""


def served(args: argparse.Namespace, name: str, models: Path, room: float) -> tuple[list[Row], str]:
    """Many at once over HTTP, against a server of its own."""
    work, limit = (WORK_TINY if args.tiny else WORK), min(MEASURED[name] + GRACE, room)
    folder, base = models / SERVED, f"http://127.0.0.1:{args.port}/v1"
    attention = "" if args.device == "cpu" else "--attention triton"
    flags = f"--port {args.port} --device {args.device} {attention} --speculative-config"
    off = shlex.quote('{"method": "none"}')
    python = shlex.quote(sys.executable)
    command = f"{python} -m quire.server.cli serve {shlex.quote(str(folder))} {flags} {off}"
    command += f" --max-model-len {work.prompt_tokens + work.max_tokens + 512}"
    end = time.monotonic() + limit
    with running(Side("quire", base, command), args.out / f"{name}.log", limit):
        found = asyncio.run(asyncio.wait_for(_asked(base, work), end - time.monotonic()))
    note = (
        f"{work.concurrency} at once over HTTP, {found.prompt_tokens_mean:.0f} in, {found.output_tokens_mean:.0f} out"
    )
    values = (
        ("output", found.output_tok_s, "output tokens/s"),
        ("first_p50", found.ttft_ms_p50, "ms"),
        ("first_p99", found.ttft_ms_p99, "ms"),
        ("gap_p50", found.itl_ms_p50, "ms"),
        ("gap_p99", found.itl_ms_p99, "ms"),
    )
    return [{"key": f"server.{key}", "value": value, "unit": unit, "note": note} for key, value, unit in values], ""


async def _asked(base: str, work: Work):  # type: ignore[no-untyped-def]
    model = first_model(base)
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as client:
        try:
            return await Server(client, base, model).measure(work)
        except httpx.HTTPError as error:
            raise BenchError(f"{type(error).__name__}: {error}") from error


def tests(out: Path, seconds: float) -> Part:
    """What a GPU is needed for; first what is quick, then, with the time that is left, what is slow."""
    more = ("engine/graphs_cases.py", "kernels/test_*_triton.py")
    folders = [ROOT / "tests" / "gpu", *(path for names in more for path in sorted((ROOT / "tests").glob(names)))]
    if not folders[0].is_dir():
        return Part("tests", ended=f"not run: there is no checkout at {ROOT}, only the package")
    began, rows = time.monotonic(), list[Row]()
    for key, marks in (("tests.quick", "not slow"), ("tests.slow", "slow")):
        log, left = out / f"{key}.log", seconds - (time.monotonic() - began)
        if left < LEAST:
            rows.append({"key": key, "left_out": "the time was over"})
            continue
        # A line a test, so that the log of a run that was ended says how far it came.
        command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--durations=15", "-m", marks]
        if importlib.util.find_spec("xdist") is not None:  # what takes long is to compile, which is the cores' work
            command += ["-n", str(min(PROCESSES, os.cpu_count() or 1))]
        code = run([*command, *map(str, folders)], log, left, dict(os.environ), cwd=ROOT)
        said = last_line(log).strip("= ")
        if code in (0, 5) and (passed := re.search(r"(\d+) passed", said)):
            rows.append({"key": key, "value": int(passed[1]), "unit": "passed", "note": said})
        else:
            how = f"ended after {left:.0f} s" if code is None else said
            rows.append({"key": key, "error": f"{how}; see {log.name}"})
    return Part("tests", time.monotonic() - began, "", rows)


def run(command: list[str], log: Path, seconds: float, env: dict[str, str], cwd: Path | None = None) -> int | None:
    """Its exit code; None: it was ended, with all its processes, when the time was over."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=env, cwd=cwd, start_new_session=True
        )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            stop(process)


def last_line(log: Path) -> str:
    lines = [text for text in log.read_text(encoding="utf-8", errors="replace").splitlines() if text.strip()]
    return lines[-1].strip()[:300] if lines else "it said nothing"


if __name__ == "__main__":
    sys.exit(main())
