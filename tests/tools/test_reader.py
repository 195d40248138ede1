"""What stands between the parsers and the wire: special tokens out of content, plain schemas, segments of prompts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tool_calls import cuts
from vocabularies import byte_level

from quire.server.calls import is_plain
from quire.server.dialect import Dialect
from quire.server.prompt import Renderer
from quire.server.reader import Hidden
from quire.server.segments import segments
from quire.server.tools.events import Content


@given(st.lists(st.sampled_from(["<|a|>", "<|b|>", "<|", "|>", "<", "a", "b", "x"]), max_size=12).map("".join))
def test_texts_are_taken_out_however_they_are_cut(text: str) -> None:
    whole = Hidden(["<|a|>", "<|b|>"])
    expected = whole.feed(text) + whole.flush()
    assert expected == "".join(text.replace("<|b|>", "<|a|>").split("<|a|>"))
    for pieces in cuts(text):
        hidden = Hidden(["<|a|>", "<|b|>"])
        assert "".join(map(hidden.feed, pieces)) + hidden.flush() == expected


PLAIN: list[Any] = [
    {}, True, {"type": "string"}, {"type": ["string", "null"], "description": "x"}, {"enum": [1, "a"]}, {"const": None},
    {"type": "object", "properties": {"a": {"items": {"type": "number", "minimum": 0}}}, "required": ["a"]},
    {"anyOf": [{"type": "string", "maxLength": 9}, {"type": "null"}]}, {"additionalProperties": False},
]  # fmt: skip
ODD: list[Any] = [
    {"pattern": "a"}, {"properties": {"a": {"format": "uri"}}}, {"items": {"uniqueItems": True}},
    {"anyOf": [{"not": {}}]},
    {"anyOf": []}, {"properties": 5}, {"maxLength": 10**6}, {"minimum": "1"}, {"$ref": "#/$defs/a"}, 5, False,
    {"additionalProperties": {}}, {"anyOf": [{}], "properties": {}}, {"type": None}, {"required": None},
    {"minimum": 0.9999999999999999}, {"const": 2**53 + 1}, {"enum": [{"a": [1e20]}]},
]  # fmt: skip


def test_a_plain_schema_has_plain_keywords_only() -> None:
    assert [schema for schema in PLAIN if not is_plain(schema)] == []
    assert [schema for schema in ODD if is_plain(schema)] == []


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("[{{ messages[0].content }}]", [("[", False), ("a b", True), ("]", False)]),
        ("[{{ messages[0].content | trim }}]", [("[", False), ("a b", True), ("]", False)]),
        ("{{ messages[0].content | upper }}", [("A B", True)]),
        ("{{ messages[0].content[:2] }}", None),
        ("{{ messages[0].role }}", [("user", False)]),
    ],
)
def test_content_is_told_from_markup_or_not_at_all(source: str, told: list[tuple[str, bool]] | None) -> None:
    renderer, messages = Renderer(byte_level().ours, source), [{"role": "user", "content": "a b"}]
    text = renderer.render(messages).text
    found = segments(lambda m: renderer.render(m).text, messages, text, ("\ue000", "\ue001"))
    assert (found and [(part["text"], part["content"]) for part in found]) == told


def test_a_format_that_marks_content_too_is_read_without_tools() -> None:
    dialect = Dialect.of("", byte_level().ours, "functionary_v32", "none")
    reader = dialect.reader("", ())
    assert reader is not None
    assert [*reader.feed("all\nhello"), *reader.finish()] == [Content("hello")]
    assert Dialect.of("", byte_level().ours, "hermes", "none").reader("", ()) is None
