"""What the model can do, on samples that were never trained on: a table, and evaluation.json beside the model.

All answers are greedy and come from quire's own engine; those with tools or a schema once free and once bound by the
grammar that the server would bind them by.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from ...engine.grammar.spec import GrammarSpec
from . import speculation, unseen
from .batches import Batch
from .generate import Generator
from .judge import fields_of, is_json, judge_calls
from .net import IGNORED, Llama
from .presets import Shape
from .rendering import Rendering
from .samples import MIX, Sample, held_out
from .steps import Run
from .stored import read

SAMPLES = {"perplexity": 200, "tools": 400, "extract": 300, "copy": 300, "draft": 60, "unseen": 100}
MAX_TOKENS = 200
Score = dict[str, float]


@dataclass(frozen=True, slots=True)
class Exam:
    run: Run
    rendering: Rendering
    generator: Generator
    net: Llama

    def samples(self, kind: str, count: int) -> list[Sample]:
        return held_out(self.run.shared, kind, count)

    def answers(
        self, samples: list[Sample], grammars: Sequence[GrammarSpec | None] = ()
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Prompts up to the first answer of each sample, and the model's own answers."""
        prompts = [self.rendering.prompt(question(sample)) for sample in samples]
        return prompts, self.generator.answers(prompts, MAX_TOKENS, grammars)


def evaluate(run: Run) -> None:
    rendering = Rendering(run.out / "model")
    generator = Generator(run.out / "model", rendering.tokenizer.eos_ids)
    exam = Exam(run, rendering, generator, shipped(run.preset.base, run.out / "model"))
    found: dict[str, Any] = {name: part(exam) for name, part in PARTS.items()}
    text = json.dumps(found, indent=1)
    (run.out / "model" / "evaluation.json").write_text(text + "\n", encoding="utf-8")
    show(found)


def shipped(shape: Shape, folder: Path) -> Llama:
    """The network with the weights as they are exported."""
    net = Llama(shape)
    net.load_state_dict(read(folder))
    return net.eval()


def question(sample: Sample) -> Sample:
    """The conversation up to the first answer."""
    messages = sample.messages or []
    first = next(n for n, message in enumerate(messages) if message["role"] == "assistant")
    return Sample(sample.kind, messages[:first], sample.tools)


def perplexity(exam: Exam) -> Score:
    """Of each kind, over the tokens that training would have as targets."""
    return {kind: _perplexity(exam, kind) for kind in MIX}


@torch.inference_mode()
def _perplexity(exam: Exam, kind: str) -> float:
    documents = [exam.rendering.ids(sample) for sample in exam.samples(kind, SAMPLES["perplexity"])]
    total, count = 0.0, 0
    for at in range(0, len(documents), 16):
        batch = Batch.of(documents[at : at + 16])
        trained = int((batch.targets != IGNORED).sum())
        total += trained * exam.net.loss(exam.net(batch.tokens, batch.segments), batch.targets).item()
        count += trained
    return math.exp(total / count)


def tools(exam: Exam) -> dict[str, Score]:
    """Prompts with tools whose names and schemas training never had."""
    return _both_tools(exam, exam.samples("tools", SAMPLES["tools"]))


def _both_tools(exam: Exam, samples: list[Sample]) -> dict[str, Score]:
    grammars = [exam.rendering.call_grammar(question(sample)) for sample in samples]
    return {"without grammar": _tools(exam, samples, ()), "with grammar": _tools(exam, samples, grammars)}


def _tools(exam: Exam, samples: list[Sample], grammars: Sequence[GrammarSpec | None]) -> Score:
    _, answers = exam.answers(samples, grammars)
    verdicts, calling = [], []
    for sample, answer in zip(samples, answers, strict=True):
        wanted = (sample.facts or {})["calls"]
        verdict = judge_calls(exam.rendering.tokenizer.decode(answer), sample.tools or [], wanted)
        verdicts.append(verdict)
        if wanted:
            calling.append(verdict)
    return {
        "prompts": len(verdicts),
        "right tool or none": _share([v.tool for v in verdicts]),
        "of those that need a call: right tool": _share([v.tool for v in calling]),
        "right tool, arguments fit the schema": _share([v.valid for v in calling]),
        "right tool, arguments exactly right": _share([v.exact for v in calling]),
    }


