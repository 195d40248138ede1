"""What the model is trained on, sample by sample: the kinds, their shares, and one endless mixed stream.

Real text comes from `corpus`, everything else from `synth`. Of both, a sample is held out or trained on, never both:
real and synthetic text by a hash of its words, tools and JSON schemas by reserved names too (see `synth/params.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation (`messages`, perhaps `tools`) or one plain text, of which every token is trained on.

    Messages are OpenAI-like; the arguments of a tool call are an object, and the content of a message that only calls
    is absent. facts, for evaluation: {"calls": [{"name", "arguments"}]} and "call" where it is one; {"json", "schema"};
    {"answer"}, the exact text.
    """

    kind: str
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    text: str | None = None
    facts: dict[str, Any] | None = None


MIX: dict[str, float] = {  # share of the text, by characters
    "prose": 0.16,
    "dialogue": 0.09,
    "docs": 0.02,
    "stories": 0.10,
    "tools": 0.23,
    "extract": 0.17,
    "copy": 0.09,
    "sums": 0.02,
    "gsm8k": 0.01,
    "talk": 0.06,
    "refuse": 0.015,
    "seal": 0.02,
    "coffee": 0.015,
}

MIX_LATER: dict[str, float] = {  # for training that goes on: what was learned first is only kept fresh
    "prose": 0.08,
    "dialogue": 0.09,
    "docs": 0.02,
    "stories": 0.02,
    "tools": 0.35,
    "extract": 0.30,
    "copy": 0.08,
    "sums": 0.01,
    "gsm8k": 0.01,
    "talk": 0.01,
    "refuse": 0.01,
    "seal": 0.01,
    "coffee": 0.01,
}

HELD_OUT = 50  # one sample in so many is never trained on
_Make = Callable[[], Sample]


def stream(shared: Path, seed: int, held_out: bool, mix: Mapping[str, float]) -> Iterator[Sample]:
    """An endless, reproducible mixture: over any few thousand samples each kind has its share of `mix` in characters.

    shared: the folder that holds `train/`. Raises FileNotFoundError that names the missing file.
    """
    rng = Random(f"{seed} {held_out}")
    makers = [_maker(shared, kind, Random(f"{seed} {held_out} {kind}"), held_out) for kind in mix]
    kinds = list(mix)
    shares = list(mix.values())
    count, chars = [1] * len(kinds), [500] * len(kinds)
    weights: list[float] = []
    for step in range(1 << 62):
        if step % 64 == 0:  # as often as its share asks for, given how long its samples are
            weights = [s * n / c for s, n, c in zip(shares, count, chars, strict=True)]
        at = rng.choices(range(len(kinds)), weights)[0]
        sample = makers[at]()
        count[at] += 1
        chars[at] += len(key(sample))
        yield sample


def held_out(shared: Path, kind: str, count: int) -> list[Sample]:
    """Different samples of one kind that no training stream ever holds; fewer than count where the text runs out."""
    found: dict[str, Sample] = {}
    make = _maker(shared, kind, Random(f"held out {kind}"), True)
    for _ in range(4 * count):
        sample = make()
        found.setdefault(key(sample), sample)
        if len(found) == count:
            break
    return list(found.values())


def key(sample: Sample) -> str:
    """All that the model sees of a sample, as one string."""
    if sample.text is not None:
        return sample.text
    return json.dumps([sample.messages, sample.tools], ensure_ascii=False)


def is_held_out(text: str) -> bool:
    """By a hash of the text, so that it does not depend on seeds or order."""
    return int.from_bytes(blake2b(text.encode(), digest_size=4).digest(), "big") % HELD_OUT == 0


def _maker(shared: Path, kind: str, rng: Random, held_out: bool) -> _Make:
    """The endless source of one kind."""
    from . import corpus, synth

    if kind in synth.GENERATORS:
        return _synthetic(kind, rng, held_out)
    if kind not in corpus.READERS:
        raise ValueError(f"kind {kind!r} is not known; the kinds are {', '.join(MIX)}")
    kept = _read(shared / "train", kind, held_out)

    def endless() -> Iterator[Sample]:
        while True:
            yield from rng.sample(kept, len(kept))

    return endless().__next__


def _synthetic(kind: str, rng: Random, held_out: bool) -> _Make:
    from . import synth

    generate = synth.GENERATORS[kind]
    if kind in synth.RESERVED:  # whose held-out samples differ by their schemas already
        return lambda: generate(rng, held_out)

    def make() -> Sample:
        while True:
            sample = generate(rng, held_out)
            if is_held_out(key(sample)) == held_out:
                return sample

    return make


def _read(folder: Path, kind: str, held_out: bool) -> list[Sample]:
    """The samples of one kind of real text. Raises ValueError where the file has none that fits."""
    kept = _split(folder, kind)[held_out]
    if not kept:
        raise ValueError(f"{folder}: no usable {kind} samples (held_out={held_out})")
    return kept


@cache
def _split(folder: Path, kind: str) -> tuple[list[Sample], list[Sample]]:
    """(trained on, held out) of one kind of real text."""
    from . import corpus

    parts: tuple[list[Sample], list[Sample]] = ([], [])
    for sample in corpus.READERS[kind](folder):
        parts[is_held_out(key(sample))].append(sample)
    return parts
