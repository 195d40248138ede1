"""What binds one answer: the request's constraint and its tools, over what the model's template tells. Pure.

Of a constraint, and of calls that may or must be:

    constraint          itself, behind a thought where there may be one
    must                calls
    may                 free text, in which what opens a call must go on as one
    constraint, may     calls, or the constraint
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..engine.errors import GrammarRefused, RequestError
from ..engine.grammar.spec import GrammarSpec
from ..engine.messages import ThoughtBudget
from .calls import Calls, arguments_schema
from .dialect import Dialect
from .grammars import Constraint
from .tool_grammar import FINAL, Grammar
from .tools.format import Format, Structure

_LINE = re.compile(r"line (\d+): ")
MANY = 64 * 1024  # characters of schemas that nobody asked to be enforced


@dataclass(frozen=True, slots=True)
class Binding:
    """spec: the grammar, None: none. after: token ids in the answer behind which it begins. whole: the answer ends
    where it does. one: the answer must end with its first call, which no grammar sees to. origin: the field of the
    request that the grammar comes from; lines: the same for single lines of it. thought: how long it may think."""

    spec: GrammarSpec | None = None
    after: tuple[int, ...] = ()
    whole: bool = False
    one: bool = False
    origin: str = ""
    lines: Mapping[int, str] = field(default_factory=dict)
    thought: ThoughtBudget | None = None

    def told(self, error: GrammarRefused) -> GrammarRefused:
        """The engine's error in terms of the request."""
        message, where = error.message, self.origin
        if (line := _LINE.match(message)) and int(line[1]) in self.lines:
            message, where = message[line.end() :], self.lines[int(line[1])]
        return GrammarRefused(f"{where}: {message}", param=where)

    def as_json(self) -> dict[str, Any] | None:
        if self.spec is None:
            return None
        spec = self.spec
        return {"kind": spec.kind, "text": spec.text, "whitespace": spec.whitespace, "controls": list(spec.controls),
                "after": list(self.after), "origin": self.origin}  # fmt: skip


FREE = Binding()


def bind(wanted: Constraint | None, calls: Calls, dialect: Dialect, prompt: str) -> Binding:
    """prompt: rendered; its end tells whether the answer begins in a thought. Raises RequestError naming the field of
    what cannot be enforced."""
    if not calls.tools:
        return FREE if wanted is None else _document(wanted, dialect, prompt)
    format = dialect.format
    if format is None:
        raise RequestError(
            "tools: this model's chat template shows no format of calls that is known here; name one with "
            '--tool-call-parser, or send tool_choice: "none"', param="tools", code="unsupported_parameter",
        )  # fmt: skip
    asked = calls.strict if not calls.must else "tool_choice"
    if calls.must:
        return _calls(None, calls, dialect, format, prompt)
    if wanted is not None:
        return _calls(wanted, calls, dialect, format, prompt)
    found = _free(calls, dialect, format, prompt)
    if found is None and asked:
        raise _unwritten(asked, format)
    return found or Binding(one=not calls.parallel)


def _unwritten(where: str, format: Format) -> RequestError:
    return RequestError(
        f"{where}: with tool_choice: auto, calls in the format {format.name} cannot be told from text by a grammar, "
        "and so not be bound", param=where, code="unsupported_parameter",
    )  # fmt: skip


# ---------------------------------------------------------------- thoughts


def _thought(dialect: Dialect, prompt: str) -> str:
    """What is known of a thought before the answer: "none", "may" or "must" be."""
    kind = dialect.reasoning
    if not kind.begin or prompt.rstrip().endswith(kind.end):
        return "none"
    return "must" if kind.begun_in(prompt) else "may"


def _after(dialect: Dialect, prompt: str) -> tuple[int, ...]:
    """The ids that end the thought in which the answer begins; () where it does not, or no ids are sure to."""
    return dialect.spelling.ids(dialect.reasoning.end) if _thought(dialect, prompt) == "must" else ()


def _lead(grammar: Grammar, dialect: Dialect, prompt: str) -> str:
    """Items before the answer, where `_after` does not do."""
    thought = _thought(dialect, prompt)
    if thought == "none" or _after(dialect, prompt):
        return ""
    return grammar.lead(dialect.reasoning, inside=thought == "must")


# ---------------------------------------------------------------- a document


