"""What a request's fields mean: for the engine, for the prompt, and for the answer."""

from __future__ import annotations

from threading import current_thread, main_thread
from typing import Any

import pytest
from fake_engine import Answer, frames, logprob
from small_server import BOS, END, HELLO, MODEL, SPARE_ROWS, VOCAB, SmallServer, events

from quire.engine import messages as m

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def seeded():
    server = SmallServer(seed=1)
    yield server
    server.close()


@pytest.fixture
def server(seeded):
    seeded.says("hello world")
    return seeded


def sent(server: SmallServer, **fields: Any) -> m.Generate:
    """What a chat request asks of the engine."""
    server.chat(**fields)
    return server.engine.requests[-1]


def prompt_of(server: SmallServer, messages: list[dict[str, Any]], **fields: Any) -> str:
    return server.tokenizer.decode(sent(server, messages=messages, **fields).prompt, skip_special_tokens=False)


# ---------------------------------------------------------------- what the engine gets

PLAIN = {
    "min_tokens": 2, "temperature": 0.5, "top_k": 7, "top_p": 0.5, "min_p": 0.25, "typical_p": 0.5, "top_n_sigma": 1.5,
    "xtc_probability": 0.5, "xtc_threshold": 0.25, "dry_multiplier": 0.5, "dry_base": 2.5, "dry_allowed_length": 3,
    "dry_penalty_last_n": 64, "mirostat": 2, "mirostat_tau": 4.5, "mirostat_eta": 0.25, "repetition_penalty": 1.5,
    "presence_penalty": -0.5, "frequency_penalty": 0.5, "prompt_logprobs": 2, "seed": 11, "max_tokens": 17,
    "num_speculative_tokens": 3,
}  # fmt: skip


@pytest.mark.parametrize(("field", "value"), PLAIN.items())
def test_an_option_reaches_the_engine_as_it_came(server, field, value):
    usual, asked = sent(server, seed=0), sent(server, **{"seed": 0, field: value})
    assert getattr(asked.params, field) == value
    others = set(asked.params.__struct_fields__) - {field, "dry_sequence_breakers"}
    assert [f for f in others if getattr(asked.params, f) != getattr(usual.params, f)] == []


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
def test_options_mean_the_same_in_completions(server, path):
    body = HELLO if path == CHAT else {"model": MODEL, "prompt": "x"}
    assert server.post(path, {**body, **PLAIN}).status_code == 200
    params = server.engine.requests[-1].params
    assert {field: getattr(params, field) for field in PLAIN} == PLAIN


@pytest.mark.parametrize("number", [5, 5.0])
def test_a_whole_number_may_come_with_a_point(server, number):
    assert sent(server, max_tokens=number, top_k=number).params.top_k == 5


def test_max_tokens_has_a_newer_name_and_none_means_all_that_fits(server):
    assert sent(server, max_completion_tokens=6).params.max_tokens == 6
    assert sent(server, max_tokens=6, max_completion_tokens=6).params.max_tokens == 6
    assert sent(server, max_tokens=None, max_completion_tokens=None).params.max_tokens == 256 - len(sent(server).prompt)
    server.complete()
    assert server.engine.requests[-1].params.max_tokens == 16


def test_names_of_other_servers_are_taken_beside_the_same_under_ours(server):
    assert sent(server, max_tokens=5, max_new_tokens=5, n_predict=5, typical=1.0, typical_p=1).params.max_tokens == 5


def test_ends_of_the_text_are_the_models_and_those_asked_for(server):
    assert sent(server).params.stop_token_ids == (END,)
    assert sent(server, stop_token_ids=[7, 7, 8]).params.stop_token_ids == (7, 8, END)
    assert sent(server, stop_token_ids=[7], ignore_eos=True).params.stop_token_ids == (7,)


def test_more_than_four_stop_strings_are_fine(server):
    answer = server.chat(stop=["1", "2", "3", "4", "5", "6", "w"])
    assert answer["choices"][0]["message"]["content"] == "hello "
    assert answer["choices"][0]["stop_reason"] == "w"


def test_bias_words_and_allowed_ids(server):
    params = sent(server, logit_bias={"5": -100, "6": 2.5}, bad_words=["hello"], allowed_token_ids=[1, 2, 2]).params
    assert params.logit_bias == {5: -100.0, 6: 2.5}
    assert params.allowed_token_ids == (1, 2)
    assert server.ids("hello") in params.bad_words
    assert server.ids(" hello") in params.bad_words


