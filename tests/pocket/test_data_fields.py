"""Fields of any name: none is one that evaluation asks for, and each is said by its own words."""

from __future__ import annotations

from random import Random

import pytest

from quire.pocket.recipe.synth import actions, extract, fields, records, tools
from quire.pocket.recipe.synth.records import Field


def drawn(count: int = 2000) -> list[Field]:
    rng = Random(2)
    return [field for _ in range(count) for field in fields.different(rng, 4)]


def reserved_words() -> set[str]:
    """Of the records, lists and tools that are never trained on."""
    names = [n for r in records.RESERVED for f in (r.first, *r.fields) for n in f.names]
    names += [name for held in extract._HELD_LISTS for name in held[:3]]
    names += [n for action in actions.RESERVED for n in (*action.verbs, *action.nouns)]
    return {word for name in names for word in name.split("_")} - {"has", "in", "cm"}


def test_no_word_of_a_list_is_reserved() -> None:
    held = reserved_words()
    lists = (fields.NOUNS, fields.MODIFIERS, fields.UNITS, fields.THINGS, fields.QUALITIES, tools.VERBS)
    assert not held & {word for words in lists for word in words}
    assert not held & {word for names in (fields.VERBS, fields.DOERS, fields.DONE) for name in names for word in name}
    said = [*fields.HAPPENS, *fields.SHOULD, *(word for pair in fields.ROLES for word in pair)]
    said += [ask for _, asks in tools.OTHER_WORDS for ask in asks]
    assert not held & {word for words in said for word in words.lower().split()}


def test_there_are_thousands_of_names() -> None:
    names = {field.names[0] for field in drawn()}
    assert len(names) > 4000


def test_every_kind_has_its_type_and_says_its_value() -> None:
    rng = Random(3)
    kinds = set()
    types = {"string": str, "integer": int, "number": (int, float), "array": list}
    for field in drawn():
        kinds.add(field.type)
        value = extract._value(rng, field)
        if field.type == "boolean":
            assert len(field.says) == 2
            assert field.says[0] != field.says[1]
            continue
        assert isinstance(value, types[field.type]), field
        assert not field.options or value in field.options
        assert all("{v}" in sentence for sentence in field.says)
    assert kinds == {"string", "integer", "number", "boolean", "array"}


def test_the_words_of_a_name_stand_in_what_says_it() -> None:
    """Those of texts always, but of who does what ("Ann paints it"); a number may be said by its unit alone."""
    roles = {role for role, _ in fields.ROLES}
    texts = [field for field in drawn() if field.type == "string" and field.names[0] not in roles]
    for field in texts:
        for sentence in field.says:
            assert fields.plain(field.names[0]) in sentence.lower(), field


def test_different_fields_share_no_word() -> None:
    rng = Random(5)
    for _ in range(300):
        words = [word for field in fields.different(rng, 6) for word in set(fields.plain(field.names[0]).split())]
        assert len(words) == len(set(words))


@pytest.mark.parametrize(
    ("name", "said"), [("home_port", "home port"), ("homePort", "home port"), ("home port", "home port"), ("a", "a")]
)
def test_a_name_is_said_in_words(name: str, said: str) -> None:
    assert fields.plain(name) == said


@pytest.mark.parametrize(
    ("one", "many"), [("city", "cities"), ("day", "days"), ("box", "boxes"), ("branch", "branches"), ("seat", "seats")]
)
def test_a_plural_has_the_ending_that_its_noun_asks_for(one: str, many: str) -> None:
    assert fields.plural(one) == many


def test_held_out_tools_have_reserved_parameters_only() -> None:
    known = {param.reserved for param in tools.PARAMS.values()}
    rng = Random(1)
    made = [tool["function"] for _ in range(300) for tool in tools.make(rng, True).tools or ()]
    used = {name for tool in made for name in tool["parameters"]["properties"]}
    assert len(used) > 20
    for name in used:
        assert any(name in names or name.endswith(names[0]) for names in known), name
