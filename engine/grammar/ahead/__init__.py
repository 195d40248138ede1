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

from ..items import Rules
from ..lower import Lowered
from ..regexes import Regex
from ..symbols import Symbols
from ..whitespace import Layout
from .course import FAR, Course
from .documents import Documents
from .goals import Kit
from .letters import TooFar, Work
from .rules import Grammar
from .watch import Watch
from .writing import Place, Writing

__all__ = ["FAR", "Course", "TooFar", "Watch", "of_document", "of_expression", "of_rules"]


MAKING = 2_000_000  # steps of work for a course to begin with


def of_document(lowered: Lowered, layout: Layout, symbols: Symbols) -> Course:
    """Raises TooFar."""
    work = Work(MAKING)
    return Course((Documents(Kit(work), lowered, layout).root(),), symbols, work)


def of_expression(regex: Regex, symbols: Symbols) -> Course:
    """Raises TooFar."""
    work = Work(MAKING)
    kit = Kit(work)
    return Course((kit.written(Writing(kit.letters), Place(kit.letters.of(regex))),), symbols, work)


def of_rules(rules: Rules, start: str, blank: Regex | None, symbols: Symbols) -> Course:
    """blank: what may stand in documents. Raises Unknown for what is not read here, TooFar."""
    work = Work(MAKING)
    return Course(Grammar(Kit(work), rules, symbols, blank).start(start), symbols, work)
