"""Thoughts are told apart from the answer the same way however it is cut, and no tag is shown, nor half of one."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tool_calls import TOOLS, calls_of, cuts, merged, parse, written

from quire.server.reasoning import KINDS, NONE, Reasoning, Splitter
from quire.server.tools import load

TAGGED = [kind for kind in KINDS if not kind.channels]
BY_NAME = {kind.name: kind for kind in KINDS}


def split(kind: Reasoning, pieces: list[str], inside: bool = False) -> tuple[str, str]:
    """(thoughts, content)"""
    splitter = Splitter(kind, inside=inside)
    events = [e for piece in pieces for e in splitter.feed(piece)]
    found = merged(events + splitter.finish())
    thought, content = ("".join(text for name, text in found if name == which) for which in ("Thought", "Content"))
    return thought, content


@pytest.mark.parametrize("kind", TAGGED, ids=lambda kind: kind.name)
def test_a_thought_and_an_answer_are_told_apart_however_they_are_cut(kind: Reasoning) -> None:
    thought, answer = "Hmm, a <b> c.\n\nIs 1 < 2?", "Yes. </b> <x>\n  indeed\n"
    close = kind.drops[-1] if kind.drops else ""
    for inside in (True, False):
        text = f"{'' if inside else kind.begin}\n{thought}\n{kind.end}\n\n{''.join(kind.drops[:1])}{answer}{close}"
        for pieces in ([text], *cuts(text)):
            assert split(kind, pieces, inside) == (thought, answer), pieces


@pytest.mark.parametrize("kind", TAGGED, ids=lambda kind: kind.name)
def test_an_answer_without_thoughts_is_content_as_it_is(kind: Reasoning) -> None:
    text = "\n A <b> answer [that] says < and |> \n"
    for pieces in ([text], list(text)):
        assert split(kind, pieces) == ("", text)
    assert split(NONE, [text]) == ("", text)


@pytest.mark.parametrize("kind", TAGGED, ids=lambda kind: kind.name)
def test_an_unfinished_thought_is_a_thought(kind: Reasoning) -> None:
    assert split(kind, [f"{kind.begin}\nHmm"]) == ("Hmm", "")
    assert split(kind, ["\nHmm"], inside=True) == ("Hmm", "")
    assert split(kind, [f"{kind.begin}\n{kind.end}\n\nHi"], inside=True) == ("", "Hi")


@pytest.mark.parametrize("kind", TAGGED, ids=lambda kind: kind.name)
def test_no_part_of_a_tag_is_shown_while_it_may_become_one(kind: Reasoning) -> None:
    splitter = Splitter(kind)
    shown = ""
    for character in f"{kind.begin}a{kind.end}b":
        for event in splitter.feed(character):
            shown += event.text
    assert shown in ("ab", "a")


def test_a_tag_in_the_middle_of_an_answer_is_text() -> None:
    text = "The tag <think> begins a thought </think>."
    assert split(BY_NAME["think"], [text]) == ("", text)


def test_special_tags_may_come_later_too() -> None:
    kind = BY_NAME["gemma4"]
    text = "<|channel>thought\na<channel|>b<|channel>thought\nc<channel|>d"
    for pieces in cuts(text):
        assert split(kind, pieces) == ("ac", "bd")


@pytest.mark.parametrize(
    ("name", "prompt", "inside"),
    [
        ("think", "<|im_start|>assistant\n<think>\n", True),
        ("think", "<|im_start|>assistant\n<think>\n\n</think>\n\n", False),
        ("think", "<|im_start|>user\nwhat is <think>?<|im_end|>\n<|im_start|>assistant\n", False),
        ("cohere", "<|CHATBOT_TOKEN|><|START_THINKING|>", True),
        ("gemma4", "<|turn>model\n<|channel>thought\n<channel|>", False),
        ("apriel", "<|begin_assistant|>\nHere are my reasoning steps:\n", True),
        ("openai", "<|start|>assistant", False),
        ("openai", "<|start|>assistant<|channel|>analysis<|message|>", True),
    ],
)
def test_the_end_of_the_prompt_tells_whether_the_answer_begins_in_a_thought(
    name: str, prompt: str, inside: bool
) -> None:
    assert BY_NAME[name].begun_in(prompt) == inside
    assert BY_NAME[name].splitter(prompt).thinking == inside
    assert not NONE.begun_in(prompt)


HARMONY = (
    "<|channel|>analysis<|message|>Hmm <|x|>.<|end|>"
    "<|start|>assistant<|channel|>commentary<|message|>Let me see. <|end|>"
    '<|start|>assistant<|channel|>commentary to=functions.get <|constrain|>json<|message|>{"zone": "CET"}<|call|>'
)
FORMS = [
    HARMONY,
    HARMONY.replace(
        "assistant<|channel|>commentary to=functions.get <|constrain|>",
        "assistant to=functions.get<|channel|>commentary ",
    ),
    HARMONY.removesuffix("<|call|>"),
]


@pytest.mark.parametrize("text", FORMS, ids=["after the channel", "before the channel", "without an end"])
def test_channels_and_calls_of_gpt_oss_come_apart_however_they_are_cut(text: str) -> None:
    for pieces in ([text], *cuts(text)):
        thought, rest = split(BY_NAME["openai"], pieces)
        assert thought == "Hmm <|x|>."
        found = parse(load("openai"), [rest])
        assert calls_of(found) == [("get", {"zone": "CET"})]
        assert found[0] == ("Content", "Let me see.")


def test_a_call_of_gpt_oss_may_begin_the_answer() -> None:
    text = ' to=functions.get<|channel|>commentary json<|message|>{"zone": "CET"}<|call|>'
    for pieces in ([text], list(text)):
        _, rest = split(BY_NAME["openai"], pieces)
        assert parse(load("openai"), [rest]) == parse(load("openai"), list(rest))
        assert calls_of(parse(load("openai"), [rest])) == [("get", {"zone": "CET"})]


def test_the_final_channel_is_content_and_text_without_channels_too() -> None:
    kind = BY_NAME["openai"]
    text = "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b\n<|return|>"
    for pieces in ([text], *cuts(text)):
        assert split(kind, pieces) == ("a", "b\n")
    assert split(kind, ["a"], inside=True) == ("a", "")
    assert split(kind, ["no channel at all " * 40]) == ("", "no channel at all " * 40)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_text_is_split_the_same_however_it_is_cut(kind: Reasoning, data: st.DataObject) -> None:
    tags = [kind.begin, kind.end, *kind.drops, "<|message|>" if kind.channels else "x"]
    words = [*tags, *(tag[: len(tag) // 2] for tag in tags), " ", "\n", "a", "<", "to="]
    text = "".join(data.draw(st.lists(st.sampled_from(words), max_size=10)))
    inside = data.draw(st.booleans())
    size = data.draw(st.integers(1, 7))
    whole = split(kind, [text], inside)
    assert split(kind, list(text), inside) == whole
    assert split(kind, [text[i : i + size] for i in range(0, len(text), size)], inside) == whole


def test_thoughts_go_first_and_calls_are_found_in_what_is_left() -> None:
    format = load("hermes")
    call = written(format, [("get", {"zone": "CET"})])
    text = f"<think>\nI could write {call} now.\n</think>\n\nWell.\n{call}"
    thought, rest = split(BY_NAME["think"], [text])
    assert call in thought
    found = parse(format, [rest], TOOLS)
    assert calls_of(found) == [("get", {"zone": "CET"})]
    assert found[0] == ("Content", "Well.")
