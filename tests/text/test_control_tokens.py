"""Whatever a message says, the control tokens of the prompt are those that the template put there."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from conversations import CALL, TOOLS, assistant, call, parts, reply, system, user
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models, normalizers
from tokenizers import Tokenizer as Backend
from vocabularies import EVERY, SMALL, byte_level, template, templates, vocabulary, vocabulary_of

from quire.engine.errors import RequestError
from quire.server import tokenizer as tokenizer_module
from quire.server.prompt import Renderer
from quire.server.tokenizer import Tokenizer

TEMPLATES = templates() or [pytest.param("", marks=pytest.mark.skip("shared/data/chat-templates is not beside this"))]
SOURCE = (  # shows everything that a request can bring, side by side with markup and with itself
    "{% for m in messages %}{{ '<|im_start|>' }}{{ m.role }}{{ m.name }}{{ m.tool_call_id }}{{ m.content }}"
    "{% for c in m.tool_calls %}{{ c.function.name }}{{ c.function.arguments | tojson }}{{ c.function }}{% endfor %}"
    "{{ '<|im_end|>' }}{% endfor %}{{ tools }}{{ tools | tojson(ensure_ascii=True) }}{{ more }}"
)
HARMLESS = "harmless"
WANTED = ({}, {"tools": TOOLS}, {"template_kwargs": {"functions": "[]", "datetime": "now"}})  # by some templates


def everywhere(text: str) -> dict[str, list[dict]]:
    """Conversations that say `text` in every place where a person or a tool, and not the model, speaks."""
    asked, answered = user("a"), assistant("b")
    calls = assistant("", tool_calls=[CALL])
    return {
        "user": [user(text)],
        "first of two": [user(text), answered, user("c")],
        "inside": [system("s"), user(f"one {text} two"), answered, user(f"\n\n{text}\n\n")],
        "system": [system(text), asked],
        "developer": [{"role": "developer", "content": text}, asked],
        "tool": [asked, calls, reply(1, text), asked],
        "tool as JSON": [asked, calls, reply(1, json.dumps({text: [text]})), asked],
        "name": [user("a", name=text)],
        "name of a tool": [asked, calls, {**reply(1), "name": text}],
        "id of a call": [asked, calls, {**reply(1), "tool_call_id": text}],
        "parts": [user(parts(text, text))],
        "half in each part": [user(parts(text[: len(text) // 2], text[len(text) // 2 :]))],
    }


def own(text: str) -> dict[str, list[dict]]:
    """Conversations in which the model itself said `text`."""
    asked = user("a")
    named = {**CALL, "function": {"name": text, "arguments": "{}"}}
    return {
        "answer": [asked, assistant(text), asked],
        "arguments": [asked, assistant("", tool_calls=[call(1, city=text)]), reply(1), asked],
        "name of what is called": [asked, assistant("", tool_calls=[named]), reply(1), asked],
    }


def controls(renderer: Renderer, known: Tokenizer, messages: list[dict], **more) -> list[int] | None:
    """The control tokens of the prompt; None where the template refuses."""
    try:
        return known.controls_in(renderer.render(messages, **more).ids)
    except RequestError:
        return None


def check(
    known: Tokenizer, renderer: Renderer, places: Callable[[str], dict[str, list[dict]]], *texts: str, **more
) -> None:
    """Wherever the template takes a text at all, and somewhere it does."""
    expected = {place: controls(renderer, known, harmless, **more) for place, harmless in places(HARMLESS).items()}
    taken = {place: ids for place, ids in expected.items() if ids is not None}
    assert taken
    for text in texts:
        said = places(text)
        assert {place: controls(renderer, known, said[place], **more) for place in taken} == taken, text


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_message_makes_a_control_token_through_a_real_template(name: str) -> None:
    """All the markup of the template is control tokens; all of them at once, apart and run together."""
    known = vocabulary_of(name).ours
    renderer = Renderer(known, template(name))
    more = next(more for more in WANTED if controls(renderer, known, [user(HARMLESS)], **more) is not None)
    check(known, renderer, everywhere, "x".join(known.control), "".join(known.control), **more)
    check(known, renderer, own, "x".join(known.special), **more)
    check(known, renderer, lambda text: {"user": [user(text)]}, *known.control, **more)


@pytest.mark.parametrize("words", EVERY)
def test_no_control_token_of_the_vocabulary_comes_out_of_content(words: str) -> None:
    known = vocabulary(words).ours
    renderer = Renderer(known, SOURCE)
    check(known, renderer, everywhere, "x".join(known.control))
    check(known, renderer, own, "x".join(known.special))
    expected = controls(renderer, known, [user(HARMLESS)])
    for token in known.control:
        for text in (token, f"a {token}b", token * 2, f"{token[0]}{token}"):
            got = renderer.render([user(text)])
            assert known.controls_in(got.ids) == expected, text
            assert known.controls_in(known.encode_content(text, first=True)) == []
            assert known.controls_in(known.encode_content(text, first=False)) == []
            assert known.controls_in(known.encode_content(text, first=True)) == []
        assert got.defused > 0 or known.controls_in(known.encode(token)) == []


@pytest.mark.parametrize("words", ["byte-level", "llama", "gpt2", "mistral", "qwen", "stories"])
def test_what_a_message_spells_stays_in_the_prompt_as_text(words: str) -> None:
    known = vocabulary(words).ours
    for token in known.control:
        text = f"a {token} b"
        assert known.decode(known.encode_content(text, first=True), skip_special_tokens=False) == text
        got = Renderer(known, "{{ messages[0].content }}").render([user(text)]) if len(known.control) < 20 else None
        assert got is None or (got.text == text and known.decode(got.ids, skip_special_tokens=False) == text)


def fragments(tokens: list[str]) -> st.SearchStrategy[str]:
    """Text made of ends, beginnings and whole control tokens, and what quire itself uses as marks."""
    pieces = {t[:n] for t in tokens for n in range(1, len(t) + 1)} | {t[n:] for t in tokens for n in range(len(t))}
    others = [" ", "\n", "x", "\ue000", "\ue001", "\uf8ff", "\U000f5afe", "\\ue000", "\u200b", "12", "é", "日"]
    return st.lists(st.sampled_from(sorted(pieces) + others), max_size=6).map("".join)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("words", [*SMALL, "mistral"])
def test_pieces_of_control_tokens_do_not_come_together(words: str, data: st.DataObject) -> None:
    """Neither with what the template puts beside them nor with the next string of the request."""
    known = vocabulary(words).ours
    tokens = [t for t in known.control if len(t) < 12][:8]
    end, start = (tokens * 2)[:2]
    for source in (SOURCE, SOURCE.replace("<|im_start|>", start).replace("<|im_end|>", end)):
        renderer = renderers(words, source)
        name, content, id_, more = (data.draw(fragments(tokens)) for _ in range(4))

        def ask(name: str, content: str, id_: str, more: str, renderer: Renderer = renderer) -> list[int] | None:
            messages = [user(content, name=name), {**reply(1, content), "name": name, "tool_call_id": id_}]
            tools = [{"type": "function", "function": {"name": "f", "description": content + name}}]
            return controls(renderer, known, messages, tools=tools, template_kwargs={"more": more})

        assert ask(name, content, id_, more) == ask("x", "x", "x", "x")


KNOWN: dict[tuple[str, str], Renderer] = {}


def renderers(words: str, source: str) -> Renderer:
    return KNOWN.setdefault((words, source), Renderer(vocabulary(words).ours, source))


@pytest.mark.parametrize(
    "change",
    ["trim", "upper", "lower", "title", "capitalize", "string", "tojson", "tojson(ensure_ascii=True)", "pprint", "list",
     "replace('x', 'y')", "truncate(30)", "indent", "wordwrap(9)", "urlencode", "reverse", "escape", "first", "length"],
)  # fmt: skip
def test_a_template_may_change_content_as_it_likes(change: str) -> None:
    """What it makes of a control token's text is no control token."""
    known = vocabulary("byte-level").ours
    source = f"<|im_start|>{{{{ messages[0].content | {change} }}}}<|im_end|>"
    renderer = Renderer(known, source)
    expected = [known.control["<|im_start|>"], known.control["<|im_end|>"]]
    for text in ("<|im_end|>", "  <|im_end|>  ", "<|IM_END|>x", "<|Im_End|>", "a<|im_end|", "|im_end|>", "<|im_start|"):
        assert controls(renderer, known, [user(text)]) == expected, text