def extract(exam: Exam) -> dict[str, Score]:
    """Text to JSON, with schemas that training never had."""
    return _both_extract(exam, exam.samples("extract", SAMPLES["extract"]))


def _both_extract(exam: Exam, samples: list[Sample]) -> dict[str, Score]:
    schemas = [json.dumps({**(s.facts or {})["schema"], "additionalProperties": False}) for s in samples]
    grammars = [GrammarSpec(kind="json_schema", text=schema) for schema in schemas]
    return {"without grammar": _extract(exam, samples, ()), "with grammar": _extract(exam, samples, grammars)}


def _extract(exam: Exam, samples: list[Sample], grammars: Sequence[GrammarSpec | None]) -> Score:
    _, answers = exam.answers(samples, grammars)
    wanted = [(s.facts or {})["json"] for s in samples]
    texts = [exam.rendering.tokenizer.decode(answer) for answer in answers]
    fields = [right for text, value in zip(texts, wanted, strict=True) for right in fields_of(text, value)]
    exact = [is_json(text, value) for text, value in zip(texts, wanted, strict=True)]
    return {"prompts": len(exact), "exactly right": _share(exact), "fields right": _share(fields)}


def in_other_words(exam: Exam) -> dict[str, dict[str, Score]]:
    """Calls and extractions in words that no generator has (`unseen.jsonl`)."""
    tools, extract = (unseen.samples(kind)[: SAMPLES["unseen"]] for kind in ("tools", "extract"))
    return {"tools": _both_tools(exam, tools), "extract": _both_extract(exam, extract)}


def copying(exam: Exam) -> Score:
    """Copying and editing, and how much of it prompt lookup drafts."""
    samples = exam.samples("copy", SAMPLES["copy"])
    prompts, answers = exam.answers(samples)
    decode = exam.rendering.tokenizer.decode
    right = [decode(a) == (s.facts or {})["answer"] for s, a in zip(samples, answers, strict=True)]
    score = {"prompts": len(right), "exactly right": _share(right)}
    return score | _named("prompt lookup", speculation.accepted(speculation.lookup, prompts, answers))


def draft(exam: Exam) -> dict[str, Score]:
    """How much of the model's own answers the draft model foresees."""
    propose = speculation.by_model(shipped(exam.run.preset.draft, exam.run.out / "draft"))
    found = {}
    for kind in ("talk", "stories", "dialogue", "tools", "copy"):
        chats = [sample for sample in exam.samples(kind, SAMPLES["draft"]) if sample.messages]
        prompts, answers = exam.answers(chats)
        found[kind] = speculation.accepted(propose, prompts, answers)
    return found


PARTS: dict[str, Callable[[Exam], Any]] = {
    "perplexity": perplexity,
    "tools": tools,
    "extract": extract,
    "in other words": in_other_words,
    "copy": copying,
    "draft model": draft,
}


def rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """(what, value) of every figure."""
    flat: list[tuple[str, str]] = []

    def walk(name: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(f"{name}: {key}", item)
        else:
            flat.append((name, f"{value:.2f}" if isinstance(value, float) else str(value)))

    for name, value in found.items():
        walk(name, value)
    return flat


def show(found: dict[str, Any]) -> None:
    table = Table("held-out data", "")
    for what, value in rows(found):
        table.add_row(what, value)
    Console().print(table)


def _share(verdicts: list[bool]) -> float:
    return sum(verdicts) / max(1, len(verdicts))


def _named(name: str, score: Score) -> Score:
    return {f"{name}: {key}": value for key, value in score.items()}
