"""What an answer with calls must be, as a Lark grammar: from a format's Structure, the thought before it, and a
document that may stand in place of the calls. Pure.

Control tokens stand in it as themselves, by their ids; all other text in quotes. Of the rules

    a0 a1 ...  arguments of the tools          lead   a thought, and what stands between it and the answer
    c0 c1 ...  their calls                     free   free text, with what control tokens may stand in it
    section    calls, with what opens and closes them
    doc        the document that the answer is where it calls nothing
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from ..engine.errors import RequestError
from ..engine.grammar.spec import GrammarSpec
from .reasoning import Reasoning
from .tools.format import Call, Slot, Structure

_ANY = "/(?s:.*)/"
_BLANK = "/[ \\t\\r\\n]*/"
FINAL = "<|channel|>final<|message|>"  # before the answer proper of gpt-oss


class Spelling:
    """Text as items of a Lark rule, over one vocabulary."""

    def __init__(self, control: Mapping[str, int], ends: Collection[int]):
        """control: text -> id of the control tokens; ends: the ids that end an answer."""
        self._control = control
        self._ends = frozenset(ends)
        ordered = sorted(control, key=len, reverse=True)
        self._found = re.compile(f"({'|'.join(map(re.escape, ordered))})") if ordered else None

    def split(self, text: str) -> list[str | int]:
        """Pieces of text, and the ids of the control tokens between them."""
        pieces = self._found.split(text) if self._found else [text]
        return [self._control[piece] if i % 2 else piece for i, piece in enumerate(pieces) if piece]

    def ids(self, text: str) -> tuple[int, ...]:
        """The ids of a text of control tokens only; () where it is any other."""
        pieces = self.split(text)
        return tuple(piece for piece in pieces if isinstance(piece, int)) if not _has_text(pieces) else ()

    def free(self, texts: Iterable[str]) -> set[int]:
        """The control tokens in some texts, but for those that end an answer."""
        return {piece for text in texts for piece in self.split(text) if isinstance(piece, int)} - self._ends

    def checked(self, pieces: list[str | int], *, last: bool) -> list[str | int]:
        """The same; at the end of an answer, without the token that ends it anyway. Raises RequestError where such a
        token stands elsewhere."""
        if last and pieces and pieces[-1] in self._ends:
            pieces = pieces[:-1]
        for piece in pieces:
            if piece in self._ends:
                why = f"in this model's calls stands the token {piece}, which ends its answers"
                raise RequestError(f"tools: {why}", param="tools")
        return pieces


def _has_text(pieces: list[str | int]) -> bool:
    return any(isinstance(piece, str) for piece in pieces)


class Grammar:
    """Rules, written line by line. `lines`: of those with a schema, the field of the request that it comes from."""

    def __init__(self, spelling: Spelling):
        self.lines: dict[int, str] = {}
        self._spelling = spelling
        self._written: list[str] = []
        self._controls: set[int] = set()

    def spec(self, start: str, whitespace: str | None = None) -> GrammarSpec:
        """The whole, beginning with the items `start`."""
        self.rule("start", start)
        controls = tuple(sorted(self._controls))
        return GrammarSpec(kind="lark", text="\n".join(self._written) + "\n", whitespace=whitespace, controls=controls)

    def rule(self, name: str, items: str, field: str | None = None) -> str:
        self._written.append(f"{name}: {items}")
        if field is not None:
            self.lines[len(self._written)] = field
        return name

    def items(self, text: str, *, last: bool = False) -> str:
        """last: it ends the answer."""
        return self._joined(self._spelling.checked(self._spelling.split(text), last=last))

    def _joined(self, pieces: list[str | int]) -> str:
        self._controls |= {piece for piece in pieces if isinstance(piece, int)}
        return " ".join(f"<[{p}]>" if isinstance(p, int) else _quoted(p) for p in pieces)

    def document(self, schema: str, field: str) -> None:
        """doc: JSON of a schema."""
        self.rule("doc", f"%json {schema}", field)

    def choice(self, texts: Sequence[str]) -> None:
        """doc: one of some texts."""
        self.rule("doc", " | ".join(map(_quoted, texts)))

    # ------------------------------------------------------------ thoughts

    def lead(self, thoughts: Reasoning, *, inside: bool, notes: bool = False) -> str:
        """Items of what may stand before the answer. inside: the prompt has begun the thought, and it must end. notes:
        gpt-oss may tell the user something too."""
        self.rule("ANY", _ANY)
        if thoughts.channels:
            channel, message = self.items("<|channel|>"), self.items("<|message|>")
            after = self.items(f"{thoughts.end}<|start|>assistant")
            kinds = '("analysis" | "commentary")' if notes else '"analysis"'
            self.rule("lead", f"{channel} {kinds} {message} ANY {after}")
            return "lead*"
        pieces = self._spelling.split(thoughts.end)
        if isinstance(pieces[0], int):
            thought = f"ANY {self._joined(pieces)}"
        else:
            self.rule("thought[lazy]", f"{_ANY} {_quoted(thoughts.end)}")
            thought = "thought"
        self.rule("lead", f'{"" if inside else self.items(thoughts.begin)} {thought} "\\n\\n"?')
        return "lead" if inside else "lead?"

    # ------------------------------------------------------------ calls

    def arguments(self, schemas: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> None:
        """a0, a1 ...: the arguments of each call of a Structure."""
        for i, (schema, field) in enumerate(zip(schemas, fields, strict=True)):
            self.rule(f"a{i}", f"%json {json.dumps(schema, ensure_ascii=False)}", field)

    def section(self, structure: Structure, opening: str, *, cut: str = "") -> str:
        """Calls, and what opens and closes them. cut: what of the opening was written already."""
        for i, call in enumerate(structure.calls):
            self.rule(f"c{i}", self._call(call, i, "" if structure.opens != ("",) else cut))
        self.rule("call", " | ".join(f"c{i}" for i in range(len(structure.calls))))
        calls = "call" if structure.at_most_one else f"call ({self.items(structure.separator)} call)*"
        before = self.items(opening.lstrip().removeprefix(cut) if cut else opening)
        return self.rule("section", f"{before} {calls} {self.items(structure.closes, last=True)}")

    def _call(self, call: Call, number: int, cut: str) -> str:
        parts = list(call.begin)
        if cut and isinstance(parts[0], str):
            parts[0] = parts[0].lstrip().removeprefix(cut)
        items = [self._slot(part) if isinstance(part, Slot) else self.items(part) for part in parts]
        return " ".join(filter(None, [*items, f"a{number}", self.items(call.end, last=True)]))

    def _slot(self, slot: Slot) -> str:
        return f"/{slot.reads.replace('/', chr(92) + '/')}/"

    # ------------------------------------------------------------ free text

    def free(self, structure: Structure, allowed: set[int], *, firm: bool) -> str | None:
        """Items of text that is free up to what opens calls, and from there on as the structure says. allowed: control
        tokens that may stand in it. firm: whatever a parser might take for the start of a call must be one. None: this
        structure cannot be told from text."""
        heads = [self._spelling.split(text)[0] for text in structure.triggers]
        if not heads:
            return None
        cut = heads[0] if isinstance(heads[0], str) and not structure.starts else ""
        opening = next((text for text in structure.opens if text.strip()), "")
        self.section(structure, opening, cut=cut)
        barred = [text for text, head in zip(structure.triggers, heads, strict=True) if isinstance(head, str)]
        self.rule("TEXT", _ANY + _without(barred))
        barred = barred[1:]
        others = sorted(allowed - {head for head in heads if isinstance(head, int)})
        self._controls |= set(others)
        if cut:
            self.rule("opened[lazy]", f"({_ANY}{_without(barred)}) {_quoted(cut)}")
        token = f"({' | '.join(f'<[{one}]>' for one in others)})"
        if structure.starts:
            rest = f"({token} TEXT)*" if others else ""
            return self._starts(structure, rest if isinstance(heads[0], str) else f"{rest} section?", firm)
        rest = f"(TEXT {token})*" if others else ""
        times = "?" if structure.at_most_one else "*"
        return f"({rest} {'opened' if cut else 'TEXT'} section){times} {rest} TEXT"

    def _starts(self, structure: Structure, rest: str, firm: bool) -> str:
        """A call without anything before it, with which the answer begins; else text that does not begin like one."""
        like = _quoted(structure.starts[0][:1] if firm else structure.starts[0])
        self.rule("FIRST", f"TEXT & ~({_BLANK} {like} {_ANY})")
        self.rule("BLANK", "/[ \\n]{0,8}/")
        return f"BLANK call | FIRST {rest}"

    def channels(self, *, document: bool) -> str:
        """Items of gpt-oss's answer: a message for the user, or calls."""
        return f"({self.items(FINAL)} {'doc' if document else 'ANY'} | section)"


def _without(texts: list[str]) -> str:
    """Behind an expression: but for what holds one of these texts."""
    return f" & ~({_ANY} ({' | '.join(map(_quoted, texts))}) {_ANY})" if texts else ""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
