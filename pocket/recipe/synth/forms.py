"""Reads `written/`: sentences with slots for values, which its README describes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from . import words

FOLDER = Path(__file__).with_name("written")

Draw = Callable[[Random], tuple[Any, str]]  # a value, and how a sentence says it


@dataclass(frozen=True, slots=True)
class Slot:
    """schema: of its values, without a description."""

    names: tuple[str, ...]
    schema: dict[str, Any]
    draw: Draw
    about: str = ""
    required: bool = True


@dataclass(slots=True)
class Form:
    """What says some of the slots. topic: of the section that it is in. name, about: of a tool."""

    topic: str
    name: str = ""
    about: str = ""
    slots: dict[str, Slot] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)


def said(text: str) -> list[str]:
    """The slots of a text, in its order."""
    return list(dict.fromkeys(_SLOT.findall(text)))


def fill(rng: Random, form: Form, text: str) -> tuple[str, dict[str, Any]]:
    """The text with values, and the values by the first names of their slots. No two of them are the same."""
    names = said(text)
    for _ in range(100):
        drawn = {name: form.slots[name].draw(rng) for name in names}
        told = {name: spoken for name, (_, spoken) in drawn.items()}
        if len({spoken.lower() for spoken in told.values()}) == len(told):
            return text.format(**told), {name: value for name, (value, _) in drawn.items()}
    raise ValueError(f"{form.topic}: two slots always have the same value: {text}")


@cache
def scenes() -> list[Form]:
    """One a section."""
    return [form for path in sorted(FOLDER.glob("scenes_*.txt")) for form in read(path)]


@cache
def tools() -> list[list[Form]]:
    """The tools of each section."""
    sections: dict[str, list[Form]] = {}
    for path in sorted(FOLDER.glob("tools_*.txt")):
        for form in read(path):
            sections.setdefault(f"{path.name} {form.topic}", []).append(form)
    return list(sections.values())


def read(path: Path) -> list[Form]:
    """The forms of a file. Raises ValueError that names the line."""
    forms: list[Form] = []
    topic = ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            if line.startswith("# "):
                topic = line[2:].strip()
                forms.append(Form(topic))
            elif line.startswith("> "):
                if not forms[-1].name and not forms[-1].slots:
                    forms.pop()  # which the section began
                name, about = line[2:].split(":", 1)
                forms.append(Form(topic, name.strip(), about.strip()))
            elif line.startswith("- "):
                forms[-1].texts.append(_checked(forms[-1], line[2:].strip()))
            elif line.strip():
                slot = _slot(line)
                forms[-1].slots[slot.names[0]] = slot
        except (ValueError, LookupError) as error:
            raise ValueError(f"{path.name}:{number}: {error}: {line}") from None
    return forms


_SLOT = re.compile(r"\{(\w+)\}")
_DECLARED = re.compile(r"(\w+(?:, *\w+)*)(\??): *(.+)")
_RANGE = re.compile(r"(-?\d+(?:\.(\d+))?)\.\.(-?\d+(?:\.\d+)?)")


def _checked(form: Form, text: str) -> str:
    names = said(text)
    if unknown := set(names) - set(form.slots):
        raise ValueError(f"no slot is called {', '.join(sorted(unknown))}")
    if "{" in _SLOT.sub("", text) or "}" in _SLOT.sub("", text):
        raise ValueError("a brace is left open")
    if form.name and (missing := [n for n, slot in form.slots.items() if slot.required and n not in names]):
        raise ValueError(f"does not say {', '.join(missing)}")
    return text


def _slot(line: str) -> Slot:
    found = _DECLARED.fullmatch(line.strip())
    if found is None:
        raise ValueError("is no slot, tool, topic or text")
    names, optional, kind = found.groups()
    kind, _, about = kind.partition(";")
    schema, draw = _kind(kind.strip())
    return Slot(tuple(name.strip() for name in names.split(",")), schema, draw, about.strip(), not optional)


def _kind(kind: str) -> tuple[dict[str, Any], Draw]:
    """(schema, draw) of a kind."""
    if kind.startswith("enum:"):
        pairs = dict(_pair(part) for part in _parts(kind[5:]))
        return {"type": "string", "enum": list(pairs)}, lambda rng: rng.choice(list(pairs.items()))
    if kind.startswith("bool:"):
        yes, no = _parts(kind[5:])
        return {"type": "boolean"}, lambda rng: (True, yes) if rng.random() < 0.5 else (False, no)
    if kind.startswith("list:"):
        one = _strings(kind[5:].strip())
        return {"type": "array", "items": {"type": "string"}}, lambda rng: _listed(rng, one)
    if (span := _RANGE.fullmatch(kind)) is not None:
        low, decimals, high = span.groups()
        if decimals is None:
            return {"type": "integer"}, lambda rng: _number(rng.randint(int(low), int(high)))
        places = len(decimals)
        return {"type": "number"}, lambda rng: _number(round(rng.uniform(float(low), float(high)), places))
    one = _strings(kind)
    return {"type": "string"}, lambda rng: (value := one(rng), value)


def _strings(kind: str) -> Callable[[Random], str]:
    if "|" in kind:
        choices = _parts(kind)
        return lambda rng: rng.choice(choices)
    return SOURCES[kind]


def _listed(rng: Random, one: Callable[[Random], str]) -> tuple[list[str], str]:
    found: list[str] = []
    while len(found) < 2 or (len(found) < 3 and rng.random() < 0.4):
        found = list(dict.fromkeys([*found, one(rng)]))
    return found, words.listed(found)


def _number(value: float) -> tuple[float, str]:
    return value, str(value)


def _parts(text: str) -> list[str]:
    parts = [part.strip() for part in text.split("|")]
    if not all(parts):
        raise ValueError("a choice is empty")
    return parts


def _pair(text: str) -> tuple[str, str]:
    value, phrase = text.split("=", 1)
    return value.strip(), phrase.strip()


def _firm(rng: Random) -> str:
    name = rng.choice((words.invented(rng).capitalize(), rng.choice(words.SURNAMES)))
    return name + rng.choice(("", "", " Ltd", " Group", " & Sons", f" {rng.choice(words.NOUNS).capitalize()}"))


SOURCES: dict[str, Callable[[Random], str]] = {
    "person": words.full_name,
    "first": words.first_name,
    "surname": lambda rng: rng.choice(words.SURNAMES) if rng.random() < 0.7 else words.invented(rng).capitalize(),
    "city": words.city,
    "country": lambda rng: rng.choice(words.COUNTRIES),
    "firm": _firm,
    "code": words.code,
    "date": words.day,
    "month": lambda rng: rng.choice(words.MONTHS),
    "weekday": lambda rng: rng.choice(words.DAYS),
    "time": words.time,
    "color": lambda rng: rng.choice(words.COLORS),
    "animal": lambda rng: rng.choice(words.ANIMALS),
    "fruit": lambda rng: rng.choice(words.FRUITS),
    "food": lambda rng: rng.choice(words.FOODS),
    "email": words.email,
    "title": words.title,
    "job": lambda rng: rng.choice(words.JOBS),
    "language": lambda rng: rng.choice(words.LANGUAGES),
    "word": words.invented,
}
