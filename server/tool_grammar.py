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
from dataclasses import asdict
from typing import Any

from ..engine.errors import RequestError
from ..engine.grammar.controls import Controls
from ..engine.grammar.spec import GrammarSpec
from .reasoning import Reasoning
from .tools.arguments import Expected
from .tools.format import Call, Slot, Structure
from .tools.values import GEMMA

_ANY = "/(?s:.*)/"
_BLANK = "/[ \\t\\r\\n]*/"
FINAL = "<|channel|>final<|message|>"  # before the answer proper of gpt-oss


class Spelling(Controls):
    """Text as items of a Lark rule, over one vocabulary."""

    def __init__(self, controls: Mapping[str, int], ends: Collection[int]):
        """ends: the ids that end an answer."""
        super().__init__(controls)
        self._ends = frozenset(ends)

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


_JSON = re.compile(r'"(?:[^"\\]|\\.)*"|\w+|.', re.DOTALL)  # its tokens


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
        text = "\n".join(self._written) + "\n"
        return GrammarSpec(kind="lark", text=text, whitespace=whitespace, controls=controls, ours=True)

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

    def joined(self, kind: str, text: str, field: str, without: Iterable[str] = ()) -> None:
        """doc: a regex or a grammar. without: texts that an expression may not match, since they open calls."""
        asked = {"kind": kind, "text": text, "without": list(without)}
        self.rule("doc", f"%joined {json.dumps(asked, ensure_ascii=False)}", field)

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

    def arguments(self, structure: Structure, schemas: Sequence[Mapping[str, Any]], fields: Sequence[str],
                  firm: Sequence[bool]) -> None:  # fmt: skip
        """a0, a1 ...: the arguments of each call of a Structure. firm: whether a schema must be enforced; any object
        may stand for another."""
        for i, (schema, field, must) in enumerate(zip(schemas, fields, firm, strict=True)):
            if structure.style == "json":
                self.rule(f"a{i}", f"%call {json.dumps(schema, ensure_ascii=False)}", field)
                continue
            asked = {"style": structure.style, "schema": schema, "firm": must, **self._written_by(structure)}
            if structure.parameters is not None:
                asked["reads"] = Expected(schema, schema).as_json()
            self.rule(f"a{i}", f"%arguments {json.dumps(asked, ensure_ascii=False)}", field)

    def _written_by(self, structure: Structure) -> dict[str, Any]:
        """What the arguments of a style other than JSON are written with. Raises RequestError for a token that ends the
        answer."""
        tags = {} if structure.parameters is None else {"tags": asdict(structure.parameters)}
        texts = GEMMA.quotes if structure.style == "gemma" else map(str, tags.get("tags", {}).values())
        controls: dict[str, int] = {}
        for text in texts:
            self._spelling.checked(self._spelling.split(text), last=False)
            controls |= self._spelling.within(text)
        self._controls |= set(controls.values())
        return {**tags, "controls": controls}

    def section(self, structure: Structure, opening: str, *, cut: str = "", beside_json: bool = False) -> str:
        """Calls, and what opens and closes them. cut: what of the opening was written already. beside_json: a document
        may stand in their place, so they are spelled by the tokens of JSON: a longer text that begins as a document
        does would be the longest match."""
        for i, call in enumerate(structure.calls):
            self.rule(f"c{i}", self._call(call, i, "" if structure.opens != ("",) else cut, beside_json))
        self.rule("call", " | ".join(f"c{i}" for i in range(len(structure.calls))))
        before = self.items(opening.lstrip().removeprefix(cut) if cut else opening)
        return self.rule("section", f"{before} {self._calls(structure)}")

    def _calls(self, structure: Structure) -> str:
        """Items of calls and what closes them. What closes them may begin as what stands between two does; then that is
        written once, for the longest match would always be the close."""
        if structure.at_most_one:
            return f"call {self.items(structure.closes, last=True)}"
        between = self.items(structure.separator)
        if structure.separator and structure.closes.startswith(structure.separator):
            return f"(call {between})+ {self.items(structure.closes.removeprefix(structure.separator), last=True)}"
        return f"call ({between} call)* {self.items(structure.closes, last=True)}"

    def _call(self, call: Call, number: int, cut: str, beside_json: bool) -> str:
        parts = list(call.begin)
        if cut and isinstance(parts[0], str):
            parts[0] = parts[0].lstrip().removeprefix(cut)
        if beside_json:
            parts = [piece for part in parts for piece in _json_tokens(part)]
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
        own = [text for text in structure.opens if text.strip()]
        opening = next((text for text in own if text not in structure.starts), "")
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
            first = self._first(structure) if structure.starts[0] in own else "call"
            return self._starts(structure, first, rest if isinstance(heads[0], str) else f"{rest} section?", firm)
        rest = f"(TEXT {token})*" if others else ""
        times = "?" if structure.at_most_one else "*"
        return f"({rest} {'opened' if cut else 'TEXT'} section){times} {rest} TEXT"

    def _first(self, structure: Structure) -> str:
        """The section that opens with what opens one at the beginning of the answer only."""
        return self.rule("first", f"{self.items(structure.starts[0])} {self._calls(structure)}")

    def _starts(self, structure: Structure, first: str, rest: str, firm: bool) -> str:
        """Calls without anything before them, with which the answer begins; else text that does not begin like one."""
        like = _quoted(structure.starts[0][:1] if firm else structure.starts[0])
        if first != "call" and not firm:  # what is no more than a bracket may begin any text
            names = " | ".join(_quoted(call.name) for call in structure.calls)
            like = f'{like} {_BLANK} ({names}) {_BLANK} "("'
        self.rule("FIRST", f"TEXT & ~({_BLANK} {like} {_ANY})")
        self.rule("BLANK", "/[ \\n]{0,8}/")
        return f"BLANK {first} | FIRST {rest}"

    def named_content(self, structure: Structure, content: str, opening: str) -> str:
        """Items of an answer in parts, each a call or text under the name `content`. opening: of the first part."""
        mark = structure.triggers[0]
        self.section(structure, "")
        self.rule("PART", _ANY + _without([mark]))
        self.rule("part[lazy]", f"({_ANY}{_without([mark])}) {_quoted(mark)}")
        text = _quoted(f"{content}\n")
        calls = "" if structure.at_most_one else f" | call {_quoted(mark)}"
        return f"{self.items(opening)} ({text} part{calls})* ({text} PART | call)"

    def channels(self, *, document: bool) -> str:
        """Items of gpt-oss's answer: a message for the user, or calls."""
        return f"({self.items(FINAL)} {'doc' if document else 'ANY'} | section)"


def _json_tokens(part: str | Slot) -> list[str | Slot]:
    return list(_JSON.findall(part)) if isinstance(part, str) and part.startswith("{") else [part]


def _without(texts: list[str]) -> str:
    """Behind an expression: but for what holds one of these texts."""
    return f" & ~({_ANY} ({' | '.join(map(_quoted, texts))}) {_ANY})" if texts else ""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
