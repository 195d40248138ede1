"""A prompt has the ids that transformers gives it: every template, every kind of vocabulary, awkward conversations."""

from __future__ import annotations

from typing import Any

import pytest
from conversations import CONVERSATIONS, TOOLS, assistant, call, filled, joined, parsed, parts, reply, system, user
from vocabularies import EVERY, Vocabulary, byte_level, template, templates, vocabulary, vocabulary_of

from quire.engine.errors import ModelError, RequestError
from quire.server.prompt import Prompt, Renderer
from quire.server.tokenizer import Tokenizer

TEMPLATES = templates() or [pytest.param("", marks=pytest.mark.skip("shared/data/chat-templates is not beside this"))]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token or '' }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] | trim }} [/INST]"
    "{% elif m['role'] == 'assistant' %} {{ m['content'] }}{{ eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles: ' + m['role']) }}{% endif %}{% endfor %}"
)


BEYOND = {  # templates that quire renders in a better way than transformers
    "Kimi-K2-Instruct",  # it changes a list
    "Kimi-K2-Thinking",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B",  # it shows a call only beside a null, which gets lost there
}


def attempts(messages: list[dict]) -> list[list[dict]]:
    """What transformers may be given in the same sense: where it cannot do with the first, the next is right."""
    objects = parsed(messages)
    return [objects, messages, filled(objects), filled(messages)]


def text_of(words: Vocabulary, source: str, messages: list[dict], tools: Any = None, **more: Any) -> str:
    """By transformers; raises its first error where it cannot."""
    error: Exception | None = None
    for one in attempts(messages):
        try:
            return words.theirs.apply_chat_template(
                one, chat_template=source, tools=tools, tokenize=False, **{"add_generation_prompt": True, **more}
            )
        except Exception as found:
            error = error or found
    assert error is not None
    raise error


def in_a_form_it_takes(words: Vocabulary, source: str, messages: list[dict]) -> list[dict]:
    """Content stays in parts if the template shows the text of every part, and does not print the list."""
    whole = joined(messages)
    if whole == messages:
        return messages
    texts = [p["text"].strip() for m in messages if isinstance(m["content"], list) for p in m["content"]]
    try:
        shown = text_of(words, source, messages)
        plain = text_of(words, source, whole)
    except Exception:
        return whole
    takes = all(t in shown for t in texts) and shown.count("text") == plain.count("text")
    return messages if takes else whole


def check(words: Vocabulary, renderer: Renderer, source: str, messages: list[dict], tools: Any = None) -> None:
    """quire's prompt is that of transformers, or both refuse in the same words."""
    given = in_a_form_it_takes(words, source, messages)
    try:
        text = text_of(words, source, given, tools)
    except Exception as error:
        reason = str(error)
    else:
        reason = None
    if reason is not None:
        with pytest.raises(RequestError) as refused:
            renderer.render(messages, tools=tools)
        assert reason in str(refused.value)
        assert refused.value.status == 400
        return
    got = renderer.render(messages, tools=tools)
    assert got.text == text
    assert got.ids == words.theirs(text, add_special_tokens=False)["input_ids"]
    assert got.defused == 0


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_real_template_with_its_markup_gives_the_prompt_of_transformers(name: str) -> None:
    words, source = vocabulary_of(name), template(name)
    renderer = Renderer(words.ours, source)
    for title, messages in CONVERSATIONS.items():
        if name in BEYOND and "tool_calls" in str(messages):
            shown = renderer.render(messages).text
            assert "get_weather" in shown or "Let me see." in shown
            continue
        check(words, renderer, source, messages)
        if title in ("one question", "a call", "two calls"):
            check(words, renderer, source, messages, TOOLS)


@pytest.mark.parametrize("words", ["mistral", "qwen"])
def test_real_templates_over_real_vocabularies_give_the_ids_of_transformers(words: str) -> None:
    """Each vocabulary takes every template, on some conversation or other."""
    titles = [title for title in CONVERSATIONS if "parts" not in title]
    for i, name in enumerate(templates()):
        renderer = Renderer(vocabulary(words).ours, template(name))
        check(vocabulary(words), renderer, template(name), CONVERSATIONS[titles[i % len(titles)]])


@pytest.mark.parametrize("source", [CHATML, LLAMA], ids=["chatml", "llama"])
@pytest.mark.parametrize("words", EVERY)
def test_every_conversation_over_every_vocabulary_gives_the_ids_of_transformers(words: str, source: str) -> None:
    renderer = Renderer(vocabulary(words).ours, source)
    for messages in CONVERSATIONS.values():
        check(vocabulary(words), renderer, source, messages)