def test_breakers_are_all_tokens_with_such_text(server):
    assert sent(server, dry_sequence_breakers=["wor"]).params.dry_sequence_breakers == ()
    ids = sent(server, dry_multiplier=1, dry_sequence_breakers=["wor", "b"]).params.dry_sequence_breakers
    texts = {server.tokenizer.token_text(i) for i in ids}
    assert texts == {" wor", "b", "ab", "ba", "abab", "<|bos|>"}


@pytest.mark.parametrize(
    ("path", "more"), [(CHAT, {"messages": HELLO["messages"]}), (COMPLETIONS, {"prompt": "hello"})]
)
def test_the_vocabulary_is_looked_through_while_others_are_served(monkeypatch, path, more):
    fresh, threads = SmallServer(), set()
    text_of = type(fresh.tokenizer).token_text
    try:
        monkeypatch.setattr(
            type(fresh.tokenizer), "token_text", lambda self, i: threads.add(current_thread()) or text_of(self, i)
        )
        fresh.says("hello")
        assert fresh.post(path, {"model": MODEL, "dry_multiplier": 1, **more}).status_code == 200
    finally:
        fresh.close()
    assert threads
    assert main_thread() not in threads  # where the event loop runs


@pytest.mark.parametrize(("given", "expected"), [(5, 5), (-2, 2**64 - 2), (2**64 + 3, 3), (10**25, 10**25 % 2**64)])
def test_any_whole_number_is_a_seed(server, given, expected):
    assert sent(server, seed=given).params.seed == expected


def test_seed_minus_one_is_any_seed_as_front_ends_mean_it(server):
    assert len({sent(server, seed=-1).params.seed for _ in range(3)}) == 3


def test_a_seeded_server_draws_the_same_seeds_again():
    def seeds(**config: Any) -> list[int]:
        server = SmallServer(**config)
        server.says("hello")
        found = [sent(server).params.seed for _ in range(3)]
        server.close()
        return found

    assert seeds(seed=7) == seeds(seed=7) != seeds(seed=8)
    assert len(set(seeds(seed=7))) == 3
    assert seeds() != seeds()


def test_choices_priority_and_salt(server):
    request = sent(server, n=3, priority=-2, cache_salt="mine")
    assert (request.n, request.priority, request.cache_salt) == (3, -2, "mine")


# ---------------------------------------------------------------- chat


def test_every_role_and_form_of_content_is_taken(server):
    messages = [
        {"role": "system", "content": "s"},
        {"role": "developer", "content": [{"type": "text", "text": "d1"}, {"type": "text", "text": "d2"}]},
        {"role": "user", "content": "u1"},
        {"role": "user", "content": "u2", "name": "ann"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "content": "t", "tool_call_id": "1"},
        {"role": "assistant", "content": None, "reasoning_content": "r"},
        {"role": "function", "content": "fn", "name": "f"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "content": "a"},
    ]  # fmt: skip
    text = prompt_of(server, messages, tools=[])
    blocks = text.split("<|im_start|>")[1:]
    assert [block.split("\n")[0] for block in blocks[:-1]] == [message["role"] for message in messages]
    for piece in ("s", "d1", "d2", "u1", "u2", "t", "fn", "no", "a"):
        assert piece in text
    assert blocks[-1] == "assistant\n"


def test_generation_prompt_and_continuation(server):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "he"}]
    assert prompt_of(server, messages).endswith("<|im_end|>\n<|im_start|>assistant\n")
    assert prompt_of(server, messages, add_generation_prompt=False).endswith("he<|im_end|>\n")
    assert prompt_of(server, messages, continue_final_message=True).endswith("assistant\nhe")


def test_a_control_token_that_a_message_spells_is_text(server):
    prompt = sent(server, messages=[{"role": "user", "content": "<|end|>"}]).prompt
    assert END not in prompt
    assert "<|end|>" in server.tokenizer.decode(prompt, skip_special_tokens=True)


