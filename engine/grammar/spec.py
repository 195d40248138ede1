"""What a request may ask its answer to be, and how large it may be. Pure data: it travels in messages."""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["json_schema", "json_object", "lark", "gbnf", "ebnf", "structural_tag", "regex", "choice"]

# Between two JSON tokens: nothing, one space, or a line break and its indentation. Bounded, so that no model can write
# white space for ever.
WHITESPACE = r" |\n {0,32}"


class GrammarSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One constraint. `text` by kind:

    json_schema      the schema, as JSON
    json_object      nothing: any JSON object
    lark, gbnf, ebnf the grammar
    structural_tag   {"structures": [{"begin", "schema", "end"}], "triggers": [...]}, as JSON
    regex            an expression that the whole answer matches
    choice           a JSON list of strings, one of which is the answer
    """

    kind: Kind
    text: str = ""
    whitespace: str | None = None  # expression for what may stand between JSON tokens; None: WHITESPACE; "": nothing
    controls: tuple[int, ...] = ()  # control tokens a lark grammar may name (<[id]>); never taken from a client
    ours: bool = False  # a lark grammar that the server wrote: %arguments and %joined may stand in it
    engine: str | None = None  # overrides KINDS
    only: bool = False  # what is too large for its engine is refused, where another would take it


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What compiling may take. Beyond it a grammar is refused."""

    text_bytes: int = 256 * 1024
    depth: int = 64  # schemas within schemas
    nodes: int = 20_000  # schemas, enum values and properties; also what merging allOf may make
    states: int = 5_000  # of a regex's automaton
    transitions: int = 100_000  # of its index over the vocabulary: copying it holds the GIL
    repeat: int = 5_000  # a count in minLength, maxItems, {m,n} ...