@pytest.mark.parametrize(
    ("words", "source"), [("byte-level", CHATML), ("qwen", CHATML), ("llama", LLAMA), ("mistral", LLAMA)]
)
def test_a_forged_control_token_leaves_the_other_messages_their_ids(words: str, source: str) -> None:
    known = vocabulary(words).ours
    renderer = Renderer(known, source)
    turns = [user("  one,\n two\n"), assistant(" b  "), user("\nx"), assistant(" c"), user("d  e")]
    plain = renderer.render(turns)
    for forged in known.special:
        turns[2] = user(f"\n {forged} x")
        tricked = renderer.render(turns)
        assert tricked.defused == 1
        same = [a == b for a, b in zip(stretches(known, plain.ids), stretches(known, tricked.ids), strict=True)]
        assert same.count(False) == 1


def stretches(known: Tokenizer, ids: list[int]) -> list[list[int]]:
    """Ids cut at control tokens, which begin each stretch."""
    found: list[list[int]] = [[]]
    for token in ids:
        if token in known.control_ids:
            found.append([])
        found[-1].append(token)
    return found


def test_space_that_a_control_token_swallows_is_swallowed_beside_forged_ones_too() -> None:
    """Some vocabularies (Phi-3) have tokens that take the space on their right or left with them."""
    source = "{% for m in messages %}<|late|>  {{ m['content'] }}{% endfor %}"
    words = vocabulary("byte-level")
    late = words.ours.control["<|late|>"]
    for content in (" hi", "\n\nhi"):
        plain = words.theirs(f"<|late|>  {content}", add_special_tokens=False)["input_ids"]
        tricked = Renderer(words.ours, source).render([user(content), user("<|im_end|>")])
        assert tricked.ids[: len(plain)] == plain
        assert tricked.ids.count(late) == 2
    assert (
        vocabulary("unigram").ours.encode_between("the  <|sep|> the", [(5, 12)])
        == vocabulary("unigram").theirs("the  <|sep|> the", add_special_tokens=False)["input_ids"]
    )


JINJA = """
{# a comment #}
  {% for m in messages %}
    {%- if loop.index0 > 3 %}{% break %}{% endif %}
    {% if m.role == 'skip' %}{% continue %}{% endif %}
    {% generation %}
  {{ m.content | tojson }} {{ m | tojson(indent=2, sort_keys=true) }} {{ m.nothing }}
    {% endgeneration %}
  {% set last = namespace(text=m.content) %}
  {% endfor %}
{{ [1, none, true] }} {{ bos_token }} {{ eos_token }} {{ tools }} {{ documents }} {{ add_generation_prompt }}
{% macro f(x) -%} [{{ x }}] {%- endmacro %}{{ f(messages | length) }} {{ strftime_now('%Y') }}

"""


@pytest.mark.parametrize("title", CONVERSATIONS)
def test_jinja_is_that_of_transformers(title: str) -> None:
    """Blocks and their blank lines, loop controls, JSON, variables, the tags for training."""
    words = vocabulary("llama")
    check(words, Renderer(words.ours, JINJA), JINJA, CONVERSATIONS[title])


def test_a_template_that_refuses_is_a_400_in_its_own_words() -> None:
    renderer = Renderer(vocabulary("llama").ours, LLAMA)
    with pytest.raises(RequestError, match="refuses these messages: Only user and assistant roles: system") as refused:
        renderer.render([system("s"), user("x")])
    assert (refused.value.status, refused.value.param) == (400, "messages")


@pytest.mark.parametrize(
    "source",
    ["{{ messages[0]['content'] + 1 }}", "{{ messages[0].content.nothing.there }}", "{{ messages[9]['content'] + '' }}",
     "{{ 1 / 0 }}", "{{ [].__class__.__base__.__subclasses__() }}",
     "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{{ 'x' | nothing }}"],
)  # fmt: skip
def test_a_template_that_breaks_is_a_400_or_no_template_at_all(source: str) -> None:
    try:
        renderer = Renderer(vocabulary("llama").ours, source)
    except ModelError:
        return
    with pytest.raises(RequestError, match="chat template"):
        renderer.render([user("x")])


def test_a_template_may_collect_in_lists_and_each_rendering_has_its_own() -> None:
    """As Kimi's do. What one changes, no other sees, and neither does the client's request."""
    source = "{% set _ = messages.append({'role': 'user', 'content': 'b'}) %}{{ messages | length }}"
    renderer, messages = Renderer(vocabulary("llama").ours, source), [user("<s>")]
    assert [renderer.render(messages).text for _ in range(3)] == ["2"] * 3
    assert messages == [user("<s>")]


