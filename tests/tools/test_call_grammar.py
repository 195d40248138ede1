"""Arguments that are no JSON: what the grammar of a random tool lets through, the parser reads as valid arguments."""

from __future__ import annotations

import functools
import json
import random
from typing import Any

import jsonschema
import pytest
from call_schemas import CLOSERS, WORDS, schemas, validate, walked
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from tool_calls import calls_of, content_of, cuts, parse
from vocabularies import byte_level

from quire.engine.errors import GrammarRefused
from quire.engine.grammar import compile
from quire.engine.grammar.vocabulary import Vocabulary
from quire.server.binding import bind
from quire.server.calls import calls
from quire.server.dialect import Dialect
from quire.server.tools import PARSERS, load
from quire.server.tools.format import Format
from quire.server.tools.values import GEMMA

FORMATS = [name for name in PARSERS if load(name).style != "json"]


def tags(format: Format) -> tuple[str, ...]:
    """The texts of a format that a vocabulary may have as one token."""
    shape = format.parameters
    texts = [
        format.opens[0],
        format.closes[0],
        format.tail,
        *((shape.opens, shape.closes, shape.middle) if shape else ()),
    ]
    found = [part for text in texts for part in text.strip().split("\n") if part.endswith(">")]
    if format.name == "minimax_m3":
        found = ["]<]minimax[>["]
    return tuple(dict.fromkeys([*found, *(GEMMA.quotes if format.style == "gemma" else ())]))


@functools.cache
def setting(name: str, controls: bool) -> tuple[Dialect, Vocabulary]:
    """controls: the format's tags are control tokens."""
    words = byte_level(tags(load(name)) if controls else ())
    return Dialect.of("", words.ours, name, "none"), Vocabulary(words.description, words.ours.eos_ids)


def tool(schema: Any, name: str = "get", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": schema, **more}}


def spelled(dialect: Dialect, known: Vocabulary, text: str) -> list[int]:
    ids: list[int] = []
    for piece in dialect.spelling.split(text):
        ids += [piece] if isinstance(piece, int) else known.encode(piece)
    return ids


def read_back(name: str, controls: bool, tools: list[dict[str, Any]], choice: Any, seed: int) -> list[Any] | None:
    """The calls of a drawn answer; None where no end was found."""
    dialect, known = setting(name, controls)
    format = load(name)
    binding = bind(None, calls(tools, choice, True), dialect, "")
    assert binding.spec is not None
    compiled = compile(binding.spec, known)
    shape = format.parameters
    texts = [
        format.closes[0],
        format.tail,
        *GEMMA.quotes,
        *((shape.opens, shape.closes) if shape else ()),
        "]]>",
        *CLOSERS,
    ]
    closers = [spelled(dialect, known, text) for text in texts if text]
    words = [spelled(dialect, known, text) for text in (*WORDS, "<![CDATA[")]
    text = walked(compiled, known, random.Random(seed), words, closers)
    if text is None:
        return None
    found = parse(format, [text], tools)
    assert parse(format, next(cuts(text)), tools) == found, text
    assert content_of(found) == "", text
    read = calls_of(found)
    assert read, text
    for called, arguments in read:
        (schema,) = [t["function"]["parameters"] for t in tools if t["function"]["name"] == called]
        try:
            validate(arguments, schema)
        except jsonschema.ValidationError:
            raise AssertionError(f"{text!r} was read as {arguments!r}, not valid for {json.dumps(schema)}") from None
    return read


@pytest.mark.parametrize("controls", [False, True], ids=["text", "tokens"])
@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(schema=schemas, seed=st.integers(0, 2**32))
def test_what_the_grammar_lets_through_is_read_as_arguments_of_the_schema(name, controls, schema, seed) -> None:
    try:
        found = read_back(
            name, controls, [tool(schema), tool({"type": "object", "properties": {}}, "ping")], "required", seed
        )
    except GrammarRefused as error:
        event(error.message[-60:])
        assume(False)
    event("ends" if found is not None else "does not end")


WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"],
}


@pytest.mark.parametrize("name", FORMATS)
def test_free_text_is_let_through_and_what_opens_a_call_goes_on_as_one(name: str) -> None:
    dialect, known = setting(name, False)
    format = load(name)
    binding = bind(None, calls([tool(WEATHER, strict=True)], "auto", True), dialect, "")
    assert binding.spec is not None
    compiled = compile(binding.spec, known)

    def begins(text: str) -> bool:
        ids = known.encode(text)
        return compiled.matcher().accept(ids) == len(ids)

    assert begins("Let me look, (well) [1] = {2}:\n")
    opens = format.opens[-1] if format.starts else format.opens[0]
    head = arguments_begin(format)
    if format.starts:  # here a call is told from text at the beginning of the answer only
        assert begins(format.starts[0] + head)
        assert not begins(format.starts[0] + head.replace("get", "put"))
    else:
        assert begins(f"Text {opens}{head}")
        assert not begins(f"Text {opens}{head.replace('get', 'put')}")


def arguments_begin(format: Format) -> str:
    """What stands before the arguments of a call of `get`."""
    (call,) = format.structure([tool(WEATHER)]).calls
    begin = "".join(part for part in call.begin if isinstance(part, str))
    return begin.removeprefix(format.opens[0]) if format.each else begin


