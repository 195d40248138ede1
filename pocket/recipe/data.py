"""From samples to token files: the corpus as JSON lines, then ids and masks in flat files that training maps.

Both are made ahead, in as many pieces as there are worker processes; what a piece holds depends on the seed and its
number only. No torch here, so that workers start fast.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from ...engine.errors import QuireError
from ...server.template import compile_template, render
from .presets import MAX_POSITION
from .rendering import Rendering
from .samples import Sample
from .styles import instructed
from .tokenizer import TEMPLATE

CHARS_PER_TOKEN = 4.4  # of samples as JSON, to know how much text a number of tokens needs
PIECES = 16  # of the corpus
TOKENIZER_CHARS = 24_000_000  # of the corpus, for the tokenizer
STYLED = 0.03  # share of samples that ask for an adapter's style in so many words
LONG = 0.06  # share of samples that become a part of one long conversation
MASK, TOKENS, LENGTHS = "mask.u8", "tokens.u16", "lengths.npy"


@dataclass(frozen=True, slots=True)
class Corpus:
    """Which samples: those of the stream with this seed and these shares, held-out or not."""

    shared: Path
    seed: int
    held_out: bool
    chars: int  # about so many in all
    mix: Mapping[str, float]


def write_samples(corpus: Corpus, folder: Path, pieces: int, workers: int) -> None:
    """folder/N.jsonl for each piece."""
    folder.mkdir(parents=True, exist_ok=True)
    _each(_write_piece, [(corpus, pieces, n, folder / f"{n}.jsonl") for n in range(pieces)], workers)


def write_tokens(samples: Path, tokenizer: Path, seed: int, workers: int) -> None:
    """Beside each piece of samples a folder of its tokens."""
    jobs = [(path, tokenizer, seed) for path in sorted(samples.glob("*.jsonl"))]
    _each(_encode_piece, jobs, workers)


def read_samples(path: Path) -> Iterator[Sample]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            kind, messages, tools, text = json.loads(line)
            yield Sample(kind, messages, tools, text)


def rendered(samples: Path, chars: int) -> Iterator[str]:
    """About `chars` characters of the corpus as text, from every piece alike."""
    template = compile_template(TEMPLATE.read_text(encoding="utf-8"))
    paths = sorted(samples.glob("*.jsonl"))
    for path in paths:
        left = chars // len(paths)
        for sample in enriched(read_samples(path), Random(path.stem)):
            text = sample.text
            if text is None:
                text = render(template, {"messages": sample.messages, "tools": sample.tools})
            yield text
            left -= len(text)
            if left < 0:
                break


def enriched(samples: Iterable[Sample], rng: Random) -> Iterator[Sample]:
    """The samples, some of them asked for in an adapter's style, and some joined to one long conversation."""
    joined: list[dict[str, Any]] = []
    size, room = 0, rng.uniform(0.4, 1.0)
    for sample in samples:
        plain = sample.messages is not None and not sample.tools and sample.messages[0]["role"] == "user"
        draw = rng.random()
        if plain and draw < LONG:
            assert sample.messages is not None
            joined += sample.messages
            size += sum(len(m.get("content") or "") + 20 for m in sample.messages)
            if size > room * CHARS_PER_TOKEN * MAX_POSITION:
                yield Sample("long", joined)
                joined, size, room = [], 0, rng.uniform(0.4, 1.0)
        elif plain and draw < LONG + STYLED:
            yield instructed(sample, rng)
        else:
            yield sample


class Documents:
    """All tokens of a folder of pieces, mapped: ids uint16 and mask uint8, one document behind the other."""

    def __init__(self, folder: Path):
        pieces = sorted(p for p in folder.iterdir() if (p / LENGTHS).is_file())
        if not pieces:
            raise FileNotFoundError(f"{folder}: holds no tokens; run the step before training first")
        self._tokens = [np.memmap(p / TOKENS, np.uint16, "r") for p in pieces]
        self._masks = [np.memmap(p / MASK, np.uint8, "r") for p in pieces]
        lengths = [np.load(p / LENGTHS) for p in pieces]
        self.lengths = np.concatenate(lengths)  # of each document
        self._piece = np.repeat(np.arange(len(pieces)), [len(found) for found in lengths])
        self._at = np.concatenate([np.cumsum(found) - found for found in lengths])

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """ids [n] and mask [n] of one document."""
        piece, at = self._piece[n], self._at[n]
        where = slice(at, at + self.lengths[n])
        return self._tokens[piece][where], self._masks[piece][where]


def write_documents(samples: Iterable[Sample], rendering: Rendering, folder: Path) -> int:
    """The token files of one piece; its documents' number. Conversations that are too long for the model, or that the
    template refuses, are left out; plain text is cut."""
    folder.mkdir(parents=True, exist_ok=True)
    lengths = []
    with (folder / TOKENS).open("wb") as tokens, (folder / MASK).open("wb") as masks:
        for sample in samples:
            try:
                ids, mask = rendering.ids(sample)
            except QuireError:
                continue
            if len(ids) > MAX_POSITION and sample.text is None:
                continue
            for at in range(0, len(ids), MAX_POSITION):
                cut = slice(at, at + MAX_POSITION)
                if mask[cut][1:].any():
                    tokens.write(ids[cut].tobytes())
                    masks.write(mask[cut].astype(np.uint8).tobytes())
                    lengths.append(len(ids[cut]))
    np.save(folder / LENGTHS, np.array(lengths, np.int64))  # the last: a piece without it is not whole
    return len(lengths)


def _write_piece(corpus: Corpus, pieces: int, number: int, path: Path) -> None:
    from .samples import stream

    if path.is_file():
        return
    left = corpus.chars // pieces
    begun = path.with_suffix(".part")
    with begun.open("w", encoding="utf-8") as out:
        for sample in stream(corpus.shared, corpus.seed * 1000 + number, corpus.held_out, corpus.mix):
            line = json.dumps([sample.kind, sample.messages, sample.tools, sample.text], ensure_ascii=False)
            out.write(line + "\n")
            left -= len(line)
            if left < 0:
                break
    begun.replace(path)


def _encode_piece(path: Path, tokenizer: Path, seed: int) -> None:
    folder = path.with_suffix("")
    if not (folder / LENGTHS).is_file():
        rng = Random(f"{seed} {path.stem}")
        write_documents(enriched(read_samples(path), rng), Rendering(tokenizer), folder)


def _each(work: Any, jobs: list[tuple[Any, ...]], workers: int) -> None:
    if workers <= 1:
        for job in jobs:
            work(*job)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for done in [pool.submit(work, *job) for job in jobs]:
            done.result()
