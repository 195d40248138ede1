"""JSON extraction: a schema is shown, a text is given, and the answer is JSON only."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

from ..samples import Sample
from . import chat, fields, forms, words
from .records import RESERVED, TRAINED, Field

_SYSTEM = (
    "Answer with JSON that fits this schema: {}",
    "Reply only with JSON. Schema: {}",
    "Extract the data as JSON.\nSchema: {}",
    "You turn text into JSON. The schema is: {}",
)
_USER = (
    "Extract the data as JSON.\nSchema: {}\n\nText: {}",
    "{1}\n\nAnswer with JSON that fits this schema: {0}",
    "Use this schema: {}\nText: {}",
    "Turn this text into JSON with the schema {}\n\n{}",
    "Schema: {}\n\n{}",
)
_KEYS = (
    "Give me {} as JSON.\n\n{}",
    "{1}\n\nAnswer in JSON with the keys {0}.",
    "Make JSON with {} from this text: {}",
)
_NEXT = ("{}", "{}", "Text: {}", "The next one: {}", "And this: {}")

WRITTEN = 0.6  # share of what is trained on whose texts are written by hand
ANY_NAME = 0.65  # share of the others whose names are any

Schema = dict[str, Any]
Write = Callable[[Random], tuple[str, dict[str, Any]]]  # a text, and the value that it holds


def make(rng: Random, held_out: bool) -> Sample:
    """Records, or now and then lists of pairs: a schema is shown once, and one to four texts are turned into it."""
    if not held_out and rng.random() < WRITTEN:
        schema, write = _scene(rng)
    else:
        schema, write = (_pairs if rng.random() < 0.12 else _record)(rng, held_out)
    text, value = write(rng)
    shown = json.dumps(schema)
    roll = rng.random()
    if roll < 0.4:
        messages = [chat.system(rng.choice(_SYSTEM).format(shown)), chat.user(text)]
    elif roll < 0.85:
        messages = [*chat.opening(rng, share=0.2), chat.user(rng.choice(_USER).format(shown, text))]
    else:
        messages = [*chat.opening(rng, share=0.2), chat.user(rng.choice(_KEYS).format(words.listed(list(value)), text))]
    messages.append(chat.assistant(json.dumps(value)))
    if roll < 0.85:  # what the schema costs is paid once, so the more answers the better
        for _ in range(rng.choices((0, 1, 2, 3), (40, 20, 20, 20))[0]):
            text, again = write(rng)
            messages += [chat.user(rng.choice(_NEXT).format(text)), chat.assistant(json.dumps(again))]
    return Sample("extract", messages, facts={"json": value, "schema": schema})


def _record(rng: Random, held_out: bool) -> tuple[Schema, Write]:
    """A text may say more than the schema asks for; what it does not say is left out."""
    if not held_out and rng.random() < ANY_NAME:
        record = fields.record(rng)
    else:
        record = rng.choice(RESERVED if held_out else TRAINED)
    chosen = rng.sample(record.fields, rng.randint(1, min(4, len(record.fields))))
    asked = [record.first, *chosen]
    if rng.random() < 0.25:
        asked.append(_invented(rng))
    names = _field_names(rng, asked)
    order = rng.sample(names, len(names))
    optional = names[1] if len(names) > 2 and rng.random() < 0.15 else None
    properties = {name: _schema(asked[names.index(name)]) for name in order}
    schema = {"type": "object", "properties": properties, "required": [n for n in order if n != optional]}

    def write(rng: Random) -> tuple[str, dict[str, Any]]:
        values = {name: _value(rng, field) for name, field in zip(names, asked, strict=True)}
        missing = optional if rng.random() < 0.7 else None
        subject = record.subject or rng.choice(("He", "She"))
        body = [_say(rng, f, values[n], subject) for n, f in zip(names[1:], asked[1:], strict=True) if n != missing]
        extra = [f for f in record.fields if f not in chosen and rng.random() < 0.15]
        body += [_say(rng, f, _value(rng, f), subject) for f in extra]
        rng.shuffle(body)
        text = " ".join([rng.choice(record.opens).format(v=values[names[0]]), *body])
        return text, {name: values[name] for name in order if name != missing}

    return schema, write


def _scene(rng: Random) -> tuple[Schema, Write]:
    """Some of what a text says. Further texts are those of the same topic that say it too."""
    scene = rng.choice(forms.scenes())
    first = rng.choice(scene.texts)
    told = forms.said(first)
    asked = rng.sample(told, len(told) if rng.random() < 0.6 else rng.randint(1, len(told)))
    fitting = [text for text in scene.texts if set(asked) <= set(forms.said(text))]
    names = {slot: rng.choice(scene.slots[slot].names) for slot in asked}
    if len(set(names.values())) < len(names):
        names = {slot: slot for slot in asked}
    properties = {name: scene.slots[slot].schema for slot, name in names.items()}
    texts = iter([first, *rng.sample(fitting, len(fitting))])

    def write(rng: Random) -> tuple[str, dict[str, Any]]:
        text, values = forms.fill(rng, scene, next(texts, first))
        return text, {name: values[slot] for slot, name in names.items()}

    return {"type": "object", "properties": properties, "required": list(properties)}, write


def _any_list(rng: Random) -> tuple[str, str, str, str]:
    """As one of _LISTS, of any names."""
    who, thing = rng.choice(fields.NOUNS), rng.choice(fields.THINGS)
    say = (
        rng.choice(("{} has {}", "{} sold {}", "{} made {}", "{} found {}", "{} wants {}", "{} took {}")) + f" {thing}"
    )
    number = rng.choice((thing, f"{thing}_count", f"number_of_{thing}"))
    return f"{who}s", rng.choice((who, who, "name")), number, say


def _field_names(rng: Random, asked: list[Field]) -> list[str]:
    """One name each, all different."""
    names: list[str] = []
    for field in asked:
        free = [name for name in field.names if name not in names]
        names.append(rng.choice(free or [f"{field.names[-1]}_2"]))
    return names


def _invented(rng: Random) -> Field:
    """A field of a name that means nothing, so that the name must be found in the text."""
    name = words.invented(rng)
    if rng.random() < 0.5:
        return Field((name,), "integer", (f"The {name} is {{v}}.",), lambda r: r.randint(1, 999))
    return Field((name,), "string", (f"The {name} is {{v}}.",), words.code)


def _value(rng: Random, field: Field) -> Any:
    if field.options:
        return rng.choice(field.options)
    return bool(rng.randint(0, 1)) if field.type == "boolean" else field.make(rng)


def _say(rng: Random, field: Field, value: Any, subject: str) -> str:
    if isinstance(value, bool):
        return field.says[0 if value else 1].format(s=subject)
    said = words.listed(value) if isinstance(value, list) else value
    return rng.choice(field.says).format(s=subject, v=said)


def _schema(field: Field) -> dict[str, Any]:
    if field.type == "array":
        return {"type": "array", "items": {"type": "string"}}
    return {"type": field.type, "enum": list(field.options)} if field.options else {"type": field.type}


def _pairs(rng: Random, held_out: bool) -> tuple[Schema, Write]:
    """Two to four like things, each a small object in an array."""
    if not held_out and rng.random() < ANY_NAME:
        outer, name, number, say = _any_list(rng)
    else:
        outer, name, number, say = rng.choice(_HELD_LISTS if held_out else _LISTS)
    item = {
        "type": "object",
        "properties": {name: {"type": "string"}, number: {"type": "integer"}},
        "required": [name, number],
    }
    schema = {"type": "object", "properties": {outer: {"type": "array", "items": item}}, "required": [outer]}

    def write(rng: Random) -> tuple[str, dict[str, Any]]:
        who = list(dict.fromkeys(words.first_name(rng) for _ in range(rng.randint(2, 4))))
        rows = [{name: one, number: rng.randint(1, 99)} for one in who]
        said = words.listed([say.format(row[name], row[number]) for row in rows])
        return said + ".", {outer: rows}

    return schema, write


_LISTS = (
    ("people", "name", "age", "{} is {} years old"),
    ("members", "name", "age", "{} is {}"),
    ("orders", "customer", "quantity", "{} wants {} apples"),
    ("results", "person", "score", "{} has {} points"),
    ("payments", "who", "amount", "{} paid {} dollars"),
)
_HELD_LISTS = (
    ("runners", "runner", "laps", "{} ran {} laps"),
    ("voters", "voter", "votes", "{} has {} votes"),
)
