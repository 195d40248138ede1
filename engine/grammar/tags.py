"""Structural tags: free text in which, after a trigger, a begin, a JSON document and an end must follow."""

from __future__ import annotations

import json
from typing import Any

from . import lark
from .errors import GrammarRefused
from .lower import Lowered
from .spec import Limits

_IN_NUMBERS = tuple("0123456789.eE")


def to_lark(text: str, whitespace: str | None, limits: Limits, documents: dict[str, Lowered]) -> tuple[str, bool]:
    """(the grammar, whether no number of a document can take what ends a structure for its own). text: {"structures":
    [{"begin", "schema", "end"}], "triggers": [...]}. documents: takes each schema's by its text in the grammar. Raises
    GrammarRefused."""
    structures, triggers = _read(text, limits)
    quoted = [json.dumps(t, ensure_ascii=False) for t in triggers]
    lines = [f"start: ({' | '.join(f't{i}' for i in range(len(triggers)))})* tail", "tail: TEXT"]
    lines.append(f"TEXT: /(?s:.*)/ & ~(/(?s:.*)/ ({' | '.join(quoted)}) /(?s:.*)/)")
    for i, trigger in enumerate(triggers):
        begun = [f"b{i}_{j}" for j, s in enumerate(structures) if _trigger(s, triggers) == trigger]
        lines.append(f"t{i}: h{i} ({' | '.join(begun)})")
        lines.append(f"h{i}[lazy]: /(?s:.*)/ {quoted[i]}")
        for j, structure in enumerate(structures):
            if f"b{i}_{j}" in begun:
                begin = json.dumps(structure["begin"].removeprefix(trigger), ensure_ascii=False)
                end = json.dumps(structure["end"], ensure_ascii=False)
                schema, where = json.dumps(structure["schema"]), f"structures/{j}/schema"
                document = lark.embedded(schema, whitespace, limits, where, documents)
                parts = [p for p in (begin, document, end) if p != '""']
                lines.append(f"b{i}_{j}: {' '.join(parts)}")
    return "\n".join(lines), not any(structure["end"].startswith(_IN_NUMBERS) for structure in structures)


def _read(text: str, limits: Limits) -> tuple[list[dict[str, Any]], list[str]]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GrammarRefused(f"structural_tag is not JSON: {error}") from None
    structures = found.get("structures") if isinstance(found, dict) else None
    triggers = found.get("triggers") if isinstance(found, dict) else None
    if not isinstance(structures, list) or not structures:
        raise GrammarRefused("expected a list of structures, not empty", path="structures")
    if not isinstance(triggers, list) or not triggers or not all(isinstance(t, str) and t for t in triggers):
        raise GrammarRefused("expected a list of texts, not empty", path="triggers")
    for i, structure in enumerate(structures):
        if not isinstance(structure, dict) or not {"begin", "schema", "end"} <= structure.keys():
            raise GrammarRefused("expected begin, schema and end", path=f"structures/{i}")
        if not isinstance(structure["begin"], str) or not isinstance(structure["end"], str):
            raise GrammarRefused("begin and end must be texts", path=f"structures/{i}")
        if _trigger(structure, triggers) is None:
            raise GrammarRefused("begin starts with none of the triggers", path=f"structures/{i}/begin")
    used = [t for t in triggers if any(_trigger(s, triggers) == t for s in structures)]
    return structures, list(dict.fromkeys(used))


def _trigger(structure: dict[str, Any], triggers: list[str]) -> str | None:
    """The longest trigger that its begin starts with."""
    return max((t for t in triggers if structure["begin"].startswith(t)), key=len, default=None)
