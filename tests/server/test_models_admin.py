"""What is served, its tokens, and the small routes beside the answers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openai.types import Model
from small_server import BOS, END, HELLO, MODEL, TEMPLATE, VOCAB, SmallServer, error_of


@pytest.fixture(scope="module")
def server():
    server = SmallServer()
    server.says("hello")
    yield server
    server.close()


def test_models_are_listed_with_their_context(server):
    found = server.get("/v1/models").json()
    assert found["object"] == "list"
    assert [model["id"] for model in found["data"]] == [MODEL, "team/small"]
    for model in found["data"]:
        Model.model_validate(model)
        assert model["max_model_len"] == model["context_length"] == 256
        assert model["parent"] is None


def test_a_model_is_found_by_its_name_with_slashes(server):
    for name in (MODEL, "team/small", "team%2Fsmall"):
        found = server.get(f"/v1/models/{name}").json()
        Model.model_validate(found)
        assert found["id"] == name.replace("%2F", "/")
    for name in ("other", "team", "team/small/more", "small/"):
        assert error_of(server.get(f"/v1/models/{name}"), 404)["code"] == "model_not_found"


def test_a_slash_behind_the_list_is_the_list(server):
    assert server.get("/v1/models/").json() == server.get("/v1/models").json()


@pytest.mark.parametrize(
    "path", ["/", "/health", "/ready", "/metrics", "/v1/models", "/v1/models/team/small", "/tokenizer_info"]
)
def test_what_can_be_looked_at_can_be_asked_for_by_head(server, path):
    assert server.request("HEAD", path).status_code == 200


@pytest.mark.parametrize("name", [MODEL, "team/small", "", None])
def test_each_served_name_answers_under_itself_and_no_name_under_the_first(server, name):
    assert server.chat(model=name)["model"] == (name or MODEL)
    assert server.complete(model=name)["model"] == (name or MODEL)


def test_models_are_listed_while_the_engine_is_away():
    server = SmallServer()
    server.engine.state, server.engine.info = "starting", None
    assert server.get("/v1/models").json()["data"][0]["max_model_len"] is None
    assert server.post("/tokenize", {"prompt": "hello"}).json()["max_model_len"] is None
    server.close()


def test_tokenize_says_what_a_prompt_is_made_of(server):
    found = server.post("/tokenize", {"prompt": "hello<|end|>", "return_token_strs": True}).json()
    hello = list(server.ids("hello"))
    assert found == {"count": 2, "tokens": [*hello, END], "max_model_len": 256, "token_strs": ["hello", "<|end|>"]}
    assert "token_strs" not in server.post("/tokenize", {"prompt": "hello"}).json()


def test_tokenize_of_messages_is_what_chat_sends_to_the_model(server):
    for more in ({}, {"add_generation_prompt": False}):
        server.chat(**more)
        told = server.post("/tokenize", {**HELLO, **more}).json()["tokens"]
        assert told == server.engine.requests[-1].prompt
    continued = {
        "messages": [*HELLO["messages"], {"role": "assistant", "content": "he"}],
        "continue_final_message": True,
    }
    server.chat(**continued)
    told = server.post("/tokenize", continued).json()["tokens"]
    assert told == server.engine.requests[-1].prompt
    assert tuple(told[-1:]) == server.ids("he")


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=30))
def test_detokenize_undoes_tokenize(server, text):
    ids = server.post("/tokenize", {"prompt": text}).json()["tokens"]
    assert server.post("/detokenize", {"tokens": ids}).json() == {"prompt": text}


def test_detokenize_shows_control_tokens_and_knows_no_others(server):
    assert server.post("/detokenize", {"tokens": [BOS, 64, END]}).json() == {"prompt": "<|bos|>a<|end|>"}
    assert server.post("/detokenize", {"tokens": []}).json() == {"prompt": ""}
    assert error_of(server.post("/detokenize", {"tokens": [64, VOCAB]}))["param"] == "tokens"


def test_tokenizer_info_tells_what_lm_eval_reads(server):
    found = server.get("/tokenizer_info").json()
    assert found["bos_token"] == "<|bos|>"
    assert found["eos_token"] == "<|end|>"
    assert found["pad_token"] is None
    assert found["chat_template"] == TEMPLATE
    assert found["vocab_size"] == VOCAB


def test_the_root_says_hello(server):
    assert "quire" in server.get("/").text
    assert server.get("/health").json() == {"status": "ok"}