@pytest.mark.parametrize(
    ("name", "schema", "why"),
    [
        ("lfm2", {"properties": {"a-b": {"type": "string"}}, "required": ["a-b"]}, "no name of an argument"),
        ("lfm2", {"properties": {"a": {"type": "string"}}, "minProperties": 1}, "minProperties"),
        ("lfm2", {"properties": {"a": {"not": {}}}}, "not is not supported"),
        ("gemma4", {"properties": {"a": {"const": 'x<|"|>'}}, "required": ["a"]}, "cannot be written"),
        ("qwen3_coder", {"properties": {"a": {"const": "x</parameter>"}}, "required": ["a"]}, "cannot be written"),
        ("qwen3_coder", {"properties": {"a>b": {"type": "string"}}, "required": ["a>b"]}, "no name"),
        ("qwen3_coder", {"properties": {"a": {"uniqueItems": True, "type": "array"}}}, "uniqueItems"),
        ("minimax_m3", {"properties": {"a": {"$ref": "#"}}, "required": []}, "deeper than"),
    ],
)
def test_what_a_style_cannot_write_is_refused_by_name_where_it_must_be_enforced(
    name: str, schema: Any, why: str
) -> None:
    dialect, known = setting(name, False)
    tools = [tool({"type": "object", **schema})]
    binding = bind(None, calls(tools, "required", True), dialect, "")
    assert binding.spec is not None
    with pytest.raises(GrammarRefused, match=why) as refused:
        compile(binding.spec, known)
    told = binding.told(refused.value)
    assert told.param == "tools[0].function.parameters"
    assert "#" in told.message
    free = bind(None, calls(tools, "auto", True), dialect, "")  # nobody asked for it to be enforced
    assert free.spec is not None
    compile(free.spec, known)


READ: list[tuple[str, Any, str, bool]] = [  # (format, schema of the argument a, what stands for it, whether it may)
    ("lfm2", {"type": "string"}, "'it\\'s \"so\"'", True),
    ("lfm2", {"type": "string"}, '"a\\nb"', True),
    ("lfm2", {"type": "string"}, "True", False),
    ("lfm2", {"type": ["boolean", "null"]}, "True", True),
    ("lfm2", {"type": ["boolean", "null"]}, "true", False),
    ("lfm2", {"type": "array", "items": {"type": "integer"}, "minItems": 2}, "[1, 2]", True),
    ("lfm2", {"type": "array", "items": {"type": "integer"}, "minItems": 2}, "[1]", False),
    ("lfm2", {"type": "object", "properties": {"k": {"enum": [1, "x"]}}}, '{"k": "x"}', True),
    ("lfm2", {"type": "integer", "minimum": -3, "maximum": 120}, "-4", False),
    ("lfm2", {"type": "integer", "minimum": -3, "maximum": 120}, "119", True),
    ("lfm2", {"type": "integer", "minimum": -3, "maximum": 120}, "121", False),
    ("gemma4", {"type": "string", "maxLength": 3}, '<|"|>\\"n<|"|>', True),
    ("gemma4", {"type": "string", "maxLength": 3}, '<|"|>four<|"|>', False),
    ("gemma4", {"type": "array", "items": {"type": "boolean"}}, "[true,false]", True),
    ("qwen3_coder", {"type": "string"}, '"42"\n<b> [x', True),
    ("qwen3_coder", {"type": "string", "pattern": "^a+$"}, "aab", False),
    ("qwen3_coder", {"type": "string"}, "a</parameter>b", False),
    ("qwen3_coder", {"type": ["string", "integer"], "maximum": 5}, "7", False),
    ("qwen3_coder", {"type": ["string", "integer"], "maximum": 5}, "seven", True),
    ("qwen3_coder", {"type": ["string", "integer"], "maximum": 5}, "5", True),
    ("qwen3_coder", {"type": "object", "additionalProperties": {"type": "null"}}, '{"a": null}', True),
]  # fmt: skip


@pytest.mark.parametrize(("name", "schema", "value", "allowed"), READ)
def test_values_stand_as_the_style_has_them_and_are_valid(name: str, schema: Any, value: str, allowed: bool) -> None:
    dialect, known = setting(name, False)
    format = load(name)
    tools = [tool({"type": "object", "properties": {"a": schema}, "required": ["a"]})]
    binding = bind(None, calls(tools, "required", True), dialect, "")
    assert binding.spec is not None
    shape = format.parameters
    around = {"python": ("a=", ")"), "gemma": ("{a:", "}")}.get(
        format.style, (f"{shape.opens}a{shape.middle}", shape.closes) if shape else ("", "")
    )
    end = format.tail + format.closes[0]
    text = f"{format.opens[0]}{arguments_begin(format)}{around[0]}{value}{around[1]}{end}"
    matcher = compile(binding.spec, known).matcher()
    ids = known.encode(text)
    assert (matcher.accept(ids) == len(ids) and matcher.may_end) is allowed
    if allowed:
        ((_, arguments),) = calls_of(parse(format, [text], tools))
        jsonschema.validate(arguments, tools[0]["function"]["parameters"])
