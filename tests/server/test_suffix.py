"""`suffix` on /v1/completions: what is between a prompt and what comes after it."""

from __future__ import annotations

import pytest
from small_server import END, VOCAB, SmallServer, error_of
from tokenizers import Tokenizer as Backend

from quire.server.openai.params import DEFAULTS, ParamsMaker
from quire.server.tokenizer import Tokenizer

COMPLETIONS = "/v1/completions"
PRE, SUF, MID, PAD = range(VOCAB, VOCAB + 4)


@pytest.fixture(scope="module")
def server():
    server = SmallServer()
    backend = Backend.from_str(server.tokenizer._backend.to_str())
    backend.add_special_tokens(["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>"])
    words = Tokenizer(backend.to_str(), server.tokenizer.settings)
    server.tokenizer = server.context.tokenizer = words
    server.context.params = ParamsMaker(words, DEFAULTS, None)
    server.says("ab")
    yield server
    server.close()


def test_prompt_and_suffix_stand_around_the_tokens_for_it(server):
    answer = server.complete(prompt="hello", suffix=" wor<|end|>")
    sent = server.engine.requests[-1]
    assert sent.prompt == [PRE, *server.ids("hello"), SUF, *server.ids(" wor"), *spelled(server, "<|end|>"), MID]
    assert answer["choices"][0]["text"] == "ab"
    assert answer["usage"]["prompt_tokens"] == len(sent.prompt)


def spelled(server: SmallServer, text: str) -> list[int]:
    return server.tokenizer.encode_content(text, first=False)


def test_each_of_several_prompts_gets_the_suffix(server):
    server.complete(prompt=["a", "b"], suffix="x")
    asked = sorted(request.prompt for request in server.engine.requests[-2:])
    assert asked == [[PRE, *server.ids(prompt), SUF, *server.ids("x"), MID] for prompt in ("a", "b")]


def test_tokens_that_end_a_middle_end_the_answer(server):
    server.complete(suffix="x")
    assert server.engine.requests[-1].params.stop_token_ids == (END, PAD)
    server.complete(suffix="x", ignore_eos=True)
    assert server.engine.requests[-1].params.stop_token_ids == ()
    server.complete()
    assert server.engine.requests[-1].params.stop_token_ids == (END,)


@pytest.mark.parametrize("suffix", ["", None])
def test_no_suffix_is_a_plain_completion(server, suffix):
    server.complete(suffix=suffix)
    assert server.engine.requests[-1].prompt == list(server.ids("hello"))


def test_a_prompt_with_a_suffix_is_not_repeated(server):
    error = error_of(server.post(COMPLETIONS, {"prompt": "hello", "suffix": "x", "echo": True}))
    assert error["param"] == "echo"


def test_a_model_without_the_tokens_refuses_by_name():
    server = SmallServer()
    error = error_of(server.post(COMPLETIONS, {"prompt": "hello", "suffix": "x"}))
    assert (error["param"], error["code"]) == ("suffix", "unsupported_parameter")
    assert "fill-in-the-middle" in error["message"]
    server.close()
