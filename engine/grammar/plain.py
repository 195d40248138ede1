"""Which grammars are known by their looks to be quick to compile and to follow.

They have a process to themselves (engine/guides.py), so that no other grammar holds up an answer under one of them. It
is told from the text alone, in microseconds: what is taken for slow and is not loses nothing but that.
"""

from __future__ import annotations

import re

from .spec import GrammarSpec

KINDS = frozenset({"json_schema", "json_object", "choice", "structural_tag"})
LONGEST = 8 * 1024  # characters; of the tools of a request, which the server itself writes down, twice that
DEEPEST = 24  # brackets within brackets
REFERENCES = 24

# What multiplies out, is an expression of somebody else's, or counts far.
_SLOW = re.compile(
    r'"(?:pattern|patternProperties|propertyNames|allOf|oneOf|not|if|contains|dependentSchemas|multipleOf'
    r'|unevaluatedProperties|unevaluatedItems)"\s*:|"(?:min|max)(?:Length|Items|Properties)"\s*:\s*\d{4}'
)
_BRACKET = re.compile(r"[\[{}\]]")


def is_plain(spec: GrammarSpec | None) -> bool:
    """None, which binds nothing but thoughts, is."""
    if spec is None:
        return True
    if spec.engine is not None or spec.whitespace or not (spec.ours or spec.kind in KINDS):
        return False
    text = spec.text
    if len(text) > (2 * LONGEST if spec.ours else LONGEST) or text.count('"$ref"') > REFERENCES:
        return False
    return _SLOW.search(text) is None and _depth(text) <= DEEPEST


def _depth(text: str) -> int:
    """Brackets in strings count as well: they are few in what is plain."""
    depth = deepest = 0
    for bracket in _BRACKET.findall(text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest
