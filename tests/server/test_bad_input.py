"""Whatever comes in, the answer is an answer or a 4xx that names the field; never a 5xx, never another shape."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from small_server import HELLO, MODEL, TEMPLATE, VOCAB, SmallServer, error_of, named

from quire.server import budgets
from quire.server.openai.refused import REFUSED
from quire.server.openai.schema import (
    Body,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    ParseRequest,
    TokenizeRequest,
)

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BODIES: dict[str, tuple[type, dict[str, Any]]] = {
    CHAT: (ChatRequest, HELLO),
    COMPLETIONS: (CompletionRequest, {"model": MODEL, "prompt": "hello"}),
    "/tokenize": (TokenizeRequest, {"model": MODEL, "prompt": "hello"}),
    "/detokenize": (DetokenizeRequest, {"model": MODEL, "tokens": [64]}),
    "/parse": (ParseRequest, {"model": MODEL, "text": "hello"}),
}
HUGE = 10**30
LATE = "<|late|>"  # a token behind the rows of the model

# What no field of a kind may be. The kind of each field is told by what it accepts, below.
WRONG: dict[str, list[Any]] = {
    "flag": [1, 0, "true", "no", [], {}, [True], 0.5],
    "whole": ["1", "many", True, 1.5, -(10**9), [], [1], {}],
    "number": ["1", "hot", True, [], [0.5], {}, 10**400, -(10**40)],
    "string": [1, 0.5, True, [], {}, ["x"]],
    "strings": [1, True, {}, [1], [["x"]], {"a": "x"}],
    "ids": [1, "1", {}, ["1"], [-1], [1.5], [True], [HUGE], [[1]]],
    "object": [1, "x", [], True, ["x"]],
}
KINDS: dict[str, str] = {
    **dict.fromkeys(
        "stream include_stop_str_in_output ignore_eos skip_special_tokens return_token_ids echo add_special_tokens "
        "add_generation_prompt continue_final_message return_token_strs parallel_tool_calls include_reasoning "
        "dry_run".split(), "flag"),
    **dict.fromkeys(
        "n max_tokens max_completion_tokens min_tokens top_k dry_allowed_length dry_penalty_last_n "
        "prompt_logprobs top_logprobs num_speculative_tokens".split(), "whole"),
    **dict.fromkeys(
        "temperature top_p min_p typical_p xtc_probability xtc_threshold dry_multiplier dry_base mirostat_tau "
        "mirostat_eta repetition_penalty presence_penalty frequency_penalty".split(), "number"),
    "model": "string", "cache_salt": "string",
    "bad_words": "strings", "dry_sequence_breakers": "strings",
    "stop_token_ids": "ids", "allowed_token_ids": "ids", "tokens": "ids",
    "stream_options": "object", "logit_bias": "object", "chat_template_kwargs": "object",
}  # fmt: skip
OTHER: dict[str, list[Any]] = {  # fields with a mind of their own
    "mirostat": ["1", 1.5, [], {}],
    "priority": ["1", True, 1.5, [], {}],
    "seed": ["1", True, 1.5, []],
    **{key: ["1", True, 1.5, [], {}, -2, 10] for key in budgets.FIELDS},  # these models have no thoughts
    "top_n_sigma": ["1", True, [], 10**40],
    "stop": [1, True, {}, [1], [""], "", [["x"]]],
    "messages": ["x", 1, [], {}, [1], ["hello"], [[]], [{"content": "x"}], [{"role": "robot", "content": "x"}],
                 [{"role": 1, "content": "x"}], [{"role": "user", "content": 1}], [{"role": "user", "content": {}}],
                 [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
                 [{"role": "user", "content": [{"type": "text", "text": 5}]}], [{"role": "user", "content": [5]}],
                 [{"role": "user", "content": "x", "name": 5}],
                 [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}],
                 [{"role": "assistant", "tool_calls": 5}], [{"role": "tool", "content": "x", "tool_call_id": 5}]],
    "prompt": [1, 0.5, True, {}, [], [[]], [True], [1.5], ["x", 1], [[1], "x"], [[1], []], [-1], [HUGE], [VOCAB + 5],
               [[VOCAB + 5]], [["x"]], [None]],
    "suffix": [1, 0.5, True, [], {}, ["x"]],  # any text is refused too: this vocabulary has no tokens for it
    "tools": [1, "x", {}, [1], ["x"], True, [{}], [{"type": "function"}], [{"function": {}}],
              [{"function": {"name": 5}}], [{"function": {"name": ""}}], [{"function": {"name": "a b"}}],
              [{"type": "custom", "custom": {"name": "f"}}],
              [{"function": {"name": "f", "parameters": 5}}], [{"function": {"name": "f", "strict": 1}}],
              [{"function": {"name": "f", "parameters": {"type": "string"}}}], [{"function": {"name": "f"}}] * 2,
              [{"function": {"name": "f", "description": 5}}]],
    "tool_choice": [1, True, [], {}, {"type": "function"}, {"type": "allowed_tools"}, {"function": {"name": "f"}},
                    {"function": 5}, {"function": {"name": ["f"]}}],
    "reasoning_effort": [1, True, [], "much"],
    "text": [1, True, [], {}, ["x"]],
    "prediction": [1, "x", True, [], {}, {"type": "content"}, {"type": "tokens", "content": "a"}, {"content": 5},
                   {"content": [5]}, {"content": [{"type": "text"}]}, {"content": "a", "more": 1}],
    "adapters": [1, "x", True, {}, {"name": "a"}, ["a"], [1], [[]], [{}], [{"name": 5}], [{"name": "a", "scale": "1"}],
                 [{"name": "a", "scale": True}], [{"name": "a", "scale": [1]}], [{"name": "a", "weight": 1}],
                 [{"name": "a", "scale": 100.5}], [{"name": "a", "scale": -101}], [{"name": "a", "scale": HUGE}],
                 [{"name": "a"}] * 9, [{"name": MODEL}]],
    "merge": [1, "ties", True, [], {}, {"kind": "svd"}, {"kind": 1}, {"merge_strategy": "ties"}, {"density": 0.5},
              {"kind": "ties", "density": 0}, {"kind": "ties", "density": 1.5}, {"kind": "ties", "density": "1"},
              {"kind": "ties", "density": True}, {"kind": "dare_linear", "majority_sign_method": "total"},
              {"kind": "ties", "majority_sign_method": "most"}, {"kind": "ties"}],
    "logprobs": ["x", [], {}, 1.5],
}  # fmt: skip
RANGES: list[tuple[str, list[Any]]] = [
    ("n", [0, -1, 129, HUGE]),
    ("max_tokens", [-1, HUGE]),
    ("min_tokens", [-1, HUGE]),
    ("temperature", [-0.1, 101, 1e300]),
    ("top_p", [-0.1, 1.1, 1e300]),
    ("top_k", [-2, HUGE]),
    ("min_p", [-0.1, 1.1]),
    ("typical_p", [-0.1, 1.1]),
    ("top_n_sigma", [1001]),
    ("xtc_probability", [-0.1, 1.1]),
    ("xtc_threshold", [-0.1, 1.1]),
    ("dry_multiplier", [-1, 1e6]),
    ("dry_base", [0.5, 1e6]),
    ("dry_allowed_length", [0, HUGE]),
    ("dry_penalty_last_n", [-2, HUGE]),
    ("dry_sequence_breakers", [["x"] * 1000]),
    ("mirostat", [3, -1]),
    ("mirostat_tau", [-1, 1e6]),
    ("mirostat_eta", [-1, 1e6]),
    ("repetition_penalty", [0, -1, 1e6]),
    ("presence_penalty", [-1e6, 1e6]),
    ("frequency_penalty", [-1e6, 1e6]),
    ("logit_bias", [{"x": 1}, {"-1": 1}, {"": 1}, {"1.5": 1}, {"9" * 5000: 1}, {str(VOCAB + 5): 1}, {"1": "x"},
                    {"1": 1e6}, {"1": True}, {"²": 1}, {"1": [1]}, {"1": {}}, {"1": None}, {"1": HUGE}]),
    ("stop_token_ids", [[VOCAB + 5], [HUGE], [-1]]),
    ("allowed_token_ids", [[], [VOCAB + 5]]),
    ("bad_words", [[""], [" "], ["x"] * 1025]),
    ("stop", [["x"] * 1025]),
    ("suffix", ["x"]),
    ("prompt_logprobs", [-1, 101, HUGE]),
    ("priority", [HUGE, -HUGE]),
    ("stream_options", [{"include_usage": "x"}, {"include_usage": 1}, {"continuous_usage_stats": []}]),
    ("max_completion_tokens", [-1, HUGE]),
    ("top_logprobs", [-1, 101, HUGE]),
    ("chat_template_kwargs", [5]),
    ("logprobs", [101, -1, HUGE]),
]  # fmt: skip


def wrong_values(path: str) -> list[tuple[str, Any]]:
    fields = BODIES[path][0].model_fields
    found = [(field, value) for field in fields for value in OTHER.get(field) or WRONG[KINDS[field]]]
    found += [(field, value) for field, values in RANGES if field in fields for value in values]
    return found


def test_every_field_has_its_wrong_values_here():
    for kind, _ in BODIES.values():
        assert set(kind.model_fields) <= set(OTHER) | set(KINDS)


@pytest.mark.parametrize("path", BODIES)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(greeter, path):
    """Every field of every body, with values of a wrong type, out of range or absurd."""
    taken = []
    for field, value in wrong_values(path):
        more = {"logprobs": True} if field == "top_logprobs" else {}
        body = json.dumps({**BODIES[path][1], **more, field: value})
        response = greeter.request("POST", path, content=body)
        if response.status_code == 200:
            taken.append((field, value))
            continue
        error = error_of(response, 404 if field == "model" and isinstance(value, str) else 400)
        if error["code"] not in ("invalid_json", "context_length_exceeded"):  # no JSON number, no place in the context
            named(error, field)
    assert taken == []


@pytest.mark.parametrize("path", BODIES)
def test_what_is_missing_is_named(greeter, path):
    needed = {CHAT: "messages", "/detokenize": "tokens", "/parse": "text"}.get(path, "prompt")
    error = error_of(greeter.post(path, {"model": MODEL}))
    assert error["param"] == needed
    assert "missing" in error["message"]


@pytest.mark.parametrize(
    ("path", "field"), [(p, f) for p in (CHAT, COMPLETIONS) for f in REFUSED if f not in BODIES[p][0].model_fields]
)
def test_what_cannot_be_done_is_refused_and_its_neutral_values_are_taken(greeter, path, field):
    body = BODIES[path][1]
    error = error_of(greeter.post(path, {**body, field: {"type": "asked for"}}))
    named(error, field)
    assert error["code"] == "unsupported_parameter"
    for neutral in REFUSED[field][0]:
        response = greeter.post(path, {**body, field: neutral})
        assert response.status_code == 200, (neutral, response.text)


TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"tools": [TOOL], "tool_choice": "auto"}, "tools"),
        ({"tools": [TOOL], "tool_choice": "required"}, "tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"tool_choice": "whatever"}, "tool_choice"),
        ({"parallel_tool_calls": False, "tools": [TOOL]}, "tools"),
        (
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}], "function_call": {"name": "f"}}
                ]
            },
            "messages",
        ),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"best_of": 3}, "best_of"),
        ({"best_of": 1, "n": 2}, "best_of"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"max_tokens": 5, "max_completion_tokens": 3}, "max_tokens"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens"),
        ({"stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
    ],
)
def test_what_does_not_go_together_is_refused(greeter, fields, param):
    named(error_of(greeter.post(CHAT, {**HELLO, **fields})), param)


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "content",
    [b"", b" ", b"{", b"[]", b"null", b"5", b'"x"', b"\xff\xfe{}", b'{"model": "\xff"}', b'{"prompt": "\\ud800"}',
     b'{"temperature": NaN}', b'{"temperature": Infinity}', b'{"temperature": 1e999}', b"{'prompt': 'x'}",
     b'{"prompt": "x"} more', b"[" * 100_000, b'{"a":' * 100_000, b'{"n": ' + b"9" * 10_000 + b"}",
     b"model=small&prompt=x", b"\x00", "{\"prompt\": \"x\"}".encode("utf-16")],
    ids=lambda c: repr(c[:20]),
)  # fmt: skip
def test_what_is_no_json_object_is_refused(greeter, path, content):
    error = error_of(greeter.request("POST", path, content=content))
    assert error["type"] == "invalid_request_error"
    assert error["code"] == "invalid_json"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"null", "the body is null; expected a JSON object"),
        (b"true", "the body is true;"),
        (b'{"temperature": 1e999}', "temperature: Number out of range"),
        (b'{"n": 1, "n": 2}', 'the body cannot be read in one way only: "n" stands twice in an object'),
        (b'{"messages": [{"role": "user", "content": "a", "\\u0063ontent": "b"}]}', '"content" stands twice'),
        (b'{"model": null, "messages": [], "model": "x"}', '"model" stands twice'),
        (b'{"messages": true}', "messages: Input should be a valid list; it is true"),
        (b'{"messages": [5]}', "messages[0]: Input should be an object; it is 5"),
        (b'{"messages": [{"role": "user", "content": "x"}], "stream_options": true}', "an object; it is true"),
        (b'{"messages": [{"role": "user", "content": "x"}], "tool_choice": {"type": "allowed_tools"}}',
         'tool_choice: it is {"type": "allowed_tools"}; expected none, auto, required or'),
    ],
    ids=lambda c: repr(c[:40]),
)  # fmt: skip
def test_an_error_says_what_was_found_in_the_words_of_json(greeter, content, told):
    message = error_of(greeter.request("POST", CHAT, content=content))["message"]
    assert told in message
    assert "True" not in message


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "text/plain", "application/octet-stream", None])
def test_json_is_read_under_any_content_type(greeter, kind):
    """A body that is JSON is taken as such: many a client forgets the header."""
    headers = {"content-type": kind} if kind else {}
    response = greeter.request("POST", CHAT, content=json.dumps(HELLO), headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize("depth", [50, 300, 600, 900])
@pytest.mark.parametrize(
    "field", ["temperature", "stop", "messages", "prompt", "tools", "chat_template_kwargs", "other"]
)
def test_deep_nesting_is_answered(greeter, field, depth):
    deep: Any = "x"
    for i in range(depth):
        deep = [deep] if i % 2 else {"a": deep}
    for path in (CHAT, COMPLETIONS):
        if field == "messages":
            deep = [{"role": "user", "content": "x", "more": deep}]
        if field == "tools":
            deep = [{"function": deep}]
        body = {**BODIES[path][1], field: deep, "tool_choice": "none"}
        assert greeter.post(path, body).status_code in (200, 400)


def test_nulls_anywhere_mean_left_out(greeter):
    fields = dict.fromkeys(set(ChatRequest.model_fields) | set(REFUSED) | {"best_of", "user", "metadata"})
    messages = [
        {"role": "system", "content": "x", "name": None, "tool_calls": None},
        {"role": "user", "content": [{"type": "text", "text": "hello", "cache_control": None}], "tool_call_id": None},
        {"role": "assistant", "content": None, "tool_calls": [{"id": None, "type": None, "index": None,
            "function": {"name": "f", "arguments": None}}], "refusal": None, "audio": None, "function_call": None},
        {"role": "tool", "content": None, "tool_call_id": "1"},
        {"role": "user", "content": "hello"},
    ]  # fmt: skip
    options = {"include_usage": None, "continuous_usage_stats": None}
    answer = greeter.chat(**{**fields, "messages": messages, "stream_options": options})
    assert answer["choices"][0]["message"]["content"] == "hello"
    nulls = dict.fromkeys(set(CompletionRequest.model_fields) | set(REFUSED) | {"best_of"})
    assert greeter.complete(**{**nulls, "prompt": "x"})["choices"][0]["text"] == "hello"


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        ([64, 65, "x"], "prompt[2]"), (["a", "b", 5], "prompt[2]"), ([[64], [65], []], "prompt[2]"),
        ([[64], [65, "x"]], "prompt[1][1]"), ([[64], "x"], "prompt[1]"), ([64] * 8_000 + [-1], "prompt[8000]"),
    ],
    ids=["ids", "texts", "lists", "in a list", "text among lists", "many"],
)  # fmt: skip
def test_the_item_that_is_wrong_is_named_and_no_other(greeter, prompt, param):
    assert error_of(greeter.post(COMPLETIONS, {"prompt": prompt}))["param"] == param


MESSAGE, CALL = HELLO["messages"][0], {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("path", "fields", "where"),
    [
        (CHAT, {"messages": [MESSAGE] * 9000}, "messages"),
        (CHAT, {"messages": [MESSAGE, {"role": "user", "content": [{"type": "text", "text": ""}] * 9000}]},
         "messages[1].content"),
        (CHAT, {"messages": [MESSAGE, {"role": "assistant", "tool_calls": [CALL] * 9000}]}, "messages[1].tool_calls"),
        (CHAT, {**HELLO, "tools": [{}] * 9000}, "tools"),
        (COMPLETIONS, {"prompt": [1] * 9000}, "prompt"),
        (COMPLETIONS, {"prompt": ["x"] * 9000}, "prompt"),
        ("/tokenize", {"messages": [MESSAGE] * 9000}, "messages"),
    ],
)  # fmt: skip
def test_lists_that_can_never_fit_are_refused_before_their_items_are_looked_at(
    greeter, monkeypatch, path, fields, where
):
    monkeypatch.setattr(Body, "model_validate", None)
    error = error_of(greeter.post(path, fields))
    assert error["message"] == f"{where} has 9000 items; expected at most 8192"
    assert error["param"] == where


def test_a_list_that_is_too_long_is_told_to_be(greeter):
    assert "at most 1024" in error_of(greeter.post(COMPLETIONS, {"prompt": "x", "stop": ["x"] * 1025}))["message"]


@pytest.mark.parametrize("path", BODIES)
def test_an_unknown_model_is_404(greeter, path):
    error = error_of(greeter.post(path, {**BODIES[path][1], "model": "gpt-9"}), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "gpt-9" in error["message"]


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [(CHAT, {"messages": [{"role": "user", "content": "x" * 400}]}, "messages"),
     (COMPLETIONS, {"prompt": "x" * 400}, "prompt"), (COMPLETIONS, {"prompt": [1] * 400}, "prompt"),
     (CHAT, {"max_tokens": 10_000}, "messages")],
)  # fmt: skip
@pytest.mark.parametrize("stream", [True, False])
def test_what_is_too_long_is_refused_in_the_words_that_clients_look_for(greeter, path, fields, param, stream):
    error = error_of(greeter.post(path, {**BODIES[path][1], **fields, "stream": stream}))
    assert (error["code"], error["type"]) == ("context_length_exceeded", "invalid_request_error")
    assert error["param"] == param
    for words in ("This model's maximum context length is 256 tokens", "reduce the length of the messages",
                  "context_length_exceeded"):  # fmt: skip
        assert words in error["message"]


def test_what_is_told_of_a_value_is_short(greeter):
    error = error_of(greeter.post(CHAT, {**HELLO, "temperature": "x" * 10**6}))
    assert len(error["message"]) < 300
    error = error_of(greeter.post(CHAT, {**HELLO, "model": "x" * 10**6}), 404)
    assert len(error["message"]) < 2100


anything = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.integers(-3, 300), st.text(max_size=5),
        st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["auto", "none", "user", "text", "a"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["role", "content", "type", "text", "name", "tool_calls", "function", "1"]),
                        inner, max_size=4),
    ),
    max_leaves=8,
)  # fmt: skip


@pytest.mark.parametrize("path", BODIES)
def test_no_json_object_gives_anything_but_an_answer_or_an_error(greeter, path):
    kind, body = BODIES[path]
    fields = sorted({*kind.model_fields, *REFUSED, "best_of", "something"})

    @settings(max_examples=200, deadline=None)
    @given(st.dictionaries(st.sampled_from(fields), anything, max_size=4), st.booleans())
    @example({"logit_bias": {"1" * 5000: 1}}, True)
    def holds(given_fields: dict[str, Any], whole: bool) -> None:
        response = greeter.post(path, {**(body if whole else {}), **given_fields})
        if response.status_code != 200:
            assert response.status_code in (400, 404)
            assert error_of(response, None)["code"] != "internal_error"

    holds()
    assert greeter.engine.pending == 0


@settings(max_examples=300, deadline=None)
@given(content=st.binary(max_size=50))
def test_no_bytes_give_anything_but_an_error(greeter, content):
    error_of(greeter.request("POST", CHAT, content=content))


@pytest.fixture
def fewer_rows():
    """A model whose tokenizer was given a token more than it has rows, as many are published."""
    server = SmallServer(template=TEMPLATE + f"{{% if late %}}{LATE}{{% endif %}}", markup=(LATE,))
    server.engine.info = msgspec.structs.replace(server.engine.info, vocab_size=VOCAB)
    assert server.ids(LATE) == (VOCAB,)
    server.says("hello")
    yield server
    server.close()


def test_a_token_that_the_model_has_no_row_for_is_refused_by_its_field(fewer_rows):
    """In the engine it would be a row of somebody else's memory."""
    for path, more, field in (
        (COMPLETIONS, {"prompt": f"hello{LATE}"}, "prompt"),
        (COMPLETIONS, {"prompt": ["hello", LATE]}, "prompt[1]"),
        (COMPLETIONS, {"prompt": [64, VOCAB]}, "prompt"),
        (CHAT, {"chat_template_kwargs": {"late": True}}, "messages"),
    ):
        error = error_of(fewer_rows.post(path, {**BODIES[path][1], **more}))
        named(error, field)
        assert error["message"] == f"{field} has the id {VOCAB}; the model has {VOCAB} ids"
    assert fewer_rows.chat(bad_words=[LATE]), "in a message and in a word it is text"
