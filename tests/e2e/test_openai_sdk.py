"""The real server, the real SDK, a really trained model."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import httpx
import openai
import pytest


@pytest.fixture(scope="module")
def server(stories_server):
    return stories_server


BOS = [1]


def test_greedy_gives_the_golden_text(client, golden):
    done = client.completions.create(model="stories", prompt=BOS, max_tokens=200, temperature=0)
    assert done.choices[0].text == golden["text"]
    assert done.choices[0].finish_reason == "length"
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (1, 200)


def test_streamed_text_is_the_plain_text(client, golden):
    stream = client.completions.create(
        model="stories", prompt=BOS, max_tokens=200, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == golden["text"]
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 200


def test_ids_are_the_golden_ids(client, golden):
    done = client.completions.create(
        model="stories", prompt=BOS, max_tokens=200, temperature=0, extra_body={"return_token_ids": True}
    )
    assert done.choices[0].model_extra["token_ids"] == golden["completion_ids"]


def test_n_choices_are_the_single_answers_of_their_seeds(client):
    ask = dict(model="stories", prompt="Once upon a time", max_tokens=24, temperature=1.0)
    together = client.completions.create(**ask, n=4, seed=11)
    alone = [client.completions.create(**ask, seed=11 + i).choices[0].text for i in range(4)]
    assert [c.text for c in together.choices] == alone
    assert len(set(alone)) > 1


def test_a_stop_string_ends_the_text_before_it(client, golden):
    whole = golden["text"]
    stop = "play outside"
    done = client.completions.create(model="stories", prompt=BOS, max_tokens=200, temperature=0, stop=[stop])
    assert done.choices[0].text == whole[: whole.index(stop)]
    assert done.choices[0].finish_reason == "stop"


def test_logprobs_name_the_greedy_token_first(client, golden):
    done = client.completions.create(model="stories", prompt=BOS, max_tokens=20, temperature=0, logprobs=3)
    got = done.choices[0].logprobs
    assert len(got.tokens) == len(got.token_logprobs) == len(got.top_logprobs) == 20
    for chosen, top in zip(got.token_logprobs, got.top_logprobs, strict=True):
        assert chosen == pytest.approx(max(top.values()))
        assert chosen <= 0
    assert golden["text"].startswith("".join(got.tokens).strip())


def test_scores_of_a_prompt_are_the_same_for_one_and_for_several_choices(client):
    ask = dict(model="stories", prompt="Once upon a time", max_tokens=8, temperature=0, echo=True, logprobs=0)
    (alone,) = client.completions.create(**ask).choices
    for choice in client.completions.create(**ask, n=3, stop=["no such text"]).choices:
        assert choice.text == alone.text
        assert choice.logprobs == alone.logprobs


def test_a_seed_gives_the_same_answer_twice_and_another_seed_another(client):
    ask = dict(model="stories", prompt="Once upon a time", max_tokens=40, temperature=1.0)
    first, again, other = (client.completions.create(**ask, seed=s).choices[0].text for s in (5, 5, 6))
    assert first == again
    assert first != other


def test_a_cancelled_stream_frees_its_sequence(client, stories_server):
    stream = client.completions.create(model="stories", prompt=BOS, max_tokens=450, temperature=0, stream=True)
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 10
    while stories_server.metric("quire:num_requests_running") > 0:
        assert time.monotonic() < deadline, "the cancelled request still runs"
        time.sleep(0.02)


def test_64_at_once_each_get_the_answer_they_get_alone(stories_server):
    sizes = ("big", "red", "sad", "tiny")
    prompts = [f"Once upon a time there was a {size} {letter}" for size in sizes for letter in "abcdefghijklmnop"]

    async def all_of(concurrency: int) -> list[str]:
        gate = asyncio.Semaphore(concurrency)
        async with openai.AsyncOpenAI(base_url=f"{stories_server.url}/v1", api_key="x", max_retries=0) as client:

            async def one(i: int) -> str:
                async with gate:
                    done = await client.completions.create(
                        model="stories", prompt=prompts[i], max_tokens=32, temperature=1.0 if i % 2 else 0, seed=i
                    )
                return done.choices[0].text

            return await asyncio.gather(*(one(i) for i in range(64)))

    assert asyncio.run(all_of(64)) == asyncio.run(all_of(1))


def test_a_cache_hit_gives_the_same_text_and_says_how_much_was_found(client):
    prompt = "Lily and Tom went to the park with the big red ball and they wanted to play all day. " * 2
    ask = dict(model="stories", prompt=prompt, max_tokens=24, temperature=1.0, seed=3)
    cold, warm = client.completions.create(**ask), client.completions.create(**ask)
    assert warm.choices[0].text == cold.choices[0].text
    assert cold.usage.prompt_tokens_details.cached_tokens == 0
    # All full pages before the last prompt token.
    assert warm.usage.prompt_tokens_details.cached_tokens == (cold.usage.prompt_tokens - 1) // 16 * 16


def test_chat_answers_in_the_template_of_the_model(tiny_server):
    client = openai.OpenAI(base_url=f"{tiny_server.url}/v1", api_key="x", max_retries=0)
    ask = dict(model="tiny", messages=[{"role": "user", "content": "Hello"}], max_tokens=12, temperature=0)
    plain = client.chat.completions.create(**ask)
    parts = [c.choices[0].delta for c in client.chat.completions.create(**ask, stream=True) if c.choices]
    assert parts[0].role == "assistant"
    assert "".join(p.content or "" for p in parts) == plain.choices[0].message.content


def test_an_over_long_prompt_is_refused_by_name(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="stories", prompt=BOS * 600, max_tokens=1)
    assert refused.value.code == "context_length_exceeded"
    assert "maximum context length is 512 tokens" in refused.value.message


def test_lm_eval_can_read_the_tokenizer(stories_server, stories: Path):
    ids = httpx.post(f"{stories_server.url}/tokenize", json={"prompt": "Lily had a ball."}).json()["tokens"]
    assert len(ids) > 3
    text = httpx.post(f"{stories_server.url}/detokenize", json={"tokens": ids}).json()["prompt"]
    assert "Lily had a ball." in text
    assert httpx.get(f"{stories_server.url}/tokenizer_info").status_code == 200