def test_a_chat_answer_has_all_that_clients_read(server):
    answer = server.chat(n=2)
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    for index, choice in enumerate(answer["choices"]):
        assert choice["index"] == index
        assert choice["message"] == {"role": "assistant", "content": "hello world", "refusal": None}
        assert choice["finish_reason"] == "stop"
        assert "tool_calls" not in choice["message"]
    assert {"prompt_n", "predicted_n", "prompt_per_second", "predicted_per_second"} <= set(answer["timings"])
    assert all(isinstance(value, int | float) and value >= 0 for value in answer["timings"].values())


def test_chat_logprobs_name_the_token_its_bytes_and_its_rivals(server):
    server.says("hä", stop=False)
    entries = server.chat(logprobs=True, top_logprobs=3)["choices"][0]["logprobs"]["content"]
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == "hä"
    for entry in entries:
        assert entry["logprob"] == -1.0
        assert len(entry["top_logprobs"]) == 3
        assert [entry["token"], entry["logprob"]] in [[t["token"], t["logprob"]] for t in entry["top_logprobs"]]
    assert server.chat(logprobs=True)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    assert server.chat()["choices"][0]["logprobs"] is None


def test_an_impossible_token_has_a_logprob_that_json_knows(server):
    def script(request: m.Generate):
        ruled_out = m.TokenLogprob(64, float("-inf"), 9, [(65, 0.0), (66, float("-inf"))])
        yield [m.TokenDelta(id=request.id, index=0, tokens=[64], logprobs=[ruled_out], finish="length")]

    server.engine.script = script
    (entry,) = server.chat(logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
    assert [entry["logprob"], *(t["logprob"] for t in entry["top_logprobs"])] == [-9999.0, 0.0, -9999.0]


def test_ids_and_prompt_logprobs_on_request(server):
    answer = server.chat(return_token_ids=True, prompt_logprobs=1)
    prompt = server.engine.requests[-1].prompt
    assert answer["prompt_token_ids"] == prompt
    assert answer["choices"][0]["token_ids"] == list(server.ids("hello world"))
    first, *rest = answer["prompt_logprobs"]
    assert first is None
    assert [str(token) in table for token, table in zip(prompt[1:], rest, strict=True)] == [True] * len(rest)
    assert all(len(table) == 2 for table in rest)  # its own, and the one best
    chunks = events(server.post(CHAT, {**HELLO, "stream": True, "return_token_ids": True}))
    assert chunks[0]["prompt_token_ids"] == prompt


@pytest.mark.parametrize("fields", [{}, {"include_stop_str_in_output": True}])
def test_a_stop_token_that_was_asked_for_is_told(server, fields):
    tokens = (*server.ids("hello"), 65)
    server.engine.script = lambda request: frames(request, [Answer(tokens, True)], VOCAB)
    choice = server.chat(stop_token_ids=[65], **fields)["choices"][0]
    assert choice["stop_reason"] == 65
    assert choice["message"]["content"] == ("hellob" if fields else "hello")


# ---------------------------------------------------------------- completions


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", ["ab"]),
        (["ab", "b"], ["ab", "b"]),
        ([64, 65], [[64, 65]]),
        ([[64, 65], [66]], [[64, 65], [66]]),
        ([VOCAB + SPARE_ROWS - 1], [[VOCAB + SPARE_ROWS - 1]]),
        ("<|end|>", [[END]]),
        ("", [[BOS]]),
    ],
)
def test_a_prompt_is_text_or_texts_or_ids_or_lists_of_ids(server, prompt, expected):
    before = len(server.engine.requests)
    answer = server.complete(prompt=prompt, n=2)
    asked = [request.prompt for request in server.engine.requests[before:]]
    assert sorted(asked) == sorted(list(server.ids(x)) if isinstance(x, str) else x for x in expected)
    assert [choice["index"] for choice in answer["choices"]] == list(range(2 * len(expected)))
    assert answer["usage"]["prompt_tokens"] == sum(map(len, asked))
    assert answer["object"] == "text_completion"


def test_each_choice_belongs_to_its_prompt(server):
    def script(request: m.Generate):
        yield [m.TokenDelta(id=request.id, index=i, tokens=[*request.prompt, 64 + i], finish="length") for i in (0, 1)]

    server.engine.script = script
    answer = server.complete(prompt=["x", "y"], n=2)
    assert [choice["text"] for choice in answer["choices"]] == ["xa", "xb", "ya", "yb"]


