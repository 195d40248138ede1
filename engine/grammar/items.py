"""What a grammar of rules is made of, and how far from its end an answer can be at most."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from . import nfa, regexes
from .lower import Bounds, Lowered
from .regexes import Chars, Concat, Either, Regex, Repeat

UNFINISHED = 4  # bytes of a character
NEVER = math.inf


@dataclass(frozen=True)
class Rule:
    name: str
    line: int = 0


@dataclass(frozen=True)
class Sequence:
    parts: tuple[Item, ...]


@dataclass(frozen=True)
class Choice:
    options: tuple[Item, ...]


@dataclass(frozen=True)
class Times:
    body: Item
    low: int
    high: int | None


@dataclass(frozen=True)
class Word:
    """Text as it stands."""

    text: str


@dataclass(frozen=True)
class Control:
    """A control token."""

    token: int


@dataclass(frozen=True)
class Document:
    """JSON. least: bytes of a shortest one; bounds: of its way to an end, in bytes. marks: what stands between members,
    and behind a name."""

    least: int
    bounds: Bounds
    lowered: Lowered | None = field(default=None, compare=False)
    marks: tuple[str, str] = (",", ":")


@dataclass(frozen=True)
class Both:
    """What all of the parts match."""

    parts: tuple[Item, ...]


@dataclass(frozen=True)
class Not:
    """What the body does not match."""

    body: Item


@dataclass(frozen=True)
class Lazy:
    """The body, which ends where it first can."""

    body: Item


Item = Regex | Rule | Sequence | Choice | Times | Word | Control | Document | Both | Not | Lazy
Rules = Mapping[str, Item]


class Unknown(Exception):
    """How far the end may be cannot be told."""


def inside(item: Item) -> Iterator[Item]:
    """An item and all that it is made of; rules are named, not entered."""
    yield item
    for part in parts_of(item):
        yield from inside(part)


def parts_of(item: Item) -> tuple[Item, ...]:
    match item:
        case Sequence(parts) | Both(parts):
            return parts
        case Choice(options):
            return options
        case Times(body) | Not(body) | Lazy(body):
            return (body,)
    return ()


def resolved(item: Item, rules: Rules) -> Item:
    """What a rule that names another and nothing else stands for; a rule, where that leads nowhere."""
    seen: set[str] = set()
    while isinstance(item, Rule) and item.name in rules and item.name not in seen:
        seen.add(item.name)
        item = rules[item.name]
    return item


def is_open(item: Item, rules: Rules) -> bool:
    """Whether an item is text whose every beginning, up to whole characters, is such text too."""
    match item:
        case Rule():
            body = resolved(item, rules)
            return not isinstance(body, Rule) and is_open(body, rules)
        case Both(parts):
            return all(is_open(part, rules) for part in parts)
        case Not(body):
            last = body.parts[-1] if isinstance(body, Sequence) else body
            return last == regexes.ANYTHING
    return item == regexes.ANYTHING


class Reach:
    """How long the shortest text of an item is, and how far from its end one can be inside it: in tokens; of what is
    not spelled out, in bytes. Upper bounds both, since a text in two parts takes no more tokens than the parts do; but
    for `Both`, where they are estimates: what one part rules out may force a longer way through another.

    The least of a rule is the least fixed point of its equations, as in Knuth, "A generalization of Dijkstra's
    algorithm" (1977); here by iteration, as grammars are small. So is the worst, where the equations have a fixed
    point: a rule that ends in itself adds nothing to what is left. One that has to go on behind itself does, each time.
    Its ways through itself are cut, and counted by what stands before them (`Bounds.openers`).
    """

    def __init__(self, rules: Rules, measure: Callable[[bytes], Seq[float]]):
        """measure: tokens that spell a text from each place on."""
        self._circles = _circles(rules)  # what a rule uses comes before it
        self._rules = {name: repeated(name, rules[name]) for circle in self._circles for name in circle}
        self._measure = measure
        self._least: dict[str, float] = dict.fromkeys(rules, NEVER)
        self._worst: dict[str, float] = dict.fromkeys(rules, 0)
        self._nests = False
        self._frames = [1]
        self._cut: set[tuple[str, str]] = set()
        self._openers: dict[bytes | int, None] = {}
        self._settle(self._least, lambda _, item: self.least(item))

    def _settle(self, found: dict[str, float], ask: Callable[[str, Item], float]) -> bool:
        """Ask of each rule until nothing changes; False where that never comes."""
        for _ in range(len(self._rules) + 2):
            before = dict(found)
            for name, item in self._rules.items():
                found[name] = ask(name, item)
            if found == before:
                return True
        return False

    def bounds(self, start: str) -> Bounds | None:
        """From anywhere in an answer; None where it cannot be told."""
        try:
            self._find_cuts()
        except Unknown:
            return None
        if not self._settle(self._worst, self.worst) or not self._worst.get(start, NEVER) < NEVER:
            return None
        leaf = int(self._worst[start])
        nest = int(max((self._worst[name] for _, name in self._cut), default=0))
        if not self._nests and not self._cut:
            return Bounds(leaf, 0, 0)
        return Bounds(None, max(self._frames) if self._nests else 0, leaf, nest, tuple(self._openers))

    def least(self, item: Item) -> float:
        match item:
            case Rule(name):
                return self._least.get(name, NEVER)
            case Sequence(parts):
                return sum(map(self.least, parts))
            case Choice(options):
                return min(map(self.least, options), default=NEVER)
            case Times(body, low):
                return low * self.least(body) if low else 0
            case Word(text):
                return self._measure(text.encode())[0]
            case Control():
                return 1
            case Document(least):
                return least
            case Both(parts):
                if is_open(item, self._rules):
                    return 0
                most = max((self.least(p) for p in parts if not isinstance(p, Not)), default=0)
                return most + sum(self._size(p) for p in parts if isinstance(p, Not))
            case Not():
                return 0 if is_open(item, self._rules) else self._size(item)
            case Lazy(body):
                return self.least(body)
        return regexes.least(item, lambda ranges: nfa.in_bytes(ranges)[0])

    def worst(self, within: str, item: Item) -> float:
        """within: the rule that the item stands in."""
        match item:
            case Rule(name):
                return 0 if (within, name) in self._cut else self._worst.get(name, NEVER)
            case Sequence(parts):
                total, most = 0.0, 0.0
                for part in reversed(parts):
                    most = max(most, self.worst(within, part) + total)
                    total += self.least(part)
                return most
            case Choice(options):
                return max((self.worst(within, o) for o in options if self.least(o) < NEVER), default=0)
            case Times(body, low):
                return max(low - 1, 0) * self.least(body) + self.worst(within, body)
            case Word(text):
                return max(self._measure(text.encode()))
            case Control():
                return 1
            case Document(_, bounds):
                if bounds.flat is not None:
                    return bounds.flat
                self._nests = True
                self._frames.append(bounds.frame)
                return bounds.leaf
            case Lazy(body):
                return self.worst(within, body)
        if is_open(item, self._rules):
            return UNFINISHED
        if isinstance(item, Both):
            most = max((self.worst(within, p) for p in item.parts if not isinstance(p, Not)), default=0)
            return 2 * (most + sum(self._size(p) for p in item.parts if isinstance(p, Not)))
        if isinstance(item, Not):
            return 2 * self._size(item)
        return regexes.worst(item, lambda ranges: nfa.in_bytes(ranges)[0]) + UNFINISHED

    def _size(self, item: Item) -> float:
        """Bytes of the longest text that is spelled out in an item."""
        match item:
            case Word(text):
                return len(text.encode())
            case Choice(options):
                return max(map(self._size, options), default=0)
            case Rule(name):
                body = self._rules.get(name)
                return 0 if body is None or isinstance(body, Rule) else self._size(body)
        if parts := parts_of(item):
            return sum(map(self._size, parts))
        return 0 if not isinstance(item, Chars | Concat | Either | Repeat) else min(64, regexes.positions(item))

    # ------------------------------------------------------------ rules that nest

    def _find_cuts(self) -> None:
        """Ways from a rule into one that leads back to it, with something that must follow. Raises Unknown where
        nothing that can be counted stands before one."""
        found = [
            (name, *way)
            for circle in self._circles
            for name in circle
            for way in self._ways(self._rules[name], set(circle))
        ]
        self._cut = {(name, to) for name, to, _ in found}
        for _, _, opener in found:
            if opener is None:
                raise Unknown
            self._openers[opener] = None

    def _ways(self, item: Item, circle: set[str]) -> Iterator[tuple[str, bytes | int | None]]:
        """(rule, what stands before it) of those of a circle that an item names with more to follow. All of those of
        one name, if any is."""
        found = list(self._named(item, circle, None, 0))
        binding = {name for name, _, behind in found if behind > 0}
        yield from ((name, before) for name, before, _ in found if name in binding)

    def _named(
        self, item: Item, loops: set[str], opener: bytes | int | None, after: float
    ) -> Iterator[tuple[str, bytes | int | None, float]]:
        match item:
            case Rule(name):
                if name in loops:
                    yield name, opener, after
            case Sequence(parts):
                behind = [*itertools.accumulate(map(self.least, reversed(parts[1:])), initial=0.0)]
                for part in parts:
                    yield from self._named(part, loops, opener, after + behind.pop())
                    if opener is None and isinstance(part, Word) and part.text.strip():
                        opener = part.text.encode()
                    elif opener is None and isinstance(part, Control):
                        opener = part.token
            case Times(body, low):
                yield from self._named(body, loops, opener, after + max(low - 1, 0) * self.least(body))
            case Choice(options):
                for option in options:
                    yield from self._named(option, loops, opener, after)
            case Lazy(body):
                yield from self._named(body, loops, opener, after)


def _circles(rules: Rules) -> list[list[str]]:
    """The rules that lead to each other, each after what it uses (Tarjan, "Depth-first search and linear graph
    algorithms", 1972)."""
    uses = {n: [r.name for r in inside(item) if isinstance(r, Rule) and r.name in rules] for n, item in rules.items()}
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    kept: list[str] = []
    found: list[list[str]] = []
    done: set[str] = set()
    for root in rules:
        todo = [(root, iter(uses[root]))] if root not in number else []
        while todo:
            name, following = todo[-1]
            if name not in number:
                number[name] = low[name] = len(number)
                kept.append(name)
            for other in following:
                if other not in number:
                    todo.append((other, iter(uses[other])))
                    break
                if other not in done:
                    low[name] = min(low[name], low[other])
            else:
                todo.pop()
                if todo:
                    low[todo[-1][0]] = min(low[todo[-1][0]], low[name])
                if low[name] == number[name]:
                    at = kept.index(name)
                    found.append(kept[at:])
                    done.update(kept[at:])
                    del kept[at:]
    return found


def repeated(name: str, item: Item) -> Item:
    """X: X a | b as X: b a*, which asks for no more `a` than were begun."""
    options = item.options if isinstance(item, Choice) else (item,)
    first, more = [], []
    for option in options:
        parts = option.parts if isinstance(option, Sequence) else (option,)
        begin = parts[0] if parts else None
        if isinstance(begin, Rule) and begin.name == name:
            more.append(Sequence(parts[1:]))
        else:
            first.append(option)
    return Sequence((Choice(tuple(first)), Times(Choice(tuple(more)), 0, None))) if more else item
