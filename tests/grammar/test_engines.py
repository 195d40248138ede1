"""One table says which engine serves which kind of grammar, and a setting overrides it."""

from __future__ import annotations

import functools
import json
from typing import Any

import pytest
from vocabularies import byte_level

from quire.engine.grammar import ABLE, ENGINES, KINDS, OVERFLOW, compile
from quire.engine.grammar.errors import GrammarRefused
from quire.engine.grammar.spec import GrammarSpec, Limits
from quire.engine.grammar.vocabulary import Vocabulary

TEXTS = {
    "json_schema": '{"enum": ["ab"]}',
    "json_object": "",
    "lark": 'start: "ab"',
    "gbnf": 'root ::= "ab"',
    "ebnf": 'root ::= "ab"',
    "structural_tag": json.dumps({"structures": [{"begin": "<a>", "schema": {}, "end": "</a>"}], "triggers": ["<a"]}),
    "regex": "ab",
    "choice": '["ab"]',
}


@functools.cache
def words() -> Vocabulary:
    return Vocabulary(byte_level().description, (2,))


def engine_of(kind: Any, *, limits: Limits | None = None, **more: Any) -> str:
    spec = GrammarSpec(kind=kind, text=TEXTS[kind], engine=more.pop("engine", None))
    module = type(compile(spec, words(), limits, **more)).__module__.rsplit(".", 1)[1]
    return next(name for name, its in ENGINES.items() if its == module)


@pytest.mark.parametrize("kind", TEXTS)
def test_the_table_is_followed_where_nothing_else_is_said(kind):
    assert engine_of(kind) == KINDS[kind]


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("kind", TEXTS)
def test_an_engine_serves_the_kinds_that_it_is_said_to_and_no_others(name, kind):
    if kind in ABLE[name]:
        assert engine_of(kind, engines={kind: name}) == name
        assert engine_of(kind, engines={other: name for other in KINDS if other != kind}) == KINDS[kind]
    else:
        with pytest.raises(GrammarRefused, match=f"{name} does not serve {kind}"):
            engine_of(kind, engines={kind: name})


def test_a_spec_says_it_for_itself_before_any_setting():
    assert engine_of("regex", engine="outlines", engines={"regex": "llguidance"}) == "outlines"


def test_what_is_too_large_for_the_engine_of_the_setting_goes_where_it_went():
    small = Limits(states=1)
    assert engine_of("regex", limits=small) == OVERFLOW["outlines"]
    assert engine_of("regex", limits=small, engines={"regex": "outlines"}) == OVERFLOW["outlines"]
    with pytest.raises(GrammarRefused, match="states"):
        compile(GrammarSpec(kind="regex", text="ab", only=True), words(), small)


@pytest.mark.parametrize("name", ABLE)
def test_either_engine_holds_the_same_choice(name):
    spec = GrammarSpec(kind="choice", text='["yes", "no"]')
    for text, fits in (("yes", True), ("no", True), ("maybe", False)):
        matcher = compile(spec, words(), engines={"choice": name}).matcher()
        tokens = words().encode(text)
        assert (matcher.accept(tokens) == len(tokens) and matcher.may_end) is fits
