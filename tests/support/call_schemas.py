"""Schemas of tools, and walks through the grammar of calls that try what a parser might take for something else."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

import jsonschema
from hypothesis import strategies as st

from quire.engine.grammar import Compiled
from quire.engine.grammar.vocabulary import Vocabulary, members

NAMES = ["city", "note", "item", "days", "_x1"]
VALUES: list[Any] = [None, True, False, 0, 7, -2.5, "", "a", "12", "null", "True", " x", "'q'", '"q"', "[1]", "{",
                     "a\nb", "ö", "</parameter>x", [], [1, "x"], {}, {"k": "12"}]  # fmt: skip
PATTERNS = ["^[a-z]{1,3}$", "^\\d+$", "x", '^["a]{0,3}$', "^(null|foo)+$", "^\\s*b"]
WORDS = ["null", "true", "None", "42", "-1", "1.5", '"x"', "'x'", "[]", "{}", "[1, 2]", '{"a": 1}', " ", "\n", "a", "<",
         "</", "\\", ",", ":", "=", "item"]  # fmt: skip
CLOSERS = ['"', "'", "]", "}", ")", "0", "e"]


def _optional(fields: dict[str, Any], **more: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({key: st.just(value) for key, value in fields.items()}, optional=more)


def _objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    def with_required(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
        names = sorted(schema["properties"])
        found = st.lists(st.sampled_from(names), unique=True) if names else st.just([])
        return found.map(lambda required: {**schema, "required": required})

    properties = st.dictionaries(st.sampled_from(NAMES), inner, max_size=3)
    extra = st.one_of(st.booleans(), inner)
    return st.fixed_dictionaries(
        {"type": st.just("object"), "properties": properties}, optional={"additionalProperties": extra}
    ).flatmap(with_required)


def _leaves() -> st.SearchStrategy[dict[str, Any]]:
    small = st.integers(0, 4)
    texts = _optional({"type": "string"}, minLength=small, maxLength=small.map(lambda n: n + 4),
                      pattern=st.sampled_from(PATTERNS))  # fmt: skip
    bounds = st.integers(-1200, 1200)
    numbers = st.one_of(
        _optional({"type": "integer"}, minimum=bounds, maximum=bounds.map(lambda n: n + 1300)),
        _optional({"type": "integer"}, exclusiveMinimum=bounds, multipleOf=st.sampled_from([2, 7])),
        _optional({"type": "number"}, minimum=st.sampled_from([-1.5, 0, 0.25])),
    )
    types = st.lists(st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"]),
                     min_size=1, max_size=3, unique=True)  # fmt: skip
    values = st.lists(st.sampled_from(VALUES), min_size=1, max_size=4)
    return st.one_of(
        texts, texts, numbers, st.just({"type": "boolean"}), st.just({"type": "null"}), st.just({}),
        types.map(lambda found: {"type": found}), values.map(lambda found: {"enum": found}),
        st.sampled_from(VALUES).map(lambda value: {"const": value}),
        texts.flatmap(lambda schema: st.sampled_from(["null", "integer", "boolean"]).map(
            lambda kind: {**schema, "type": ["string", kind]})),
    )  # fmt: skip


def _inner(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    small = st.integers(0, 2)
    return st.one_of(
        _objects(inner),
        _optional({"type": "array"}, items=inner, minItems=small, maxItems=small.map(lambda n: n + 2)),
        _optional({"type": "array"}, prefixItems=st.lists(inner, min_size=1, max_size=2),
                  items=st.one_of(st.booleans(), inner)),
        st.lists(inner, min_size=1, max_size=3).map(lambda found: {"anyOf": found}),
        st.just({"$ref": "#/$defs/one"}),
    )  # fmt: skip


schemas: st.SearchStrategy[dict[str, Any]] = st.builds(
    lambda schema, one: {**schema, "$defs": {"one": one}},
    _objects(st.recursive(_leaves(), _inner, max_leaves=5)),
    _leaves(),
)  # fmt: skip


def walked(compiled: Compiled, known: Vocabulary, pick: random.Random, words: Sequence[Sequence[int]],
           closers: Sequence[Sequence[int]], most: int = 400) -> str | None:  # fmt: skip
    """A text that the grammar lets through; None where no end was found. words: what is tried often; closers: what is
    tried first once the text is long."""
    matcher = compiled.matcher()
    row = known.mask([])
    out: list[int] = []
    while len(out) < most and not matcher.must_end:
        late = len(out) > 40
        if matcher.may_end and (late or pick.random() < 0.5):
            break
        if pick.random() < (0.9 if late else 0.4) and _taken(
            matcher, pick, closers if late else [*words, *closers], out
        ):
            continue
        matcher.fill_mask(row, None)
        allowed = [token for token in members(row) if token not in known.eos_ids]
        token = pick.choice(allowed)
        assert matcher.accept([token]) == 1
        out.append(token)
    if not matcher.may_end:
        return None
    text = b"".join(known.controls[t].encode() if t in known.controls else known.pieces[t] for t in out)
    return text.decode()


def _taken(matcher: Any, pick: random.Random, words: Sequence[Sequence[int]], out: list[int]) -> bool:
    for word in pick.sample(words, len(words)):
        count = matcher.accept(list(word))
        if count == len(word):
            out += word
            return True
        matcher.rollback(count)
    return False


def validate(value: Any, schema: dict[str, Any]) -> None:
    """By `jsonschema`, with the white space of ECMA-262, to which U+FEFF belongs and for Python does not. Raises
    jsonschema.ValidationError."""
    patterns = json.dumps(schema).replace(r"\\s", r"[\\s\ufeff]")
    jsonschema.validate(value, json.loads(patterns))
