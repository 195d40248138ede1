"""Calls of tools and thoughts over HTTP: plain and streamed the same, however the engine cuts the text."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import pytest
from fake_engine import Answer, frames
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from small_server import END, HELLO, MODEL, SmallServer, error_of, events

from quire.engine import messages as m

CHAT = "/v1/chat/completions"
TEMPLATE = (  # of Qwen's kind
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content or '' }}"
    '{% for c in m.tool_calls or [] %}<tool_call>\n{"name": {{ c.function.name | tojson }}, '
    '"arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}'
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking %}<think>\n{% endif %}{% endif %}"
    "{% if reasoning_effort %}{{ reasoning_effort }}{% endif %}"
)
MARKUP = ("<tool_call>", "</tool_call>", "<think>", "</think>")
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "parameters": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}},
    {"type": "function", "function": {"name": "ping"}},
]  # fmt: skip
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Köln"}}\n</tool_call>'
PING = '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>'
UNKNOWN = '\n{"name": "launch", "arguments": {}}\n'
WEATHER = ("get_weather", '{"city": "Köln"}')


@pytest.fixture(scope="module")
def server():
    server = SmallServer(1024, template=TEMPLATE, markup=MARKUP)
    yield server
    server.close()


CASES: list[tuple[str, dict[str, Any], str]] = [  # (the model's text, what the message must hold, how it ends)
    ("hello", {"content": "hello"}, "stop"),
    (CALL, {"content": None, "tool_calls": [WEATHER]}, "tool_calls"),
    (f"Let me see.\n{CALL}", {"content": "Let me see.", "tool_calls": [WEATHER]}, "tool_calls"),
    (f"{CALL}\n{PING}", {"content": None, "tool_calls": [WEATHER, ("ping", "{}")]}, "tool_calls"),
    (f"<think>\nIt is ö.\n</think>\n\n{CALL}", {"content": None, "reasoning_content": "It is ö.",
     "tool_calls": [WEATHER]}, "tool_calls"),
    (f"<think>{PING}</think>no call", {"content": "no call", "reasoning_content": PING}, "stop"),
    ("<think>a</think>", {"content": "", "reasoning_content": "a"}, "stop"),
    (f"<tool_call>{UNKNOWN}</tool_call>", {"content": UNKNOWN}, "stop"),
    ("<tool_call>no call</tool_call> at all", {"content": "no call at all"}, "stop"),
    ("<|im_start|>a<|bos|>b", {"content": "ab"}, "stop"),
]  # fmt: skip


def ask(**fields: Any) -> dict[str, Any]:
    return {**HELLO, "tools": TOOLS, **fields}


def plain_of(message: dict[str, Any]) -> dict[str, Any]:
    """What a message says; ids are never the same."""
    found = {key: message[key] for key in ("content", "reasoning_content") if key in message}
    if "tool_calls" in message:
        assert all(call["type"] == "function" and call["id"] for call in message["tool_calls"])
        found["tool_calls"] = [(c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]]
    return found


def joined(chunks: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Messages and ends as a client puts them together; an error where the stream is not as clients want it."""
    found: list[dict[str, Any]] = [{"content": None, "finish_reason": None} for _ in range(count)]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
        for choice in chunk["choices"]:
            mine, delta = found[choice["index"]], choice["delta"]
            assert mine["finish_reason"] is None
            mine["finish_reason"] = choice["finish_reason"]
            assert delta or choice["finish_reason"] or choice["logprobs"] or choice.get("token_ids"), "nothing is told"
            if delta.get("content") is not None:
                mine["content"] = (mine["content"] or "") + delta["content"]
            if "reasoning_content" in delta:
                mine["reasoning_content"] = mine.get("reasoning_content", "") + delta["reasoning_content"]
            assert delta.get("tool_calls", [0])
            for call in delta.get("tool_calls", []):
                calls = mine.setdefault("tool_calls", [])
                if call["index"] == len(calls):
                    calls.append({"id": call["id"], "type": call["type"], "function": dict(call["function"])})
                else:
                    assert set(call) == {"index", "function"}
                    assert set(call["function"]) == {"arguments"}
                    calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    return found


