"""Arguments between tags: one by one, as text or as JSON ("parameters"), or as elements of elements ("nested").

The reader of these styles goes by the types that the schema tells it: text where only a string may stand; else what the
text looks like. So a text that looks like another value is written only where nothing but text is read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .dialect_text import ALL_TYPES, body, ending, is_read_as_text, number, quoted, unlike
from .dialects import ANY_OBJECT, JSON, Rules, Values, free_name, refuse, spread_array, spread_object
from .nodes import Anything, Array, Bool, Literal, Node, Null, Number, Object, Option, Ref, Text

_CDATA, _CDATA_END = "<![CDATA[", "]]>"
_DEEPEST = 30  # elements inside of each other; the reader takes 32
_TEXT = frozenset(["string"])


@dataclass(frozen=True, slots=True)
class Tags:
    """As server/tools/format.py has them: `opens`, name, `middle`, value, `closes`."""

    opens: str
    middle: str
    closes: str
    json: str = ""
    cdata: bool = False


class Reads:
    """What the reader takes a value for. types: None: whatever it looks like. known: it is sure that it does."""

    def __init__(self, found: Mapping[str, Any] | None):
        self.known, self._found = found is not None, found or {}
        types = self._found.get("types")
        self.types: frozenset[str] | None = None if types is None else frozenset(types)

    def under(self, name: str) -> Reads:
        properties = self._found.get("properties") or {}
        return Reads(properties[name] if name in properties else self._found.get("rest"))


_AS_TEXT = Reads({"types": ["string"]})


class _Tagged:
    """What both styles write between tags."""

    def __init__(self, rules: Rules, tags: Tags):
        self.rules, self.tags = rules, tags
        self._core = tags.closes.strip()
        self.values = Values(rules, JSON, (self._core,))

    def opened(self, name: str, path: str, middle: str) -> str:
        """Items of what stands before a value. Raises GrammarRefused for a name that cannot stand there."""
        first = self.tags.middle.split()[0]
        if not name or len(name) > 300 or name != name.strip() or first in name or "<" in name:
            refuse(f"{quoted(name)[:60]} is no name that can be written in this format", f"{path}/properties")
        return f"{self.rules.spelling.items(self.tags.opens)} {quoted(name)} {self.rules.spelling.items(middle)}"

    def until(self, expression: str, close: str) -> str:
        """Items of text, and what closes it."""
        pieces = self.rules.spelling.split(close)
        first = pieces[0]
        if isinstance(first, int):
            return f"{self.rules.rule(expression, terminal=True)} {self.rules.spelling.joined(pieces)}"
        rest = self.rules.spelling.joined(pieces[1:])
        if not first.strip():
            return f"{self.rules.rule(f'{expression} {quoted(first)}', terminal=True)} {rest}"
        return f"{self.rules.rule(ending(expression, first, first.strip()), lazy=True)} {rest}".strip()

    def scalars(self, options: Sequence[Option]) -> list[str]:
        """Expressions of what is neither text nor holds other values."""
        found = []
        for option in options:
            match option:
                case Null():
                    found.append(quoted("null"))
                case Bool():
                    found += [quoted("true"), quoted("false")]
                case Number() if (expression := number(option)) is not None:
                    found.append(f"/{expression}/")
                case Literal() if option.written[0] not in '"{[':
                    found.append(quoted(option.written))
        return found

    def texts(self, options: Sequence[Option], reads: Reads, without: tuple[str, ...]) -> list[str]:
        """Expressions of text as it stands. without: what it may not begin with."""
        types = reads.types if reads.known else ALL_TYPES
        also = [*unlike(types), *(f"~({quoted(text)} /(?s:.*)/)" for text in without)]
        found = []
        for option in options:
            if isinstance(option, Text) and (expression := body(option, "", (self._core,), also)) is not None:
                found.append(expression)
            elif isinstance(option, Literal) and option.written[0] == '"':
                text = str(json.loads(option.written))
                if self._core in text or text.startswith(without or ("\0",)):
                    refuse(f"the value {option.written[:60]} cannot be written in this format", "#")
                if is_read_as_text(text, types):
                    found.append(quoted(text))
                elif reads.known and types is not None and "string" in types:
                    found.append(quoted(option.written))  # of several types a reader takes this for the string
                else:
                    refuse(f"the value {option.written[:60]} would be read as no string in this format", "#")
        return found


# ---------------------------------------------------------------- one by one


def parameters(rules: Rules, asked: Mapping[str, Any]) -> str:
    writer, reads = _Parameters(rules, Tags(**asked["tags"])), Reads(asked.get("reads"))
    return " | ".join(writer.arguments(option, reads) for option in rules.objects(rules.source.root))


class _Parameters(_Tagged):
    def arguments(self, option: Object, reads: Reads) -> str:
        found = []
        for name, value, required in self.rules.properties(option):
            rule = self.rules.rule(self._parameter(name, value, reads.under(name), option.path))
            found.append(rule if required else f"{rule}?")
        names = [name for name, _ in option.properties]
        more = []
        for pattern, value in self.rules.others(option):
            apart = [p for p, _ in option.patterns] if pattern is None else []
            key = free_name(self.rules, pattern, names, apart)
            before = f"{self.rules.spelling.items(self.tags.opens)} {key}"
            more.append(self._values(before, "", value, reads.under("")))
        return self.rules.rule(" ".join([*found, f"({' | '.join(more)})*" if more else ""]).strip() or '""')

    def _parameter(self, name: str, value: Node, reads: Reads, path: str) -> str:
        return self._values(self.opened(name, path, ""), name, value, reads)

    def _values(self, before: str, name: str, node: Node, reads: Reads) -> str:
        """Alternatives of a parameter whose name was written."""
        spelling, tags = self.rules.spelling, self.tags
        options = list(self._resolved(node))
        plain = self._plain(options, _AS_TEXT if tags.json else reads)
        others = [self.until(f"({' | '.join(found)})", tags.closes)] if (found := self.scalars(options)) else []
        others += [
            f"{self.values.node((option,))} {spelling.items(tags.closes)}"
            for option in options
            if isinstance(option, Array | Object)
            or (isinstance(option, Number) and number(option) is None)
            or (isinstance(option, Literal) and option.written[0] in "{[")
            or (isinstance(option, Anything) and tags.json)
        ]
        texts = f"{spelling.items(tags.middle)} ({' | '.join(plain)})" if plain else ""
        rest = f"{spelling.items(tags.json or tags.middle)} ({' | '.join(others)})" if others else ""
        if not texts and not rest:
            refuse(f"no value of {quoted(name)[:60]} can be written in this format", "#")
        return " | ".join(f"{before} {items}" for items in (texts, rest) if items)

    def _plain(self, options: Sequence[Option], reads: Reads) -> list[str]:
        """What is text until the tag that closes it."""
        tags = self.tags
        found = self.texts(options, reads, (_CDATA,) if tags.cdata else ())
        if any(isinstance(option, Anything) for option in options) and not tags.json:
            found += self.texts([Text()], _AS_TEXT, (_CDATA,) if tags.cdata else ())
        items = [self.until(f"({' | '.join(found)})", tags.closes)] if found else []
        wrapped = [option for option in options if isinstance(option, Text)] if tags.cdata else []
        for option in wrapped:
            close = f"{_CDATA_END}{tags.closes}"
            if (expression := body(option, "", (_CDATA_END,))) is not None:
                rule = self.rules.rule(ending(expression, _CDATA_END, _CDATA_END), lazy=True)
                rest = self.rules.spelling.items(close.removeprefix(_CDATA_END))
                items.append(f"{quoted(_CDATA)} {rule} {rest}")
        return items

    def _resolved(self, node: Node) -> list[Option]:
        found: list[Option] = []
        for option in self.rules.possible(node):
            found += (
                self._resolved(self.rules.source.definitions[option.pointer]) if isinstance(option, Ref) else [option]
            )
        return list(dict.fromkeys(found))


# ---------------------------------------------------------------- elements of elements


def nested(rules: Rules, asked: Mapping[str, Any]) -> str:
    writer, reads = _Nested(rules, Tags(**asked["tags"])), Reads(asked.get("reads"))
    if asked["schema"] == ANY_OBJECT and not asked.get("firm", True):
        return writer.anything()
    return " | ".join(writer.children(option, reads, 0, "") for option in rules.objects(rules.source.root))


class _Nested(_Tagged):
    def anything(self) -> str:
        """Elements of any name with text in them, for schemas that need not be enforced."""
        key = free_name(self.rules, None, (), ())
        text = self.until(self.texts([Text()], _AS_TEXT, ())[0], self.tags.closes)
        before, middle = map(self.rules.spelling.items, (self.tags.opens, self.tags.middle))
        return f'({before} {key} {middle} {text} {key} ">")*'

    def children(self, option: Object, reads: Reads, depth: int, empty: str) -> str:
        """A rule of the elements of an object's properties; only named ones can be written. empty: what stands for
        none of them."""
        after = ""
        entries = []
        for name, value, required in self.rules.properties(option):
            entries.append((self._element(name, value, reads.under(name), depth, option.path), required))
        ways: list[str] = []
        for items, required in reversed(entries):
            ways = [f"{items} {after}".strip(), *([] if required else ways)]
            after = f"{self.rules.rule(items if required else f'{items}?')} {after}"
        if not any(required for _, required in entries):
            ways.append(quoted(empty))
        return self.rules.rule(" | ".join(ways))

    def _element(self, name: str, node: Node, reads: Reads, depth: int, path: str) -> str:
        """A rule."""
        if depth > _DEEPEST:
            refuse(f"elements nested deeper than {_DEEPEST}", f"{path}/properties")
        before = self.opened(name, path, self.tags.middle)
        close = f"{self.tags.closes}{name}>"
        options = self._resolved(node)
        types = reads.types
        inside = self.scalars(options)
        inside += self.texts(options, reads, (self.tags.opens.strip(),) if types != _TEXT else ())
        if any(isinstance(option, Anything) for option in options):
            inside += self.texts([Text()], _AS_TEXT, (self.tags.opens.strip(),))
        items = [self.until(f"({' | '.join(inside)})", close)] if inside else []
        shut = self.rules.spelling.items(close)
        for option in options:
            if isinstance(option, Number) and number(option) is None:
                items.append(f"{self.rules.number(option)} {shut}")
            elif isinstance(option, Array):
                items.append(f"{self._items(option, reads, depth + 1)} {shut}")
            elif isinstance(option, Object):
                items.append(f"{self._object(option, reads, depth + 1)} {shut}")
        if not items:
            refuse(f"no value of {quoted(name)[:60]} can be written in this format", path)
        return self.rules.rule(f"{before} ({' | '.join(items)})")

    def _object(self, option: Object, reads: Reads, depth: int) -> str:
        types = reads.types
        listed = types is not None and "array" in types
        if listed or (types is None and any(name == "item" for name, _ in option.properties)):
            refuse("an object where an array may stand too cannot be told from it in this format", option.path or "#")
        return self.children(option, reads, depth, "" if types == {"object"} else "{}")

    def _items(self, option: Array, reads: Reads, depth: int) -> str:
        """Elements of a list; where there are none, text that says so."""
        empty = quoted("" if reads.types == {"array"} else "[]")
        size, high = len(option.prefix), option.high
        inner = reads.under("item")
        again = ""
        if (high is None or high > size) and self.rules.lowered.least(option.rest) < float("inf"):
            item = self._element("item", option.rest, inner, depth, "#")
            low, most = max(option.low - size, 0), "" if high is None else high - size
            if not size and not low:
                return f"({empty} | {item}{{1,{most}}})"
            again = f"{item}{{{low},{most}}}"
        for place in reversed(range(size if high is None else min(size, high))):
            items = f"{self._element('item', option.prefix[place], inner, depth, '#')} {again}"
            optional = empty if not place else '""'
            again = self.rules.rule(items if place < option.low else f"({items}) | {optional}")
        return again or empty

    def _resolved(self, node: Node) -> list[Option]:
        """Constants that hold others as what they are made of."""
        found: list[Option] = []
        for option in self.rules.possible(node):
            if isinstance(option, Ref):
                found += self._resolved(self.rules.source.definitions[option.pointer])
            elif isinstance(option, Literal) and option.written[0] in "{[":
                found.append(spread_object(option) if option.written[0] == "{" else spread_array(option))
            else:
                found.append(option)
        return list(dict.fromkeys(found))
