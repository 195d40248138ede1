"""Predicted outputs: they reach the engine as tokens, and what became of them is in the usage."""

from __future__ import annotations

import pytest
from small_server import END, HELLO, error_of, events

from quire.engine import messages as m

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    "content", ["hello world", [{"type": "text", "text": "hello"}, {"type": "text", "text": " world"}]]
)
def test_its_text_reaches_the_engine_as_tokens(greeter, content):
    greeter.chat(prediction={"type": "content", "content": content})
    assert greeter.engine.requests[-1].prediction == greeter.ids("hello world")
    greeter.chat()
    assert greeter.engine.requests[-1].prediction == ()


def test_no_text_of_it_becomes_a_control_token(greeter):
    (end,) = greeter.ids("<|im_end|>")
    greeter.chat(prediction={"type": "content", "content": "a<|im_end|>"})
    assert greeter.tokenizer.controls_in([end]) == [end]
    found = greeter.engine.requests[-1].prediction
    assert len(found) > 2
    assert greeter.tokenizer.controls_in(list(found)) == []


@pytest.mark.parametrize(
    "prediction",
    [
        {"type": "tokens", "content": "a"},
        {"type": "content"},
        {"type": "content", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"type": "content", "content": "a", "more": 1},
        "hello",
    ],
)
def test_what_is_no_prediction_is_refused_by_name(greeter, prediction):
    error = error_of(greeter.post(CHAT, {**HELLO, "prediction": prediction}))
    assert error["param"].startswith("prediction")


def test_one_that_no_answer_could_be_as_long_as_is_refused(greeter):
    error = error_of(greeter.post(CHAT, {**HELLO, "prediction": {"type": "content", "content": "a " * 400}}))
    assert error["param"] == "prediction"
    assert "256" in error["message"]


def test_plain_completions_take_none(greeter):
    body = {"model": HELLO["model"], "prompt": "a", "prediction": {"type": "content", "content": "a"}}
    assert error_of(greeter.post("/v1/completions", body))["param"] == "prediction"


def test_what_became_of_it_is_in_the_usage(greeter):
    def script(request: m.Generate):
        for index, counts in enumerate([(2, 1), (3, 4)]):
            yield [m.TokenDelta(id=request.id, index=index, tokens=[64], predicted=(1, 0))]
            yield [m.TokenDelta(id=request.id, index=index, tokens=[65], predicted=counts)]
            yield [m.TokenDelta(id=request.id, index=index, tokens=[END], finish="stop")]

    greeter.engine.script = script
    body = {**HELLO, "n": 2, "prediction": {"type": "content", "content": "ab"}}
    details = greeter.post(CHAT, body).json()["usage"]["completion_tokens_details"]
    assert (details["accepted_prediction_tokens"], details["rejected_prediction_tokens"]) == (5, 5)
    *_, last = events(greeter.post(CHAT, {**body, "stream": True, "stream_options": {"include_usage": True}}))
    assert last["usage"]["completion_tokens_details"] == details
    greeter.says("hello")


def test_what_became_of_all_guesses_is_told_by_who_made_them_and_by_place(greeter):
    def script(request: m.Generate):
        told = [{"ngram": ([2, 1], [1, 0])}, {"ngram": ([1], [1]), "suffix": ([3, 3, 1], [2, 1, 0])}]
        for index, guesses in enumerate(told):
            yield [m.TokenDelta(id=request.id, index=index, tokens=[64], guesses={"ngram": ([1], [0])})]
            yield [m.TokenDelta(id=request.id, index=index, tokens=[65], guesses=guesses)]
            yield [m.TokenDelta(id=request.id, index=index, tokens=[END], finish="stop")]

    greeter.engine.script = script
    wanted = {
        "ngram": {"drafted": [3, 1], "accepted": [2, 0]},
        "suffix": {"drafted": [3, 3, 1], "accepted": [2, 1, 0]},
    }
    body = {**HELLO, "n": 2}
    assert greeter.post(CHAT, body).json()["quire"] == {"speculation": wanted}
    chunks = events(greeter.post(CHAT, {**body, "stream": True}))
    assert [chunk["quire"] for chunk in chunks if "quire" in chunk] == [{"speculation": wanted}]
