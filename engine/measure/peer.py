"""The same answers from the continuous batching of `transformers`, whose weights are random too."""

from __future__ import annotations

import logging
import statistics
import time
from itertools import pairwise
from typing import Any

import torch

from .report import Place, Report
from .running import random_prompt
from .throughput import SHORT, sizes

log = logging.getLogger("quire.engine")

GROWTH = 1.6  # by so much steps may become slower as the answers grow


def measure(report: Report, place: Place) -> None:
    """Answers as long as the time allows, in the parts that throughput.py reports; it has the rate for each length."""
    count, prompt, answer, part = sizes(place)
    run = Runs(place)
    short = min(SHORT, part)
    first = run.batch(count, prompt, short)  # says how long the rest will take
    report.row(f"transformers.first.{short}", count * short / first.wall, "output tokens/s")
    room = report.left * 0.85 - (first.prompts + first.beside)
    length = min(answer, int(room / (first.step * GROWTH)) // part * part)
    note = f"transformers {run.version}, {run.attention}"
    if length < part:
        report.lacks("transformers.output", f"{note}: {part} tokens an answer would take longer than the time")
        return
    found = run.batch(count, prompt, length)
    report.row(f"transformers.first.{length}", count * length / found.wall, "output tokens/s", note)
    report.row("transformers.step", 1e3 * found.step, "ms", "between the tokens of an answer, median")
    if length == answer:
        said = f"{note}; {count} at once, {prompt} in, {answer} out"
        report.row("transformers.output", count * length / found.wall, "output tokens/s", said)
    else:
        report.lacks("transformers.output", f"there was time for {length} of {answer} tokens an answer")


class Batch:
    """What a run took, in seconds. prompts: until each answer had its first token; step: between two tokens of an
    answer; wall: from first to last; beside: what the call took before and after."""

    def __init__(self, began: float, ended: float, stamps: list[list[float]], started: float):
        last = max(times[-1] for times in stamps)
        self.prompts = max(times[0] for times in stamps) - started
        self.step = statistics.median(b - a for times in stamps for a, b in pairwise(times))
        self.wall = last - started
        self.beside = (ended - began) - self.wall


class Runs:
    """The model, and batches of it."""

    def __init__(self, place: Place):
        import transformers

        self.version = transformers.__version__
        self.device = place.device
        config = transformers.AutoConfig.from_pretrained(place.models / "llama-3.1-8b")
        config.eos_token_id = None  # answers have their full length
        kind = torch.bfloat16 if place.cuda else torch.float32
        with torch.device(place.device):
            made: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=kind, attn_implementation="sdpa")
        self.model = made.eval()
        self.model.generation_config.eos_token_id = None
        self.vocab = config.vocab_size
        self.attention = "attention of its own choice"
        # Left to itself it takes nine tenths of the memory, which on a CPU is the machine's.
        few = transformers.ContinuousBatchingConfig(num_blocks=32, max_batch_tokens=256)
        self._settings = few if place.tiny else None

    def batch(self, count: int, prompt: int, answer: int) -> Batch:
        """Raises RuntimeError where an answer is not whole."""
        try:
            return self._batch(count, prompt, answer)
        except (ImportError, OSError) as error:  # it would fetch flash attention where it is not installed
            log.warning("transformers chose attention that is not there (%s); paged|sdpa is asked for", error)
            self.model.set_attn_implementation("paged|sdpa")
            self.attention = "paged|sdpa"
            return self._batch(count, prompt, answer)

    def _batch(self, count: int, prompt: int, answer: int) -> Batch:
        from transformers import GenerationConfig

        asked = [random_prompt(prompt, self.vocab, f"{answer} {i}") for i in range(count)]
        wanted = GenerationConfig(max_new_tokens=answer, do_sample=False, eos_token_id=-1, pad_token_id=0)
        began = time.perf_counter()
        found = self.model.generate_batch(
            asked, generation_config=wanted, continuous_batching_config=self._settings,
            record_timestamps=True, progress_bar=False,
        )  # fmt: skip
        ended = time.perf_counter()
        outputs = list(found.values())
        short = [len(one.generated_tokens) for one in outputs if len(one.generated_tokens) != answer]
        if len(outputs) != count or short:
            errors = sorted({str(one.error) for one in outputs if one.error})
            raise RuntimeError(f"{len(outputs)} of {count} answers came, {len(short)} not whole {errors[:2]}")
        started = min(one.created_time for one in outputs)
        return Batch(began, ended, [list(one.timestamps) for one in outputs], started)
