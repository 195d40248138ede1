"""Prometheus metrics under vLLM's names with the prefix `quire:`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..engine.client import EngineClient
from ..engine.messages import StepStats

if TYPE_CHECKING:
    from .adapters import Adapters

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
DRAFTED, ACCEPTED = "Guessed tokens that were checked", "Guessed tokens that were right"
BEFORE_THE_FIRST_STEP = StepStats(
    running=0, waiting=0, blocks_used=0, blocks_total=0, steps=0, prompt_tokens=0, generated_tokens=0,
    prefix_queries=0, prefix_hits=0, preemptions=0, schedule_seconds=0.0, step_seconds=0.0,
)  # fmt: skip


class _EngineCollector(Collector):
    """Reads the engine's last StepStats when scraped."""

    def __init__(self, engine: EngineClient):
        self.engine = engine

    def collect(self) -> Iterator[Metric]:
        engine, stats = self.engine, self.engine.stats or BEFORE_THE_FIRST_STEP
        yield GaugeMetricFamily(
            "quire:prompts_in_flight", "Prompts that wait for answers, of all requests", engine.pending
        )
        yield GaugeMetricFamily("quire:engine_ready", "1 while the engine serves", float(engine.state == "ready"))
        yield CounterMetricFamily("quire:engine_restarts", "Times the engine was started again", engine.restarts)
        used = stats.blocks_used / max(stats.blocks_total, 1)
        for name, text, value in (
            ("num_requests_running", "Sequences that run", stats.running),
            ("num_requests_waiting", "Sequences that wait", stats.waiting),
            ("kv_cache_usage_perc", "Share of pages held by running sequences, 0 to 1", used),
        ):
            yield GaugeMetricFamily(f"quire:{name}", text, value)
        for name, text, count in (
            ("prompt_tokens", "Prompt tokens of admitted requests", stats.prompt_tokens),
            ("generation_tokens", "Tokens generated", stats.generated_tokens),
            ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache", stats.prefix_queries),
            ("prefix_cache_hits", "Prompt tokens found in the prefix cache", stats.prefix_hits),
            ("num_preemptions", "Sequences preempted", stats.preemptions),
            ("spec_decode_num_draft_tokens", DRAFTED, sum(map(sum, stats.drafted.values()))),
            ("spec_decode_num_accepted_tokens", ACCEPTED, sum(map(sum, stats.accepted.values()))),
            ("engine_steps", "Steps of the engine", stats.steps),
            ("engine_schedule_seconds", "Time spent scheduling and committing", stats.schedule_seconds),
            ("engine_step_seconds", "Time spent in steps", stats.step_seconds),
            ("cuda_graph_captures", "CUDA graphs captured", stats.captures),
            ("cuda_graph_replays", "Steps whose layers were replayed from a CUDA graph", stats.replays),
            ("cuda_graph_eager_steps", "Steps small enough for a CUDA graph that ran without", stats.eager),
        ):
            yield CounterMetricFamily(f"quire:{name}", text, count)
        for name, text, counts in (("draft", DRAFTED, stats.drafted), ("accepted", ACCEPTED, stats.accepted)):
            placed = CounterMetricFamily(
                f"quire:spec_decode_num_{name}_tokens_per_pos",
                f"{text}, by who guessed and by place behind the last token",
                labels=["proposer", "position"],
            )
            for proposer, places in counts.items():
                for place, count in enumerate(places):
                    placed.add_metric([proposer, str(place)], count)
            yield placed


class _AdapterCollector(Collector):
    """Reads the registry when scraped: a name is a label for as long as it is known, and no other ever is."""

    def __init__(self, adapters: Adapters):
        self.adapters = adapters

    def collect(self) -> Iterator[Metric]:
        known = self.adapters.known
        yield GaugeMetricFamily("quire:lora_adapters", "Adapters that have a name", len(known))
        running = GaugeMetricFamily("quire:lora_requests_running", "Requests in flight by adapter", labels=["adapter"])
        seconds = GaugeMetricFamily("quire:lora_load_seconds", "Time the last load took", labels=["adapter"])
        state = GaugeMetricFamily("quire:lora_state", "1 for the state it is in", labels=["adapter", "state"])
        requests = CounterMetricFamily("quire:lora_requests", "Requests by adapter", labels=["adapter"])
        prompt = CounterMetricFamily("quire:lora_prompt_tokens", "Their prompt tokens, when ended", labels=["adapter"])
        generated = CounterMetricFamily("quire:lora_generation_tokens", "Their answers' tokens", labels=["adapter"])
        for adapter in known:
            running.add_metric([adapter.name], adapter.running)
            seconds.add_metric([adapter.name], adapter.load_seconds)
            state.add_metric([adapter.name, adapter.state], 1)
            requests.add_metric([adapter.name], adapter.requests)
            prompt.add_metric([adapter.name], adapter.prompt_tokens)
            generated.add_metric([adapter.name], adapter.generated_tokens)
        yield from (running, seconds, state, requests, prompt, generated)


class Metrics:
    """The server's own counts and times, in a registry of its own."""

    def __init__(self, engine: EngineClient, adapters: Adapters):
        self.registry = CollectorRegistry()
        self.registry.register(_EngineCollector(engine))
        self.registry.register(_AdapterCollector(adapters))

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"quire:{name}", text, buckets=SECONDS, registry=self.registry)

        queued = histogram("request_queue_time_seconds", "From a request's arrival at the engine to its first step")
        engine.on_waited = queued.observe
        self.ttft = histogram("time_to_first_token_seconds", "From a request's arrival to its first token")
        self.itl = histogram("inter_token_latency_seconds", "Between tokens of one sequence")
        self.e2e = histogram("e2e_request_latency_seconds", "From a request's arrival to its end")
        self.finished = Counter(
            "quire:request_success", "Choices by how they ended", ["finished_reason"], registry=self.registry
        )

    def text(self) -> bytes:
        return generate_latest(self.registry)


class Stopwatch:
    """The times of one request."""

    def __init__(self, metrics: Metrics):
        self._metrics = metrics
        self.arrived = time.perf_counter()
        self.first: float | None = None
        self._last: dict[tuple[str, int], float] = {}

    def tokens(self, sequence: tuple[str, int], count: int) -> None:
        """`count` tokens of one sequence (request, index) are here."""
        now = time.perf_counter()
        if self.first is None:
            self.first = now
            self._metrics.ttft.observe(now - self.arrived)
        if (last := self._last.get(sequence)) is not None:
            for _ in range(count):
                self._metrics.itl.observe((now - last) / count)
        self._last[sequence] = now

    def ended(self, reasons: list[str | None]) -> None:
        self._metrics.e2e.observe(time.perf_counter() - self.arrived)
        for reason in reasons:
            self._metrics.finished.labels(reason or "abort").inc()