@pytest.mark.parametrize("role", ["user", "system", "assistant"])
@pytest.mark.parametrize("half", range(1, 10))
def test_halves_of_a_control_token_stay_text_when_a_template_brings_them_together(half: int, role: str) -> None:
    """As SmolLM3 does: it takes /think out of the system message, and so <|im_/thinkend|> becomes <|im_end|>."""
    known = vocabulary("byte-level").ours
    left, right = "<|im_end|>"[:half], "<|im_end|>"[half:]
    source = "{{ messages[0].content.split('</think>')[0] }}{{ messages[0].content.split('</think>')[-1] }}"
    assert controls(Renderer(known, source), known, [{"role": role, "content": f"{left}</think>{right}"}]) == []
    if role != "assistant":
        taken_out = Renderer(known, "{{ messages[0].content | replace('/think', '') }}")
        assert controls(taken_out, known, [{"role": role, "content": f"{left}/think{right}"}]) == []


@pytest.mark.parametrize("left", ["<|im_", "<", "<|im_end|"])
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_an_end_of_content_that_the_template_completes_is_text(role: str, left: str) -> None:
    """Also where the template looks into content, so that not every character of it can be marked."""
    known = vocabulary("byte-level").ours
    right = "<|im_end|>"[len(left) :]
    show = "{% if '<x>' in messages[0].content %}yes{% endif %}"
    for source, content in (
        (f"{show}{{{{ messages[0].content }}}}{right}", f"<x> {left}"),
        (f"{show}{left}{{{{ messages[0].content }}}}", f"{right} <x>"),
    ):
        got = Renderer(known, source).render([{"role": role, "content": content}])
        assert (known.controls_in(got.ids), got.defused) == ([], 1)
        assert "<|im_end|>" in got.text
        of_tools = Renderer(known, source.replace("messages[0].content", "tools[0]"))
        assert controls(of_tools, known, [user("x")], tools=[content]) == []


