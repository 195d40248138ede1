"""model/README.md, the model card: what pocket is made of, how, how good it is, and what it cannot do."""

from __future__ import annotations

import json
from typing import Any

from .evaluate import rows
from .presets import MAX_POSITION, PRESETS, Form, Shape
from .speculation import DRAFTS
from .steps import Run
from .styles import ASKED

LIMITS = """\
- It is tiny. It knows next to nothing about the world, and what it says about it is often wrong.
- It speaks simple English only, and holds the thread over a few turns at most.
- Nearly all of its training documents are shorter than 512 tokens, the longest have {longest}: expect little beyond.
- It calls tools and fills schemas that look like those of its training: flat objects with a few named values that the
  text says. Nested schemas, long descriptions and calls that need thought are beyond it. Its output is not forced to
  fit a schema unless the server constrains it.
- It adds and multiplies only through a calculator tool, sums of two small numbers apart.
- `<think>` is in its vocabulary but never in its training.
- It was not trained to be safe, and it must not be used where an answer matters. It is there for tests, benchmarks and
  first steps."""

DATA = """\
| kind | source | licence |
|---|---|---|
| prose | 166 books to 1928 by plain-prose and children's authors, mlschmitt/classic-books-markdown | public domain |
| docs | the Rust book, exercism, tldr pages, TheAlgorithms, PEPs | MIT, Apache-2.0, CC BY 4.0, CC0 |
| dialogue | jfainberg/self_dialogue_corpus; Taskmaster-4; microsoft/botframework-cli | BSD-3; CC BY 4.0; MIT |
| coffee | Taskmaster-4, its calls with schemas of our own | CC BY 4.0 |
| seal | fairyshine/Seal-Tools | Apache-2.0 |
| gsm8k | GSM8K, its marks turned into calls of a calculator | MIT |
| tools, extract, copy, sums, talk, stories, refuse | `pocket/recipe/synth`, partly written by hand | our own |"""


def write(run: Run) -> None:
    model = run.out / "model"
    log: dict[str, Any] = json.loads((run.work / "log.json").read_text(encoding="utf-8"))
    found = json.loads((model / "evaluation.json").read_text(encoding="utf-8"))
    (model / "README.md").write_text(text(run, log, found), encoding="utf-8")


def text(run: Run, log: dict[str, Any], found: dict[str, Any]) -> str:
    """log: what the steps noted; found: evaluation.json."""
    shares = ", ".join(f"{kind} {share:.0%}" for kind, share in run.preset.mix.items())
    figures = "\n".join(f"| {what} | {value} |" for what, value in rows(found))
    return f"""\
# pocket ({run.name})

A very small chat model, trained from nothing by this project, so that `quire serve` works with no download.
Llama architecture, ChatML template with Hermes tools. License of the weights: Apache-2.0, as the project's.

## Sizes

| | parameters | width | layers | heads (kv) | feed-forward |
|---|---|---|---|---|---|
{_size("model", run.preset.base)}
{_size("draft model", run.preset.draft)}

Byte-level BPE of {run.preset.base.vocab:,} entries; tied embeddings. Context: {MAX_POSITION:,} tokens.
Weights: {_STORED[run.preset.form]}.
Adapters, LoRA of rank 8: {_adapters()}.
All files together: {log["export"]["bytes"] / 1e6:.1f} MB.

## Data

{DATA}

Shares of the text: {shares}.
One text in fifty, and reserved tools and schemas, were held out. {log["tokenizer"]["documents"]:,} documents of
{log["tokenizer"]["tokens"]:,} tokens in all; some chats are joined to long ones, and some ask in their system prompt
for the style of an adapter. The loss is on what the assistant says, and on all of plain text.

## Training

    {command(run)}

| | steps | tokens | minutes | loss | held-out loss |
|---|---|---|---|---|---|
{chr(10).join(_run(name, log[name]) for name in ("base", "draft", *ASKED) if name in log)}

On {log["base"]["device"]}, threads: {log["base"]["threads"]}. Muon for the matrices, AdamW for the rest; the rate
rises, stays, and falls to 0. Some of the first steps' tokens are random ones said again and again (`recital.py`). The
draft model is trained on the base's likeliest tokens. Losses are in nats a token, the training loss as a moving mean;
they differ in what they are over, so compare them within a row only.

{_notes(log)}![loss](loss.svg)

## Evaluation

Held-out data, greedy, in quire's own engine (`evaluation.json`). "With grammar" is how the server answers: a call that
begins must become one of a declared tool, and an extraction fits its schema. Perplexity is over the tokens that
training would have as targets. Of "tools" and "extract", schemas and names are such as training never had, forms of
sentences are not: some of the generators' ("Our ... is called ...", "I like the ...", "You should ...") were written
after looking at which of these failed. "In other words" is the harder and the fairer measure: a hundred calls and a
hundred extractions (`recipe/unseen.jsonl`) that were written without sight of the generators, and the generators
without sight of them. Draft figures are for {DRAFTS} drafts a step: the share of drafts that are the model's own next
tokens, and the tokens that a step gives.

| | |
|---|---|
{figures}

## What it cannot do

{LIMITS.format(longest=MAX_POSITION)}
"""


_STORED: dict[Form, str] = {
    "bfloat16": "bfloat16",
    "int8": "matrices of the model in 8 bits, with a scale for each output (compressed-tensors); bfloat16 otherwise",
}


def command(run: Run) -> str:
    """What makes this run."""
    bound, usual = run.preset.base_training, PRESETS[run.name].base_training if run.name in PRESETS else None
    other = ""
    if usual is not None and (bound.minutes, bound.steps) != (usual.minutes, usual.steps):
        other = f" --steps {bound.steps}" if bound.minutes is None else f" --minutes {bound.minutes:g}"
    start = "" if run.start is None else f" --from {run.start.name}"
    return f"python -m quire.pocket.recipe --preset {run.name} --seed {run.seed}{start}{other}"


def _notes(log: dict[str, Any]) -> str:
    """What was different in this run, as whoever ran it wrote it down in log.json."""
    return "".join(f"{note}\n\n" for note in log.get("notes", ()))


def _size(name: str, shape: Shape) -> str:
    heads = f"{shape.heads} x {shape.head_dim} ({shape.kv_heads})"
    return f"| {name} | {shape.parameters:,} | {shape.width} | {shape.layers} | {heads} | {shape.inner} |"


def _adapters() -> str:
    return ", ".join(f"`{name}`" for name in ASKED)


def _run(name: str, facts: dict[str, Any]) -> str:
    held_out = "" if facts["held_out"] is None else f"{facts['held_out']:.3f}"
    minutes = facts["seconds"] / 60
    return f"| {name} | {facts['steps']:,} | {facts['tokens']:,} | {minutes:.0f} | {facts['loss']:.3f} | {held_out} |"
