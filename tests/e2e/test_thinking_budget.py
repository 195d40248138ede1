"""The real engine and random weights that think and never stop: the budget ends the thought, and the answer follows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema
import pytest

TEMPLATE = """\
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{{ '<think>\\n' if enable_thinking is not defined else '<think>\\n\\n</think>\\n\\n' }}{% endif %}"""
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 130}, "kind": {"enum": ["cat", "dog"]}},
    "required": ["age", "kind"],
    "additionalProperties": False,
}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}
ASK: Any = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}
TAG = "</think>"  # plain text to this vocabulary, of several tokens


@pytest.fixture(scope="module")
def server(serve, tiny_model, tmp_path_factory) -> Iterator[Any]:
    template = tmp_path_factory.mktemp("template") / "thinks.jinja"
    template.write_text(TEMPLATE)
    flags = ["--chat-template", str(template), "--grammar-engine", "regex=llguidance,choice=llguidance"]
    with serve(tiny_model, "--served-model-name", "tiny", *flags) as running:
        yield running.wait_ready()


def thought(message: Any) -> str:
    return (message.model_extra or {}).get("reasoning_content") or ""


@pytest.fixture(scope="module")
def tag_tokens(server) -> int:
    asked = {"model": "tiny", "prompt": f"\n{TAG}"}
    return httpx.post(f"{server.url}/tokenize", json=asked).json()["count"]


@pytest.mark.parametrize("budget", [0, 1, 12])
def test_the_thought_ends_and_the_document_follows(client, tag_tokens, budget):
    for seed in range(2):
        done = client.chat.completions.create(
            **ASK, response_format=FORMAT, max_tokens=200, seed=seed, n=2, extra_body={"thinking_token_budget": budget}
        )
        for choice in done.choices:
            jsonschema.validate(json.loads(choice.message.content), SCHEMA)
            assert choice.finish_reason == "stop"
            assert (thought(choice.message) == "") is (budget == 0)
        details = done.usage.completion_tokens_details
        assert details.reasoning_tokens <= 2 * (budget + tag_tokens + len(TAG))
        assert details.model_extra["forced_tokens"] >= 2


def test_a_stream_with_a_budget_is_the_plain_answer(client):
    ask = {**ASK, "max_tokens": 60, "seed": 3, "extra_body": {"thinking_budget": 9}}
    plain = client.chat.completions.create(**ask)
    assert thought(plain.choices[0].message)
    assert plain.choices[0].message.content
    told = ["", ""]
    for chunk in client.chat.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            told[0] += (choice.delta.model_extra or {}).get("reasoning_content") or ""
            told[1] += choice.delta.content or ""
    assert told == [thought(plain.choices[0].message), plain.choices[0].message.content]


def test_logprobs_are_told_of_the_tokens_that_end_the_thought_too(client):
    ask = {**ASK, "max_tokens": 40, "seed": 3, "extra_body": {"thinking_budget": 4}}
    done = client.chat.completions.create(**ask, logprobs=True, top_logprobs=1)
    entries = done.choices[0].logprobs.content
    assert len(entries) == done.usage.completion_tokens == 40
    assert TAG in "".join(entry.token for entry in entries)
    assert done.choices[0].message.content


def test_without_a_budget_it_thinks_to_the_end(client):
    done = client.chat.completions.create(**ASK, max_tokens=60, seed=3, extra_body={"thinking_budget": -1})
    assert not done.choices[0].message.content
    assert done.choices[0].finish_reason == "length"


def test_a_prompt_that_has_closed_the_thought_needs_no_end(client):
    off = {"chat_template_kwargs": {"enable_thinking": False}, "thinking_budget": 0}
    done = client.chat.completions.create(**ASK, max_tokens=20, seed=3, extra_body=off)
    assert done.usage.completion_tokens_details.model_extra["forced_tokens"] == 0
    assert TAG not in done.choices[0].message.content


def test_an_answer_that_a_stop_string_ends_tells_what_the_grammar_did(client):
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    done = client.chat.completions.create(**ASK, response_format=FORMAT, max_tokens=100, stop='"kind', extra_body=off)
    assert done.choices[0].finish_reason == "stop"
    assert "kind" not in done.choices[0].message.content
    assert 0 < done.model_extra["quire"]["grammar"]["lowest"] <= 1
    counts = done.usage.completion_tokens_details.model_extra["forced_tokens"], done.usage.completion_tokens
    assert 0 < counts[0] <= counts[1]


def test_the_engine_of_the_flag_serves(client):
    off = {"chat_template_kwargs": {"enable_thinking": False}}
    done = client.chat.completions.create(**ASK, max_tokens=30, extra_body={"guided_regex": "[ab]{3}c", **off})
    assert done.choices[0].message.content[3:] == "c"


def test_a_setting_that_no_engine_can_do_is_said_at_once(serve, tiny_model):
    with serve(tiny_model, "--grammar-engine", "json_schema=outlines") as running:
        assert running.process.wait(60) == 1
        running._reader.join(10)
        assert "gives json_schema to 'outlines'; expected llguidance" in running.output
