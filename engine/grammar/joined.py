"""A constraint of any kind as part of a larger Lark grammar: its rules under other names.

In a grammar of the server stands `%joined {"kind", "text"}`; kind: "regex", "gbnf", "ebnf" or "lark".
"""

from __future__ import annotations

import json
import re
from typing import Any

from . import gbnf, regexes
from .errors import GrammarRefused
from .spec import Limits

_PART = re.compile(
    r'(?P<skip>"(?:\\.|[^"\\\n])*"|//[^\n]*|\#[^\n]*|/(?![/*])(?:\\.|[^/\\\n])+/)'
    r"|(?P<directive>%[a-z_]+)\s*(?P<object>(?=\{))?|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
)
_DEFINED = re.compile(r"^[ \t]*[?!]?([A-Za-z_][A-Za-z0-9_]*)(?:\.-?\d+)?[ \t]*(?:\[[^\]\n]*\])?[ \t]*:", re.MULTILINE)
_ATTRIBUTES = ("lazy", "capture", "suffix")


def rules(text: str, name: str, limits: Limits) -> tuple[str, list[str]]:
    """(an item, the rules that it needs), of an object as above; Lark must be checked. name: how the names of its rules
    begin. Raises GrammarRefused."""
    asked: dict[str, Any] = json.loads(text)
    kind, text = asked["kind"], asked["text"]
    if kind == "regex":
        regex = regexes.parse(text, whole=True, repeat=limits.repeat)
        return _terminal(regex, asked.get("without", ()), name)
    if kind in ("gbnf", "ebnf"):
        written, whole = gbnf.to_lark(text)[0], gbnf.to_lark(text)[-1]
        if isinstance(whole, regexes.Chars | regexes.Concat | regexes.Either | regexes.Repeat):
            return _terminal(whole, asked.get("without", ()), name)
        text = written
    return f"{name}_start", [renamed(text, name)]


def _terminal(regex: regexes.Regex, without: list[str], name: str) -> tuple[str, list[str]]:
    """One expression; without: texts that it may not hold."""
    written = regexes.write(regex)
    if not written:
        return '""', []
    others = " | ".join(json.dumps(text, ensure_ascii=False) for text in without)
    barred = f" & ~(/(?s:.*)/ ({others}) /(?s:.*)/)" if others else ""
    return name.upper(), [f"{name.upper()}: /{written}/{barred}"]


def renamed(text: str, name: str) -> str:
    """A Lark grammar with `name` before the names of its rules. Raises GrammarRefused for what is about all of a
    grammar and so cannot be joined."""
    names = set(_DEFINED.findall(text))
    if "start" not in names:
        raise GrammarRefused("no rule is called start")
    for attribute in _ATTRIBUTES:
        if attribute in names:
            raise GrammarRefused(f"beside tools no rule can be called {attribute}")
    out, at = [], 0
    while found := _PART.search(text, at):
        out.append(text[at : found.start()])
        at = found.end()
        if found["directive"] is not None:
            if found["object"] is None:
                line = text.count("\n", 0, found.start()) + 1
                raise GrammarRefused(
                    f"{found['directive']} cannot stand in a grammar beside tools", path=f"line {line}"
                )
            _, end = json.JSONDecoder().raw_decode(text, at)
            out.append(text[found.start() : end])
            at = end
        elif found["name"] in names:
            prefix = name.upper() if found[0].isupper() else name
            out.append(f"{prefix}_{found[0]}")
        else:
            out.append(found[0])
    return "".join(out) + text[at:]