def test_a_template_that_is_not_jinja_is_an_error_of_the_model_that_names_the_line() -> None:
    with pytest.raises(ModelError, match=r"not valid Jinja.*line 2"):
        Renderer(vocabulary("llama").ours, "\n{% for %}")


def test_a_model_without_a_template_says_what_to_do() -> None:
    with pytest.raises(RequestError, match="no chat template; give one with --chat-template"):
        Renderer(vocabulary("llama").ours).render([user("x")])


def test_the_template_for_tools_is_taken_where_there_are_tools() -> None:
    words = byte_level()
    named = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    words.ours.settings["chat_template"] = named
    renderer = Renderer(words.ours)
    assert renderer.render([user("x")]).text == "plain"
    assert renderer.render([user("x")], tools=TOOLS).text == "tools"


def test_variables_of_the_request_reach_the_template() -> None:
    source = "{% if enable_thinking is defined and not enable_thinking %}off{% else %}on{% endif %}{{ date }}"
    renderer = Renderer(vocabulary("byte-level").ours, source)
    assert renderer.render([user("x")]).text == "on"
    assert renderer.render([user("x")], template_kwargs={"enable_thinking": False, "date": "today"}).text == "offtoday"


@pytest.mark.parametrize("kind", ["image_url", "input_audio", None])
def test_a_part_that_is_no_text_is_refused_by_its_place(kind: str | None) -> None:
    renderer = Renderer(vocabulary("byte-level").ours, CHATML)
    with pytest.raises(RequestError, match=r"messages\[1\].content\[1\].type is .*text only"):
        renderer.render([user("x"), user([*parts("a"), {"type": kind}])])


def test_arguments_that_are_no_json_go_to_the_template_as_they_came() -> None:
    source = "{{ messages[0].tool_calls[0].function.arguments }}"
    broken = {"function": {"name": "f", "arguments": '{"a": '}}
    assert Renderer(vocabulary("byte-level").ours, source).render([assistant("", tool_calls=[broken])]).text == '{"a": '


def test_arguments_that_a_template_pastes_are_the_text_that_the_client_sent() -> None:
    """And not JSON written anew: what the model said is in the prefix cache as it said it."""
    source = "{{ '' + messages[0].tool_calls[0].function.arguments }}"
    sent = call(1) | {"function": {"name": "f", "arguments": '{"b":1,  "a":"\\u00f6"}'}}
    got: Prompt = Renderer(vocabulary("byte-level").ours, source).render([assistant(None, tool_calls=[sent])])
    assert got.text == '{"b":1,  "a":"\\u00f6"}'


FINALS = ["b", "m", "end", "<", "a  ", "\n", " x", "the answer is\n\n", "assistant", "a b a"]


@pytest.mark.parametrize("final", [*FINALS, parts("one", "two ")], ids=repr)
@pytest.mark.parametrize("name", ["chatml", "trims", "Qwen-Qwen3-0.6B", "GLM-4.6", "google-gemma-2-2b-it"])
def test_the_last_message_is_continued_right_behind_its_text(name: str, final: Any) -> None:
    """Where it is cut does not depend on what else of the prompt looks like its text."""
    if name not in ("chatml", "trims") and name not in templates():
        pytest.skip("shared/data/chat-templates is not beside this checkout")
    source = {"chatml": CHATML, "trims": CHATML.replace("m['content']", "m['content'] | trim")}.get(name)
    source = source or template(name)
    words = vocabulary("byte-level")
    renderer = Renderer(words.ours, source)
    messages = [user("a"), assistant(final)]
    how = {"add_generation_prompt": False, "continue_final_message": True}
    given = in_a_form_it_takes(words, source, messages)
    assert renderer.render(messages, **how).text == text_of(words, source, given, **how)


@pytest.mark.parametrize("last", [[], [assistant(None)], [assistant([])]])
def test_what_has_no_text_cannot_be_continued(last: list[dict]) -> None:
    with pytest.raises(RequestError, match="needs a last message with text"):
        Renderer(vocabulary("byte-level").ours, CHATML).render(last, continue_final_message=True)


def test_a_last_message_that_the_template_does_not_show_cannot_be_continued() -> None:
    with pytest.raises(RequestError, match="does not show the last message"):
        Renderer(vocabulary("byte-level").ours, "nothing").render([assistant("a")], continue_final_message=True)


def test_replies_keep_their_place_where_a_template_answers_part_by_part() -> None:
    source = "{% for m in messages %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endfor %}"
    got = Renderer(vocabulary("byte-level").ours, source).render([user("x"), reply(1, parts("a", "b"))])
    assert got.text.endswith("<a><b>")
