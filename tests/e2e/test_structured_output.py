"""The real engine and random weights, through the SDK: whatever the model would say, the answer is as asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "kind": {"enum": ["cat", "bird of paradise"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
TOOLS: Any = [
    {"type": "function", "function": {"name": "get_weather", "parameters": {
        "type": "object", "properties": {"city": {"enum": ["Köln", "Bonn"]}, "days": {"type": "integer", "maximum": 9}},
        "required": ["city"], "additionalProperties": False}}},
    {"type": "function", "function": {"name": "ping", "parameters": {
        "type": "object", "properties": {}, "additionalProperties": False}}},
]  # fmt: skip
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}
ASK: Any = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def server(serve, tiny_model) -> Iterator[Any]:
    with serve(tiny_model, "--served-model-name", "tiny", "--tool-call-parser", "hermes") as running:
        yield running.wait_ready()


def schema_format(schema: Any) -> Any:
    return {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}


def check_calls(message: Any) -> int:
    for call in message.tool_calls:
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    return len(message.tool_calls)


def test_a_schema_is_kept_at_every_budget_from_the_shortest_on(client):
    with pytest.raises(openai.BadRequestError, match="the shortest answer") as refused:
        client.chat.completions.create(**ASK, response_format=schema_format(PERSON), max_tokens=1)
    assert refused.value.param == "max_tokens"
    shortest = int(refused.value.message.split("allows has ")[1].split()[0].strip("'}"))
    for budget in (shortest, shortest + 1, 100):
        for seed in range(2):
            done = client.chat.completions.create(
                **ASK, response_format=schema_format(PERSON), max_tokens=budget, seed=seed
            )
            jsonschema.validate(json.loads(done.choices[0].message.content), PERSON)
            assert done.usage.completion_tokens <= budget
    assert done.usage.completion_tokens_details.model_extra["forced_tokens"] > 0
    assert 0 < done.model_extra["quire"]["grammar"]["lowest"] <= done.model_extra["quire"]["grammar"]["mean"] <= 1


def test_a_stream_under_a_schema_is_the_plain_answer(client):
    ask = {**ASK, "response_format": schema_format(PERSON), "max_tokens": 80, "seed": 5, "n": 2}
    plain = client.chat.completions.create(**ask)
    texts = ["", ""]
    for chunk in client.chat.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in plain.choices]
    assert [jsonschema.validate(json.loads(text), PERSON) for text in texts]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "ping"}}], ids=str)
def test_a_call_that_must_be_is_valid_plain_streamed_and_for_each_choice(client, choice):
    for seed in range(2):
        ask = {**ASK, "tools": TOOLS, "tool_choice": choice, "max_tokens": 150, "seed": seed, "n": 2}
        ask["parallel_tool_calls"] = False
        plain = client.chat.completions.create(**ask)
        assert [c.finish_reason for c in plain.choices] == ["tool_calls"] * 2
        assert [c.message.content for c in plain.choices] == [None, None]
        assert [check_calls(c.message) for c in plain.choices] == [1, 1]
        with client.chat.completions.stream(**ask) as stream:
            streamed = stream.get_final_completion()
        for one, other in zip(plain.choices, streamed.choices, strict=True):
            assert check_calls(other.message) == 1
            assert [c.function.arguments for c in one.message.tool_calls] == [
                c.function.arguments for c in other.message.tool_calls
            ]
        if choice != "required":
            assert {c.message.tool_calls[0].function.name for c in plain.choices} == {"ping"}


def test_calls_may_be_several_and_all_are_valid_at_any_budget(client):
    for budget in (60, 120):
        done = client.chat.completions.create(
            **ASK, tools=TOOLS, tool_choice="required", max_tokens=budget, seed=budget
        )
        assert check_calls(done.choices[0].message) >= 1
        assert done.choices[0].finish_reason == "tool_calls"


def test_tools_that_may_be_called_leave_text_free(client):
    done = client.chat.completions.create(**ASK, tools=TOOLS, max_tokens=30)
    assert done.choices[0].message.content
    assert done.choices[0].finish_reason in ("stop", "length")


def test_beside_tools_that_may_be_called_an_answer_is_the_document(client):
    for seed in range(2):
        done = client.chat.completions.create(
            **ASK, tools=TOOLS, response_format=schema_format(PERSON), max_tokens=150, seed=seed
        )
        message = done.choices[0].message
        if message.tool_calls:
            check_calls(message)
        else:
            jsonschema.validate(json.loads(message.content), PERSON)


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"response_format": schema_format({"type": "object", "properties": {"a": {"uniqueItems": True}}})},
         "response_format.json_schema.schema", ["uniqueItems", "/properties/a"]),
        ({"extra_body": {"guided_regex": "a(?=b)"}}, "guided_regex", []),
        ({"extra_body": {"grammar": "root ::= missing"}}, "grammar", ["missing"]),
        ({"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "f", "parameters": {
            "type": "object", "properties": {"a": {"type": "array", "uniqueItems": True}}}}}]},
         "tools[0].function.parameters", ["uniqueItems", "/properties/a"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [True, False])
def test_what_cannot_be_enforced_is_a_400_that_says_where(client, fields, param, words, stream):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**ASK, **fields, stream=stream)
    assert (refused.value.code, refused.value.param) == ("invalid_grammar", param)
    assert all(word in refused.value.message for word in [param, *words])


def test_other_answers_are_what_they_are_alone_while_grammars_come_and_are_refused(server):
    async def all_of() -> list[list[str]]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:

            async def free(seed: int) -> str:
                done = await client.chat.completions.create(**ASK, max_tokens=40, seed=seed)
                return str(done.choices[0].message.content)

            async def bound(i: int) -> None:
                schema = {"enum": [f"x{i}"]} if i % 2 else {"uniqueItems": i}
                try:
                    done = await client.chat.completions.create(**ASK, response_format=schema_format(schema))
                    assert json.loads(str(done.choices[0].message.content)) == f"x{i}"
                except openai.BadRequestError:
                    assert i % 2 == 0

            alone = [await free(seed) for seed in range(4)]
            together = await asyncio.gather(*map(free, range(4)), *map(bound, range(12)))
            return [alone, list(together[:4])]

    alone, together = asyncio.run(all_of())
    assert together == alone


def test_completions_are_bound_too(client):
    done = client.completions.create(
        model="tiny", prompt="x", max_tokens=20, extra_body={"guided_choice": ["yes", "no"]}
    )
    assert done.choices[0].text in ("yes", "no")
    assert done.choices[0].finish_reason == "stop"
