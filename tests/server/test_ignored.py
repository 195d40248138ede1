"""Nothing a request asks for is ignored: fields under other names, nearly ours, or of no effect are refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from small_server import HELLO, MODEL, TEMPLATE, SmallServer, error_of, named

from quire.server.openai.refused import NAMES
from quire.server.openai.schema import ChatRequest

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BODIES: dict[str, dict[str, Any]] = {
    CHAT: HELLO,
    COMPLETIONS: {"model": MODEL, "prompt": "hello"},
    "/tokenize": {"model": MODEL, "prompt": "hello"},
    "/parse": {"model": MODEL, "text": "hello"},
}


@pytest.mark.parametrize("field", ["repeat_penalty", "num_beams", "tfs_z", "guidance_scale", "typical"])
def test_one_with_a_point_asks_for_nothing_either(greeter, field):
    assert greeter.chat(**{field: 1.0})


def test_true_is_not_one(greeter):
    named(error_of(greeter.post(CHAT, {**HELLO, "num_beams": True})), "num_beams")


@pytest.mark.parametrize("field", NAMES)
def test_a_field_under_another_name_is_taken_beside_ours_or_refused(greeter, field):
    ours = NAMES[field]
    value: Any = {"stop": ["x"], "ignore_eos": True, "typical_p": 0.5, "repetition_penalty": 1.5}.get(ours, 2)
    assert greeter.chat(**{field: value, ours: value})
    error = error_of(greeter.post(CHAT, {**HELLO, field: value}))
    named(error, field)
    assert ours in error["message"]
    if (default := ChatRequest.model_fields[ours].default) is not None:
        assert greeter.chat(**{field: default})


@pytest.mark.parametrize(
    ("field", "value", "meant"),
    [
        ("temprature", 0, "temperature"), ("Temperature", 0, "temperature"), ("reponse_format", {}, "response_format"),
        ("responseFormat", {"type": "json_object"}, "response_format"), ("toolChoice", "none", "tool_choice"),
        ("stopSequences", ["x"], "stop"), ("max_token", 5, "max_tokens"), ("maxTokens", 5, "max_tokens"),
        ("guided_jsn", {}, "guided_json"), ("logprob", True, "logprobs"), ("tool", [], "tools"), ("stops", "x", "stop"),
    ],
)  # fmt: skip
def test_a_name_that_is_nearly_ours_is_refused_with_ours(greeter, field, value, meant):
    error = error_of(greeter.post(CHAT, {**HELLO, field: value}))
    named(error, field)
    assert error["message"].endswith(f"did you mean {meant}?")


def test_more_unknown_fields_than_anybody_sends_are_refused(greeter):
    assert greeter.chat(**{f"zz{i}zz": 1 for i in range(128)})
    assert "1000 fields" in error_of(greeter.post(CHAT, {**HELLO, **{f"zz{i}zz": 1 for i in range(1000)}}))["message"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHAT, {"stream": True, "stream_options": {"inclde_usage": True}}, "stream_options.inclde_usage"),
        (CHAT, {"stream_options": {"include_usage": True}}, "stream_options"),
        (COMPLETIONS, {"stream": False, "stream_options": {"include_usage": True}}, "stream_options"),
        ("/tokenize", {"add_special_token": True}, "add_special_token"),
        ("/tokenize", {"messages": HELLO["messages"]}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": "x", "images": ["x"]}]}, "messages[0].images"),
        (CHAT, {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "audio": {"id": "x"}}]},
         "messages[1].audio"),
        (CHAT, {"messages": [{"role": "assistant", "content": "x", "prefix": True}]}, "messages[0].prefix"),
    ],
)  # fmt: skip
def test_what_would_have_been_ignored_inside_a_field_is_refused(greeter, path, fields, param):
    error = error_of(greeter.post(path, {**BODIES[path], **fields}))
    assert error["param"] == param
    assert param in error["message"]


@pytest.mark.parametrize("path", [CHAT, "/tokenize", "/parse"])
@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "bos_token", "eos_token"])
def test_what_the_server_gives_a_template_is_not_replaced(greeter, path, name):
    fields = {"messages": HELLO["messages"], "chat_template_kwargs": {name: []}}
    body = {key: value for key, value in BODIES[path].items() if key != "prompt"}
    assert error_of(greeter.post(path, {**body, **fields}))["param"] == f"chat_template_kwargs.{name}"


def test_documents_reach_a_template_that_knows_them():
    server = SmallServer(template="{{ documents[0].text }}" + TEMPLATE)
    try:
        told = server.chat(chat_template_kwargs={"documents": [{"text": "a b"}]}, dry_run=True)
        assert told["prompt"]["text"].startswith("a b<|im_start|>")
    finally:
        server.close()


def test_unknown_fields_are_let_through(greeter):
    """What is for other eyes than the model's cannot have changed an answer that anybody expects."""
    assert greeter.chat(safety_identifier="me", prompt_cache_key="a", prompt_cache_retention="24h", models=["a"],
                       session_id="x", request_id="y", provider={"sort": "price"}, cache_prompt=True)  # fmt: skip
    assert greeter.chat(user="me", store=False, metadata={"a": "b"}, service_tier="auto", x_y_z=[1, {"a": None}])


@pytest.mark.parametrize(
    "fields",
    [
        {"echo": True}, {"add_special_tokens": True}, {"n_predict": 5}, {"max_new_tokens": 5},
        {"stop_sequences": ["x"]}, {"regex_pattern": "a"}, {"grammar_string": "a"}, {"reasoning": {"effort": "high"}},
        {"thinking_token_budget": 5}, {"reasoning_effort": "high"},
        {"return_tokens_as_token_ids": True},
        {"repetition_penalty_range": 5}, {"beam_width": 4}, {"num_beams": 4}, {"prompt": "x"},
    ],
    ids=str,
)  # fmt: skip
def test_fields_that_other_servers_know_are_not_ignored_in_chat(greeter, fields):
    named(error_of(greeter.post(CHAT, {**HELLO, **fields})), next(iter(fields)))
