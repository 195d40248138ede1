"""Thoughts apart from the answer, however the text is cut: `<think>` and its relatives, and gpt-oss's channels.

A thought stands at the beginning of the answer, or began in the prompt already, which the prompt's end tells; with tags
that are special tokens it may come later too. White space at the edges of a thought belongs to the tags. What comes out
as Content goes on to the parser of tool calls.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass

from ..engine.errors import ConfigError
from .tools.events import Content, Thought
from .tools.source import Broken, Ended, Source, Step, stops

_LONGEST_HEADER = 300  # characters
_MESSAGE = stops("<|message|>")
_ENDS = ("<|end|>", "<|return|>", "<|call|>", "<|start|>")  # of a message of gpt-oss


@dataclass(frozen=True, slots=True)
class Reasoning:
    """How thoughts are marked. marks: a template that contains all of these has this kind."""

    name: str
    marks: tuple[str, ...]
    begin: str = ""
    end: str = ""
    anywhere: bool = False  # thoughts may begin behind other text
    drops: tuple[str, ...] = ()  # tags around the answer proper, which are no content
    channels: bool = False  # of gpt-oss: every message has a header

    @property
    def ends(self) -> tuple[str, ...]:
        """What may end a thought."""
        return _ENDS if self.channels else (self.end,)

    def begun_in(self, prompt: str) -> bool:
        """Whether a rendered prompt ends inside of a thought."""
        return bool(self.begin) and prompt.rstrip().endswith(self.begin)

    def splitter(self, prompt: str) -> Splitter:
        """For the answer to a rendered prompt."""
        return Splitter(self, inside=self.begun_in(prompt))


NONE = Reasoning("none", ())
KINDS: tuple[Reasoning, ...] = (  # in the order in which `choose` tries them
    Reasoning(
        "openai",
        ("<|channel|>analysis<|message|>", "<|start|>assistant"),
        begin="<|channel|>analysis<|message|>",
        end="<|end|>",
        channels=True,
    ),
    Reasoning("gemma4", ("<|channel>thought",), "<|channel>thought", "<channel|>", anywhere=True),
    Reasoning(
        "cohere",
        ("<|START_THINKING|>",),
        "<|START_THINKING|>",
        "<|END_THINKING|>",
        anywhere=True,
        drops=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    Reasoning("mistral", ("[THINK]",), "[THINK]", "[/THINK]", anywhere=True),
    Reasoning("apertus", ("<|inner_prefix|>",), "<|inner_prefix|>", "<|inner_suffix|>", anywhere=True),
    Reasoning(
        "solar_open",
        ("<|begin|>assistant<|think|>",),
        "<|think|>",
        "<|end|>",
        anywhere=True,
        drops=("<|begin|>assistant", "<|content|>", "<|end|>"),
    ),
    Reasoning(
        "apriel",
        ("[BEGIN FINAL RESPONSE]",),
        "Here are my reasoning steps:",
        "[BEGIN FINAL RESPONSE]",
        drops=("[END FINAL RESPONSE]",),
    ),
    Reasoning("hunyuan_v3", ("<think{}>", ":opensource"), "<think:opensource>", "</think:opensource>"),
    Reasoning("seed_oss", ("<seed:think>",), "<seed:think>", "</seed:think>"),
    Reasoning("minimax_m3", ("<mm:think>",), "<mm:think>", "</mm:think>"),
    Reasoning("granite", ("<response></response>",), "<think>", "</think>", drops=("<response>", "</response>")),
    Reasoning("think", ("think>",), "<think>", "</think>"),
)


NAMES = ("none", *(kind.name for kind in KINDS))


def named(name: str) -> Reasoning:
    """Raises ConfigError where there is no kind of that name."""
    for kind in (NONE, *KINDS):
        if kind.name == name:
            return kind
    raise ConfigError("reasoning_parser", f"is {name!r}", f"one of {', '.join(NAMES)}")


def choose(template: str) -> Reasoning:
    """The kind of thoughts that a chat template shows; NONE where it shows none."""
    return next((kind for kind in KINDS if all(mark in template for mark in kind.marks)), NONE)


class Splitter:
    """Of one answer. `feed` gives what is sure, `finish` the rest. inside: it begins in a thought."""

    def __init__(self, reasoning: Reasoning, *, inside: bool = False):
        self._kind = reasoning
        self._inside = inside
        self._source = Source()
        self._events: list[Thought | Content] = []
        self._reading: Generator[None, None, None] = self._messages() if reasoning.channels else self._answer()
        self._done = False

    @property
    def thinking(self) -> bool:
        """Whether what came last belongs to a thought."""
        return self._inside

    def feed(self, text: str) -> list[Thought | Content]:
        self._source.feed(text)
        return self._go()

    def finish(self) -> list[Thought | Content]:
        """The answer has ended."""
        self._source.over = True
        return self._go()

    def _go(self) -> list[Thought | Content]:
        if not self._done:
            try:
                self._done = next(self._reading, self) is self
            except Ended:
                self._done = True
                self._out(self._source.release())
        events, self._events = self._events, []
        return events

    def _out(self, text: str) -> None:
        """Give out text that was taken."""
        self._source.drop()
        if text:
            self._events.append(Thought(text) if self._inside else Content(text))

    def _answer(self) -> Step[None]:
        kind, source = self._kind, self._source
        marks = (*kind.drops, kind.begin) if kind.anywhere else kind.drops
        if kind.begin:
            yield from source.space()
            self._inside = bool((yield from source.literal(kind.begin))) or self._inside
            source.drop() if self._inside else source.back()
        while True:
            if self._inside:
                yield from self._thought()
            while text := (yield from source.upto(stops(*marks))):
                self._out(text)
            self._inside = (yield from source.literal(*marks)) == kind.begin
            source.drop()

    def _thought(self) -> Step[None]:
        """To the end of a thought, and the white space behind."""
        source = self._source
        yield from source.space()
        source.drop()
        while text := (yield from source.upto(stops(self._kind.end), free=True)):
            self._out(text)
        yield from source.space()
        yield from source.literal(self._kind.end)
        self._inside = False
        source.drop()
        yield from source.space()
        source.drop()

    # gpt-oss

    def _messages(self) -> Step[None]:
        """Messages with headers: analysis is thought, what has a recipient stays as it is, the rest is content."""
        source = self._source
        called = False
        while True:
            if not self._inside:
                header = yield from self._header()
                called = "to=" in header
                self._inside = "analysis" in header and not called
                if called:
                    self._out(source.release())
                source.drop()
            while text := (yield from source.upto(stops(*_ENDS))):
                self._out(text)
            found = yield from source.literal(*_ENDS)
            if found == "<|start|>":
                source.back()
            elif called:
                self._out(found)
            source.drop()
            self._inside = False

    def _header(self) -> Step[str]:
        """Take a message's header; text that is none goes out as content."""
        header = ""
        while True:
            try:
                while text := (yield from self._source.upto(_MESSAGE, limit=_LONGEST_HEADER - len(header))):
                    header += text
            except Broken:
                self._out(self._source.release())
                header = ""
                continue
            yield from self._source.literal("<|message|>")
            return header
