"""Promises of the synthetic training data: reproducible, valid, answerable from the prompt, held out by name."""

from __future__ import annotations

import json
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from quire.pocket.recipe import synth
from quire.pocket.recipe.samples import MIX, Sample, is_held_out, key
from quire.pocket.recipe.synth import records, words

COUNT = 600
TYPES = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "array": list, "object": dict}


def draw(kind: str, held_out: bool = False, count: int = COUNT, seed: int = 1) -> list[Sample]:
    rng = Random(seed)
    return [synth.GENERATORS[kind](rng, held_out) for _ in range(count)]


def check(value: Any, schema: dict[str, Any]) -> None:
    """Whether a value fits a schema of the few keywords that the samples use."""
    assert isinstance(value, TYPES[schema["type"]]), (value, schema)
    assert isinstance(value, bool) == (schema["type"] == "boolean"), (value, schema)
    assert "enum" not in schema or value in schema["enum"], (value, schema)
    if isinstance(value, list):
        for item in value:
            check(item, schema["items"])
    if isinstance(value, dict):
        assert set(schema["required"]) <= set(value) <= set(schema["properties"]), (value, schema)
        for name, item in value.items():
            check(item, schema["properties"][name])


def called(sample: Sample) -> list[dict[str, Any]]:
    return [call["function"] for message in sample.messages or () for call in message.get("tool_calls", ())]


def leaves(value: Any, schema: dict[str, Any]) -> list[Any]:
    """The values in a value, without objects, lists, and what is chosen from an enum, which may be said otherwise."""
    if isinstance(value, dict):
        return [leaf for name, item in value.items() for leaf in leaves(item, schema["properties"][name])]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item, schema["items"])]
    return [] if "enum" in schema else [value]


def said(value: Any, prompt: str) -> bool:
    """Whether a value stands in the prompt, a small number perhaps as a word."""
    if isinstance(value, bool):
        return True
    spelled = words.NUMBERS[value] if isinstance(value, int) and 0 <= value <= 12 else None
    return str(value) in prompt or (spelled is not None and spelled in prompt)


def property_names(samples: list[Sample]) -> set[str]:
    return {name for s in samples for t in s.tools or () for name in t["function"]["parameters"]["properties"]}


@pytest.mark.parametrize("kind", synth.GENERATORS)
def test_one_seed_gives_one_sequence_of_samples(kind: str) -> None:
    assert [key(s) for s in draw(kind, count=50)] == [key(s) for s in draw(kind, count=50)]
    assert [key(s) for s in draw(kind, count=50)] != [key(s) for s in draw(kind, count=50, seed=2)]


@pytest.mark.parametrize("kind", synth.GENERATORS)
@pytest.mark.parametrize("held_out", [False, True])
def test_a_conversation_alternates_and_ends_with_the_assistant(kind: str, held_out: bool) -> None:
    for sample in draw(kind, held_out):
        assert sample.kind == kind
        if sample.messages is None:
            assert sample.text
            continue
        roles = [message["role"] for message in sample.messages]
        assert roles[0] in ("system", "user")
        assert roles[-1] == "assistant"
        assert all(one != other or one == "tool" for one, other in pairwise(roles)), roles
        for message in sample.messages:
            content = message.get("content", "x")
            assert content.strip() == content != "", content
            unfilled = "{" in content and '"' not in content and not content.startswith("Fill in the form")
            assert not unfilled, f"a slot was not filled: {content}"


