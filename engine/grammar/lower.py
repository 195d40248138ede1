"""From Nodes to what the engine underneath reads, and how long an answer must be at least.

Lengths are in bytes of JSON without white space. `Lengths` gives upper bounds that hold wherever in a document one
stands: as long as more tokens are left than the bound, no ending can be out of reach and nothing need be looked at.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from . import nfa, probe, regexes
from .errors import GrammarRefused
from .nodes import (
    ANY,
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
    is_empty,
    short_number,
)
from .schema import Schema

NEVER = math.inf
LONGEST = 8_192  # bytes of a shortest document
_SHORT = {0x08, 0x09, 0x0A, 0x0C, 0x0D, 0x22, 0x5C}  # written with a backslash
_DIGITS = 64  # more than any number within bounds of 2^53 needs on from anywhere


@lru_cache(4096)
def cheapest(ranges: tuple[tuple[int, int], ...]) -> tuple[float, int]:
    """(bytes inside a JSON string, character) of the cheapest of these; letters and digits before signs."""
    best, found = NEVER, 0
    for a, b in ranges:
        for code in range(a, min(b, 0x7E) + 1):
            weight = 2 if code in _SHORT else 1 if code >= 0x20 else NEVER
            if weight < best or (weight == best and chr(code).isalnum() and not chr(found).isalnum()):
                best, found = weight, code
        if b >= 0x80 and best > 2:
            best, found = min((best, found), (len(chr(max(a, 0x80)).encode()), max(a, 0x80)))
    return best, found


def cost(ranges: tuple[tuple[int, int], ...]) -> float:
    """Bytes of the cheapest of these characters inside a JSON string."""
    return cheapest(ranges)[0]


@dataclass(frozen=True)
class Bounds:
    """How far an ending can be, in tokens or bytes. flat: never further than this (None: it nests without end). Then,
    with d objects and arrays open, none is further than (d + 1) * frame + leaf; of rules that nest without end, nest
    more for each of the `openers` (texts, and control tokens) that the answer holds: one stands before each."""

    flat: int | None
    frame: int
    leaf: int
    nest: int = 0
    openers: tuple[bytes | int, ...] = ()


class Lowered:
    """`schema`: a plain JSON Schema. `names`: all strings that it spells out. `patterns`: of the others."""

    def __init__(self, source: Schema, comma: int = 1, colon: int = 1):
        """comma, colon: bytes of what stands between members, and behind a name. Raises GrammarRefused if no document
        is valid, or what is asked cannot be written plainly."""
        self.source, self._comma, self._colon = source, comma, colon
        self._least: dict[str, float] = dict.fromkeys(source.definitions, NEVER)
        self._texts: dict[int, tuple[Text, float]] = {}  # the least of each, by its id
        self._settle()
        if self.least(source.root) == NEVER:
            raise GrammarRefused("no document is valid for this schema", path="#")
        if self.least(source.root) > LONGEST:
            raise GrammarRefused(f"the shortest document has more than {LONGEST} bytes", path="#")
        self.patterns: dict[regexes.Regex, None] = {}  # of all strings that have one
        self.names: list[str] = []
        self._composite: list[Array | Object] = []
        self._frames: list[float] = [1]
        self._leaves: list[float] = [8]
        self.schema = self._write_all()
        self._worsts: dict[str, float | None] = {}
        flat = self._worst(source.root)
        self.bounds = Bounds(None if flat is None else int(flat), int(max(self._frames)), int(max(self._leaves)))

    # ------------------------------------------------------------ the shortest document

    def _settle(self) -> None:
        """The least of every definition; they may refer to each other, so until nothing changes."""
        for _ in range(len(self._least) + 1):
            changed = False
            for pointer, node in self.source.definitions.items():
                found = self.least(node)
                if found < self._least[pointer]:
                    self._least[pointer], changed = found, True
            if not changed:
                return

    def least(self, node: Node) -> float:
        return min((self._least_option(option) for option in node), default=NEVER)

    def _least_option(self, option: Option) -> float:
        match option:
            case Anything():
                return 1
            case Null():
                return 4
            case Bool():
                return 4
            case Literal():
                return len(option.written.encode())
            case Ref(pointer):
                return self._least[pointer]
            case Number():
                return NEVER if is_empty(option) else len(short_number(option)) or _DIGITS
            case Text():
                if (found := self._texts.get(id(option))) is None:
                    found = self._texts[id(option)] = option, self._least_text(option)
                return found[1]
            case Array(prefix, rest, low, high):
                if high is not None and high < low:
                    return NEVER
                items = [self.least(prefix[i] if i < len(prefix) else rest) for i in range(min(low, len(prefix) + 1))]
                more = max(0, low - len(items)) * items[-1] if items else 0
                return 2 + sum(items) + more + self._comma * max(0, low - 1)
            case Object():
                return self._least_object(option)

    def _least_text(self, option: Text) -> float:
        """Exact without patterns or with one and no least length; else a bound from above."""
        if option.high is not None and option.high < option.low:
            return NEVER
        if any(regexes.least(p, cost) == NEVER for p in option.patterns):
            return NEVER
        if len(option.patterns) + bool(option.low) + (option.high is not None) > 1 and option.patterns:
            if probe.is_empty(self._text(option)):
                return NEVER
            return self._walk(option.patterns, option.low) + 2
        return max([option.low, *(regexes.least(p, cost) for p in option.patterns)]) + 2

    def _least_object(self, option: Object) -> float:
        if option.high is not None and option.high < max(option.low, len(option.required)):
            return NEVER
        known = dict(option.properties)
        total = 2.0 + self._comma * max(0, len(option.required) - 1)
        total += sum(_quoted(name) + self._colon + self.least(known[name]) for name in option.required)
        return total + (self._least_extra(option) if option.low > len(option.required) else 0)

    def _least_extra(self, option: Object) -> float:
        """One more property, under any name."""
        names = [n for n, _ in option.properties]
        marks = 2 + self._comma + self._colon
        free = marks + max(map(_quoted, names), default=0) + self.least(option.extra)
        return min([free, *(marks + regexes.least(p, cost) + self.least(n) for p, n in option.patterns)])

    def example(self) -> bytes:
        """What is likely a shortest document; b"" if that is not easily told."""
        return self._example(self.source.root, 64).encode()

    def examples(self, most: int = 64) -> list[bytes]:
        """Short objects and arrays that are valid for some part of the schema, as hints."""
        found: dict[str, None] = {}
        for option in self._composite:
            found.update(dict.fromkeys([self._example((option,), 16)] if len(found) < most else []))
        return sorted((text.encode() for text in found if text), key=len)

    def _example(self, node: Node, depth: int) -> str:
        """A short valid document; "" if that is not easily told."""
        option = min(node, key=self._least_option, default=None)
        if option is None or self._least_option(option) > LONGEST:
            return ""
        match option:
            case Ref(pointer) if depth:
                return self._example(self.source.definitions[pointer], depth - 1)
            case Anything():
                return "0"
            case Null():
                return "null"
            case Bool():
                return "true"
            case Literal():
                return option.written
            case Number():
                return short_number(option)
            case Text():
                filled = self._filled(option)
                return json.dumps(filled, ensure_ascii=False) if filled is not None else ""
            case Array(prefix, rest, low) if depth:
                items = [self._example(prefix[i] if i < len(prefix) else rest, depth - 1) for i in range(low)]
                return f"[{','.join(items)}]" if all(items) else ""
            case Object(properties, required) if depth:
                values = {n: self._example(v, depth - 1) for n, v in properties if n in required}
                pairs = [f"{json.dumps(n, ensure_ascii=False)}:{v}" for n, v in values.items()]
                return f"{{{','.join(pairs)}}}" if all(values.values()) else ""
        return ""

    def _filled(self, option: Text) -> str | None:
        if not option.patterns:
            return "a" * option.low
        hint = nfa.hint(option.patterns[0], cheapest)
        return None if hint is None else hint.complete("")

    # ------------------------------------------------------------ the longest way to an end

    def _worst(self, node: Node) -> float | None:
        """None: it nests without end."""
        found = [self._worst_option(option) for option in node if self._least_option(option) < NEVER]
        return None if any(f is None for f in found) else max((f for f in found if f is not None), default=0)

    def _worst_option(self, option: Option) -> float | None:
        match option:
            case Anything():
                return None
            case Ref(pointer):
                if pointer not in self._worsts:
                    self._worsts[pointer] = None  # met again on its own way: without end
                    self._worsts[pointer] = self._worst(self.source.definitions[pointer])
                return self._worsts[pointer]
            case Array(prefix, rest):
                return _over([self._worst(n) for n in (*prefix, rest)], self._frame(option))
            case Object():
                children = [self._worst(n) for _, n in (*option.properties, *option.patterns)]
                return _over([*children, self._worst(option.extra)], self._frame(option))
            case _:
                return self._leaf(option)

    def _frame(self, option: Array | Object) -> float:
        """Bytes that an object or array may still need around the value that is being written in it."""
        if isinstance(option, Array):
            return self._least_option(option) + 1 + self._comma
        names = max((_quoted(n) for n, _ in option.properties), default=0)
        patterns = max((self._walk((p,), 0) for p, _ in option.patterns), default=0)
        return self._least_option(option) + names + patterns + 10 + self._comma + self._colon

    def _leaf(self, option: Option) -> float:
        if isinstance(option, Text):
            return self._walk(option.patterns, option.low) + 8
        return _DIGITS if isinstance(option, Number) else self._least_option(option)

    def _walk(self, patterns: tuple[regexes.Regex, ...], low: int) -> float:
        """From anywhere in a string to its end. One pattern: the way on through the expression. With a least length or
        more patterns: a walk that long, and at most once through every state of them all."""
        if not patterns:
            return low
        if len(patterns) == 1 and low == 0:
            return regexes.worst(patterns[0], cost)
        return 4 * (low + math.prod(map(regexes.positions, patterns)))

    # ------------------------------------------------------------ writing

    def _write_all(self) -> dict[str, Any]:
        definitions = {p: node for p, node in self.source.definitions.items() if p != "#" and self._least[p] < NEVER}
        self._places = {p: f"#/$defs/d{i}" for i, p in enumerate(definitions)} | {"#": "#/$defs/root"}
        written = {self._places[p][8:]: self._write(node) for p, node in definitions.items()}
        root = self._write(self.source.root)
        return {"$defs": {"root": root, **written}, "$ref": "#/$defs/root"}

    def _write(self, node: Node) -> dict[str, Any] | bool:
        options = [option for option in node if self._least_option(option) < NEVER]
        if not options:
            return False
        if options == list(ANY):
            self._frames.append(2)
            return {}
        literals = [json.loads(option.written) for option in options if isinstance(option, Literal)]
        written = [self._write_option(option) for option in options if not isinstance(option, Literal)]
        if any(self._least_option(option) > LONGEST for option in options if isinstance(option, Literal)):
            raise GrammarRefused(f"a value of enum or const has more than {LONGEST} bytes", path="#")
        for value in literals:
            self._collect(value)
        if literals:
            written.append({"enum": literals})
        return written[0] if len(written) == 1 else {"anyOf": written}

    def _collect(self, value: Any) -> None:
        if isinstance(value, str):
            self.names.append(value)
        for item in value if isinstance(value, list) else value.values() if isinstance(value, dict) else []:
            self._collect(item)
        self.names += list(value) if isinstance(value, dict) else []
        self._leaves.append(len(dumps(value).encode()))

    def _write_option(self, option: Option) -> dict[str, Any]:
        if self._least_option(option) > LONGEST:
            raise GrammarRefused(f"a part of the schema has no document of at most {LONGEST} bytes", path="#")
        if isinstance(option, Array | Object):
            self._composite.append(option)
            self._frames.append(self._frame(option))
        else:
            self._leaves.append(0 if isinstance(option, Ref) else self._leaf(option))
        match option:
            case Anything():
                return {}
            case Null():
                return {"type": "null"}
            case Bool():
                return {"type": "boolean"}
            case Ref(pointer):
                return {"$ref": self._places[pointer]}
            case Number():
                return plain_number(option)
            case Text():
                self.patterns.update(dict.fromkeys(option.patterns))
                return self._text(option)
            case Array(prefix, rest, low, high):
                return _kept(
                    type="array",
                    prefixItems=[self._write(n) for n in prefix] or None,
                    items=self._write(rest),
                    minItems=low or None,
                    maxItems=high,
                )
            case Object():
                return self._object(option)
        raise AssertionError(option)

    def _text(self, option: Text) -> dict[str, Any]:
        expressions = [regexes.pattern(p) for p in option.patterns]
        first = _kept(
            type="string",
            minLength=option.low or None,
            maxLength=option.high,
            pattern=expressions[0] if expressions else None,
        )
        return (
            {**first, "allOf": [{"type": "string", "pattern": e} for e in expressions[1:]]}
            if expressions[1:]
            else first
        )

    def _object(self, option: Object) -> dict[str, Any]:
        names = dict(option.properties)
        self.names += names
        self.patterns.update(dict.fromkeys(p for p, _ in option.patterns))
        low, high = self.counted(option)
        return _kept(
            type="object",
            properties={n: self._write(v) for n, v in names.items()},
            required=list(option.required) or None,
            patternProperties={regexes.pattern(p): self._write(v) for p, v in option.patterns} or None,
            additionalProperties=self._write(option.extra),
            minProperties=low,
            maxProperties=high,
        )

    def counted(self, option: Object) -> tuple[int | None, int | None]:
        """minProperties and maxProperties as far as they bind. One name may be written twice where names are free, so
        more than one of those cannot be asked for."""
        all_required = all(n in option.required for n, v in option.properties if self.least(v) < NEVER)
        open_names = self.least(option.extra) < NEVER or any(self.least(n) < NEVER for _, n in option.patterns)
        low = option.low if option.low > len(option.required) else None
        known = sum(self.least(v) < NEVER for _, v in option.properties)
        high = option.high if option.high is not None and (open_names or option.high < known) else None
        if low is not None and (not all_required or low > len(option.required) + 1):
            rule = "above the required ones only by 1, and only where every property named is required"
            raise GrammarRefused(f"minProperties {low}: {rule}", path=f"{option.path}/minProperties")
        if high is not None and not all_required:
            rule = "only where every property named is required"
            raise GrammarRefused(f"maxProperties {high}: {rule}", path=f"{option.path}/maxProperties")
        return low, high


def _over(children: list[float | None], frame: float) -> float | None:
    return None if any(c is None for c in children) else frame + max((c for c in children if c is not None), default=0)


def _quoted(name: str) -> int:
    return len(json.dumps(name, ensure_ascii=False).encode())


def _kept(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def plain_number(option: Number) -> dict[str, Any]:
    return _kept(
        type="integer" if option.integer else "number",
        minimum=None if option.low_open else _plain(option.low),
        exclusiveMinimum=_plain(option.low) if option.low_open else None,
        maximum=None if option.high_open else _plain(option.high),
        exclusiveMaximum=_plain(option.high) if option.high_open else None,
        multipleOf=_plain(option.multiple),
    )


def _plain(number: Any) -> int | float | None:
    if number is None:
        return None
    return int(number) if number == number.to_integral_value() else float(number)
