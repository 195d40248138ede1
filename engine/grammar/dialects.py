"""Arguments of a call by a JSON Schema, in other forms than JSON: rules of a Lark grammar, from the same Nodes.

In a grammar of the server stands `%arguments {...}`, an object of

    style     "python": name=value, ... and the ")" that ends them; "gemma": an object in Gemma's notation;
              "parameters", "nested": between tags (dialect_tags.py)
    schema    of the arguments
    tags      with the last two styles: opens, middle, closes, json, cdata
    reads     with the last two styles: how the reader takes what stands between the tags, {"types", "properties",
              "rest"}; types: of JSON, null: whatever it looks like
    firm      the schema must be enforced; else any object stands for one that cannot be
    controls  of the texts that these styles write: control token -> its id

What a style cannot write is refused by keyword and path. Nothing is written that is not valid for the schema, or that
the style's reader would not read as it was meant.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from . import probe
from .controls import Controls
from .dialect_text import body, encoded, encoded_text, ending, number, quoted, spelled
from .errors import GrammarRefused
from .lower import NEVER, Lowered, plain_number
from .nodes import (
    ANY,
    EVERY,
    Anything,
    Array,
    Bool,
    Literal,
    Node,
    Null,
    Number,
    Object,
    Option,
    Ref,
    Text,
    dumps,
    literal,
)
from .regexes import Regex
from .schema import Schema
from .spec import Limits

_NOTHING = '""'
_IDENTIFIER = "[A-Za-z_][A-Za-z0-9_]{0,63}"
_WRITABLE = re.compile(r"\w{1,300}")  # of a name before "=", or one that stands bare


@dataclass(frozen=True, slots=True)
class Notation:
    """How values are written. quotes: what begins and ends a string. escapes: strings have those of JSON, and one for
    the quote; else a string cannot hold its quote. null, true, false; comma, colon: expressions. bare: names of
    properties stand without quotes."""

    quotes: tuple[str, ...]
    escapes: bool = True
    words: tuple[str, str, str] = ("null", "true", "false")
    comma: str = "/, ?/"
    colon: str = "/: ?/"
    bare: bool = False


JSON = Notation(('"',))
PYTHON = Notation(('"', "'"), words=("None", "True", "False"))
GEMMA = Notation(('<|"|>',), escapes=False, comma='","', colon='":"', bare=True)
ANY_OBJECT = {"type": "object"}


def refuse(message: str, path: str) -> NoReturn:
    raise GrammarRefused(message, path=path)


class Spelling(Controls):
    """Text as items of a rule, with the control tokens in it by their ids."""

    def items(self, text: str) -> str:
        return self.joined(self.split(text))

    def joined(self, pieces: Sequence[str | int]) -> str:
        return " ".join(f"<[{piece}]>" if isinstance(piece, int) else quoted(piece) for piece in pieces)


class Rules:
    """Of one `%arguments`: what all styles write them with."""

    def __init__(self, name: str, source: Schema, spelling: Spelling):
        self.source, self.spelling, self.lowered = source, spelling, Lowered(source)
        self.written: list[str] = []
        self._name = name

    def rule(self, items: str, *, terminal: bool = False, lazy: bool = False) -> str:
        """-> its name."""
        return self.define(self.named(terminal), items, lazy=lazy)

    def named(self, terminal: bool = False) -> str:
        """A new name. The rule must follow."""
        if len(self.written) == self.source.limits.nodes:
            refuse(f"more than {self.source.limits.nodes} rules", "#")
        self.written.append("")
        name = f"{self._name}_{len(self.written)}"
        return name.upper() if terminal else name

    def define(self, name: str, items: str, *, lazy: bool = False) -> str:
        self.written[int(name.rpartition("_")[2]) - 1] = f"{name}{'[lazy]' if lazy else ''}: {items}"
        return name

    def possible(self, node: Node) -> list[Option]:
        """Without those that no document is valid for."""
        return [option for option in node if self.lowered.least((option,)) < NEVER]

    def objects(self, node: Node, path: str = "#") -> list[Object]:
        """The options of arguments, which are objects."""
        found: list[Object] = []
        for option in self.possible(node):
            if isinstance(option, Ref):
                found += self.objects(self.source.definitions[option.pointer], path)
            elif isinstance(option, Literal) and option.written.startswith("{"):
                found.append(spread_object(option))
            elif isinstance(option, Object):
                found.append(option)
        return found

    def properties(self, option: Object) -> list[tuple[str, Node, bool]]:
        """(name, value, whether it is required) of the properties that may be written. Raises GrammarRefused for counts
        of properties that bind."""
        found = [(n, v, n in option.required) for n, v in option.properties if self.lowered.least(v) < NEVER]
        if option.low > len(option.required):
            refuse(f"minProperties {option.low}: in this format only up to the required ones", option.path)
        if option.high is not None and (option.high < len(found) or self.others(option)):
            refuse(f"maxProperties {option.high}: not in this format", option.path)
        return found

    def others(self, option: Object) -> list[tuple[Regex | None, Node]]:
        """(pattern, value) of properties that are not named; no pattern: of the rest."""
        found: list[tuple[Regex | None, Node]] = [*option.patterns, (None, option.extra)]
        return [(pattern, value) for pattern, value in found if self.lowered.least(value) < NEVER]

    def chain(self, entries: Sequence[tuple[str, bool]], more: str, comma: str) -> str:
        """A rule of entries (items, whether required) in their order, then any of `more`, with commas between them."""
        after = self.rule(f"({comma} {more})*") if more else ""
        first = f"({more} {after})?" if more else _NOTHING
        for items, required in reversed(entries):
            begun = f"{items} {after}".strip()
            first = self.rule(begun if required else f"{begun} | {first}")
            after = self.rule(f"{comma} {begun}" if required else f"({comma} {begun}) | {after or _NOTHING}")
        return self.rule(first)

    def number(self, option: Number) -> str:
        expression = number(option)
        if expression is not None:
            return f"/{expression}/"
        options = {"json_allowed_escapes": probe.ESCAPES, "whitespace_flexible": False}
        return self.rule("%json " + json.dumps({"x-guidance": options, **plain_number(option)}))


class Values:
    """Values inside of each other, in one notation. without: texts that no string may hold."""

    def __init__(self, rules: Rules, notation: Notation, without: tuple[str, ...] = ()):
        self._rules, self._notation, self._without = rules, notation, without
        self._nodes: dict[Node, str] = {}
        self._null, self._true, self._false = map(quoted, notation.words)

    def node(self, node: Node) -> str:
        """The name of its rule."""
        if node not in self._nodes:
            name = self._nodes[node] = self._rules.named()
            options = EVERY if node == ANY else self._rules.possible(node)
            self._rules.define(name, " | ".join(map(self._option, options)))
        return self._nodes[node]

    def _option(self, option: Option) -> str:
        match option:
            case Anything():
                return self.node(ANY)
            case Null():
                return self._null
            case Bool():
                return f"{self._true} | {self._false}"
            case Number():
                return self._rules.number(option)
            case Text():
                return self._string(option)
            case Literal():
                return self._literal(json.loads(option.written))
            case Ref(pointer):
                return self.node(self._rules.source.definitions[pointer])
            case Array():
                return self._array(option)
            case Object():
                return f'"{{" {self._properties(option)} "}}"'

    # strings

    def _string(self, option: Text) -> str:
        found = []
        for quote in self._notation.quotes:
            inner = quote if self._notation.escapes else ""
            barred = self._without if self._notation.escapes else (*self._without, quote)
            expression = body(option, inner, barred)
            if expression is not None:
                found.append(self._between(quote, expression))
        if not found:
            refuse("pattern: no string that it matches can be written in this format", "#")
        return " | ".join(found)

    def _between(self, quote: str, expression: str) -> str:
        rules = self._rules
        if self._notation.escapes:
            return rules.rule(f"{quoted(quote)} {expression} {quoted(quote)}", terminal=True)
        pieces = rules.spelling.split(quote)
        if isinstance(pieces[0], int):
            around = rules.spelling.joined(pieces)
            return f"{around} {rules.rule(expression, terminal=True)} {around}"
        return f"{quoted(quote)} {rules.rule(ending(expression, quote, quote), lazy=True)}"

    def _text(self, text: str) -> str:
        """One string."""
        if any(barred in text for barred in self._without) or (
            not self._notation.escapes and any(quote in text for quote in self._notation.quotes)
        ):
            refuse(f"the value {quoted(text)[:60]} cannot be written in this format", "#")
        if not self._notation.escapes:
            quote = self._rules.spelling.items(self._notation.quotes[0])
            return f"{quote} {quoted(text)} {quote}"
        options = [f"{q}{encoded_text(text, q)}{q}" for q in self._notation.quotes]
        return f"({' | '.join(map(quoted, options))})"

    def _literal(self, value: Any) -> str:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, list):
            inside = f" {self._notation.comma} ".join(map(self._literal, value))
            return f'"[" {inside} "]"'
        if isinstance(value, dict):
            pairs = (f"{self._key(name)} {self._notation.colon} {self._literal(v)}" for name, v in value.items())
            return f'"{{" {f" {self._notation.comma} ".join(pairs)} "}}"'
        words = {None: self._null, True: self._true, False: self._false}
        return words[value] if value is None or isinstance(value, bool) else quoted(dumps(value))

    # what holds other values

    def _array(self, option: Array) -> str:
        comma, size = self._notation.comma, len(option.prefix)
        most = float("inf") if option.high is None else option.high
        again = ""
        if most > size and self._rules.lowered.least(option.rest) < NEVER:
            high = "" if option.high is None else option.high - size
            again = f"({comma} {self.node(option.rest)}){{{max(0, option.low - size)},{high}}}"
            if not size:
                high = "" if option.high is None else option.high - 1
                again = (
                    f"{self.node(option.rest)} ({comma} {self.node(option.rest)}){{{max(0, option.low - 1)},{high}}}"
                )
                again = again if option.low else f"({again})?"
        for place in reversed(range(int(min(size, most)))):
            if self._rules.lowered.least(option.prefix[place]) == NEVER:
                again = ""
                continue
            items = f"{comma if place else ''} {self.node(option.prefix[place])} {again}"
            again = self._rules.rule(items if place < option.low else f"({items})?")
        return f'"[" {again} "]"'

    def _properties(self, option: Object) -> str:
        entries = [
            (f"{self._key(name)} {self._notation.colon} {self.node(value)}", required)
            for name, value, required in self._rules.properties(option)
        ]
        names = [name for name, _ in option.properties]
        found = []
        for pattern, value in self._rules.others(option):
            apart = [p for p, _ in option.patterns] if pattern is None else []
            if keys := self._keys(pattern, names, apart):
                found.append(f"({keys}) {self._notation.colon} {self.node(value)}")
        return self._rules.chain(entries, f"({' | '.join(found)})" if found else "", self._notation.comma)

    def _key(self, name: str) -> str:
        return quoted(name) if self._notation.bare and _WRITABLE.fullmatch(name) else self._text(name)

    def _keys(self, pattern: Regex | None, names: Sequence[str], apart: Sequence[Regex]) -> str:
        """Names that match a pattern, and are none of the names and match none of the patterns `apart`."""
        found = []
        for quote in ("",) if self._notation.bare else self._notation.quotes:
            parts = [f"~({' | '.join(quoted(encoded_text(n, quote)) for n in names)})"] if names else []
            parts += [f"~({spelled(p)})" for other in apart if (p := encoded(other, quote)) is not None]
            parts += [f"/{_IDENTIFIER}/"] if self._notation.bare else []
            expression = body(Text(patterns=(pattern,) if pattern is not None else ()), quote, self._without, parts)
            if expression is not None:
                around = quoted(quote) if quote else ""
                found.append(self._rules.rule(f"{around} {expression} {around}".strip(), terminal=True))
        return " | ".join(found)


def spread_object(option: Literal) -> Object:
    """The same as an object that has these properties."""
    value = json.loads(option.written)
    return Object(tuple((n, (literal(v),)) for n, v in value.items()), tuple(value), (), ())


def spread_array(option: Literal) -> Array:
    value = json.loads(option.written)
    return Array(tuple((literal(v),) for v in value), (), len(value), len(value))


# ---------------------------------------------------------------- styles


def _python(rules: Rules, asked: Mapping[str, Any]) -> str:
    values, found = Values(rules, PYTHON), []
    for option in rules.objects(rules.source.root):
        entries = []
        for name, value, required in rules.properties(option):
            if not _WRITABLE.fullmatch(name):
                refuse(f"{quoted(name)[:60]} is no name of an argument in this format", f"{option.path}/properties")
            entries.append((f"{quoted(name + '=')} {values.node(value)}", required))
        names = [name for name, _ in option.properties]
        more = []
        for pattern, value in rules.others(option):
            key = free_name(rules, pattern, names, [p for p, _ in option.patterns] if pattern is None else [])
            more.append(f'{key} "=" {values.node(value)}')
        found.append(rules.chain(entries, f"({' | '.join(more)})" if more else "", PYTHON.comma))
    return f'({" | ".join(found)}) ")"'


def free_name(rules: Rules, pattern: Regex | None, names: Sequence[str], apart: Sequence[Regex]) -> str:
    """A terminal of identifiers that match a pattern, and are none of the names and match none of those `apart`."""
    parts = [f"~({' | '.join(map(quoted, names))})"] if names else []
    parts += [f"~({spelled(other)})" for other in apart]
    parts += [spelled(pattern)] if pattern is not None else []
    return rules.rule(" & ".join([f"/{_IDENTIFIER}/", *parts]), terminal=True)


def _gemma(rules: Rules, asked: Mapping[str, Any]) -> str:
    options: Node = tuple(rules.objects(rules.source.root))
    return Values(rules, GEMMA).node(options)


def _parameters(rules: Rules, asked: Mapping[str, Any]) -> str:
    from .dialect_tags import parameters

    return parameters(rules, asked)


def _nested(rules: Rules, asked: Mapping[str, Any]) -> str:
    from .dialect_tags import nested

    return nested(rules, asked)


STYLES: dict[str, Callable[[Rules, Mapping[str, Any]], str]] = {
    "python": _python,
    "gemma": _gemma,
    "parameters": _parameters,
    "nested": _nested,
}


def arguments(text: str, name: str, controls: Sequence[int], limits: Limits) -> tuple[str, list[str]]:
    """(an item, the rules that it needs) of the object of `%arguments`. name: how the names of its rules begin.
    controls: the tokens that may be named. Raises GrammarRefused."""
    asked = json.loads(text)
    if not isinstance(asked, dict) or asked.get("style") not in STYLES or "schema" not in asked:
        raise GrammarRefused(f"%arguments: expected style, one of {', '.join(STYLES)}, and schema")
    tokens = asked.get("controls", {})
    if not set(tokens.values()) <= set(controls):
        raise GrammarRefused("%arguments: a grammar cannot name control tokens")
    try:
        return _written(asked, name, Spelling(tokens), limits)
    except GrammarRefused:
        if asked.get("firm", True):
            raise
        return _written({**asked, "schema": ANY_OBJECT, "reads": None}, name, Spelling(tokens), limits)


def _written(asked: Mapping[str, Any], name: str, spelling: Spelling, limits: Limits) -> tuple[str, list[str]]:
    rules = Rules(name, Schema(json.dumps(asked["schema"], ensure_ascii=False), limits), spelling)
    return rules.rule(STYLES[asked["style"]](rules, asked)), rules.written