def says(server: SmallServer, texts: list[str], cut: int, *, stop: bool = True) -> None:
    answers = [Answer((*server.ids(text), *([END] if stop else [])), stop) for text in texts]
    server.engine.script = lambda request: frames(request, answers, 300, Random(cut))


@pytest.mark.parametrize(("text", "wanted", "finish"), CASES, ids=[repr(case[0][:40]) for case in CASES])
def test_every_cut_of_an_answer_gives_the_same_message_plain_and_streamed(server, text, wanted, finish):
    for cut in range(6):
        says(server, [text], cut)
        plain = server.chat(**ask())
        ChatCompletion.model_validate(plain)
        (choice,) = plain["choices"]
        assert (plain_of(choice["message"]), choice["finish_reason"]) == (wanted, finish)
        options = {"stream": True, "stream_options": {"include_usage": True}}
        *chunks, last = events(server.post(CHAT, ask(**options)))
        (streamed,) = joined(chunks, 1)
        assert streamed["finish_reason"] == finish
        assert plain_of(streamed) == wanted
        assert last["usage"] == plain["usage"]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_text_in_any_cut_is_the_same_plain_and_streamed(server, data):
    """Also cut off at any token, with stop strings, hidden thoughts and special tokens shown."""
    piece = st.sampled_from(
        [*MARKUP, "\n", '{"name": "ping", "arguments": ', "{}", "}", "hello", " ", "<", "ö", PING, CALL]
    )
    texts = data.draw(st.lists(st.lists(piece, max_size=8).map("".join), min_size=1, max_size=3))
    stop = data.draw(st.booleans()) or not all(texts)
    fields = data.draw(st.fixed_dictionaries({"n": st.just(len(texts))}, optional={
        "stop": st.sampled_from(["hello", "l>", "ö"]), "skip_special_tokens": st.booleans(),
        "include_reasoning": st.booleans(), "parallel_tool_calls": st.booleans(), "logprobs": st.booleans(),
        "chat_template_kwargs": st.just({"enable_thinking": True}), "return_token_ids": st.booleans(),
    }))  # fmt: skip
    says(server, texts, data.draw(st.integers(0, 99)), stop=stop)
    plain = server.chat(**ask(**fields))
    says(server, texts, data.draw(st.integers(0, 99)), stop=stop)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = events(server.post(CHAT, ask(**fields, **options)))
    for choice, streamed in zip(plain["choices"], joined(chunks, len(texts)), strict=True):
        assert plain_of(choice["message"]) == plain_of(streamed)
        assert choice["finish_reason"] == streamed["finish_reason"]
    assert last["usage"] == plain["usage"]
    if not fields.get("skip_special_tokens", True):
        return
    shown = [choice["message"]["content"] or "" for choice in plain["choices"]]
    assert not any(special in text for special in MARKUP for text in shown)


def test_what_is_cut_off_in_a_call_ends_by_length_and_what_is_complete_as_calls(server):
    for text, finish in (
        (CALL[:-30], "length"),
        (CALL, "tool_calls"),
        (CALL + CALL[:-20], "length"),
        (CALL + " a", "tool_calls"),
    ):
        says(server, [text], 0, stop=False)
        assert server.chat(**ask())["choices"][0]["finish_reason"] == finish


def test_each_choice_has_a_parser_of_its_own(server):
    texts = [CALL, "hello", f"<think>a</think>{PING}"]
    for cut in range(4):
        says(server, texts, cut)
        choices = server.chat(**ask(n=3))["choices"]
        assert [c["finish_reason"] for c in choices] == ["tool_calls", "stop", "tool_calls"]
        assert [c["message"].get("reasoning_content") for c in choices] == [None, None, "a"]
        ids = [call["id"] for c in choices for call in c["message"].get("tool_calls", [])]
        assert len(set(ids)) == 2


