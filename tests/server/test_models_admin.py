"""What is served, its tokens, and the small routes beside the answers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Model
from small_server import BOS, END, HELLO, MODEL, TEMPLATE, VOCAB, SmallServer, error_of


def test_models_are_listed_with_their_context(greeter):
    found = greeter.get("/v1/models").json()
    assert found["object"] == "list"
    assert [model["id"] for model in found["data"]] == [MODEL, "team/small"]
    for model in found["data"]:
        Model.model_validate(model)
        assert model["max_model_len"] == model["context_length"] == 256
        assert model["parent"] is None


def test_a_model_is_found_by_its_name_with_slashes(greeter):
    for name in (MODEL, "team/small", "team%2Fsmall"):
        found = greeter.get(f"/v1/models/{name}").json()
        Model.model_validate(found)
        assert found["id"] == name.replace("%2F", "/")
    for name in ("other", "team", "team/small/more", "small/"):
        assert error_of(greeter.get(f"/v1/models/{name}"), 404)["code"] == "model_not_found"


def test_a_slash_behind_the_list_is_the_list(greeter):
    assert greeter.get("/v1/models/").json() == greeter.get("/v1/models").json()


@pytest.mark.parametrize(
    "path", ["/", "/health", "/ready", "/metrics", "/v1/models", "/v1/models/team/small", "/tokenizer_info"]
)
def test_what_can_be_looked_at_can_be_asked_for_by_head(greeter, path):
    assert greeter.request("HEAD", path).status_code == 200


@pytest.mark.parametrize("name", [MODEL, "team/small", "", None])
def test_each_served_name_answers_under_itself_and_no_name_under_the_first(greeter, name):
    assert greeter.chat(model=name)["model"] == (name or MODEL)
    assert greeter.complete(model=name)["model"] == (name or MODEL)


def test_models_are_listed_while_the_engine_is_away():
    server = SmallServer()
    server.engine.state, server.engine.info = "starting", None
    assert server.get("/v1/models").json()["data"][0]["max_model_len"] is None
    assert server.post("/tokenize", {"prompt": "hello"}).json()["max_model_len"] is None
    server.close()


def test_tokenize_says_what_a_prompt_is_made_of(greeter):
    found = greeter.post("/tokenize", {"prompt": "hello<|end|>", "return_token_strs": True}).json()
    hello = list(greeter.ids("hello"))
    assert found == {"count": 2, "tokens": [*hello, END], "max_model_len": 256, "token_strs": ["hello", "<|end|>"]}
    assert "token_strs" not in greeter.post("/tokenize", {"prompt": "hello"}).json()


def test_tokenize_of_messages_is_what_chat_sends_to_the_model(greeter):
    for more in ({}, {"add_generation_prompt": False}):
        greeter.chat(**more)
        told = greeter.post("/tokenize", {**HELLO, **more}).json()["tokens"]
        assert told == greeter.engine.requests[-1].prompt
    continued = {
        "messages": [*HELLO["messages"], {"role": "assistant", "content": "he"}],
        "continue_final_message": True,
    }
    greeter.chat(**continued)
    told = greeter.post("/tokenize", continued).json()["tokens"]
    assert told == greeter.engine.requests[-1].prompt
    assert tuple(told[-1:]) == greeter.ids("he")


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=30))
def test_detokenize_undoes_tokenize(greeter, text):
    ids = greeter.post("/tokenize", {"prompt": text}).json()["tokens"]
    assert greeter.post("/detokenize", {"tokens": ids}).json() == {"prompt": text}


def test_detokenize_shows_control_tokens_and_knows_no_others(greeter):
    assert greeter.post("/detokenize", {"tokens": [BOS, 64, END]}).json() == {"prompt": "<|bos|>a<|end|>"}
    assert greeter.post("/detokenize", {"tokens": []}).json() == {"prompt": ""}
    assert error_of(greeter.post("/detokenize", {"tokens": [64, VOCAB]}))["param"] == "tokens"


def test_tokenizer_info_tells_what_lm_eval_reads(greeter):
    found = greeter.get("/tokenizer_info").json()
    assert found["bos_token"] == "<|bos|>"
    assert found["eos_token"] == "<|end|>"
    assert found["pad_token"] is None
    assert found["chat_template"] == TEMPLATE
    assert found["vocab_size"] == VOCAB


def test_the_root_says_hello(greeter):
    assert "quire" in greeter.get("/").text
    assert greeter.get("/health").json() == {"status": "ok"}
