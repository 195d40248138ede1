"""A budget reaches the engine as what it says, by any of its names; what a step did is told however the answer ends."""

from __future__ import annotations

from typing import Any

import pytest
from small_server import END, HELLO, MODEL, TEMPLATE, VOCAB, SmallServer, error_of, events

from quire.engine import messages as m
from quire.engine.messages import ThoughtBudget
from quire.server.budgets import FIELDS

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
TAGS = ("<think>", "</think>")
BEGIN, CLOSE = VOCAB, VOCAB + 1
MAY = TEMPLATE + "{# <think>...\\n</think> #}"
MUST = MAY.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
TOLD = MAY.replace("{% endif %}", "{{ 'budget ' ~ thinking_budget if thinking_budget is defined }}{% endif %}")
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.fixture(scope="module")
def servers():
    made = {
        "may": SmallServer(template=MAY, markup=TAGS),
        "must": SmallServer(template=MUST, markup=TAGS),
        "told": SmallServer(template=TOLD, markup=TAGS),
        "never": SmallServer(),
    }
    for server in made.values():
        server.says("hello")
    yield made
    for server in made.values():
        server.close()


def sent(server: SmallServer, **fields: Any) -> ThoughtBudget | None:
    """What the engine is told of a request's thoughts."""
    server.chat(**fields)
    return server.engine.requests[-1].params.thought


@pytest.mark.parametrize("field", FIELDS)
def test_every_name_reaches_the_engine(servers, field):
    line = tuple(servers["may"].ids("\n"))
    wanted = ThoughtBudget(tokens=3, ends=("</think>",), close=(CLOSE,), newline=line, begin="<think>")
    assert sent(servers["may"], **{field: 3}) == wanted
    assert sent(servers["may"], chat_template_kwargs={field: 3}) == wanted
    assert sent(servers["may"], **{field: 3.0}) == wanted
    assert sent(servers["must"], **{field: 0}).inside
    assert sent(servers["must"], **{field: -1}) is None
    assert sent(servers["must"], **{field: None}) is None
    assert sent(servers["never"], **{field: -1}) is None


def test_two_names_may_say_the_same(servers):
    assert sent(servers["may"], thinking_budget=3, thinking_token_budget=3).tokens == 3
    error = error_of(servers["may"].post(CHAT, {**HELLO, "thinking_budget": 3, "reasoning_budget": 4}))
    assert error["param"] == "reasoning_budget"


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("stream", [True, False])
def test_a_model_without_known_thoughts_has_no_budget(servers, field, stream):
    before = len(servers["never"].engine.requests)
    for value in (0, 5):
        error = error_of(servers["never"].post(CHAT, {**HELLO, field: value, "stream": stream}))
        assert (error["param"], error["code"]) == (field, "unsupported_parameter")
        error = error_of(servers["never"].post(CHAT, {**HELLO, "chat_template_kwargs": {field: value}}))
        assert error["param"] == f"chat_template_kwargs.{field}"
    assert len(servers["never"].engine.requests) == before


@pytest.mark.parametrize("value", [-2, 1.5, True, "5", [5]])
def test_what_is_no_count_is_refused(servers, value):
    error = error_of(servers["may"].post(CHAT, {**HELLO, "thinking_token_budget": value}))
    assert error["param"] == "thinking_token_budget"
    error = error_of(servers["may"].post(CHAT, {**HELLO, "chat_template_kwargs": {"thinking_budget": value}}))
    assert error["param"] == "chat_template_kwargs.thinking_budget"


@pytest.mark.parametrize("field", [*FIELDS, "max_reasoning_tokens"])
def test_plain_completions_know_no_thoughts(servers, field):
    body = {"model": MODEL, "prompt": "x"}
    assert servers["may"].post(COMPLETIONS, {**body, field: -1}).status_code == 200
    for value in (0, 5):
        assert error_of(servers["may"].post(COMPLETIONS, {**body, field: value}))["param"] == field


def test_a_message_before_the_end_is_refused_and_an_empty_one_is_none(servers):
    assert sent(servers["may"], thinking_budget=3, reasoning_budget_message="").tokens == 3
    error = error_of(servers["may"].post(CHAT, {**HELLO, "reasoning_budget_message": "Enough!"}))
    assert error["param"] == "reasoning_budget_message"


def test_a_template_that_reads_the_budget_is_given_it(servers):
    shown = servers["told"].post(CHAT, {**HELLO, "reasoning_budget": 7, "dry_run": True}).json()
    assert "budget 7" in shown["prompt"]["text"]
    assert shown["thinking_budget"] == 7
    shown = servers["told"].post(CHAT, {**HELLO, "dry_run": True}).json()
    assert "budget" not in shown["prompt"]["text"]
    assert shown["thinking_budget"] is None