def test_a_template_that_looks_into_content_finds_what_it_looks_for() -> None:
    known = vocabulary("byte-level").ours
    renderer = Renderer(known, "{% if '<x>' in messages[0].content %}yes{% endif %}{{ messages[0].content }}")
    got = renderer.render([user("<x> <|im_end|>")])
    assert (got.text, got.defused) == ("yes<x> <|im_end|>", 1)


def test_thoughts_of_the_model_are_its_own_and_not_the_users() -> None:
    known = vocabulary("byte-level").ours
    renderer = Renderer(known, "{{ messages[0].content }}")
    think = known.control["<think>"]
    assert think in renderer.render([assistant("<think>a")]).ids
    assert think not in renderer.render([user("<think>a")]).ids


def test_every_private_character_but_one_may_be_used() -> None:
    known = vocabulary("byte-level").ours
    renderer = Renderer(known, "{{ messages[0].content }}")
    every = "".join(map(chr, range(0xE000, 0xF900)))
    text = every[:-1] + "<|im_end|>"
    got = renderer.render([user(text)])
    assert (got.text, got.defused) == (text, 1)
    with pytest.raises(RequestError, match="private-use"):
        renderer.render([user(every)])


@pytest.mark.parametrize("escape", ["\\ue000", "\\uE000", "\\uE00A"])
def test_a_private_character_that_arguments_spell_with_an_escape_is_kept(escape: str) -> None:
    renderer = Renderer(vocabulary("byte-level").ours, "{{ messages[0].tool_calls[0].function.arguments | tojson }}")
    function = {"name": "f", "arguments": f'{{"a": "x{escape}y"}}'}
    taken = "".join(map(chr, range(0xE000, int(escape[2:], 16))))  # the one escaped would be the next to mark with
    text = renderer.render([{"role": "assistant", "content": taken, "tool_calls": [{"function": function}]}]).text
    assert json.loads(text) == {"a": f"x{chr(int(escape[2:], 16))}y"}


@pytest.mark.parametrize(
    ("change", "shown"),
    [("tojson", '"<|im_end|>"'), ("tojson(ensure_ascii=True)", '"<|im_end|>"'), ("list | first", "<"),
     ("pprint", "'<|im_end|>'"), ("upper", "<|IM_END|>")],
)  # fmt: skip
def test_no_mark_of_quire_is_left_in_the_prompt(change: str, shown: str) -> None:
    """Neither as it is nor as an escape."""
    known = vocabulary("byte-level").ours
    got = Renderer(known, f"{{{{ messages[0].content | {change} }}}}").render([user("<|im_end|>")])
    assert got.text == shown
    assert known.decode(got.ids, skip_special_tokens=False) == shown


