"""Texts and tools that are written by hand: what a file may say, and that what is made of it is right."""

from __future__ import annotations

import json
from random import Random

import pytest

from quire.pocket.recipe.judge import conforms
from quire.pocket.recipe.synth import actions, errands, extract, forms, params, records

SCENE = """\
# ferry
captain: surname
vessel, boat: Solvik | Marta | Blue Gull
minutes_late: 5..90
wind: 3.5..20.0
open_now: bool: the cafe is open | the cafe is closed
state: enum: late = left late | gone = was cancelled
goods: list: fruit
- {captain} says that the {vessel} {state}, {minutes_late} minutes, at {wind} knots, with {goods}; {open_now}.
"""
TOOLS = """\
# clinic
> store_glucose: Store a reading.
client: person; full name
value: 3.5..12.0; the reading in mmol/l
meal?: enum: before = before a meal | after = after a meal; when it was taken
- {client} measured {value}, {meal}.
- Note {value} for {client}.
> book_scan: Book a scan.
client: person
- A scan for {client}, please.
"""


@pytest.fixture
def written(tmp_path):
    def write(name: str, text: str) -> list[forms.Form]:
        (tmp_path / name).write_text(text)
        return forms.read(tmp_path / name)

    return write


@pytest.mark.parametrize("seed", range(50))
def test_a_text_says_its_values(written, seed):
    (scene,) = written("scenes_x.txt", SCENE)
    text, values = forms.fill(Random(seed), scene, scene.texts[0])
    assert list(values) == ["captain", "vessel", "state", "minutes_late", "wind", "goods", "open_now"]
    for name in ("captain", "vessel"):
        assert values[name] in text
    assert f" {values['minutes_late']} minutes, at {values['wind']} knots" in text
    assert ("is open" in text) is values["open_now"]
    assert ("left late" if values["state"] == "late" else "was cancelled") in text
    assert all(one in text for one in values["goods"])
    for name, value in values.items():
        assert conforms(value, scene.slots[name].schema)


def test_a_slot_may_have_two_names(written):
    (scene,) = written("scenes_x.txt", SCENE)
    assert scene.slots["vessel"].names == ("vessel", "boat")


def test_a_tool_has_what_its_slots_are_and_which_may_be_absent(written):
    first, second = written("tools_x.txt", TOOLS)
    assert (first.topic, first.name, first.about) == ("clinic", "store_glucose", "Store a reading.")
    assert [(s.names[0], s.about, s.required) for s in first.slots.values()] == [
        ("client", "full name", True),
        ("value", "the reading in mmol/l", True),
        ("meal", "when it was taken", False),
    ]
    assert (second.name, len(second.texts)) == ("book_scan", 1)


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("- It is {late}.", "no slot is called late"),
        ("- {client} measured {value", "a brace is left open"),
        ("- Note it for {client}.", "does not say value"),
        ("meal: sandwich", "'sandwich'"),
        ("meal: a | | b", "a choice is empty"),
        ("what is this", "is no slot, tool, topic or text"),
        ("open: bool: one | two | three", "too many values"),
    ],
)
def test_a_wrong_line_is_named(written, line, told):
    kept = TOOLS.splitlines()[:5]
    with pytest.raises(ValueError, match=rf"tools_x.txt:6: .*{told}"):
        written("tools_x.txt", "\n".join([*kept, line]))


def test_values_of_one_text_differ(written):
    (scene,) = written("scenes_x.txt", "# trip\na: x | y\nb: x | y\n- From {a} to {b}.\n")
    for seed in range(30):
        _, values = forms.fill(Random(seed), scene, scene.texts[0])
        assert values["a"] != values["b"]
    (never,) = written("scenes_y.txt", "# trip\na: x | x\nb: x | x\n- From {a} to {b}.\n")
    with pytest.raises(ValueError, match="trip: two slots always have the same value"):
        forms.fill(Random(0), never, never.texts[0])


def test_every_written_text_can_be_filled():
    assert len(forms.scenes()) > 100
    assert sum(map(len, forms.tools())) > 200
    for form in [*forms.scenes(), *(tool for section in forms.tools() for tool in section)]:
        assert form.texts, form
        for text in form.texts:
            forms.fill(Random(0), form, text)


def test_no_two_written_texts_are_the_same():
    texts = [text for form in forms.scenes() for text in form.texts]
    asks = [text for section in forms.tools() for form in section for text in form.texts]
    for every in (texts, asks):
        assert len(set(every)) == len(every)


def test_what_is_written_uses_no_reserved_name():
    keys = {name for r in records.RESERVED for f in (r.first, *r.fields) for name in f.names}
    assert not keys & {name for form in forms.scenes() for slot in form.slots.values() for name in slot.names}
    parts = {w for a in actions.RESERVED for name in (*a.verbs, *a.nouns) for w in name.split("_")}
    tools = [form for section in forms.tools() for form in section]
    assert not {(form.name, w) for form in tools for w in form.name.split("_") if w in parts}
    names = {name for param in params.PARAMS.values() for name in param.reserved}
    assert not names & {name for form in tools for slot in form.slots.values() for name in slot.names}


@pytest.mark.parametrize("seed", range(200))
def test_calls_of_written_tools_fit_them(seed):
    sample = errands.make(Random(seed))
    tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in sample.tools}
    calls = [call["function"] for message in sample.messages for call in message.get("tool_calls", ())]
    assert [{"name": c["name"], "arguments": c["arguments"]} for c in calls][: len(sample.facts["calls"])] == (
        sample.facts["calls"]
    )
    for call in calls:
        assert conforms(call["arguments"], tools[call["name"]])
    asked = [tool_call["id"] for message in sample.messages for tool_call in message.get("tool_calls", ())]
    assert len(set(asked)) == len(asked)
    answered = [message["tool_call_id"] for message in sample.messages if message["role"] == "tool"]
    assert asked[: len(answered)] == answered


@pytest.mark.parametrize("seed", range(200))
def test_extractions_of_written_texts_fit_their_schema(seed, monkeypatch):
    monkeypatch.setattr(extract, "WRITTEN", 1.0)
    sample = extract.make(Random(seed), False)
    answers = [json.loads(m["content"]) for m in sample.messages if m["role"] == "assistant"]
    assert answers[0] == sample.facts["json"]
    for answer in answers:
        assert conforms(answer, sample.facts["schema"])
