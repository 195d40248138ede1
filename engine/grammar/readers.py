"""From what a request asks for to what llguidance reads, and what is known of it beside that."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import llguidance

from . import ahead, gbnf, lark, lark_rules, lower, outlines_, outlook, probe, regexes, tags, whitespace, witness
from .ahead import Course
from .endings import UNFINISHED, Known
from .items import Unknown
from .lower import Bounds, Lowered, cheapest
from .nfa import hint, in_bytes
from .schema import Schema
from .search import Hints
from .spec import GrammarSpec, Limits
from .symbols import Symbols, Way
from .vocabulary import Vocabulary
from .whitespace import checked


class Read(NamedTuple):
    """course: followed by goals, where these are sure to mean what the engine underneath does. known, example (what
    may be an answer): for the search for endings elsewhere. looks_ahead: what it forces has an end. ours: it is sure to
    name no control tokens."""

    grammar: str
    bounds: Bounds | None = None
    course: Callable[[Symbols], Course] | None = None
    known: Callable[[], Known] = lambda: Known(Hints())
    example: Callable[[], Way] = lambda: ()
    looks_ahead: bool = False
    ours: bool = False
    text: str = ""  # in Lark


def _schema(spec: GrammarSpec, limits: Limits, vocabulary: Vocabulary) -> Read:
    lowered = Lowered(Schema('{"type": "object"}' if spec.kind == "json_object" else spec.text, limits))

    def known() -> Known:
        strings = tuple(h for p in lowered.patterns if (h := hint(p, cheapest)) is not None)
        hints = Hints(strings, tuple(lowered.examples()))
        return Known(hints, lowered.names, told=len(strings) == len(lowered.patterns))

    return Read(
        probe.grammar_of(lowered.schema, checked(spec.whitespace)),
        lowered.bounds,
        partial(ahead.of_document, lowered, whitespace.Layout(blank=whitespace.read(spec.whitespace))),
        known,
        lambda: tuple(lowered.example()),
        looks_ahead=True,
        ours=True,
    )


def _lark(spec: GrammarSpec, limits: Limits, vocabulary: Vocabulary) -> Read:
    documents: dict[str, Lowered] = {}
    text = lark.checked(spec.text, spec.controls, checked(spec.whitespace), limits, documents, spec.ours)
    return _of_rules(text, documents, spec, vocabulary, surely=spec.ours and not _JOINED.search(spec.text))


_JOINED = re.compile(r'%joined \{"kind": "(?!regex)')  # a client's grammar, which may lean on longest matches


def _tags(spec: GrammarSpec, limits: Limits, vocabulary: Vocabulary) -> Read:
    documents: dict[str, Lowered] = {}
    text, surely = tags.to_lark(spec.text, checked(spec.whitespace), limits, documents)
    return _of_rules(text, documents, spec, vocabulary, surely=surely)


def _of_rules(
    text: str, documents: Mapping[str, Lowered], spec: GrammarSpec, vocabulary: Vocabulary, *, surely: bool
) -> Read:
    """surely: no longest match takes what should follow it."""
    try:
        rules = lark_rules.read(text, documents)
    except Unknown:
        return Read(from_lark(text), text=text)
    return Read(
        from_lark(text),
        outlook.bounds(rules, "start", vocabulary),
        partial(ahead.of_rules, rules, "start", whitespace.read(spec.whitespace)) if surely else None,
        lambda: outlook.known(rules, "start", documents.values()),
        lambda: witness.of_rules(rules, "start", documents.values(), Symbols(vocabulary, spec.controls)),
        text=text,
    )


def _gbnf(spec: GrammarSpec, limits: Limits, vocabulary: Vocabulary) -> Read:
    text, rules, whole = gbnf.to_lark(spec.text)
    if whole is not None:
        return _expression(whole, text)
    bounds = outlook.bounds(rules, "root", vocabulary)
    return Read(from_lark(text), bounds, known=lambda: outlook.known(rules, "root", ()), text=text)


def _regex(spec: GrammarSpec, limits: Limits, vocabulary: Vocabulary) -> Read:
    """What is too large for an index: the lexer makes states only as they are needed."""
    regex = outlines_.read(spec, limits)
    return _expression(regex, f"start: /{regexes.write(regex)}/")


def _expression(regex: regexes.Regex, text: str) -> Read:
    far = regexes.worst(regex, lambda ranges: in_bytes(ranges)[0])
    bounds = Bounds(int(far) + UNFINISHED, 0, 0) if far < lower.NEVER else None
    course = partial(ahead.of_expression, regex)
    whole = hint(regex, in_bytes)
    return Read(
        from_lark(text),
        bounds,
        course,
        lambda: Known(Hints(whole=whole)),
        looks_ahead=bounds is not None,
        ours=bounds is not None and whole is not None,
        text=text,
    )


def from_lark(text: str) -> str:
    """Without looking ahead: the text that a grammar forces may have no end."""
    grammar: str = llguidance.LLMatcher.grammar_from_lark('%llguidance {"no_forcing": true}\n' + text)
    return grammar


READERS: dict[str, Callable[[GrammarSpec, Limits, Vocabulary], Read]] = {
    "json_schema": _schema,
    "json_object": _schema,
    "lark": _lark,
    "gbnf": _gbnf,
    "ebnf": _gbnf,
    "structural_tag": _tags,
    "regex": _regex,
    "choice": _regex,
}
