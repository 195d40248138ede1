"""Calls out of an answer's text, however it is cut. One machine for all formats; what differs stands in the Format.

- Text is content until a text that opens calls. From there it is held back until the call's name is known: a declared
  name begins a call, and its arguments go out as they come. Under any other name the text stays content, to the end of
  what would have been the call.
- Where the text stops being what the format says, what was held back is content, whole, and content goes on from there.
  A call that had begun stays as it is, without an end; so does one that the answer leaves unfinished.
- A call is complete as soon as its arguments are. Keys beside them that say nothing, such as an id, are passed over.
- White space before and behind calls is no content, and neither are the tags of a section that holds a call.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Generator, Sequence
from typing import Any

from .arguments import first_name, read_named, read_nested, read_parameters
from .events import Arguments, CallEnd, CallStart, Content, Event
from .format import Format, Keys, Slot, Tool
from .source import SPACE, Broken, Ended, Source, Step, pieces_of, stops
from .values import GEMMA, JSON, Emit, as_json, scalar, value

_LONGEST_HEAD = 300  # characters of a name, with what may stand around it
_OTHER_KEYS = ("id", "type", "index")  # may stand in a call before its name
_ARGUMENTS = ("arguments", "parameters")  # models take one for the other


class Parser:
    """Of one answer. `feed` gives what is sure, `finish` the rest. tools: those that the request declares."""

    def __init__(self, format: Format, tools: Sequence[Tool]):
        self._format = format
        self._schemas: dict[str, Any] = {t["function"]["name"]: t["function"].get("parameters") or {} for t in tools}
        self._source = Source()
        self._events: list[Event] = []
        self._ids: set[str] = set()
        self._index = -1  # of the last call that began
        self._inside = False  # of a call that began
        self._muted = False  # what is read has the form of a call, but no name of the tools
        self._calls = 0  # in this section
        self._behind = False  # nothing but white space came since a call
        self._reading: Generator[None, None, None] = self._answer()
        self._done = False

    def feed(self, text: str) -> list[Event]:
        self._source.feed(text)
        return self._go()

    def finish(self) -> list[Event]:
        """The answer has ended."""
        self._source.over = True
        return self._go()

    def _go(self) -> list[Event]:
        if not self._done:
            self._done = next(self._reading, self) is self
        events, self._events = self._events, []
        return events

    def _answer(self) -> Step[None]:
        try:
            yield from self._start_of_answer()
            while True:
                yield from self._free()
                if self._source.over and self._source.empty:
                    return
                yield from self._source.space()
                yield from self._source.literal(*self._format.openings)
                yield from self._section()
        except Ended:
            rest = self._source.release()
            if not self._inside and not (self._behind and not rest.strip(SPACE)):
                self._content(rest)

    def _start_of_answer(self) -> Step[None]:
        starts = self._format.starts
        if not starts:
            return
        yield from self._source.space()
        try:
            found = yield from self._source.literal(*starts, *self._format.openings)
        except Ended:
            found = ""
        if not found and "" not in starts:
            self._source.back()
            return
        if not found or found not in (*self._format.opens, *self._format.openings):
            self._source.back()
        yield from self._section()

    def _free(self) -> Step[None]:
        """Up to what opens calls, or the end."""
        source = self._source
        ends = stops(*self._format.openings)
        while text := (yield from source.upto(ends, free=True)):
            source.drop()
            if not (self._behind and source.over and source.empty and not text.strip(SPACE)):
                self._content(text)

    def _content(self, text: str) -> None:
        if text:
            self._events.append(Content(text))
            self._behind = self._behind and not text.strip(SPACE)

    def _section(self) -> Step[None]:
        """Calls, up to what closes them. What opened them was taken."""
        self._calls = 0
        try:
            while (yield from self._call()) and (yield from self._another()):
                pass
        except Broken:
            self._inside = False
            self._content(self._source.release())

    def _another(self) -> Step[bool]:
        """Behind a call: whether another one follows in this section."""
        source, format = self._source, self._format
        first = "{" if isinstance(format.head, Keys) else format.head[0]
        try:
            yield from source.space()
            if any(format.closes) and (yield from source.literal(*filter(None, map(str.strip, format.closes)))):
                if not self._calls:
                    self._content(source.release())
                source.drop()
                return False
            if format.separator.strip() and (yield from source.literal(format.separator.strip())):
                return True
            if isinstance(first, str) and first.strip() and (yield from source.follows(first.strip())):
                return True
        except Ended:
            if self._calls:
                source.drop()
            raise
        source.back()
        return False

    def _call(self) -> Step[bool]:
        """Read one call. False: it was no call but the beginning of content."""
        source, format = self._source, self._format
        self._muted = False
        yield from source.space()
        if isinstance(format.head, Keys):
            yield from self._object(format.head)
        else:
            name, id_ = yield from self._head(format.head)
            if format.content and name == format.content:
                yield from source.literal("\n")
                source.drop()
                return False
            yield from self._arguments(name, id_)
        self._settle()
        yield from self._skip(format.tail)
        self._settle()
        self._inside = False
        return True

    def _settle(self) -> None:
        """What was taken belongs to the call."""
        if self._muted:
            self._content(self._source.release())
        self._source.drop()

    def _skip(self, text: str) -> Step[None]:
        """Take a text if it stands here, with any white space."""
        if not text.strip():
            return
        for piece in pieces_of(text):
            yield from self._source.space()
            if not (yield from self._source.literal(piece)):
                self._source.back()
                return

    # the head of a call

    def _head(self, head: tuple[str | Slot, ...]) -> Step[tuple[str, str]]:
        """(name, id) of a call."""
        name = id_ = ""
        for part, behind in zip(head, (*head[1:], None), strict=True):
            if isinstance(part, Slot):
                found = yield from self._slot(part, behind)
                name, id_ = found.get("name", name), found.get("id", id_)
                continue
            for piece in filter(None, pieces_of(part)):
                yield from self._source.space()
                if not (yield from self._source.literal(piece)):
                    raise Broken
        return name, id_

    def _slot(self, slot: Slot, behind: str | Slot | None) -> Step[dict[str, str]]:
        stop = behind if isinstance(behind, str) else ""
        if not stop.strip():  # the arguments follow, or a line break, which only a JSON object needs before it
            stop = "<" if self._format.parameters else stop or "{"
        stop = pieces_of(stop)[0] or stop
        text = ""
        while piece := (yield from self._source.upto(stops(stop), limit=_LONGEST_HEAD - len(text))):
            text += piece
        found = re.fullmatch(slot.reads, text, re.DOTALL)
        if found is None:
            raise Broken
        return found.groupdict()

    def _object(self, keys: Keys) -> Step[None]:
        """A call that is a JSON object, its keys in any order. Arguments that stand before the name wait for it."""
        source = self._source
        name: str | None = None
        early = "{}"
        done = False
        mark = yield from source.literal("{")
        while mark in ("{", ","):
            yield from source.space()
            if (yield from source.literal("}")):
                break
            key = yield from self._key()
            if key == keys.name and name is None:
                name = yield from self._text()
                if name not in self._schemas:
                    self._begin(name, "")
            elif key in (keys.arguments, *_ARGUMENTS) and not done:
                done = name is not None
                if name is None:
                    pieces: list[str] = []
                    yield from self._object_arguments(pieces.append)
                    early = "".join(pieces)
                else:
                    yield from self._arguments(name, "")
            elif done or self._muted or key in (keys.number, *_OTHER_KEYS):
                yield from value(source, JSON, _nowhere)
            else:
                raise Broken
            yield from source.space()
            mark = yield from source.literal(",", "}")
        if not mark or name is None:
            raise Broken
        if not done:
            self._begin(name, "")
            self._sure(early)
            self._end()

    def _key(self) -> Step[str]:
        """A key of a JSON object, with its colon."""
        key = yield from self._text()
        yield from self._source.space()
        if not (yield from self._source.literal(":")):
            raise Broken
        yield from self._source.space()
        return key

    def _text(self) -> Step[str]:
        """A JSON string that is short."""
        pieces: list[str] = []
        if (yield from self._source.next()) != '"':
            raise Broken
        yield from scalar(self._source, JSON, pieces.append, _LONGEST_HEAD)
        return str(json.loads("".join(pieces)))

    # a call's arguments

    def _arguments(self, name: str, id_: str) -> Step[None]:
        """The call begins if what stands here looks like arguments."""
        source, format, shape = self._source, self._format, self._format.parameters
        if format.style == "python":
            first = yield from first_name(source)
            self._begin(name, id_)
            yield from read_named(source, first, self._sure)
        elif shape is not None:
            ends = tuple(pieces_of(text)[0] for text in (format.tail, *format.closes) if text.strip())
            if not (yield from source.follows(shape.opens, *ends)):
                raise Broken
            self._begin(name, id_)
            read = read_nested if format.style == "nested" else read_parameters
            yield from read(source, shape, self._schemas.get(name), ends, self._sure)
        else:
            yield from source.space()
            if (yield from source.next()) not in ("{" if format.style == "gemma" else '{"nN'):
                raise Broken
            self._begin(name, id_)
            if format.style == "gemma":
                yield from value(source, GEMMA, self._sure)
            else:
                yield from self._object_arguments(self._sure)
        self._end()

    def _object_arguments(self, emit: Emit) -> Step[None]:
        """A JSON object; or one in a string, which some models write; or null."""
        first = yield from self._source.next()
        if first == "{":
            yield from value(self._source, JSON, emit)
            return
        pieces: list[str] = []
        yield from scalar(self._source, JSON, pieces.append)
        found = json.loads("".join(pieces))
        inner = "{}" if found is None else as_json(found, JSON) if isinstance(found, str) else None
        if inner is None or not inner.startswith("{"):
            raise Broken
        emit(inner)

    # what goes out

    def _begin(self, name: str, id_: str) -> None:
        self._muted = name not in self._schemas
        self._settle()
        if self._muted:
            return
        self._index += 1
        self._calls += 1
        self._inside = True
        self._behind = True
        self._events.append(CallStart(self._index, self._id(id_), name))

    def _sure(self, piece: str) -> None:
        """A piece of the arguments."""
        self._settle()
        if piece and not self._muted:
            self._events.append(Arguments(self._index, piece))

    def _end(self) -> None:
        self._settle()
        if not self._muted:
            self._events.append(CallEnd(self._index))

    def _id(self, given: str) -> str:
        """The format's own id where it has one, and once only."""
        new = given if self._format.ids == "given" and given and given not in self._ids else ""
        if not new and self._format.ids == "nine":
            new = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))
        new = new or f"call_{secrets.token_hex(12)}"
        self._ids.add(new)
        return new


def _nowhere(piece: str) -> None:
    """Values that are of no use."""
