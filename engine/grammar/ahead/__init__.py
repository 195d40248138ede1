"""What an answer still has to write, told from its grammar alone; and how many tokens that is at least.

letters.py    expressions and their derivatives
writing.py    texts byte by byte, and the shortest way to the end of one
numerals.py   numbers within bounds
goals.py      what is left to be written, symbol by symbol
documents.py  JSON as goals
rules.py      grammars of rules as goals
course.py     the places where answers stand: stacks of goals, and the tokens to an end
watch.py      one answer among them
"""

from __future__ import annotations

from collections.abc import Callable

from ..items import Rules
from ..lower import Lowered
from ..regexes import Regex
from ..symbols import Symbols
from ..whitespace import Layout
from .course import FAR, Course
from .documents import Documents
from .goals import Goals, Kit
from .letters import TooFar, Work
from .rules import Grammar
from .watch import Watch
from .writing import Place, Writing

__all__ = ["FAR", "Course", "TooFar", "Watch", "of_document", "of_expression", "of_rules"]


MAKING = 2_000_000  # steps of work for a course to begin with


def of_document(lowered: Lowered, layout: Layout, symbols: Symbols) -> Course:
    """Raises TooFar."""
    return _course(symbols, lambda kit: (Documents(kit, lowered, layout).root(),))


def of_expression(regex: Regex, symbols: Symbols) -> Course:
    """Raises TooFar."""
    return _course(symbols, lambda kit: (kit.written(Writing(kit.letters), Place(kit.letters.of(regex))),))


def of_rules(rules: Rules, start: str, blank: Regex | None, symbols: Symbols) -> Course:
    """blank: what may stand in documents. Raises Unknown for what is not read here, TooFar."""
    return _course(symbols, lambda kit: Grammar(kit, rules, symbols, blank).start(start))


def _course(symbols: Symbols, start: Callable[[Kit], Goals]) -> Course:
    kit = Kit(Work(MAKING))
    try:
        return Course(start(kit), symbols, kit)
    except BaseException:
        kit.forget()  # what has come of a grammar that is too much may be a lot
        raise
