"""A short text of a grammar of rules, made from its rules: what is likely an answer, where a search would be too long.

The shortest text of a rule is the least fixed point of its equations (Knuth, "A generalization of Dijkstra's
algorithm", 1977). What one expression rules out of another is not looked at, so whoever takes such a text must try it
first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from . import nfa, regexes
from .items import Both, Choice, Control, Document, Item, Lazy, Not, Rule, Rules, Sequence, Times, Word
from .lower import LONGEST, Lowered
from .symbols import Symbols, Way

_ROUNDS = 200


def of_rules(rules: Rules, start: str, documents: Iterable[Lowered], symbols: Symbols) -> Way:
    """() where nothing was found. documents: those of its `%json`."""
    examples = {id(lowered.bounds): tuple(lowered.example()) for lowered in documents}
    return _Texts(rules, examples, symbols).of(start)


class _Texts:
    def __init__(self, rules: Rules, examples: Mapping[int, Way], symbols: Symbols):
        """examples: a document by the id of its bounds."""
        self._examples, self._symbols = examples, symbols
        self._best: dict[str, Way] = {}
        for _ in range(min(_ROUNDS, len(rules) + 1)):
            changed = False
            for name in reversed(list(rules)):
                found, known = self._text(rules[name]), self._best.get(name)
                if found is not None and len(found) <= LONGEST and (known is None or len(found) < len(known)):
                    self._best[name], changed = found, True
            if not changed:
                return

    def of(self, rule: str) -> Way:
        return self._best.get(rule, ())

    def _text(self, item: Item) -> Way | None:
        """The shortest that is known by now."""
        match item:
            case Rule(name):
                return self._best.get(name)
            case Sequence(parts):
                return self._joined([self._text(part) for part in parts])
            case Choice(options):
                found = [way for option in options if (way := self._text(option)) is not None]
                return min(found, key=len, default=None)
            case Times(body, low):
                return self._joined([self._text(body)] * low)
            case Word(text):
                return tuple(text.encode())
            case Control(token):
                return (self._symbols.number(token),)
            case Document(_, bounds):
                return self._examples.get(id(bounds)) or None
            case Both(parts):
                found = [way for part in parts if not isinstance(part, Not) and (way := self._text(part)) is not None]
                return max(found, key=len, default=())
            case Not():
                return ()
            case Lazy(body):
                return self._text(body)
        return _cheapest(item)

    def _joined(self, ways: list[Way | None]) -> Way | None:
        if None in ways or sum(len(way or ()) for way in ways) > LONGEST:
            return None
        return tuple(symbol for way in ways for symbol in way or ())


def _cheapest(regex: regexes.Regex) -> Way | None:
    """The shortest match of an expression."""
    found = nfa.hint(regex, nfa.in_bytes)
    text = None if found is None else found.complete("")
    return None if text is None else tuple(text.encode())