def test_a_grammar_goes_with_a_budget(servers):
    format = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    assert sent(servers["must"], thinking_budget=3, response_format=format).inside
    params = servers["must"].engine.requests[-1].params
    assert params.grammar is not None
    assert params.grammar_after == (CLOSE,)


def test_who_leaves_the_tag_out_of_the_tokens_that_may_come_cannot_have_a_budget(servers):
    body = {**HELLO, "thinking_budget": 3, "allowed_token_ids": [64]}
    assert error_of(servers["may"].post(CHAT, body))["param"] == "allowed_token_ids"
    assert sent(servers["may"], thinking_budget=3, allowed_token_ids=[64, CLOSE]).newline == ()


@pytest.mark.parametrize("stream", [True, False])
def test_what_the_engine_refuses_is_told_of_the_field(servers, stream):
    server = servers["may"]
    server.engine.script = lambda request: [
        [m.Failed(id=request.id, code="invalid_grammar", message="no token ends a text")]
    ]
    error = error_of(server.post(CHAT, {**HELLO, "thinking_budget": 3, "stream": stream}))
    assert (error["param"], error["code"]) == ("thinking_budget", "invalid_grammar")
    assert error["message"] == "thinking_budget: no token ends a text"
    server.says("hello")


def test_a_thought_that_was_ended_is_counted_and_is_no_grammar(servers):
    server = servers["must"]
    think, yes, line = server.ids("he"), server.ids("o"), server.ids("\n")
    guided = m.Guided(None, None, len(line) + 1)
    server.engine.script = lambda request: [
        [m.TokenDelta(id=request.id, index=0, tokens=[*think, *line, CLOSE], guided=guided)],
        [m.TokenDelta(id=request.id, index=0, tokens=[*yes, END], finish="stop", guided=guided)],
    ]
    answer = server.chat(thinking_budget=1)
    message = answer["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("he", "o")
    details = answer["usage"]["completion_tokens_details"]
    assert details["forced_tokens"] == len(line) + 1
    assert "quire" not in answer
    server.says("hello")


# ---------------------------------------------------------------- failures and figures of grammars


def deltas(request: m.Generate, *steps: tuple[list[int], m.Guided]) -> list[list[Any]]:
    return [
        [m.TokenDelta(id=request.id, index=index, tokens=tokens, guided=guided)]
        for tokens, guided in steps
        for index in range(request.n)
    ]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_an_answer_that_a_stop_string_ends_tells_its_figures(servers, path):
    server = servers["never"]
    ab, c = list(server.ids("ab")), list(server.ids("c"))
    marks = (*[False] * (len(c) + 2 * len(ab)), *[True] * len(ab))
    server.engine.script = lambda request: deltas(
        request,
        (ab, m.Guided(0.5, 0.75, 0)),
        ([*c, *ab, *ab, *ab], m.Guided(0.25, 0.5, 4, marks)),
        (ab, m.Guided(0.1, 0.1, 9)),
    )
    prompt = {"prompt": "x"} if path == COMPLETIONS else {"messages": HELLO["messages"]}
    body = {"model": MODEL, **prompt, "n": 2, "guided_regex": "a", "stop": "ca"}
    plain = server.post(path, body).json()
    assert [choice["finish_reason"] for choice in plain["choices"]] == ["stop", "stop"]
    assert plain["quire"] == {"grammar": {"lowest": 0.25, "mean": 0.5}}
    counted = plain["usage"]["completion_tokens"] // 2
    taken = counted - len(ab)
    beyond = sum(marks[taken:])
    assert 0 < beyond < len(marks) - taken, "some that were not forced are beyond the stop string too"
    assert plain["usage"]["completion_tokens_details"]["forced_tokens"] == 2 * (4 - beyond)
    *chunks, last = events(server.post(path, {**body, "stream": True, "stream_options": {"include_usage": True}}))
    assert [chunk["quire"] for chunk in chunks if "quire" in chunk] == [plain["quire"]]
    assert last["usage"] == plain["usage"]
    server.says("hello")


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_a_grammar_that_fails_in_mid_answer_is_told_of_its_field(servers, path):
    server = servers["never"]
    ab = list(server.ids("ab"))
    server.engine.script = lambda request: [
        *deltas(request, (ab, m.Guided(0.5, 0.5, 0))),
        [m.Failed(id=request.id, code="invalid_grammar", message="it has too many states")],
    ]
    prompt = {"prompt": "x"} if path == COMPLETIONS else {"messages": HELLO["messages"]}
    body = {"model": MODEL, **prompt, "guided_regex": "a"}
    error = error_of(server.post(path, body))
    assert (error["code"], error["param"]) == ("invalid_grammar", "guided_regex")
    assert error["message"] == "guided_regex: it has too many states"
    *chunks, last = events(server.post(path, {**body, "stream": True}))
    assert chunks
    assert (last["error"]["code"], last["error"]["param"]) == ("invalid_grammar", "guided_regex")
    server.says("hello")
