"""The JSON-Schema-Test-Suite against the gatekeeper and the masks; prints the table of docs/grammar.md.

`python tests/support/grammar_suite.py` rewrites what stands between the marks in the docs.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from docs_part import Part
from grammars import compiled, vocabulary
from vocabularies import SHARED

from quire.engine.grammar import Compiled
from quire.engine.grammar.errors import GrammarRefused
from quire.engine.grammar.keywords import ANNOTATIONS, ENFORCED, REFUSED

PART = Part("grammar.md", "<!-- begin: printed by tests/support/grammar_suite.py -->", "<!-- end -->")
WORDS = "mistral-32k"


@dataclass
class Outcome:
    schemas: Counter[str] = field(default_factory=Counter)  # accepted, refused
    keywords: dict[str, Counter[str]] = field(default_factory=dict)
    documents: Counter[str] = field(default_factory=Counter)  # valid, tight, invalid, unsound
    tight: Counter[str] = field(default_factory=Counter)  # by file
    unsound: list[str] = field(default_factory=list)


def run() -> Outcome:
    found = Outcome()
    root = SHARED / "json-schema-test-suite" / "tests"
    for path in sorted(root.rglob("*.json")):
        for group in json.loads(path.read_text(encoding="utf-8")):
            _one(found, path.relative_to(root).as_posix(), group)
    return found


def _one(found: Outcome, name: str, group: dict[str, Any]) -> None:
    schema = group["schema"]
    if isinstance(schema, dict) and name.startswith("draft7") and "$schema" not in schema:
        schema = {"$schema": "http://json-schema.org/draft-07/schema#", **schema}
    try:
        grammar = compiled(WORDS, "json_schema", json.dumps(schema))
        what = "accepted"
    except GrammarRefused:
        grammar, what = None, "refused"
    found.schemas[what] += 1
    for keyword in _keywords(schema):
        found.keywords.setdefault(keyword, Counter())[what] += 1
    for test in group["tests"] if grammar is not None else []:
        assert grammar is not None
        written = [
            json.dumps(test["data"], separators=(",", ":"), ensure_ascii=False),
            json.dumps(test["data"], ensure_ascii=False),
        ]
        allowed = [_writes(grammar, text) for text in written]
        where = f"{name}: {group['description']}: {test['description']}"
        if test["valid"]:
            found.documents["valid" if all(allowed) else "tight"] += 1
            found.tight[name.split("/", 1)[1]] += not all(allowed)
        else:
            found.documents["unsound" if any(allowed) else "invalid"] += 1
            found.unsound += [where] if any(allowed) else []


def _writes(grammar: Compiled, text: str) -> bool:
    tokens = vocabulary(WORDS).encode(text)
    matcher = grammar.matcher()
    return matcher.accept(tokens) == len(tokens) and matcher.may_end


def _keywords(schema: Any) -> set[str]:
    known = ENFORCED.keys() | ANNOTATIONS.keys() | REFUSED.keys()
    if isinstance(schema, dict):
        return {k for k in schema if k in known} | {k for v in schema.values() for k in _keywords(v)}
    return {k for v in schema for k in _keywords(v)} if isinstance(schema, list) else set()


def printed(found: Outcome) -> str:
    """The part of the docs that a run gives."""
    heads = ("keyword", "what becomes of it", "with what limits", "schemas of the suite: accepted, refused")
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|---|"]
    for what, table in (("enforced", ENFORCED), ("annotation", ANNOTATIONS), ("refused", REFUSED)):
        for keyword, note in table.items():
            count = found.keywords.get(keyword, Counter())
            lines.append(f"| `{keyword}` | {what} | {note} | {count['accepted']}, {count['refused']} |")
    documents = found.documents
    lines += [
        "",
        f"Of {sum(found.schemas.values())} schemas {found.schemas['accepted']} are accepted. Of their "
        f"{documents['invalid'] + documents['unsound']} invalid documents {documents['unsound']} can be written. "
        f"Of their {documents['valid'] + documents['tight']} valid ones {documents['tight']} cannot be written in that "
        "form; by file:",
        "",
        "| file | documents |",
        "|---|---|",
        *[f"| {name} | {count} |" for name, count in sorted(found.tight.items()) if count],
    ]
    return "\n".join(lines)


def main() -> None:
    PART.write(printed(run()))


if __name__ == "__main__":
    main()