def test_without_tools_or_with_none_to_be_called_a_call_is_text(server):
    says(server, [PING], 0)
    for fields in ({"tools": []}, {"tool_choice": "none"}):
        choice = server.chat(**ask(**fields))["choices"][0]
        assert "tool_calls" not in choice["message"]
        assert choice["message"]["content"] == PING.replace("<tool_call>", "").replace("</tool_call>", "")
        assert choice["finish_reason"] == "stop"


def test_tokens_of_a_thought_are_counted_and_can_be_left_out(server):
    says(server, ["<think>abc</think>abc"], 0)
    for include in (True, False):
        answer = server.chat(**ask(include_reasoning=include))
        assert ("reasoning_content" in answer["choices"][0]["message"]) is include
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == len(server.ids("<think>abc"))


def test_a_thought_that_begins_in_the_prompt_is_one(server):
    says(server, ["so</think>hello"], 0)
    message = server.chat(chat_template_kwargs={"enable_thinking": True})["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("so", "hello")


def test_an_effort_goes_to_the_template(server):
    says(server, ["a"], 0)
    server.chat(reasoning_effort="high")
    assert server.tokenizer.decode(server.engine.requests[-1].prompt).endswith("high")


def test_the_switch_of_a_template_is_its_effort_of_none():
    server = SmallServer(template=TEMPLATE.replace("reasoning_effort", "nothing"), markup=MARKUP)
    server.says("a")
    server.chat(reasoning_effort="none")
    assert error_of(server.post(CHAT, {**HELLO, "reasoning_effort": "low"}))["param"] == "reasoning_effort"
    server.close()


# ---------------------------------------------------------------- grammars


def params_of(server: SmallServer, **fields: Any) -> Any:
    says(server, ["a"], 0)
    server.chat(**ask(**fields))
    return server.engine.requests[-1].params


def test_a_call_that_must_be_is_forced_by_a_grammar(server):
    for choice in ("required", {"type": "function", "function": {"name": "ping"}}):
        spec = params_of(server, tool_choice=choice).grammar
        assert spec.kind == "lark"
        assert set(spec.controls) == {server.tokenizer.control[text] for text in MARKUP}
        assert ('"get_weather\\"' in spec.text or "get_weather" in spec.text) is (choice == "required")


def test_free_text_is_bound_from_what_opens_a_call(server):
    spec = params_of(server).grammar
    assert "TEXT section" in spec.text
    assert params_of(server, tool_choice="none").grammar is None
    assert params_of(server, tools=[]).grammar is None


def test_a_grammar_begins_behind_the_thought_that_the_prompt_begins(server):
    end = server.tokenizer.control["</think>"]
    thinking = {"chat_template_kwargs": {"enable_thinking": True}}
    assert params_of(server, **thinking).grammar_after == (end,)
    assert params_of(server, tool_choice="required", **thinking).grammar_after == (end,)
    params = params_of(server, tools=[], response_format={"type": "json_object"}, **thinking)
    assert (params.grammar.kind, params.grammar_after) == ("json_object", (end,))
    params = params_of(server, tools=[], response_format={"type": "json_object"})
    assert (params.grammar.kind, params.grammar_after) == ("lark", ())
    assert "lead? " in params.grammar.text


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("line 1: uniqueItems is not enforced (at /properties/a)", "tools[0].function.parameters"),
        ("line 2: no document is valid", "tools[1].function.parameters"),
        ("grammar too large", "tools"),
    ],
)
def test_a_schema_that_the_engine_refuses_is_told_by_its_tool(server, message, param):
    server.engine.script = lambda request: [[m.Failed(id=request.id, code="invalid_grammar", message=message)]]
    error = error_of(server.post(CHAT, ask(tool_choice="required", stream=True)))
    assert error["param"] == param
    assert error["message"] == f"{param}: {message.split(': ')[-1]}"