@pytest.mark.parametrize("kind", synth.GENERATORS)
def test_samples_fit_a_context_of_1024_tokens(kind: str) -> None:
    sizes = sorted(len(key(sample)) for sample in draw(kind))
    assert sizes[len(sizes) * 9 // 10] < 2500
    assert sizes[-1] < 4500


@pytest.mark.parametrize("kind", ["tools", "sums"])
@pytest.mark.parametrize("held_out", [False, True])
def test_every_call_fits_the_schema_of_a_tool_on_offer(kind: str, held_out: bool) -> None:
    samples = draw(kind, held_out)
    assert sum(len(called(sample)) for sample in samples) > COUNT / 2
    for sample in samples:
        schemas = {t["function"]["name"]: t["function"]["parameters"] for t in sample.tools or ()}
        assert len(schemas) == len(sample.tools or ()), f"two tools of one name: {list(schemas)}"
        for call in called(sample):
            check(call["arguments"], {"type": "object", **schemas[call["name"]]})


@pytest.mark.parametrize("held_out", [False, True])
def test_arguments_are_said_in_the_conversation(held_out: bool) -> None:
    for sample in draw("tools", held_out):
        prompt = " ".join(m["content"] for m in sample.messages or () if m["role"] == "user")
        schemas = {t["function"]["name"]: t["function"]["parameters"] for t in sample.tools or ()}
        for call in called(sample):
            values = leaves(call["arguments"], schemas[call["name"]])
            assert all(said(value, prompt) for value in values), (call, prompt)


def test_facts_name_the_calls_of_the_first_answer() -> None:
    for sample in draw("tools"):
        first = next(m for m in sample.messages or () if m["role"] == "assistant")
        got = [call["function"] for call in first.get("tool_calls", ())]
        assert sample.facts is not None
        assert sample.facts["calls"] == got
        assert sample.facts.get("call") == (got[0] if len(got) == 1 else None)


def test_results_answer_the_calls_by_id() -> None:
    for sample in draw("tools"):
        ids: dict[str, str] = {}
        for message in sample.messages or ():
            for call in message.get("tool_calls", ()):
                assert call["id"] not in ids
                ids[call["id"]] = call["function"]["name"]
            if message["role"] == "tool":
                assert ids[message["tool_call_id"]] == message["name"]
                json.loads(message["content"])


def test_some_questions_need_no_tool_and_some_need_two_calls() -> None:
    counts = [len(sample.facts["calls"]) for sample in draw("tools") if sample.facts]
    assert 0.1 < counts.count(0) / len(counts) < 0.35
    assert 0.05 < counts.count(2) / len(counts) < 0.2


@pytest.mark.parametrize("held_out", [False, True])
def test_an_extraction_fits_its_schema_and_stands_in_the_text(held_out: bool) -> None:
    for sample in draw("extract", held_out):
        assert sample.facts is not None
        assert sample.messages is not None
        schema = sample.facts["schema"]
        values = [json.loads(m["content"]) for m in sample.messages if m["role"] == "assistant"]
        texts = [m["content"] for m in sample.messages if m["role"] == "user"]
        assert values[0] == sample.facts["json"]
        for value, text in zip(values, texts, strict=True):
            check(value, schema)
            assert all(said(leaf, text) for leaf in leaves(value, schema)), (value, text)
            assert list(value) == [name for name in schema["properties"] if name in value], "the schema's order"


def test_held_out_tools_share_no_name_and_no_parameter_with_training() -> None:
    trained, held = draw("tools", False, 3000), draw("tools", True, 3000)
    tools = [{t["function"]["name"] for s in samples for t in s.tools or ()} for samples in (trained, held)]
    assert tools[0].isdisjoint(tools[1])
    assert property_names(trained).isdisjoint(property_names(held))
    assert min(len(tools[0]), len(tools[1])) > 50


def test_held_out_records_share_no_field_with_training() -> None:
    def fields(kept: tuple[records.Record, ...]) -> set[str]:
        return {name for record in kept for field in (record.first, *record.fields) for name in field.names}

    def drawn(held_out: bool) -> set[str]:
        return {name for sample in draw("extract", held_out) for name in (sample.facts or {})["schema"]["properties"]}

    assert not fields(records.TRAINED) & fields(records.RESERVED)
    assert not drawn(False) & fields(records.RESERVED)
    assert not drawn(True) & fields(records.TRAINED)


def test_a_sum_comes_from_its_expression() -> None:
    for sample in draw("sums"):
        for call in called(sample):
            told = next(m for m in sample.messages or () if m["role"] == "tool")
            assert json.loads(told["content"]) == pytest.approx(eval(call["arguments"]["expression"]), abs=1e-4)
            assert told["content"] in (sample.messages or [])[-1]["content"]


def test_stories_rarely_repeat() -> None:
    texts = {sample.text or (sample.messages or [])[-1]["content"] for sample in draw("stories")}
    assert len(texts) > COUNT * 0.98


def test_shares_sum_to_one() -> None:
    assert sum(MIX.values()) == pytest.approx(1)
    assert set(synth.GENERATORS) <= set(MIX)


def test_about_one_text_in_fifty_is_held_out() -> None:
    assert 0.01 < sum(is_held_out(f"text {n}") for n in range(5000)) / 5000 < 0.03
