"""Every format: what its description says is written is what its parser reads, however the text is cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tool_calls import TOOLS, Call, arguments_text, calls_of, content_of, cuts, merged, parse, written

from quire.engine.errors import ConfigError, RequestError
from quire.server.tools import PARSERS, choose, load
from quire.server.tools.events import Arguments, CallStart
from quire.server.tools.format import Format, Slot
from quire.server.tools.parser import Parser
from quire.server.tools.source import SPACES

FORMATS = list(PARSERS)
SOME = [  # one for each way of writing
    "hermes", "mistral_old", "llama3_json", "qwen3_coder", "lfm2", "gemma4", "openai", "functionary_v32", "minimax_m3",
]  # fmt: skip

HARD: Call = (
    "get_weather",
    {
        "city": "Köln \"x\" 'y' \\ {[,}] 🙂 日本\u2028",
        "note": "a\n\n  b </tool_call> </function> }] <tool_call> [TOOL_CALLS] <|call|>\n",
        "days": 3,
        "exact": True,
        "nothing": None,
        "ratio": -1.5e-7,
        "where": {"lat": 1.5, "names": {"a": "b", "c": "d"}},
        "tags": ["a", "b, c", "]}"],
    },
)
EASY: Call = ("get", {"zone": "CET"})
EMPTY: Call = ("ping", {})
UNKNOWN: Call = ("launch", {"zone": "CET"})


def readable(format: Format, call: Call) -> Call:
    """The same call without the end tags that a format's values cannot hold."""
    name, arguments = call
    if format.style in ("parameters", "nested") and "note" in arguments:
        arguments = {**arguments, "note": "a\n\n  b } ] </x> <|call|> &lt;\n"}
    return name, arguments


@pytest.mark.parametrize("name", FORMATS)
def test_what_the_description_writes_the_parser_reads(name: str) -> None:
    format = load(name)
    calls = [readable(format, HARD), EMPTY, EASY]
    found = parse(format, [written(format, calls)])
    assert calls_of(found) == calls
    assert content_of(found) == ""


@pytest.mark.parametrize("name", FORMATS)
def test_every_way_of_cutting_gives_the_same(name: str) -> None:
    format = load(name)
    before = "" if format.starts == ("{",) or format.starts == ("[",) else "Let me see. "
    before = "all\nLet me see. " if format.content else before
    texts = [
        before + written(format, [readable(format, HARD), EMPTY]) + "\n\nand <then> [some]",
        written(format, [EASY]) + "\n" + written(format, [UNKNOWN]) + written(format, [EMPTY]),
    ]
    for text in texts:
        whole = parse(format, [text])
        for pieces in cuts(text):
            assert parse(format, pieces) == whole, pieces


@pytest.mark.parametrize("name", FORMATS)
def test_text_around_calls_is_content_and_the_white_space_between_is_not(name: str) -> None:
    format = load(name)
    calls = written(format, [EASY, EMPTY])
    assert content_of(parse(format, [calls + "\n\n"])) == ""
    if format.openings:
        shown = "all\nLet me see." if format.content else "Let me see."
        section = calls if format.each else format.openings[-1] + calls.removeprefix(format.opens[0])
        found = parse(format, [f"{shown}\n\n{section}"])
        assert content_of(found) == "Let me see."
        assert calls_of(found) == [EASY, EMPTY]


@pytest.mark.parametrize("name", FORMATS)
def test_an_undeclared_name_is_no_call_and_its_text_is_content(name: str) -> None:
    format = load(name)
    text = written(format, [UNKNOWN])
    assert parse(format, [text]) == [("Content", text)]
    mixed = parse(format, [written(format, [EASY, UNKNOWN, EMPTY])])
    assert calls_of(mixed) == [EASY, EMPTY]
    assert "launch" in content_of(mixed)
    assert "CET" in content_of(mixed)


@pytest.mark.parametrize("name", FORMATS)
def test_an_answer_that_is_cut_off_loses_nothing_and_completes_nothing(name: str) -> None:
    """At every length: the calls are the first ones, and until one begins all text is content."""
    format = load(name)
    calls = [EASY, EMPTY]
    text = written(format, calls)
    known = 0
    for end in range(len(text)):
        found = parse(format, [text[:end]])
        complete = calls_of(found)
        assert complete == calls[: len(complete)]
        assert len(complete) >= known
        known = len(complete)
        begun = [event for event in found if event[0] == "call"]
        if not begun and not format.content:
            assert content_of(found) == text[:end]
        for at, event in enumerate(found):
            if event[0] == "Arguments":
                assert json.dumps(dict(calls[found[at - 1][1]][1])).startswith(event[1])


@pytest.mark.parametrize("name", FORMATS)
def test_without_tools_every_text_is_content(name: str) -> None:
    format = load(name)
    text = ("all\n" if format.content else "") + "Text\n" + written(format, [readable(format, HARD), EASY]) + " end \n"
    for pieces in ([text], list(text)):
        assert content_of(parse(format, pieces, [])) == text.removeprefix("all\n" if format.content else "")