def test_schemas_of_a_tool_that_is_not_strict_are_enforced_where_they_are_plain(server):
    odd = {"type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}
    tool = {"type": "function", "function": {"name": "odd", "parameters": odd}}
    assert "uniqueItems" not in params_of(server, tools=[tool]).grammar.text
    assert "uniqueItems" in params_of(server, tools=[tool], tool_choice="required").grammar.text
    tool["function"]["strict"] = True
    assert "uniqueItems" in params_of(server, tools=[tool]).grammar.text
    assert '"city"' in params_of(server).grammar.text


@pytest.mark.parametrize("function", [{}, {"parameters": None}], ids=["absent", "null"])
def test_a_function_without_parameters_takes_none(server, function):
    tool = {"type": "function", "function": {"name": "now", **function}}
    for choice in ("auto", "required"):
        assert '"additionalProperties": false' in params_of(server, tools=[tool], tool_choice=choice).grammar.text


def test_a_format_whose_arguments_are_no_json_is_read_and_bound():
    server = SmallServer(1024, template=TEMPLATE, markup=MARKUP, tool_call_parser="qwen3_coder")
    text = "<tool_call>\n<function=get_weather>\n<parameter=city>\nKöln\n</parameter>\n</function>\n</tool_call>"
    says(server, [text * 2], 0)
    message = server.chat(**ask())["choices"][0]["message"]
    assert plain_of(message)["tool_calls"] == [WEATHER, WEATHER]
    strict = [{**TOOLS[0], "function": {**TOOLS[0]["function"], "strict": True}}]
    for fields in ({}, {"tool_choice": "required"}, {"tools": strict}, {"response_format": {"type": "json_object"}},
                   {"guided_regex": "yes|no"}, {"grammar": 'root ::= "yes"'}):  # fmt: skip
        server.chat(**ask(**fields))
        bound = server.engine.requests[-1].params.grammar
        assert bound is not None
        assert bound.ours
        assert '"style": "parameters"' in bound.text
    server.close()


def test_tools_without_a_format_are_refused_with_what_to_do():
    server = SmallServer()
    error = error_of(server.post(CHAT, ask()))
    assert "--tool-call-parser" in error["message"]
    server.says("a")
    assert server.chat(**ask(tool_choice="none"))
    server.close()


# ---------------------------------------------------------------- the history


def test_a_call_of_old_and_its_answer_are_a_call_and_a_result(server):
    says(server, ["a"], 0)
    old = [
        {"role": "user", "content": "w?"},
        {"role": "assistant", "content": None, "function_call": {"name": "ping", "arguments": "{}"}},
        {"role": "function", "name": "ping", "content": "pong"},
    ]
    call = {"id": "x", "type": "function", "function": {"name": "ping", "arguments": "{}"}}
    new = [
        old[0],
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "x", "content": "pong"},
    ]
    prompts = []
    for messages in (old, new):
        server.chat(messages=messages)
        prompts.append(server.engine.requests[-1].prompt)
    assert prompts[0] == prompts[1]
    text = server.tokenizer.decode(prompts[0], skip_special_tokens=False)
    assert '<tool_call>\n{"name": "ping", "arguments": {}}' in text


PINGED = {"type": "function", "function": {"name": "ping", "arguments": "{}"}}
CALLED = {"role": "assistant", "tool_calls": [{"id": "x", **PINGED}]}
ASKED = {"role": "user", "content": "w?"}


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([ASKED, {"role": "tool", "tool_call_id": "x", "content": "pong"}], "messages[1]"),
        ([ASKED, {"role": "function", "name": "ping", "content": "pong"}], "messages[1]"),
        ([{"role": "tool", "tool_call_id": "x", "content": "pong"}, ASKED, CALLED], "messages[0]"),
        ([ASKED, CALLED, {"role": "tool", "tool_call_id": "y", "content": "pong"}], "messages[2].tool_call_id"),
    ],
    ids=["no call", "no call of old", "before its call", "another id"],
)
def test_a_result_without_its_call_is_a_400_that_says_where(server, messages, param):
    found = server.post("/v1/chat/completions", {"messages": messages})
    assert found.status_code == 400
    assert found.json()["error"]["param"] == param
    assert "call" in found.json()["error"]["message"]