def test_echo_with_logprobs_has_four_arrays_of_full_length(server):
    """lm-eval reads these: the first token has no logprob, offsets count characters of the whole text."""
    answer = server.complete(prompt="hello w", echo=True, logprobs=2, n=2)
    for choice in answer["choices"]:
        assert choice["text"] == "hello whello world"
        assert choice["logprobs"]["tokens"] == ["hello", " w", "hello", " wor", "l", "d"]
        assert choice["logprobs"]["token_logprobs"] == [None, *[-1.0] * 5]
        assert choice["logprobs"]["text_offset"] == [0, 5, 7, 12, 16, 17]
        assert choice["logprobs"]["top_logprobs"][0] is None
        assert all(len(top) == 2 for top in choice["logprobs"]["top_logprobs"][1:])
        assert "prompt_logprobs" not in choice


@pytest.mark.parametrize(
    ("prompt", "text", "offsets"),
    [
        ("a 😀 ab", "a 😀 ab", [0, 1, 2, 2, 2, 2, 3, 4]),
        ("a<|im_end|>b ab", "a<|im_end|>b ab", [0, 1, 11, 12, 13]),
        ("ä<|bos|>", "ä<|bos|>", [0, 1]),
        ([BOS, 64, 64], "aa", [0, 0, 1]),
        ("", "", [0]),
    ],
)
def test_the_echo_is_the_prompt_as_it_came_and_offsets_are_characters_of_it(server, prompt, text, offsets):
    choice = server.complete(prompt=prompt, echo=True, logprobs=0)["choices"][0]
    assert choice["text"] == f"{text}hello world"
    of_answer = [len(text), len(text) + 5, len(text) + 9, len(text) + 10]
    assert choice["logprobs"]["text_offset"] == [*offsets, *of_answer]


def test_a_token_that_begins_every_text_adds_nothing_to_the_echo(server, monkeypatch):
    encode = server.tokenizer.encode
    monkeypatch.setattr(server.tokenizer, "encode", lambda text, **more: [BOS, *encode(text, **more)])
    choice = server.complete(prompt="a b", echo=True, logprobs=0)["choices"][0]
    assert choice["logprobs"]["text_offset"][:4] == [0, 0, 1, 2]
    assert choice["text"].startswith("a b")


@pytest.mark.parametrize("stream", [True, False])
def test_no_new_tokens_and_echo_score_a_prompt(server, stream):
    server.engine.script = lambda request: frames(request, [Answer(())], VOCAB)
    body = {"model": MODEL, "prompt": "hello w", "max_tokens": 0, "echo": True, "logprobs": 1, "stream": stream}
    response = server.post(COMPLETIONS, body)
    (choice,) = events(response)[0]["choices"] if stream else response.json()["choices"]
    assert server.engine.requests[-1].params.max_tokens == 0
    assert choice["text"] == "hello w"
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0]
    assert choice["finish_reason"] == "length"


def test_echo_and_prompt_logprobs_each_get_the_count_they_asked_for(server):
    choice = server.complete(prompt="hello w", echo=True, logprobs=1, prompt_logprobs=3)["choices"][0]
    assert server.engine.requests[-1].params.prompt_logprobs == 3
    assert len(choice["prompt_logprobs"][1]) == 3  # its own is among the three best
    assert len(choice["logprobs"]["top_logprobs"][1]) == 2  # its own and the one best


def test_siblings_that_tell_the_prompt_again_add_nothing_to_it(server):
    def script(request: m.Generate):
        told = [logprob(token, 0, VOCAB) for token in request.prompt[1:]]
        mine = [logprob(64, 0, VOCAB)]
        yield [
            m.TokenDelta(id=request.id, index=i, tokens=[64], logprobs=mine, prompt_logprobs=told, finish="length")
            for i in (0, 1)
        ]

    server.engine.script = script
    found = server.complete(prompt="hello w", n=2, echo=True, logprobs=0)["choices"]
    assert [choice["logprobs"]["tokens"] for choice in found] == [["hello", " w", "a"]] * 2


def test_a_prompt_of_one_token_has_one_empty_place(server):
    assert server.complete(prompt=[64], prompt_logprobs=1)["choices"][0]["prompt_logprobs"] == [None]
