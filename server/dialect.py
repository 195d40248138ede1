"""What a chat template tells of a model's answers: how it calls tools, how it thinks, and how that is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from . import reasoning as thoughts_of
from .prompt import Renderer
from .reader import Hidden, Reader
from .reasoning import Reasoning
from .tokenizer import Tokenizer
from .tool_grammar import Spelling
from .tools import choose
from .tools.format import Format, Tool
from .tools.parser import Parser
from .tools.values import GEMMA


@dataclass(frozen=True, slots=True)
class Dialect:
    """Of one template. free: control tokens that may stand in free text. shown: special tokens that are read, so that
    they must come out as text first."""

    source: str
    format: Format | None
    reasoning: Reasoning
    spelling: Spelling
    free: frozenset[int]
    shown: frozenset[int]
    hidden: tuple[str, ...]  # their texts

    @classmethod
    def of(cls, source: str, tokenizer: Tokenizer, tool_parser: str, reasoning_parser: str) -> Dialect:
        """tool_parser, reasoning_parser: a name, or "auto": what the template shows, or "none". Raises ConfigError
        where there is none of that name."""
        format = None if tool_parser == "none" else choose(source, None if tool_parser == "auto" else tool_parser)
        if reasoning_parser == "auto":
            reasoning = thoughts_of.choose(source)
        else:
            reasoning = thoughts_of.named(reasoning_parser)
        read = " ".join(_texts(format, reasoning))
        shown = {text: token for text, token in tokenizer.special.items() if text in read}
        spelling = Spelling(tokenizer.control, tokenizer.eos_ids)
        free = spelling.free([source, reasoning.begin, reasoning.end, *reasoning.drops])
        return cls(source, format, reasoning, spelling, frozenset(free), frozenset(shown.values()), tuple(shown))

    def reader(
        self, prompt: str, tools: Sequence[Tool], *, special: bool = False, thoughts: bool = True, one: bool = False
    ) -> Reader | None:
        """Of one answer; None where its text is content as it is. prompt: rendered. tools: those that may be called.
        special: special tokens stay in content. thoughts: they go out. one: the answer ends with its first call."""
        if not self.is_read(tools):
            return None
        format = self._called(tools)
        parser = Parser(format, tools) if format is not None else None
        hidden = Hidden(() if special else self.hidden)
        return Reader(self.reasoning.splitter(prompt), parser, hidden, thoughts=thoughts, one=one)

    def is_read(self, tools: Sequence[Tool]) -> bool:
        """Whether an answer's text may be more than content."""
        return self._called(tools) is not None or self.reasoning is not thoughts_of.NONE

    def _called(self, tools: Sequence[Tool]) -> Format | None:
        """The format to look for; some write content in it too, so that it matters without tools."""
        return self.format if self.format is not None and (tools or self.format.content) else None

    def __str__(self) -> str:
        return "calls are read as {tool_call_parser}, thoughts as {reasoning_parser}".format(**self.names)

    @property
    def names(self) -> dict[str, str]:
        format = self.format.name if self.format else "none"
        return {"tool_call_parser": format, "reasoning_parser": self.reasoning.name}


class Dialects:
    """Of the templates of a model: that for requests with tools may be another."""

    def __init__(
        self, renderer: Renderer, tokenizer: Tokenizer, tool_parser: str = "auto", reasoning_parser: str = "auto"
    ):
        found = {
            source: Dialect.of(source, tokenizer, tool_parser, reasoning_parser)
            for source in {renderer.source(tools=tools) for tools in (False, True)}
        }
        self._of = {tools: found[renderer.source(tools=tools)] for tools in (False, True)}

    def for_request(self, *, tools: bool) -> Dialect:
        """tools: the request has some."""
        return self._of[tools]


def _texts(format: Format | None, reasoning: Reasoning) -> Iterator[str]:
    """Every text that the parsers look for."""
    yield from _strings(dataclasses.asdict(reasoning))
    if format is not None:
        yield from _strings({**dataclasses.asdict(format), "marks": ()})
        yield from GEMMA.quotes if format.style == "gemma" else ()


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _strings(item)
