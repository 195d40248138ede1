"""Grammars of rules as goals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..items import Both, Choice, Control, Document, Item, Lazy, Not, Rule, Sequence, Times, Unknown, Word, repeated
from ..regexes import Regex
from ..symbols import Symbols, Way
from ..whitespace import CALLS, Layout
from .documents import Documents
from .goals import Chosen, Goal, Goals, Kit
from .letters import Letters
from .writing import Place, Writing, order


class Grammar:
    """Terminals, which are written in capitals, are texts of one expression; whatever else a rule names is written
    part by part."""

    def __init__(self, kit: Kit, rules: Mapping[str, Item], symbols: Symbols, blank: Regex | None):
        """blank: what may stand in documents, but for those laid out as calls. Raises Unknown for what is not read
        here: rules that begin with themselves but as `X: X a | b`, and parts without text that may come again and
        again."""
        self._kit, self._symbols, self._blank = kit, symbols, blank
        self._rules = {name: repeated(name, item) for name, item in rules.items()}
        self._plain, self._lazy = Writing(kit.letters), Writing(kit.letters, lazy=True)
        self._terminals: dict[int, tuple[Item, Goal]] = {}
        self._documents: dict[int, Goal] = {}
        self._shortest: dict[str, Way | None] = dict.fromkeys(self._rules)
        self._settle()
        self._check()

    def start(self, name: str) -> Goals:
        """Raises Unknown where the rule has no text."""
        if self._shortest.get(name) is None:
            raise Unknown
        return self._goals(Rule(name))

    # ------------------------------------------------------------ the shortest

    def _settle(self) -> None:
        """The shortest text of every rule, as in documents.py."""
        changed = True
        while changed:
            changed = False
            for name, item in self._rules.items():
                found = self._least(item)
                if found is not None and found != self._shortest[name]:
                    self._shortest[name], changed = found, True

    def _least(self, item: Item) -> Way | None:
        if self._is_terminal(item):
            terminal = self._terminal(item)
            return terminal.best if terminal.done or terminal.best else None
        match item:
            case Rule(name):
                if name not in self._rules:
                    raise Unknown
                return self._shortest[name]
            case Sequence(parts):
                return _joined([self._least(part) for part in parts])
            case Choice(options):
                found = [way for option in options if (way := self._least(option)) is not None]
                return min(found, key=_order, default=None)
            case Times(body, low):
                return _joined([self._least(body)] * low) if low else ()
            case Word(text):
                return tuple(text.encode())
            case Control(token):
                return (self._symbols.number(token),)
            case Document():
                return self._document(item).best
        raise Unknown

    def _check(self) -> None:
        begins = {name: set(self._begins(item)) for name, item in self._rules.items()}
        for name in begins:
            seen: set[str] = set()
            todo = list(begins[name])
            while todo:
                other = todo.pop()
                if other == name:
                    raise Unknown
                if other not in seen:
                    seen.add(other)
                    todo += begins.get(other, ())

    def _begins(self, item: Item) -> Iterator[str]:
        """The rules that an item may begin with. Raises Unknown for what may come again without text."""
        if self._is_terminal(item):
            return
        match item:
            case Rule(name):
                yield name
            case Sequence(parts):
                for part in parts:
                    yield from self._begins(part)
                    if self._least(part) != ():
                        return
            case Choice(options):
                for option in options:
                    yield from self._begins(option)
            case Times(body, _, high):
                if high != 1 and self._least(body) == ():
                    raise Unknown
                yield from self._begins(body)

    # ------------------------------------------------------------ goals

    def _is_terminal(self, item: Item) -> bool:
        if isinstance(item, Rule):
            body = self._rules.get(item.name)
            return item.name.isupper() or isinstance(body, Lazy)
        return not isinstance(item, Sequence | Choice | Times | Word | Control | Document)

    def _terminal(self, item: Item) -> Goal:
        known = self._terminals.get(id(item))
        if known is None:
            body = self._rules.get(item.name) if isinstance(item, Rule) else item
            if body is None:
                raise Unknown
            writing = self._lazy if isinstance(body, Lazy) else self._plain
            goal = self._kit.written(writing, Place(self._letters(body)))
            known = self._terminals[id(item)] = (item, goal)
        return known[1]

    def _letters(self, item: Item) -> Letters:
        letters = self._kit.letters
        match item:
            case Rule(name):
                if name not in self._rules:
                    raise Unknown
                return self._letters(self._rules[name])
            case Sequence(parts):
                return letters.then(map(self._letters, parts))
            case Choice(options):
                return letters.either(map(self._letters, options))
            case Times(body, low, high):
                return letters.times(self._letters(body), low, high)
            case Word(text):
                return letters.text(text)
            case Both(parts):
                return letters.both(map(self._letters, parts))
            case Not(body):
                return letters.other(self._letters(body))
            case Lazy(body):
                return self._letters(body)
            case Control() | Document():
                raise Unknown
        return letters.of(item)

    def _document(self, item: Document) -> Goal:
        known = self._documents.get(id(item))
        if known is None:
            if item.lowered is None:
                raise Unknown
            layout = CALLS if item.marks == CALLS[:2] else Layout(blank=self._blank)
            known = self._documents[id(item)] = Documents(self._kit, item.lowered, layout).root()
        return known

    def _goals(self, item: Item) -> Goals:
        if self._is_terminal(item):
            return (self._terminal(item),)
        match item:
            case Sequence(parts):
                return tuple(goal for part in parts for goal in self._goals(part))
            case Word(text):
                return (self._kit.spelled(text),) if text else ()
            case Control(token):
                return (self._kit.spelled((self._symbols.number(token),)),)
            case Document():
                return (self._document(item),)
            case Rule(name):
                return (self._chosen((self, name), self._rules[name]),)
            case Choice():
                return (self._chosen((self, id(item)), item),)
            case Times():
                return (self._again(item, 0),)
        raise Unknown

    def _chosen(self, key: tuple[object, ...], item: Item) -> Goal:
        def options() -> list[Goals]:
            parts = item.options if isinstance(item, Choice) else (item,)
            return [self._goals(part) for part in parts if self._least(part) is not None]

        best = self._least(item) or ()
        return self._kit.goal(key, lambda: Chosen(self._kit, lambda: best, options, done=not best))

    def _again(self, item: Times, count: int) -> Goal:
        if item.high is None:
            count = min(count, item.low)
        least = self._least(item.body)
        best = (least or ()) * max(0, item.low - count)

        def options() -> list[Goals]:
            more = (item.high is None or count < item.high) and least is not None
            found: list[Goals] = [(*self._goals(item.body), self._again(item, count + 1))] if more else []
            return [*found, ()] if count >= item.low else found

        return self._kit.goal((self, id(item), count), lambda: Chosen(self._kit, lambda: best, options, done=not best))


def _joined(ways: list[Way | None]) -> Way | None:
    return None if None in ways else tuple(symbol for way in ways for symbol in way or ())


def _order(way: Way) -> tuple[int, tuple[int, ...]]:
    return len(way), tuple(map(order, way))