def _document(wanted: Constraint, dialect: Dialect, prompt: str) -> Binding:
    """The constraint alone. A thought that may come stands in the grammar; where the constraint cannot stand in one
    with it, the answer has no thought."""
    after, thought = _after(dialect, prompt), _thought(dialect, prompt)
    plain = Binding(wanted.spec, after, whole=True, origin=wanted.field)
    if after or thought == "none":
        return plain
    grammar = Grammar(dialect.spelling)
    if not _written(grammar, wanted):
        if thought == "must" or dialect.reasoning.channels:
            raise RequestError(
                f"{wanted.field}: a {wanted.spec.kind} cannot be enforced behind this model's thoughts",
                param=wanted.field, code="unsupported_parameter",
            )  # fmt: skip
        return plain
    before = grammar.items(FINAL) if dialect.reasoning.channels else ""
    spec = grammar.spec(f"{_lead(grammar, dialect, prompt)} {before} doc", wanted.spec.whitespace)
    return Binding(spec, whole=True, origin=wanted.field, lines=grammar.lines)


def _written(grammar: Grammar, wanted: Constraint, without: tuple[str, ...] = ()) -> bool:
    """Write the constraint as a rule; False where its kind cannot be one. without: texts that open calls."""
    match wanted.spec.kind:
        case "json_schema":
            grammar.document(wanted.spec.text, wanted.field)
        case "json_object":
            grammar.document('{"type": "object"}', wanted.field)
        case "choice":
            grammar.choice(json.loads(wanted.spec.text))
        case "regex" | "gbnf" | "ebnf" | "lark":
            grammar.joined(wanted.spec.kind, wanted.spec.text, wanted.field, without)
        case _:
            return False
    return True


# ---------------------------------------------------------------- calls


def _calls(wanted: Constraint | None, calls: Calls, dialect: Dialect, format: Format, prompt: str) -> Binding:
    """Calls; or a document in their place."""
    grammar, structure = Grammar(dialect.spelling), _structure(calls, format)
    if wanted is not None and not _written(grammar, wanted, structure.triggers):
        raise RequestError(
            f"{wanted.field}: a {wanted.spec.kind} cannot be enforced beside tools that may be called",
            param=wanted.field, code="unsupported_parameter",
        )  # fmt: skip
    _arguments(grammar, structure, calls, enforced=wanted is None)
    grammar.section(structure, _opening(structure, prompt), beside_json=wanted is not None)
    lead = _lead(grammar, dialect, prompt)
    if dialect.reasoning.channels and wanted is not None:
        answer = grammar.channels(document=True)
    else:
        answer = "(section | doc)" if wanted is not None else "section"
    spec = grammar.spec(f"{lead} {answer}", wanted.spec.whitespace if wanted is not None else None)
    where = wanted.field if wanted is not None else "tools"
    return Binding(spec, _after(dialect, prompt), whole=True, origin=where, lines=grammar.lines)


def _free(calls: Calls, dialect: Dialect, format: Format, prompt: str) -> Binding | None:
    """Free text with calls in it; None where this format cannot be told from text."""
    grammar, structure = Grammar(dialect.spelling), _structure(calls, format)
    _arguments(grammar, structure, calls, enforced=False)
    try:
        if dialect.reasoning.channels:
            lead = grammar.lead(dialect.reasoning, inside=False, notes=True)
            grammar.section(structure, structure.opens[0])
            start: str | None = f"{lead} {grammar.channels(document=False)}"
        elif format.content:
            start = grammar.named_content(structure, format.content, _opening(structure, prompt))
        else:
            start = grammar.free(structure, set(dialect.free), firm=calls.strict is not None)
    except RequestError:  # calls with a token that ends the answer
        return None
    if start is None:
        return None
    return Binding(grammar.spec(start), _after(dialect, prompt), origin="tools", lines=grammar.lines)


def _opening(structure: Structure, prompt: str) -> str:
    """The first text that opens calls, unless the prompt ends with it."""
    first = structure.opens[0]
    return "" if first and prompt.endswith(first) and "" in structure.opens else first


def _structure(calls: Calls, format: Format) -> Structure:
    return format.structure(calls.tools, calls.choice, parallel=calls.parallel)


def _arguments(grammar: Grammar, structure: Structure, calls: Calls, *, enforced: bool) -> None:
    """Rules of the arguments. enforced: by every tool's schema, else by those of strict tools and, where they are not
    many, by plain ones."""
    tools = [
        (number, tool)
        for number, tool in zip(calls.numbers, calls.tools, strict=True)
        if calls.only in (None, tool["function"]["name"])
    ]
    known = [bool(enforced or tool["function"].get("strict")) for _, tool in tools]
    declared = structure.style != "json"
    schemas = [
        arguments_schema(tool, enforced=must, declared=declared) for (_, tool), must in zip(tools, known, strict=True)
    ]
    if sum(len(json.dumps(schema)) for schema, must in zip(schemas, known, strict=True) if not must) > MANY:
        schemas = [schema if must else {"type": "object"} for schema, must in zip(schemas, known, strict=True)]
    grammar.arguments(structure, schemas, [f"tools[{number}].function.parameters" for number, _ in tools], known)
