"""What is known of a grammar of rules beforehand: how its answers end, and how far that can be."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from .endings import OUTSIDE, Known
from .items import (
    Both,
    Choice,
    Control,
    Item,
    Not,
    Reach,
    Rule,
    Rules,
    Sequence,
    Times,
    Word,
    inside,
    is_open,
    resolved,
)
from .lower import Bounds, Lowered, cheapest
from .nfa import hint
from .regexes import ANYTHING, Chars, Concat, Either, Regex, Repeat
from .search import Hints
from .symbols import fewest
from .vocabulary import Vocabulary

CLOSERS = 64  # texts that may end free text
_HARMLESS = OUTSIDE | set("\n\t\r")


def bounds(rules: Rules, start: str, vocabulary: Vocabulary) -> Bounds | None:
    """How far from its end an answer can be; None where that cannot be told."""
    return Reach(rules, lambda text: fewest(vocabulary, text)).bounds(start)


def known(rules: Rules, start: str, documents: Iterable[Lowered]) -> Known:
    """documents: those of its `%json`."""
    documents = list(documents)
    patterns = dict.fromkeys(pattern for document in documents for pattern in document.patterns)
    strings = [hint(pattern, cheapest) for pattern in patterns]
    values = dict.fromkeys(value for document in documents for value in document.examples())
    items = [item for rule in rules.values() for item in inside(rule)]
    closers = dict.fromkeys(text.encode() for rule in rules.values() for text in _closers(rule))
    hints = Hints(
        tuple(h for h in strings if h is not None),
        tuple(sorted(values, key=len)),
        tuple(sorted(closers, key=len)[:CLOSERS]),
    )
    names = [item.text for item in items if isinstance(item, Word)]
    names += [name for document in documents for name in document.names]
    told = None not in strings and all(_is_told(item, rules) for item in items)
    barred = _tail(rules, start)
    tail = None if barred is None else _free_text(barred)
    longest = max((len(text.encode()) for text in barred or ()), default=1)
    return Known(hints, list(dict.fromkeys(names)), told, tail, longest - 1)


def _closers(item: Item) -> Iterator[str]:
    """Texts behind what is neither spelled out nor a control token: they end it."""
    for part in inside(item):
        if isinstance(part, Sequence):
            for before, word in zip(part.parts, part.parts[1:], strict=False):
                if isinstance(word, Word) and word.text and not isinstance(before, Word | Control):
                    yield word.text


def _is_told(item: Item, rules: Rules) -> bool:
    """Whether letters that an item lets through are free, spelled out, or of a fixed number."""
    if isinstance(item, Both):
        return is_open(item, rules)
    if isinstance(item, Chars | Concat | Either | Repeat) and item != ANYTHING:
        fixed = isinstance(item, Repeat) and item.low == item.high and isinstance(item.body, Chars)
        return fixed or all(chr(c) in _HARMLESS for a, b in _ranges(item) for c in range(a, min(b, a + 99) + 1))
    return True


def _ranges(regex: Regex) -> Iterator[tuple[int, int]]:
    match regex:
        case Chars(ranges):
            yield from ranges
        case Concat(parts) | Either(parts):
            for part in parts:
                yield from _ranges(part)
        case Repeat(body):
            yield from _ranges(body)


# ---------------------------------------------------------------- free text at the end


def _tail(rules: Rules, start: str) -> tuple[str, ...] | None:
    """Where every answer ends in free text, or with a control token: the texts that may not stand there; else None."""
    lasts = set(_lasts(Rule(start), rules, set()))
    free = {last for last in lasts if is_open(last, rules)}
    if len(free) != 1 or not all(isinstance(last, Control) for last in lasts - free):
        return None
    return _barred(free.pop())


def _lasts(item: Item, rules: Rules, seen: set[str]) -> Iterator[Item]:
    """What an item may end with."""
    if is_open(item, rules):
        yield resolved(item, rules)
        return
    match item:
        case Rule(name):
            if name not in seen and name in rules:
                seen.add(name)
                yield from _lasts(rules[name], rules, seen)
        case Choice(options):
            for option in options:
                yield from _lasts(option, rules, seen)
        case Times(body):
            yield from _lasts(body, rules, seen)
        case Sequence(parts):
            for part in reversed(parts):
                yield from _lasts(part, rules, seen)
                if is_open(part, rules) or not _may_be_nothing(part, rules, set()):
                    return
        case _:
            yield item


def _may_be_nothing(item: Item, rules: Rules, seen: set[str]) -> bool:
    match item:
        case Rule(name):
            if name in seen or name not in rules:
                return False
            return _may_be_nothing(rules[name], rules, seen | {name})
        case Choice(options):
            return any(_may_be_nothing(option, rules, seen) for option in options)
        case Sequence(parts):
            return all(_may_be_nothing(part, rules, seen) for part in parts)
        case Times(body, low):
            return not low or _may_be_nothing(body, rules, seen)
        case Word(text):
            return not text
        case Control():
            return False
    return is_open(item, rules)


def _barred(item: Item) -> tuple[str, ...] | None:
    """The texts that free text may not hold; None if it is bound in another way."""
    parts = item.parts if isinstance(item, Both) else (item,)
    found: list[str] = []
    for part in parts:
        match part:
            case Not(Sequence((first, middle, last))) if first == ANYTHING == last:
                words = middle.options if isinstance(middle, Choice) else (middle,)
                if not all(isinstance(word, Word) for word in words):
                    return None
                found += [word.text for word in words if isinstance(word, Word)]
            case _ if part != ANYTHING:
                return None
    return tuple(found)


def _free_text(barred: tuple[str, ...]) -> str:
    """A grammar of free text without some texts."""
    words = " | ".join(json.dumps(text, ensure_ascii=False) for text in barred)
    without = f" & ~(/(?s:.*)/ ({words}) /(?s:.*)/)" if barred else ""
    return f"start: TEXT\nTEXT: /(?s:.*)/{without}"