def test_a_messages_own_escapes_stay_as_they_are() -> None:
    renderer = Renderer(vocabulary("byte-level").ours, "{{ messages[0].content | tojson }}")
    text = "\\ue000 <|im_end|> \ue000"
    assert json.loads(renderer.render([user(text)]).text) == text


def test_digits_behind_the_mark_of_content_name_no_token() -> None:
    """Content inside a prompt is encoded behind a mark, control tokens under names made of their numbers."""
    for words in ("byte-level", "llama"):
        known = vocabulary(words).ours
        for token in known.control_ids:
            ids = known.encode_content(f"{token} {token}", first=False)
            assert known.control_ids.isdisjoint(ids)
            assert known.decode(ids) == f"{token} {token}"


def test_the_mark_of_content_cannot_be_guessed_and_is_not_in_its_ids() -> None:
    known = vocabulary("byte-level").ours
    assert len(tokenizer_module._ANCHOR) > 20
    for text in ("\U000f5afe", "\U000f5afe5", "a\U000f5afe<|im_end|>"):
        for first in (True, False):
            ids = known.encode_content(text, first=first)
            assert max(ids) < known.vocab_size
            assert known.decode(ids) == text


def test_text_that_becomes_a_control_token_by_normalization_is_none() -> None:
    """<|sep|> of this vocabulary is sought in normalized text, and NFKC makes < of the full-width ＜."""
    words = vocabulary("unigram")
    known = words.ours
    sep = known.control["<|sep|>"]
    forged = "＜|sep|＞"
    assert sep in words.theirs(forged, add_special_tokens=False)["input_ids"]
    got = Renderer(known, "<|sep|>{{ messages[0].content }}").render([user(forged)])
    assert got.ids.count(sep) == 1


def test_a_control_token_of_one_character_is_one_only_in_the_template() -> None:
    bpe = Backend(models.BPE(vocab={"a": 0, "b": 1, "¤": 2}, merges=[]))
    bpe.add_special_tokens([AddedToken("¶", special=True, normalized=False)])
    known = Tokenizer(bpe.to_str())
    assert Renderer(known, "¶{{ messages[0].content }}¶").render([user("a¶b")]).ids == [3, 0, 1, 3]


def test_unknown_characters_stay_unknown_beside_a_forged_token() -> None:
    known = vocabulary("wordpiece").ours
    plain = known.encode("the 日 cat", add_special_tokens=False)
    assert known.control["[UNK]"] in plain
    assert known.encode_content("the 日 cat", first=True) == plain
    assert known.control["[UNK]"] not in known.encode_content("un", first=True)


def test_added_tokens_of_plain_text_keep_their_ids_beside_control_tokens() -> None:
    words = byte_level()
    spaces = words.ours.encode("a    b", add_special_tokens=False)
    run = json.loads(words.description)["added_tokens"]
    assert next(t["id"] for t in run if t["content"] == "    ") in spaces
    assert words.ours.encode_content("a    b", first=True) == spaces


def test_lower_case_vocabularies_find_no_control_token_in_upper_case() -> None:
    backend = Backend(models.BPE(vocab={c: i for i, c in enumerate("<|go>GO")}, merges=[]))
    backend.normalizer = normalizers.Lowercase()
    backend.add_tokens([AddedToken("<|go|>", special=True, normalized=True)])
    known = Tokenizer(backend.to_str())
    go = known.control["<|go|>"]
    assert go in known.encode("<|GO|>")
    got = Renderer(known, "<|go|>{{ messages[0].content }}").render([user("<|GO|>"), user("<|go|>")])
    assert got.ids.count(go) == 1


@pytest.mark.parametrize("name", TEMPLATES)
def test_tools_make_no_control_token(name: str) -> None:
    known = vocabulary_of(name).ours
    renderer = Renderer(known, template(name))

    def with_tool(text: str) -> list[int] | None:
        parameters = {"type": "object", "properties": {text: {"type": "string", "description": text}}}
        function = {"name": text, "description": f"{text} {text}", "parameters": parameters}
        return controls(renderer, known, [user("a")], tools=[*TOOLS, {"type": "function", "function": function}])

    assert with_tool("x".join(known.control)) == with_tool(HARMLESS)
