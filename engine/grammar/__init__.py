"""Constraints on answers: a spec compiles to matchers, which say what may come next, token by token.

No scheduler, no sampler and no HTTP here; nothing in this file imports torch, so that the logic side may carry specs.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from .errors import BeyondEngine, GrammarRefused
from .spec import GrammarSpec, Limits

if TYPE_CHECKING:
    from .vocabulary import Row, Vocabulary

KINDS: dict[str, str] = {  # which engine serves which kind; --grammar-engine and a spec's `engine` override it
    "json_schema": "llguidance",
    "json_object": "llguidance",
    "lark": "llguidance",
    "gbnf": "llguidance",
    "ebnf": "llguidance",
    "structural_tag": "llguidance",
    "regex": "outlines",
    "choice": "outlines",
}

ENGINES: dict[str, str] = {"llguidance": "llguidance_", "outlines": "outlines_"}

ABLE: dict[str, tuple[str, ...]] = {  # the kinds that an engine can serve
    "llguidance": tuple(KINDS),
    "outlines": ("regex", "choice"),
}

OVERFLOW: dict[str, str] = {"outlines": "llguidance"}  # who takes what is too large for an engine


class Matcher(Protocol):
    """Where one answer stands. An end of text is a token like others: it may come where `may_end`."""

    @property
    def may_end(self) -> bool: ...

    @property
    def must_end(self) -> bool: ...

    def fill_mask(self, row: Row, left: int | None = None) -> None:
        """row: int32 [ceil(vocab/32)] on the CPU, contiguous; a set bit is a token that may come. left: tokens that may
        still come, this one included; then what cannot be brought to an end in time is left out. None: no limit."""

    def accept(self, tokens: list[int]) -> int:
        """How many were taken, in order, up to the first that is not allowed."""

    def rollback(self, count: int) -> None:
        """Take back the last `count` tokens."""

    def forced(self, left: int | None = None) -> list[int]:
        """The canonical tokens that must come next, whatever is sampled; [] if none.

        left: tokens that may still come. Behind those that are given the answer can still end in time.
        """


class Compiled(Protocol):
    """A grammar that fits one vocabulary. `shortest`: tokens of a shortest answer, None where that is not known."""

    @property
    def shortest(self) -> int | None: ...

    def matcher(self) -> Matcher:
        """A new one, at the beginning."""


def compile(
    spec: GrammarSpec, vocabulary: Vocabulary, limits: Limits | None = None, *, engines: Mapping[str, str] = {}
) -> Compiled:
    """engines: kind -> engine, before KINDS. Raises GrammarRefused (400) with the keyword and its path."""
    limits = limits or Limits()
    if spec.kind not in KINDS:
        raise GrammarRefused(f"{spec.kind!r} is no kind of grammar; these are: {', '.join(KINDS)}")
    name = spec.engine or engines.get(spec.kind) or KINDS[spec.kind]
    if not vocabulary.eos_ids:
        raise GrammarRefused("this model has no token that ends a text; its answers cannot be bound")
    if name not in ENGINES:
        raise GrammarRefused(f"{name!r} is no engine for grammars; these are: {', '.join(ENGINES)}")
    try:
        return _engine(name).compile(spec, vocabulary, limits)  # type: ignore[no-any-return]
    except RecursionError:
        raise GrammarRefused("it is nested too deeply") from None
    except BeyondEngine:
        if spec.engine is not None or spec.only or name not in OVERFLOW:
            raise
        return _engine(OVERFLOW[name]).compile(spec, vocabulary, limits)  # type: ignore[no-any-return]


def warm(vocabulary: Vocabulary) -> None:
    """Make what every grammar of a vocabulary needs: about 3 s for 152k tokens, once, at the start."""
    for name in ENGINES:
        _engine(name).warm(vocabulary)


def _engine(name: str) -> Any:
    return importlib.import_module(f".{ENGINES[name]}", __name__)
