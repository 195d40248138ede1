"""One request's life: deltas of token ids in, pieces of text out, the same however the stream is cut."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import msgspec

from ..engine.client import EngineClient
from ..engine.errors import GrammarRefused
from ..engine.messages import Generate, Guesses, Guided, TokenDelta, TokenLogprob
from .binding import FREE, Binding
from .detokenize import Detokenizer
from .metrics import Stopwatch
from .reader import Reader
from .stops import StopMatcher
from .tokenizer import Tokenizer
from .tools.events import Event


@dataclass(frozen=True, slots=True)
class TextOptions:
    """What happens to text on its way out."""

    stops: tuple[str, ...] = ()
    include_stop: bool = False
    skip_special_tokens: bool = True
    min_tokens: int = 0  # before these a stop string does not end the answer
    shown: frozenset[int] = frozenset()  # special tokens that a reader looks for
    reader: Callable[[], Reader | None] = lambda: None  # of one answer, where its text is more than content
    binding: Binding = FREE


@dataclass(slots=True)
class Entry:
    """A token that has gone out with its text."""

    token: int
    offset: int  # characters of the answer before it
    logprob: TokenLogprob | None


@dataclass(slots=True)
class Piece:
    """News of one choice."""

    index: int
    text: str = ""
    events: list[Event] | None = None  # what the text is; None: content
    thoughts: int = 0  # tokens of them
    entries: list[Entry] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] | None = None  # of all prompt tokens but the first, in a choice's first piece
    finish: str | None = None  # stop | length | tool_calls
    stop_reason: int | str | None = None  # the id or the string, if it was one a person asked for


@dataclass(slots=True)
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    guided: list[Guided] = field(default_factory=list)  # of each choice that a grammar bound, or a budget its thoughts
    predicted: dict[tuple[str, int], tuple[int, int]] = field(default_factory=dict)  # of choices: right, wrong

    guesses: dict[tuple[str, int], Guesses] = field(default_factory=dict)  # of choices

    def as_json(self) -> dict[str, Any]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {
                "reasoning_tokens": self.reasoning_tokens,
                "forced_tokens": sum(guided.forced for guided in self.guided),
                "accepted_prediction_tokens": sum(right for right, _ in self.predicted.values()),
                "rejected_prediction_tokens": sum(wrong for _, wrong in self.predicted.values()),
            },
        }

    def extension(self) -> dict[str, Any]:
        """What grammars and guesses did to the answer, under a name of ours; {} where there were none."""
        found: dict[str, Any] = {}
        lowest = [guided.lowest for guided in self.guided if guided.lowest is not None]
        means = [guided.mean for guided in self.guided if guided.mean is not None]
        if lowest:
            found["grammar"] = {"lowest": min(lowest), "mean": sum(means) / len(means)}
        if guesses := self._summed():
            found["speculation"] = guesses
        return {"quire": found} if found else {}

    def _summed(self) -> dict[str, dict[str, list[int]]]:
        """Proposer -> drafted and accepted, by place, over all choices."""
        found: dict[str, dict[str, list[int]]] = {}
        for guesses in self.guesses.values():
            for proposer, counts in guesses.items():
                known = found.setdefault(proposer, {"drafted": [], "accepted": []})
                for name, more in zip(known, counts, strict=True):
                    known[name] = [a + b for a, b in zip_longest(known[name], more, fillvalue=0)]
        return found


class Choice:
    """Text of one sequence. Tokens are held until their text is sure to be part of the answer."""

    def __init__(self, index: int, tokenizer: Tokenizer, options: TextOptions, eos_ids: tuple[int, ...]):
        self.index = index
        self.done = False
        self.tokens = 0
        self._options = options
        self._eos_ids = eos_ids
        self._reader = options.reader()
        self._detokenizer = Detokenizer(tokenizer, skip_special_tokens=options.skip_special_tokens, shown=options.shown)
        self._matcher = StopMatcher(options.stops, options.include_stop)
        self._seen = 0  # characters detokenized
        self._sent = 0  # characters that have gone out
        self._entries: list[Entry] = []

    def feed(self, delta: TokenDelta) -> Piece:
        """What a delta adds. After the end it adds nothing."""
        piece = Piece(self.index, events=None if self._reader is None else [])
        if self.done:
            return piece
        stopped = delta.finish == "stop"
        for i, token in enumerate(delta.tokens):
            self.tokens += 1
            last = stopped and i == len(delta.tokens) - 1
            if last and not (self._options.include_stop and token not in self._eos_ids):
                break  # a stop token is no part of the answer
            self._entries.append(Entry(token, self._seen, delta.logprobs[i] if delta.logprobs else None))
            if self._match(self._detokenizer.feed([token]), piece):
                return piece
            piece.thoughts += self._reader is not None and self._reader.thinking
        if delta.finish:
            if self._match(self._detokenizer.flush(), piece):
                return piece
            self._emit(self._matcher.flush(), piece)
            piece.entries += self._entries
            self._entries = []
            reason = delta.tokens[-1] if stopped and delta.tokens[-1] not in self._eos_ids else None
            self._end(piece, "stop" if stopped else "length", reason)
        return piece

    def _match(self, text: str, piece: Piece) -> bool:
        """Let text out as far as no stop string may be in it. True: the answer has ended, by one or by a call."""
        self._seen += len(text)
        stop: str | None = None
        if self.tokens <= self._options.min_tokens:
            sure = text
        else:
            sure, stop = self._matcher.feed(text)
        self._emit(sure, piece)
        if stop is None and not (self._reader is not None and self._reader.done):
            return False
        self._end(piece, "stop", stop)
        return True

    def _emit(self, text: str, piece: Piece) -> None:
        piece.text += text
        if self._reader is not None and piece.events is not None:
            piece.events += self._reader.feed(text)
        self._sent += len(text)
        while self._entries and self._entries[0].offset < self._sent:
            piece.entries.append(self._entries.pop(0))

    def _end(self, piece: Piece, finish: str, reason: int | str | None) -> None:
        piece.finish, piece.stop_reason, self.done = finish, reason, True
        if self._reader is not None and piece.events is not None:
            piece.events += self._reader.finish()
            piece.finish = self._reader.ended_as(finish)


async def pieces(
    engine: EngineClient,
    request: Generate,
    tokenizer: Tokenizer,
    options: TextOptions,
    usage: Usage,
    watch: Stopwatch,
) -> AsyncGenerator[list[Piece], None]:
    """Pieces of all n choices as they come; returns when each has ended. Fills `usage`. Raises QuireError.

    Leaving early aborts the request; so does the end of the last choice, where the engine would go on after a stop
    string. Logprobs of the prompt come with choice 0, step by step; here all choices wait for them and get them whole.
    """
    choices = [Choice(i, tokenizer, options, tokenizer.eos_ids) for i in range(request.n)]
    usage.prompt_tokens += len(request.prompt)
    left = request.n
    of_prompt: list[TokenLogprob] = []
    owed = len(request.prompt) - 1 if request.params.prompt_logprobs is not None else 0
    untold = set(range(request.n)) if request.params.prompt_logprobs is not None else set()
    out: list[Piece] = []
    async with contextlib.aclosing(_told(engine.generate(request), options.binding)) as deltas:
        async for batch in deltas:
            for delta in batch:
                choice = choices[delta.index]
                if delta.index == 0:  # siblings that compute parts of the prompt anew may tell them again
                    of_prompt += delta.prompt_logprobs or []
                if choice.done:
                    continue
                if delta.index == 0 and delta.cached_tokens is not None:
                    usage.cached_tokens += delta.cached_tokens
                if delta.tokens:
                    watch.tokens((request.id, delta.index), len(delta.tokens))
                before = choice.tokens
                piece = choice.feed(delta)
                taken = choice.tokens - before
                usage.completion_tokens += taken
                if piece.finish and delta.guided is not None:
                    beyond = sum(delta.guided.marks[taken:])  # a stop string was in the same step before them
                    usage.guided.append(msgspec.structs.replace(delta.guided, forced=delta.guided.forced - beyond))
                if delta.predicted is not None:
                    usage.predicted[request.id, delta.index] = delta.predicted
                if delta.guesses is not None:
                    usage.guesses[request.id, delta.index] = delta.guesses
                usage.reasoning_tokens += piece.thoughts
                left -= piece.finish is not None
                if piece.text or piece.events or piece.entries or piece.finish:
                    out.append(piece)
            if out and len(of_prompt) >= owed:
                for piece in out:
                    if piece.index in untold:
                        untold.discard(piece.index)
                        piece.prompt_logprobs = of_prompt
                yield out
                out = []
            if not left:
                return


async def _told(
    source: AsyncGenerator[list[TokenDelta], None], binding: Binding
) -> AsyncGenerator[list[TokenDelta], None]:
    """The same; what is wrong with a grammar is told in terms of the request."""
    async with contextlib.aclosing(source) as deltas:
        try:
            async for batch in deltas:
                yield batch
        except GrammarRefused as error:
            raise binding.told(error) from None


def merged(sources: list[AsyncGenerator[list[Piece], None]]) -> AsyncGenerator[list[Piece], None]:
    """Several requests as one stream. The first error ends them all."""
    return sources[0] if len(sources) == 1 else _merged(sources)


async def _merged(sources: list[AsyncGenerator[list[Piece], None]]) -> AsyncGenerator[list[Piece], None]:
    queue: asyncio.Queue[list[Piece] | Exception | None] = asyncio.Queue()

    async def pump(source: AsyncGenerator[list[Piece], None]) -> None:
        try:
            async with contextlib.aclosing(source):
                async for batch in source:
                    queue.put_nowait(batch)
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(pump(source)) for source in sources]
    try:
        left = len(tasks)
        while left:
            news = await queue.get()
            if isinstance(news, Exception):
                raise news
            if news is None:
                left -= 1
            else:
                yield news
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
