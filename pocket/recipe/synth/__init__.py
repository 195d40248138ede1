"""Generators of samples that no text gives: one module a kind, each `make(rng, held_out) -> Sample`.

Here live word lists, tables and grammars, and in `written/` texts and tools that `forms` reads; nothing else is read.
Values are drawn at random, so that answers must be copied from the question. What must never be trained on is reserved
by name (tools, extract) or by hash (see `samples`).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ..samples import Sample
from . import copying, extract, refuse, stories, sums, talk, tools

GENERATORS: dict[str, Callable[[Random, bool], Sample]] = {
    "tools": tools.make,
    "extract": extract.make,
    "copy": copying.make,
    "sums": sums.make,
    "talk": talk.make,
    "stories": stories.make,
    "refuse": refuse.make,
}
RESERVED = {"tools", "extract"}  # whose held-out samples have schemas of their own
