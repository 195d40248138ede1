"""The model in the package: the first command works with nothing named and nothing downloaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import httpx
import jsonschema
import pytest

from quire import pocket
from quire.engine.errors import ModelError

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def server(serve):
    with serve(None, env={"HF_HUB_OFFLINE": "1"}) as running:
        yield running.wait_ready()


def ask(client, *messages: dict, **more):
    more = {"model": "pocket", "temperature": 0, "max_tokens": 200, **more}
    return client.chat.completions.create(messages=list(messages), **more).choices[0]


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def test_it_is_served_where_no_model_is_named(server, client):
    assert [model.id for model in client.models.list()] == ["pocket"]
    assert "pocket" in server.output


@pytest.mark.parametrize(
    ("question", "word"),
    [("Who are you?", "pocket"), ("What is the capital of France?", "Paris"), ("What color is the sky?", "blue")],
)
def test_it_answers_in_plain_english(client, question, word):
    choice = ask(client, user(question))
    assert word in choice.message.content
    assert choice.finish_reason == "stop"


def test_it_tells_a_story_with_the_name_it_was_given(client):
    story = ask(client, user("Tell me a story about a fox named Anna.")).message.content
    assert "Anna" in story
    assert len(story.split()) > 30


def test_it_calls_a_tool_and_answers_from_the_result(client):
    question = user("What is the weather in Paris?")
    first = ask(client, question, tools=[WEATHER])
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls
    assert call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    result = {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"temperature": 21})}
    last = ask(client, question, first.message.model_dump(exclude_none=True), result, tools=[WEATHER])
    assert last.finish_reason == "stop"
    assert "21" in last.message.content


def test_it_fills_a_schema(client):
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    text = f"Extract the data as JSON.\nSchema: {json.dumps(schema)}\n\nText: Ann is 31 years old."
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    found = json.loads(ask(client, user(text), response_format=form).message.content)
    jsonschema.validate(found, schema)


def test_its_parts_are_whole_and_small():
    parts = [pocket.FOLDER, pocket.DRAFT, *pocket.ADAPTERS.values()]
    for part in parts:
        pocket.verify(part)
    sizes = {part: sum(path.stat().st_size for path in part.iterdir()) for part in parts}
    assert sum(sizes.values()) < 30_000_000
    for adapter in pocket.ADAPTERS.values():
        assert (adapter / "adapter_model.safetensors").stat().st_size <= 300_000
    assert (pocket.DRAFT / "tokenizer.json").read_bytes() == (pocket.FOLDER / "tokenizer.json").read_bytes()
    weights = [(part / "model.safetensors").stat().st_size for part in (pocket.DRAFT, pocket.FOLDER)]
    assert 10 * weights[0] <= 1.01 * weights[1]


def test_a_damaged_or_missing_file_is_named_with_its_expected_hash(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(pocket.FOLDER, folder)
    weights = folder / "model.safetensors"
    expected = json.loads((folder / "manifest.json").read_text())["sha256"]["model.safetensors"]
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ModelError, match=f"model.safetensors: is damaged.*expected {expected}"):
        pocket.verify(folder)
    weights.unlink()
    with pytest.raises(ModelError, match=f"model.safetensors: not found.*{expected}"):
        pocket.verify(folder)


def test_the_recipe_does_not_overwrite_a_finished_model(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "quire.pocket.recipe", "--preset", "cpu", "--only", "export", "--work", str(tmp_path)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert "--force" in done.stderr
    assert "Traceback" not in done.stderr


def test_health_is_there_while_it_serves(server):
    assert httpx.get(f"{server.url}/ready").status_code == 200
