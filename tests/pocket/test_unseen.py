"""The extractions and calls that nothing in the recipe resembles are fair: the text says every value."""

from __future__ import annotations

import json

import pytest

from quire.pocket.recipe import unseen
from quire.pocket.recipe.judge import Verdict, conforms, is_json, judge_calls


@pytest.mark.parametrize("sample", unseen.samples("extract"))
def test_an_extraction_says_every_value(sample):
    facts, asked, answer = sample.facts, *(message["content"] for message in sample.messages)
    assert conforms(facts["json"], {**facts["schema"]})
    assert facts["schema"]["required"] == list(facts["schema"]["properties"]) == list(facts["json"])
    assert is_json(answer, facts["json"])
    assert asked.endswith(facts["text"])
    for name, value in facts["json"].items():
        said(value, facts["schema"]["properties"][name], facts["text"])


@pytest.mark.parametrize("sample", unseen.samples("tools"))
def test_a_question_says_every_argument(sample):
    tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in sample.tools}
    assert len(tools) == len(sample.tools)
    for call in sample.facts["calls"]:
        schema = tools[call["name"]]
        assert conforms(call["arguments"], schema)
        for name, value in call["arguments"].items():
            said(value, schema["properties"][name], sample.facts["question"])
    text = "".join(f"<tool_call>{json.dumps(call)}</tool_call>" for call in sample.facts["calls"])
    assert judge_calls(text, sample.tools, sample.facts["calls"]) == Verdict(True, True, True)


def test_there_are_a_hundred_of_each_and_no_two_are_the_same():
    for kind in ("extract", "tools"):
        found = unseen.samples(kind)
        assert len(found) == len({json.dumps(sample.messages[0]) for sample in found}) == 100
    needed = [len(sample.facts["calls"]) for sample in unseen.samples("tools")]
    assert (needed.count(0), needed.count(1), needed.count(2)) == (15, 80, 5)


def said(value, schema, text) -> None:
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, str):
            assert one in text or one in schema.get("enum", ()), one
