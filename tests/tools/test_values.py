"""Whatever a model writes as a value, what comes out is JSON, or nothing does."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tool_calls import TOOLS, calls_of, content_of, merged, parse, written

from quire.server.tools import PARSERS, load
from quire.server.tools.arguments import converted, types_of
from quire.server.tools.parser import Parser
from quire.server.tools.source import SPACES
from quire.server.tools.values import GEMMA, JSON, PYTHON, Notation, as_json


@pytest.mark.parametrize(
    ("notation", "text", "wanted"),
    [
        (JSON, ' {"a": [1, 2.50, -3e5], "b":{} } ', '{"a": [1, 2.50, -3e5], "b":{} }'),
        (JSON, '"a\nb\t\\d \\\' \\/ \\u00e9 \\x41"', '"a\\nb\\t\\\\d \' \\/ \\u00e9 A"'),
        (JSON, '{"a": True, "b": None, }', '{"a": true, "b": null}'),
        (JSON, "[1, 2,]", "[1, 2]"),
        (JSON, "007", "7"),
        (JSON, "1.", "1.0"),
        (PYTHON, "{'a': ('x', \"y\"), 'b': .5}", '{"a": ["x", "y"], "b": 0.5}'),
        (PYTHON, "'''it's \"it\"'''", '"it\'s \\"it\\""'),
        (PYTHON, r"'\u00e9\U0001F642\x41\101\ud83d'", '"é\\ud83d\\ude42A\\\\101\\ud83d"'),
        (PYTHON, "''", '""'),
        (PYTHON, "1_000", "1000"),
        (GEMMA, '{b:[1,true],c:{d:null}}', '{"b": [1, true], "c": {"d": null}}'),
        (GEMMA, '<|"|>x "y" \\ z<|"|>', '"x \\"y\\" \\\\ z"'),
        *[(JSON, text, None) for text in ("", "{", '{"a"}', "[1 2]", '{"a":}', "nope", "1 2", "[}", "'a'", "-")],
        *[(PYTHON, text, None) for text in ("f(1)", "1+2", "[*a]", "f'a'", "{'a', 'b'}", "lambda: 0", "9" * 500)],
    ],
)  # fmt: skip
def test_values_become_json_or_nothing(notation: Notation, text: str, wanted: str | None) -> None:
    found = as_json(text, notation)
    if wanted is not None and found is not None:
        assert json.loads(found) == json.loads(wanted)
    else:
        assert found == wanted


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(value=ANY, ascii=st.booleans(), indent=st.sampled_from([None, 2]))
def test_json_comes_out_as_it_is(value: object, ascii: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii, indent=indent)
    assert as_json(text, JSON) == text
    assert json.loads(as_json(repr(value), PYTHON) or "") == value


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet="{}[](),:\"'\\ \n0123-.eTrufalsnN", max_size=20))
def test_what_comes_out_is_always_json(text: str) -> None:
    for notation in (JSON, PYTHON, GEMMA):
        found = as_json(text, notation)
        if found is not None:
            json.loads(found)


@pytest.mark.parametrize(
    ("text", "schema", "wanted"),
    [
        ("3", {"type": "integer"}, "3"),
        ("3", {"type": "string"}, '"3"'),
        ("3", {"type": ["string", "null"]}, '"3"'),
        ("null", {"type": ["string", "null"]}, "null"),
        ("3", {"type": ["string", "integer"]}, "3"),
        ("3", None, "3"),
        ("three", None, '"three"'),
        ('"three"', None, '"\\"three\\""'),
        ("True", {"type": "boolean"}, "true"),
        ("{'a': 1}", {"type": "object"}, '{"a": 1}'),
        ("[1", {"type": "array"}, '"[1"'),
        ("b", {"enum": ["a", "b"]}, '"b"'),
        ("2", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "2"),
        ("2", {"anyOf": [{"type": "integer"}, {}]}, "2"),
        ("1", {"type": [{"not": "a type"}], "properties": []}, "1"),
        ("1", {"anyOf": "nonsense"}, "1"),
    ],
)
def test_a_parameter_has_the_type_of_its_schema(text: str, schema: dict | None, wanted: str) -> None:
    assert converted(text, types_of(schema)) == wanted


CALL = ("get", {"zone": "CET"})
PING: tuple[str, dict] = ("ping", {})
TWO_LINES = ("get", {"zone": "CE\nT"})
TAG_IN_TEXT = "<tool_call>\n<function=get>\n<parameter=zone>\na</parameter>b\n</parameter>\n</function>\n</tool_call>"
WRAPPED = '<function name="get"><param name="zone"><![CDATA[</param>]]></param></function>'


@pytest.mark.parametrize(
    ("name", "text", "calls"),
    [
        ("hermes", '<tool_call>{"arguments": {"zone": "CET"}, "name": "get"}</tool_call>', [CALL]),
        ("hermes", '<tool_call>\n\n{"name":"get","parameters":{"zone": "CET"}}\n</tool_call>', [CALL]),
        ("hermes", '<tool_call>{"name": "get", "arguments": "{\\"zone\\": \\"CET\\"}"}</tool_call>', [CALL]),
        ("hermes", '<tool_call>{"name": "ping"}</tool_call>', [PING]),
        ("hermes", '<tool_call>{"name": "ping", "arguments": null}</tool_call>', [PING]),
        ("hermes", '<tool_call>{"name": "ping"}\n{"name": "ping", "id": 1}</tool_call>', [PING, PING]),
        ("hermes", '<tool_call>{"name": "get", "arguments": {"zone": "CET"}}', [CALL]),
        ("hermes", '<tool_call>{"id": 7, "name": "get", "arguments": {"zone": "CET"}, "x": [{}]}</tool_call>', [CALL]),
        ("hermes", '<tool_call>{"name": "get", "arguments": {"zone": "CE\nT"}}</tool_call>', [TWO_LINES]),
        ("llama3_json", ' {"type": "function", "name": "get", "parameters": {"zone": "CET"}}', [CALL]),
        ("llama3_json", '<|python_tag|>{"name": "get", "parameters": {"zone": "CET"}}; {"name": "ping"}', [CALL, PING]),
        ("mistral_old", '[TOOL_CALLS] [{"name": "get", "arguments": {"zone": "CET"}, "id": "abcdefghi"}]', [CALL]),
        ("phi4_mini", 'functools[{"name": "get", "arguments": {"zone": "CET"}}]', [CALL]),
        ("qwen3_coder", "<tool_call><function=get><parameter=zone>CET</parameter></function></tool_call>", [CALL]),
        ("qwen3_coder", TAG_IN_TEXT, [("get", {"zone": "a</parameter>b"})]),
        ("glm45", "<tool_call>get\n<arg_key>zone</arg_key>\n<arg_value>CET</arg_value>\n</tool_call>", [CALL]),
        ("glm45", "<tool_call>get<arg_key>zone</arg_key><arg_value>CET</arg_value></tool_call>", [CALL]),
        ("llama4_pythonic", "[get(zone='CET',), ping()]", [CALL, PING]),
        ("minicpm5", WRAPPED, [("get", {"zone": "</param>"})]),
        ("functionary_v32", 'get\n{"zone": "CET"}', [CALL]),
        ("command_r", 'Action: ```json\n[{"tool_name": "get", "parameters": {"zone": "CET"}}]\n```', [CALL]),
    ],
)  # fmt: skip
def test_what_models_make_of_their_formats_is_read_too(name: str, text: str, calls: list) -> None:
    for pieces in ([text], list(text)):
        found = parse(load(name), pieces)
        assert calls_of(found) == calls
        assert content_of(found) == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", "<tool_call> is a tag. <tool_call>{}</tool_call> <tool_call>[1]</tool_call> <tool_call>"),
        ("hermes", '<tool_call>{"nome": "get", "arguments": {}}</tool_call>'),
        ("hermes", f'<tool_call>{{"name": "{"g" * 1000}", "arguments": {{}}}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "fly", "arguments": {"a": "<tool_call>{}</tool_call>"}}</tool_call>'),
        ("llama3_json", '{"answer": 42}'),
        ("llama3_json", '{"name": "Ann", "age": 3}'),
        ("llama3_json", 'It is {"name": "get", "parameters": {}}'),
        ("llama4_pythonic", "[1, 2, 3]"),
        ("llama4_pythonic", "[get('CET')]"),
        ("functionary_v31", f"<function={'x' * 290}<function=get"),
        ("openai", "<|channel|>commentary to=browser.search<|message|>{}<|call|>"),
        ("kimi_k2", "<|tool_calls_section_begin|><|tool_call_begin|>get<|tool_call_argument_begin|>{}"),
        ("kimi_k2", "<|tool_calls_section_begin|><|tool_call_begin|>functions.get:0<|tool_call_argument_begin|>[]"),
        ("hermes", '<tool_call>{"name": "get", "zone": "CET"}</tool_call>'),
        ("hermes", '<tool_call>{"name": "get", "arguments": [1]}</tool_call>'),
        ("glm45", "<tool_call>get the tools</tool_call> and <tool_call>get\nthem</tool_call>"),
        ("qwen3_coder", "<tool_call>\n<function=fly>\n<parameter=a>\nb\n</parameter>\n</function>\n</tool_call>"),
    ],
)  # fmt: skip
def test_what_only_looks_like_a_call_is_content_whole(name: str, text: str) -> None:
    for pieces in ([text], list(text)):
        assert parse(load(name), pieces) == [("Content", text)]


def test_a_call_that_breaks_in_its_arguments_stays_without_an_end_and_content_goes_on() -> None:
    text = '<tool_call>{"name": "get", "arguments": {"zone": oops}}</tool_call> Sorry.'
    for pieces in ([text], list(text)):
        found = parse(load("hermes"), pieces)
        assert found == [
            ("call", 0, "get"),
            ("Arguments", '{"zone": '),
            ("Content", "oops}}</tool_call> Sorry."),
        ]


def test_after_a_break_the_next_call_is_found() -> None:
    text = f'<tool_call>{{"name": get}}</tool_call>\n{written(load("hermes"), [CALL])}'
    for pieces in ([text], list(text)):
        found = parse(load("hermes"), pieces)
        assert calls_of(found) == [CALL]
        assert content_of(found) == '<tool_call>{"name": get}}</tool_call>'.replace("}}", "}")


@pytest.mark.parametrize("name", list(PARSERS))
def test_what_was_read_is_not_looked_at_again(name: str) -> None:
    """So the work grows with the text and no faster: at every piece no more waits than a tag and white space."""
    format = load(name)
    call = ("get_weather", {"note": "x < y\n" * 40, "tags": ["a"] * 40})
    text = "word " * 20 + "<tool_call>" * 9 + " " * 99 + written(format, [call])
    parser = Parser(format, TOOLS)
    for character in text:
        parser.feed(character)
        assert parser._source.waiting <= 2 * SPACES + 40


def test_many_brackets_are_no_recursion() -> None:
    text = "[" * 5000 + "]" * 5000
    assert as_json(text, JSON) == text
    element = "]<]minimax[>[<a>" * 5000
    found = merged(
        Parser(load("minimax_m3"), TOOLS).feed(f']<]minimax[>[<tool_call>]<]minimax[>[<invoke name="get">{element}')
    )
    assert found[0] == ("call", 0, "get")


@pytest.mark.parametrize("name", list(PARSERS))
def test_where_a_name_is_too_long_does_not_depend_on_the_cut(name: str) -> None:
    format = load(name)
    for size in (298, 299, 300, 301, 302, 330):
        text = written(format, [("n" * size, {"zone": "CET"}), CALL]) + written(format, [CALL])
        whole = parse(format, [text])
        for step in (1, 7, 150):
            assert parse(format, [text[i : i + step] for i in range(0, len(text), step)]) == whole
        assert CALL in calls_of(whole) or any(format.starts)
