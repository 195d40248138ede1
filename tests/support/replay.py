"""Recorded traffic through the scheduler, on a clock that is counted and not waited for.

    python tests/support/replay.py ../shared/data/traces/azure2023_conv.csv

Arrival times, prompt and answer lengths are the trace's; a step is said to take `--step-ms` and `--token-us` for each
of its tokens. Where the trace names the blocks of its prompts (Mooncake), equal blocks are equal text and the prefix
cache finds them; elsewhere no two prompts share a token. What is measured on the real clock is the scheduler alone.
"""

from __future__ import annotations

import argparse
import csv
import gc
import gzip
import json
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from quire.engine import messages as m
from quire.engine import scheduler
from quire.engine.plan import Outcome, StepResult
from quire.engine.state import Limits, State

HASHED = 512  # tokens that one hash of a Mooncake trace stands for


@dataclass(frozen=True, slots=True)
class Arrival:
    at: float  # seconds after the first
    prompt_tokens: int
    answer_tokens: int
    blocks: tuple[int, ...] = ()  # names of the prompt's blocks of HASHED tokens

    def prompt(self, number: int) -> list[int]:
        """Token ids: those of a block follow from its name, all others from the request's own number."""
        named = [block * HASHED + i for block in self.blocks for i in range(HASHED)]
        own = (1 << 40) + (number << 20)
        return (named + list(range(own, own + max(0, self.prompt_tokens - len(named)))))[: self.prompt_tokens]


def read_trace(path: Path) -> Iterator[Arrival]:
    """Azure's CSV (time, context, generated) or Mooncake's gzipped JSON lines."""
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            first = None
            for row in csv.DictReader(file):
                at = datetime.fromisoformat(row["TIMESTAMP"][:26])
                first = first or at
                answer = max(1, int(row["GeneratedTokens"]))
                yield Arrival((at - first).total_seconds(), max(1, int(row["ContextTokens"])), answer)
        return
    with gzip.open(path, "rt") as lines:
        for line in lines:
            row = json.loads(line)
            answer = max(1, row["output_length"])
            yield Arrival(row["timestamp"] / 1e3, row["input_length"], answer, tuple(row["hash_ids"]))


@dataclass(slots=True)
class Report:
    """What a replay showed. Times in seconds of the counted clock, but for scheduler_us."""

    wanted: int = 0
    finished: int = 0
    queued: list[float] = field(default_factory=list)  # from arrival to the first step, by request
    scheduler_us: list[tuple[int, float]] = field(default_factory=list)  # (slices, microseconds) of each step
    waste: list[float] = field(default_factory=list)  # slots without a token, of those allocated, now and then
    steps: int = 0
    seconds: float = 0.0
    hit_rate: float = 0.0
    preemptions: int = 0
    most_running: int = 0

    def lines(self) -> Iterator[str]:
        queued = sorted(self.queued)
        at = lambda share: queued[min(len(queued) - 1, int(share * len(queued)))]  # noqa: E731
        yield f"{self.finished} of {self.wanted} requests in {self.seconds:.0f} s and {self.steps} steps"
        yield f"queueing: median {at(0.5):.3f} s, 90 % {at(0.9):.3f}, 99 % {at(0.99):.3f}, longest {queued[-1]:.3f}"
        yield f"prefix hits: {100 * self.hit_rate:.1f} % of prompt tokens; {self.preemptions} preemptions"
        waste = 100 * statistics.fmean(self.waste)
        yield f"running at once: {self.most_running} at most; slots without a token: {waste:.2f} %"
        steps = [us for _, us in self.scheduler_us]
        yield f"scheduler: mean {statistics.fmean(steps):.0f} us a step, median {statistics.median(steps):.0f} us"
        for low, high in ((1, 16), (16, 64), (64, 200), (200, 300)):
            if found := [us for n, us in self.scheduler_us if low <= n < high]:
                yield f"  {low} to {high - 1} slices: median {statistics.median(found):.0f} us ({len(found)} steps)"


def replay(arrivals: list[Arrival], state: State, step_ms: float, token_us: float, check: int = 0) -> Report:
    """Send `arrivals` (in order of time) through `state` until all are done; check invariants every `check` steps."""
    report = Report(wanted=len(arrivals))
    clock, coming = 0.0, 0
    born: dict[str, float] = {}
    while coming < len(arrivals) or state.has_work():
        if not state.has_work():
            clock = max(clock, arrivals[coming].at)
        while coming < len(arrivals) and arrivals[coming].at <= clock:
            one = arrivals[coming]
            params = m.SamplingParams(max_tokens=one.answer_tokens, seed=0)
            scheduler.add(state, m.Generate(id=str(coming), prompt=one.prompt(coming), params=params))
            born[str(coming)] = one.at
            coming += 1
        began = time.perf_counter()
        plan = scheduler.schedule(state)
        planned = time.perf_counter()
        for seq in plan.admitted:
            if (at := born.pop(seq.request, None)) is not None:
                report.queued.append(clock - at)
        clock += (step_ms + plan.num_tokens * token_us / 1e3) / 1e3
        result = StepResult([Outcome(tokens=[1] if piece.sample else []) for piece in plan.slices])
        executed = time.perf_counter()
        news = scheduler.commit(state, plan, result)
        done = time.perf_counter()
        report.scheduler_us.append((len(plan.slices), 1e6 * (planned - began + done - executed)))
        report.finished += sum(1 for x in news if isinstance(x, m.TokenDelta) and x.finish is not None)
        report.steps += 1
        report.most_running = max(report.most_running, len(state.running))
        if report.steps % 50 == 0 and state.running:
            slots = sum(len(s.blocks) for s in state.running) * state.limits.block_size
            report.waste.append(1 - sum(s.computed for s in state.running) / slots)
        if check and report.steps % check == 0:
            state.check()
    report.seconds = clock
    report.hit_rate = state.prefix_hits / max(1, state.prefix_queries)
    report.preemptions = state.preemptions
    return report


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("trace", type=Path)
    p.add_argument("--requests", type=int, help="only the first so many")
    p.add_argument("--pool", type=int, default=1_000_000, help="tokens the page pool holds")
    p.add_argument("--max-num-seqs", type=int, default=256)
    p.add_argument("--budget", type=int, default=2048, help="tokens of a step")
    p.add_argument("--step-ms", type=float, default=8.0)
    p.add_argument("--token-us", type=float, default=20.0)
    p.add_argument("--no-prefix-caching", action="store_true")
    args = p.parse_args()
    arrivals = list(read_trace(args.trace))[: args.requests]
    limits = Limits(1 << 18, args.max_num_seqs, args.budget, max_waiting=1 << 20)
    state = State(limits, args.pool // limits.block_size, not args.no_prefix_caching)
    gc.collect()
    gc.freeze()  # as the engine does
    for line in replay(arrivals, state, args.step_ms, args.token_us).lines():
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
