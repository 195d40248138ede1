"""What ends a thought is read as its end, whatever the template, and a grammar goes on behind it."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampling import steady
from vocabularies import template, templates, vocabulary_of

from quire.engine.errors import RequestError
from quire.engine.grammar import compile
from quire.engine.grammar.vocabulary import Vocabulary
from quire.engine.messages import ThoughtBudget
from quire.server.binding import bind
from quire.server.budgets import FIELDS, Asked, asked, thought
from quire.server.calls import Calls, calls
from quire.server.dialect import Dialect
from quire.server.grammars import constraint
from quire.server.reasoning import NONE, choose
from quire.server.tokenizer import Tokenizer
from quire.server.tools.events import Thought

THINKING = [n for n in templates() if choose(template(n)) is not NONE] or [
    pytest.param("", marks=pytest.mark.skip("shared/data/chat-templates is not beside this checkout"))
]
SCHEMA = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
GIVEN = st.dictionaries(st.sampled_from(FIELDS), st.integers(-1, 3))
DOCUMENT = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}
PING = {"name": "ping", "parameters": {"properties": {}, "additionalProperties": False}}
TOOLS: list[Any] = [{"type": "function", "function": PING}]


@functools.cache
def dialect(name: str) -> Dialect:
    return Dialect.of(template(name), vocabulary_of(name).ours, "auto", "auto")


def budget(name: str, prompt: str = "", *, tools: bool = False, **more) -> ThoughtBudget:
    return thought(Asked(7, "thinking_budget"), dialect(name), prompt, vocabulary_of(name).ours, tools=tools, **more)


def text(name: str, ids: tuple[int, ...]) -> str:
    return "".join(vocabulary_of(name).ours.token_text(i) for i in ids)


@pytest.mark.parametrize("name", THINKING)
@pytest.mark.parametrize("tools", [False, True])
def test_what_ends_a_thought_is_read_as_its_end(name, tools):
    kind, found = dialect(name).reasoning, budget(name, tools=tools)
    assert (found.tokens, found.ends, found.begin) == (7, kind.ends, kind.begin)
    end = text(name, (*found.newline, *found.close))
    assert any(tag in end for tag in kind.ends)
    rest = "<|channel|>final<|message|>Yes." if kind.channels and tools else "Yes."
    splitter = kind.splitter("")
    events = [*splitter.feed(f"{kind.begin}Hmm,{end}{rest}"), *splitter.finish()]
    told = ["".join(e.text for e in events if isinstance(e, Thought) is which) for which in (True, False)]
    assert told == ["Hmm,", "Yes."]


@pytest.mark.parametrize("name", THINKING)
def test_whether_the_prompt_has_begun_the_thought_is_told(name):
    begin = dialect(name).reasoning.begin
    assert budget(name, f"x{begin}\n").inside
    assert not budget(name, "x").inside


LINES = {
    "Qwen-Qwen3-0.6B": True, "Qwen3.5-4B": True, "MiniMax-M2": True, "HuggingFaceTB-SmolLM3-3B": True,
    "LFM2.5-8B-A1B": False, "GLM-4.6": False, "mistralai-Ministral-3-14B-Reasoning-2512": False,
    "openai-gpt-oss-120b": False, "Kimi-K2-Thinking": False,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(LINES.keys() & set(templates())))
def test_the_end_stands_on_its_own_line_where_the_template_writes_it_so(name):
    assert text(name, budget(name).newline) == ("\n" if LINES[name] else "")


@pytest.mark.parametrize("name", THINKING)
@pytest.mark.parametrize("begun", [True, False], ids=["begun by the prompt", "begun by the model"])
@pytest.mark.parametrize("wanted", [DOCUMENT, {"tool_choice": "required"}], ids=["document", "call"])
def test_a_grammar_lets_the_end_come_and_goes_on_behind_it(name, begun, wanted):
    ours, known = vocabulary_of(name).ours, dialect(name)
    kind = known.reasoning
    if kind.channels and begun:
        pytest.skip("its prompts never begin a thought")
    may_call = calls(TOOLS, "required", True) if "tool_choice" in wanted else Calls()
    prompt = f"x{kind.begin}" if begun else "x"
    try:
        binding = bind(constraint(wanted), may_call, known, prompt)
    except RequestError:
        pytest.skip("no grammar of this can be written for this model")
    found = budget(name, prompt, tools=bool(may_call.tools))
    if binding.after:
        assert found.close[-len(binding.after) :] == binding.after
        return
    eos = ours.eos_ids or (0,)
    words = Vocabulary(vocabulary_of(name).description, eos)
    try:
        matcher = compile(binding.spec, words).matcher()
    except RequestError:
        pytest.skip("the engine finds no answer of this grammar")
    opening = [] if begun else [*tokens_of(known, ours, kind.begin)]
    think = [*opening, *ours.encode_content("Hmm, so", first=False)]
    assert matcher.accept(think) == len(think)
    assert matcher.accept(list(found.close)) == len(found.close)
    assert not matcher.may_end


def tokens_of(known: Dialect, ours: Tokenizer, written: str) -> list[int]:
    return [
        token
        for piece in known.spelling.split(written)
        for token in ([piece] if isinstance(piece, int) else ours.encode_content(piece, first=False))
    ]


@pytest.mark.skipif(not templates(), reason="shared/data/chat-templates is not beside this checkout")
def test_what_cannot_be_is_refused_by_its_field():
    def refused(name: str, ours: Tokenizer, **more) -> RequestError:
        known = Dialect.of(template(name), ours, "auto", "auto")
        with pytest.raises(RequestError) as caught:
            thought(Asked(7, "reasoning_budget"), known, "", ours, tools=False, **more)
        return caught.value

    plain = "Qwen-Qwen2.5-7B-Instruct"
    assert refused(plain, vocabulary_of(plain).ours).param == "reasoning_budget"
    solar = "upstage-Solar-Open-100B"
    ends_there = Tokenizer(vocabulary_of(solar).description, {"eos_token": "<|end|>"})
    error = refused(solar, ends_there)
    assert error.param == "reasoning_budget"
    assert "ends its answers" in error.message
    qwen = "Qwen-Qwen3-0.6B"
    assert refused(qwen, vocabulary_of(qwen).ours, allowed=[5]).param == "allowed_token_ids"
    close = budget(qwen).close
    assert budget(qwen, allowed=close).newline == ()


@pytest.mark.parametrize("field", FIELDS)
def test_every_name_means_the_same_in_the_request_and_beside_it(field):
    assert asked({field: 5}, {}) == Asked(5, field)
    assert asked({field: 5.0}, {}) == Asked(5, field)
    assert asked({}, {field: 0}) == Asked(0, f"chat_template_kwargs.{field}")
    assert asked({field: -1}, {}) is None
    assert asked({field: None}, {field: None}) is None
    assert asked({field: 5}, dict.fromkeys(FIELDS, 5)) == Asked(5, field)


@pytest.mark.parametrize("value", [-2, 1.5, True, "5", [], 2**40])
def test_a_budget_that_is_no_count_is_refused_by_its_field(value):
    for where in ("", "chat_template_kwargs."):
        with pytest.raises(RequestError) as caught:
            asked({} if where else {"thinking_budget": value}, {"thinking_budget": value} if where else {})
        assert caught.value.param == f"{where}thinking_budget"
        assert json.dumps(caught.value.message)


@given(GIVEN, GIVEN)
@steady
def test_names_that_say_different_things_are_refused(body, kwargs):
    values = {*body.values(), *kwargs.values()}
    if len(values) > 1:
        with pytest.raises(RequestError, match="only one can be"):
            asked(body, kwargs)
    else:
        found = asked(body, kwargs)
        assert (found.tokens if found else -1) == (values or {-1}).pop()
