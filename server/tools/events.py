"""What an answer consists of, as it comes. Equal answers give equal events once neighbours of a kind are joined."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Thought:
    """Text of the reasoning part."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """Text for the user."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call of a declared tool begins. index: 0, 1 ... within the answer."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """A piece of a call's arguments; together they are one JSON object, if the call ends."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The call is complete. A call without this was cut off, or broke."""

    index: int


Event = Thought | Content | CallStart | Arguments | CallEnd
