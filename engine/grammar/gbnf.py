"""llama.cpp's GBNF (and the EBNF that other servers take) to Lark.

What of a grammar does not refer to itself becomes one expression, so that it is read as a whole; rules that recurse
stay rules. Between an expression and what follows it the longest match counts, as everywhere in llguidance.
"""

from __future__ import annotations

import re
from typing import NoReturn

from . import regexes
from .errors import GrammarRefused
from .items import Choice, Item, Rule, Sequence, Times
from .regexes import Chars, Concat, Either, Regex, Repeat

LARGEST = 20_000  # positions of one expression; larger rules stay rules
_COUNT = 5_000

_TOKEN = re.compile(
    r'(?P<space>[ \t\r]+|\#[^\n]*)|(?P<line>\n)|(?P<string>"(?:\\.|[^"\\\n])*")|(?P<set>\[\^?(?:\\.|[^\]\\\n])*\])'
    r"|(?P<define>::=)|(?P<count>\{\s*\d*\s*,?\s*\d*\s*\})|(?P<mark>[()|*+?.])|(?P<name>[A-Za-z_][A-Za-z0-9_-]*)"
)
_SHORT = {"n": 10, "r": 13, "t": 9, "\\": 92, '"': 34, "[": 91, "]": 93, "-": 45, "^": 94, "/": 47}


def to_lark(text: str) -> tuple[str, dict[str, Item], Regex | None]:
    """The grammar, its rules from "root", and the expression that it is if it does not recurse. Raises GrammarRefused
    with the line."""
    rules = _Reader(text).rules()
    if "root" not in rules:
        raise GrammarRefused("no rule is called root", path="line 1")
    flat: dict[str, Item] = {}
    recursive = _recursive(rules)
    for name in _needed(rules):
        flat[name] = _joined(rules[name], recursive, flat)
    names = {name: f"r{i}" for i, name in enumerate(flat)}
    lines = [f"{names[name]}: {_write(item, names)}" for name, item in flat.items() if _is_used(name, flat)]
    root = flat["root"]
    whole = root if isinstance(root, Chars | Concat | Either | Repeat) else None
    return "\n".join([f"start: {names['root']}", *lines]), flat, whole


# ---------------------------------------------------------------- reading


class _Reader:
    def __init__(self, text: str):
        self.tokens: list[tuple[str, str, int]] = []
        line, at = 1, 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise GrammarRefused(f"{text[at : at + 20]!r} cannot be read", path=f"line {line}")
            kind = found.lastgroup or ""
            if kind != "space":
                self.tokens.append((kind, found[0], line))
            line += found[0].count("\n")
            at = found.end()
        self.at, self.depth = 0, 0

    def peek(self) -> tuple[str, str, int]:
        if self.depth:  # inside parentheses a line end means nothing
            while self.at < len(self.tokens) and self.tokens[self.at][0] == "line":
                self.at += 1
        return (
            self.tokens[self.at]
            if self.at < len(self.tokens)
            else ("end", "", self.tokens[-1][2] if self.tokens else 1)
        )

    def next(self) -> tuple[str, str, int]:
        found = self.peek()
        self.at += 1
        return found

    def refuse(self, message: str) -> NoReturn:
        _, text, line = self.peek()
        raise GrammarRefused(f"{message}, not {text!r}" if text.strip() else message, path=f"line {line}")

    def rules(self) -> dict[str, Item]:
        found: dict[str, Item] = {}
        while True:
            while self.peek()[0] == "line":
                self.next()
            kind, name, line = self.peek()
            if kind == "end":
                return found
            if kind != "name" or name in found:
                self.refuse("expected the name of a new rule")
            self.next()
            if self.next()[0] != "define":
                raise GrammarRefused(f"expected ::= after {name}", path=f"line {line}")
            self.skip_lines()
            found[name] = self.choice()
            if self.peek()[0] not in ("line", "end"):
                self.refuse("expected the end of the rule")

    def skip_lines(self) -> None:
        while self.peek()[0] == "line":
            self.next()

    def choice(self) -> Item:
        options = [self.sequence()]
        while True:
            mark = self.at
            self.skip_lines()  # an alternative may stand on the next line
            if self.peek()[1] != "|":
                self.at = mark
                break
            self.next()
            self.skip_lines()
            options.append(self.sequence())
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def sequence(self) -> Item:
        parts: list[Item] = []
        while (item := self.item()) is not None:
            while self.peek()[0] == "count" or self.peek()[1] in ("*", "+", "?"):
                item = Times(item, *self.times(self.next()))
            parts.append(item)
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def item(self) -> Item | None:
        kind, text, line = self.peek()
        if kind == "string":
            self.next()
            codes = _codes(text[1:-1], line)
            if half := [c for c in codes if 0xD800 <= c <= 0xDFFF]:
                raise GrammarRefused(f"U+{half[0]:X} is half of a surrogate pair, no character", path=f"line {line}")
            return regexes.literal("".join(map(chr, codes)))
        if kind == "set":
            self.next()
            return _set(text, line)
        if text == ".":
            self.next()
            return Chars((regexes.ALL,))
        if kind == "name":
            self.next()
            return Rule(text, line)
        if text == "(":
            self.next()
            self.depth += 1
            inside = self.choice()
            if self.peek()[1] != ")":
                self.refuse("expected )")
            self.depth -= 1
            self.at += 1
            return inside
        return None

    def times(self, token: tuple[str, str, int]) -> tuple[int, int | None]:
        kind, text, line = token
        if kind != "count":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[text]  # type: ignore[return-value]
        low, comma, high = text.strip("{} ").replace(" ", "").partition(",")
        least = int(low or 0)
        most = least if not comma else int(high) if high else None
        if not (low or high) or max(least, most or 0) > _COUNT or (most is not None and most < least):
            raise GrammarRefused(f"{text}: expected counts up to {_COUNT}", path=f"line {line}")
        return least, most