def fragments(format: Format) -> list[str]:
    """Words of a format, in which a text may come close to a call."""
    text = written(format, [EASY, EMPTY, UNKNOWN])
    step = max(1, len(text) // 12)
    words = [text[i : i + step] for i in range(0, len(text), step)]
    parameters = format.parameters
    own = [*format.opens, *format.closes, format.tail, *((parameters and (parameters.opens, parameters.closes)) or ())]
    return [w for w in [*words, *own, written(format, [EASY]), " ", "\n", "x", '"', "{", "}", ",", "<", "]", "\\"] if w]


@pytest.mark.parametrize("name", SOME)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_text_that_comes_close_to_calls_is_read_the_same_however_it_is_cut(name: str, data: st.DataObject) -> None:
    format = load(name)
    text = "".join(data.draw(st.lists(st.sampled_from(fragments(format)), max_size=12)))
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    whole = parse(format, [text])
    assert parse(format, pieces) == whole
    assert parse(format, list(text)) == whole
    if not format.content:
        assert content_of(parse(format, pieces, [])) == text
    for call in calls_of(whole):
        assert call[0] in {"get_weather", "get", "ping"}
        assert isinstance(call[1], dict)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ASCII = st.text("abc_", min_size=1, max_size=4).map(lambda text: f"k{text}")


@pytest.mark.parametrize("name", ["hermes", "lfm2", "deepseek_v32", "minicpm5"])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(arguments=st.dictionaries(ASCII, VALUES, max_size=4), size=st.integers(1, 9))
def test_any_arguments_come_back(name: str, arguments: dict, size: int) -> None:
    format = load(name)
    if format.style == "parameters":
        closes = format.parameters.closes.strip() if format.parameters else ""
        arguments = {k: v for k, v in arguments.items() if closes not in str(v) and "]]>" not in str(v)}
        schema = {"properties": {key: schema_of(value) for key, value in arguments.items()}}
        tools = [{"function": {"name": "get", "parameters": schema}}]
    else:
        tools = TOOLS
    text = written(format, [("get", arguments)])
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert calls_of(parse(format, pieces, tools)) == [("get", arguments)]


def schema_of(value: object) -> dict:
    kinds = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
    return {"type": kinds.get(type(value), "null")}


@pytest.mark.parametrize("name", FORMATS)
def test_no_more_is_held_back_than_may_become_a_call(name: str) -> None:
    format = load(name)
    parser = Parser(format, TOOLS)
    longest = max([len(text) for text in format.openings], default=0) + SPACES
    text = ("all\n" if format.content else "") + "A word, < then [ another |> {x}. \n\n" * 30
    seen = 0
    for place, character in enumerate(text):
        events = parser.feed(character)
        seen += sum(len(text) for _, text in merged(events))
        assert place + 1 - seen <= longest + 2 * len(format.content) + (4 if format.starts else 0)


@pytest.mark.parametrize("name", [n for n in FORMATS if load(n).style == "json"])
def test_arguments_stream_as_they_are_written(name: str) -> None:
    """White space and escapes as the model wrote them; every piece at once."""
    format = load(name)
    raw = '{ "zone" :"C\\u0045T\\n" ,\n"x": [1,2.50 ,{ }] }'
    text = written(format, [EASY]).replace(arguments_text(format, EASY[1]), raw)
    found = parse(format, [text])
    assert ("Arguments", raw) in found
    parser = Parser(format, TOOLS)
    fresh = [any(isinstance(event, Arguments) for event in parser.feed(character)) for character in text]
    assert sum(fresh) > 20


def test_ids_are_unique_and_of_the_format() -> None:
    for name, pattern in (("hermes", "call_"), ("mistral", ""), ("kimi_k2", "functions."), ("solar_open", "a1b2")):
        format = load(name)
        text = written(format, [EASY] * 3) + written(format, [EASY] * 3)
        parser = Parser(format, TOOLS)
        ids = [e.id for e in [*parser.feed(text), *parser.finish()] if isinstance(e, CallStart)]
        assert len(set(ids)) == 6
        assert ids[0].startswith(pattern)
    assert len(ids[0]) == 10
    assert all(len(i) == 9 and i.isalnum() for i in ids_of("mistral_old"))


def ids_of(name: str) -> list[str]:
    parser = Parser(load(name), TOOLS)
    return [e.id for e in parser.feed(written(load(name), [EASY, EMPTY])) if isinstance(e, CallStart)]


@pytest.mark.parametrize("name", FORMATS)
def test_a_structure_names_every_declared_tool_and_how_its_call_begins(name: str) -> None:
    format = load(name)
    structure = format.structure(TOOLS)
    assert [call.name for call in structure.calls] == ["get_weather", "get", "ping"]
    for call in structure.calls:
        begin = "".join(part if isinstance(part, str) else "\0" for part in (structure.opens[0], *call.begin))
        whole = "".join(part if isinstance(part, str) else "" for part in call.begin)
        assert call.name in whole
        assert any(begin.strip().startswith(t) for t in (*structure.triggers, *structure.starts))
        assert all(isinstance(part, str | Slot) for part in call.begin)
    named = format.structure(TOOLS, {"type": "function", "function": {"name": "get"}})
    assert [call.name for call in named.calls] == ["get"]
    assert named.at_most_one
    assert format.structure(TOOLS, "required", parallel=False).at_most_one


def test_a_choice_of_a_tool_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(RequestError, match="'fly'; expected one of the tools: get_weather, get, ping") as error:
        load("hermes").structure(TOOLS, {"type": "function", "function": {"name": "fly"}})
    assert error.value.param == "tool_choice"


def test_a_name_overrides_the_template_and_an_unknown_one_lists_all() -> None:
    assert choose("<tool_call>", "mistral") is load("mistral")
    assert choose("") is None
    with pytest.raises(ConfigError, match="tool_call_parser is 'nope'; expected one of openai, "):
        choose("", "nope")
    for name in PARSERS:
        assert load(name).name == name