def test_a_result_need_not_name_its_call(server):
    says(server, ["a"], 0)
    server.chat(messages=[ASKED, CALLED, {"role": "tool", "content": "pong"}])
    nameless = {"role": "assistant", "tool_calls": [PINGED]}
    server.chat(messages=[ASKED, nameless, {"role": "tool", "tool_call_id": "any", "content": "pong"}])


def test_a_conversation_goes_through_call_and_result(server):
    says(server, [f"<think>a</think>{CALL}"], 0)
    message = server.chat(**ask())["choices"][0]["message"]
    says(server, ["It rains."], 0)
    result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "rain"}
    answer = server.chat(**ask(messages=[*HELLO["messages"], message, result]))
    assert answer["choices"][0]["message"]["content"] == "It rains."
    prompt = server.tokenizer.decode(server.engine.requests[-1].prompt, skip_special_tokens=False)
    assert f"<think>a</think>{CALL}" in prompt


# ---------------------------------------------------------------- what would be done


def test_parse_is_what_an_answer_would_become(server):
    for text, wanted, finish in CASES:
        if "<|" in text:
            continue
        found = server.post("/parse", {"model": MODEL, "text": text, "tools": TOOLS}).json()
        assert (plain_of(found["message"]), found["finish_reason"]) == (wanted, finish)
    assert (found["tool_call_parser"], found["reasoning_parser"]) == ("hermes", "think")
    asked = {"text": "so</think>hello", "chat_template_kwargs": {"enable_thinking": True}}
    assert server.post("/parse", asked).json()["message"]["reasoning_content"] == "so"
    assert server.post("/parse", {"text": CALL}).json()["message"]["content"]


def test_a_dry_run_shows_everything_and_generates_nothing(server):
    before = len(server.engine.requests)
    found = server.chat(
        **ask(dry_run=True, tool_choice="required", messages=[{"role": "user", "content": " a <think> "}])
    )
    assert len(server.engine.requests) == before
    prompt = found["prompt"]
    assert server.tokenizer.decode(prompt["token_ids"], skip_special_tokens=False) == prompt["text"]
    assert "".join(part["text"] for part in prompt["segments"]) == prompt["text"]
    assert [part["text"] for part in prompt["segments"] if part["content"]] == ["a <think>"]
    assert prompt["defused_control_tokens"] == 1
    assert (found["tool_call_parser"], found["reasoning_parser"], found["tools"]) == (
        "hermes",
        "think",
        ["get_weather", "ping"],
    )
    assert found["grammar"]["kind"] == "lark"
    assert server.chat(dry_run=True)["grammar"] is None


def test_a_dry_run_of_what_cannot_be_is_the_same_error(server):
    error = error_of(server.post(CHAT, ask(dry_run=True, tool_choice={"function": {"name": "x"}})))
    assert error["param"] == "tool_choice.function.name"


def test_segments_show_arguments_of_calls_as_content(server):
    call = {"id": "x", "type": "function", "function": {"name": "ping", "arguments": json.dumps({"a": "bc", "d": 1})}}
    messages = [{"role": "user", "content": "w"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    prompt = server.chat(dry_run=True, messages=messages)["prompt"]
    assert [part["text"] for part in prompt["segments"] if part["content"]] == ["w", "ping", "bc"]


@pytest.mark.parametrize("arguments", ['{"c": "\\ud800"}', '{"\\udfff": 1}', '{"c": ["\\ud83d x"]}'])
def test_half_a_character_in_arguments_stays_the_text_that_it_is(server, arguments):
    says(server, ["a"], 0)
    function = {"name": "ping", "arguments": arguments}
    for called in ({"tool_calls": [{"type": "function", "function": function}]}, {"function_call": function}):
        messages = [ASKED, {"role": "assistant", **called}, {"role": "user", "content": "and?"}]
        for path, more in ((CHAT, {}), (CHAT, {"dry_run": True}), ("/tokenize", {}), ("/parse", {"text": "x"})):
            assert server.post(path, {"messages": messages, **more}).status_code == 200
        text = server.chat(messages=messages, dry_run=True)["prompt"]["text"]
        assert json.dumps(arguments) in text