def _codes(text: str, line: int) -> list[int]:
    """Code points of text with escapes."""
    found, at = [], 0
    while at < len(text):
        if text[at] != "\\":
            found.append(ord(text[at]))
            at += 1
            continue
        letter = text[at + 1 : at + 2]
        digits = {"x": 2, "u": 4, "U": 8}.get(letter)
        if digits:
            try:
                found.append(int(text[at + 2 : at + 2 + digits], 16))
            except ValueError:
                raise GrammarRefused(f"\\{letter} needs {digits} hexadecimal digits", path=f"line {line}") from None
            if found[-1] > 0x10FFFF:
                raise GrammarRefused(
                    f"\\{letter}: {found[-1]:X} is beyond the last character, 10FFFF", path=f"line {line}"
                )
            at += 2 + digits
        elif letter in _SHORT:
            found.append(_SHORT[letter])
            at += 2
        else:
            raise GrammarRefused(f"the escape \\{letter} is not known", path=f"line {line}")
    return found


def _set(text: str, line: int) -> Regex:
    negated = text[1] == "^"
    inside = text[2 if negated else 1 : -1]
    parts = re.findall(r"\\(?:x..|u.{4}|U.{8}|.)|.", inside, re.DOTALL)
    codes = [(_codes(part, line)[0], part) for part in parts]
    ranges, at = [], 0
    while at < len(codes):
        low = codes[at][0]
        if at + 2 < len(codes) and codes[at + 1][1] == "-":
            ranges.append((low, codes[at + 2][0]))
            at += 3
        else:
            ranges.append((low, low))
            at += 1
    if any(a > b for a, b in ranges):
        raise GrammarRefused(f"{text}: a range that ends before it begins", path=f"line {line}")
    return regexes.charset(ranges, negated=negated)


# ---------------------------------------------------------------- rules to expressions


def _refers(item: Item) -> list[Rule]:
    match item:
        case Rule():
            return [item]
        case Sequence(parts):
            return [r for p in parts for r in _refers(p)]
        case Choice(options):
            return [r for o in options for r in _refers(o)]
        case Times(body):
            return _refers(body)
    return []


def _needed(rules: dict[str, Item]) -> list[str]:
    """Rules that root uses, each after what it uses where it can be; iterative, so that no depth is too deep."""
    order: list[str] = []
    seen: set[str] = set()
    stack = [("root", False)]
    while stack:
        name, done = stack.pop()
        if done:
            order.append(name)
            continue
        if name in seen:
            continue
        seen.add(name)
        stack.append((name, True))
        for rule in _refers(rules[name]):
            if rule.name not in rules:
                raise GrammarRefused(f"no rule is called {rule.name}", path=f"line {rule.line}")
            stack.append((rule.name, False))
    return order


def _recursive(rules: dict[str, Item]) -> set[str]:
    uses = {name: {r.name for r in _refers(item)} & rules.keys() for name, item in rules.items()}
    found = set()
    for name in rules:
        reached: set[str] = set()
        todo = list(uses[name])
        while todo:
            if (one := todo.pop()) not in reached:
                reached.add(one)
                todo += uses[one]
        if name in reached:
            found.add(name)
    return found


def _joined(item: Item, recursive: set[str], flat: dict[str, Item]) -> Item:
    """With every part that does not recurse as one expression."""
    match item:
        case Rule(name):
            body = flat.get(name)
            return body if name not in recursive and isinstance(body, Chars | Concat | Either | Repeat) else item
        case Sequence(parts):
            return _sequence([_joined(p, recursive, flat) for p in parts])
        case Choice(options):
            found = [_joined(o, recursive, flat) for o in options]
            whole = Either(tuple(f for f in found if isinstance(f, Chars | Concat | Either | Repeat)))
            fits = len(whole.options) == len(found) and regexes.positions(whole) <= LARGEST
            return whole if fits else Choice(tuple(found))
        case Times(body, low, high):
            inside = _joined(body, recursive, flat)
            if isinstance(inside, Chars | Concat | Either | Repeat):
                repeat = Repeat(inside, low, high)
                if regexes.positions(repeat) <= LARGEST:
                    return repeat
            return Times(inside, low, high)
    return item


def _sequence(parts: list[Item]) -> Item:
    joined: list[Item] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, Chars | Concat | Either | Repeat) and isinstance(last, Chars | Concat | Either | Repeat):
            both = Concat((last, part))
            if regexes.positions(both) <= LARGEST:
                joined[-1] = both
                continue
        joined.append(part)
    if not joined:
        return Concat(())
    return joined[0] if len(joined) == 1 else Sequence(tuple(joined))


def _is_used(name: str, flat: dict[str, Item]) -> bool:
    return name == "root" or any(rule.name == name for item in flat.values() for rule in _refers(item))


def _write(item: Item, names: dict[str, str]) -> str:
    match item:
        case Rule(name):
            return names[name]
        case Sequence(parts):
            return " ".join(_inside(p, names) for p in parts)
        case Choice(options):
            return " | ".join(_inside(o, names) for o in options)
        case Times(body, low, high):
            return f"({_write(body, names)}){{{low},{'' if high is None else high}}}"
        case Chars() | Concat() | Either() | Repeat():
            text = regexes.write(item)
            return f"/{text}/" if text else '""'
    raise AssertionError(item)


def _inside(item: Item, names: dict[str, str]) -> str:
    text = _write(item, names)
    return f"({text})" if isinstance(item, Choice | Sequence) else text
