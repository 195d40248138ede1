"""An engine without a model: the real EngineClient, and in place of the process a script that says what comes back.

A script is a function of the Generate message. It yields frames (lists of messages, delivered as one frame of the wire)
and events, which are waited for. Everything crosses the real codec, in both directions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from quire.engine import messages as m
from quire.engine.client import EngineClient
from quire.engine.config import EngineConfig

Frame = list[m.FromEngine]
Script = Callable[[m.Generate], Iterable[Frame | asyncio.Event]]


@dataclass(frozen=True)
class Answer:
    """What one sequence says. stop: the last of tokens is a stop token."""

    tokens: tuple[int, ...]
    stop: bool = False
    guided: m.Guided | None = None


def loaded(call: m.LoadAdapter | m.UnloadAdapter) -> Iterator[Frame]:
    """What an engine answers that can load anything."""
    if isinstance(call, m.UnloadAdapter):
        yield [m.AdapterGone(call.id)]
    else:
        yield [m.AdapterLoaded(call.id, adapter_info(call.name, call.path, pinned=call.pinned))]


def adapter_info(name: str, path: str, **more: Any) -> m.AdapterInfo:
    known = {"kind": "LORA", "rank": 8, "bytes": 1000, "base": None, "pinned": False, "state": "memory", **more}
    return m.AdapterInfo(name=name, path=path, **{"key": f"key of {path}", **known})


class FakeEngine(EngineClient):
    """Ready at once; `requests`, `aborted` and `calls` tell what it was sent, `sent` all of it in order."""

    def __init__(self, vocab_size: int, *, max_model_len: int = 256):
        super().__init__(EngineConfig(model="none"))
        self.script: Script = lambda request: []
        self.adapters: Callable[[m.LoadAdapter | m.UnloadAdapter], Iterable[Frame | asyncio.Event]] = loaded
        self.sent: list[m.ToEngine] = []
        self.calls: list[m.LoadAdapter | m.UnloadAdapter] = []
        self.requests: list[m.Generate] = []
        self.aborted: list[str] = []
        self._playing: dict[str, asyncio.Task[None]] = {}
        self._engine = self  # type: ignore[assignment]  # what is left of the process: `send`
        self.info = m.Ready(
            architecture="Fake", dtype="float32", device="cpu", vocab_size=vocab_size, max_model_len=max_model_len,
            block_size=16, num_blocks=1000, kv_bytes=1, kept="float32", weights="float32", weight_bytes=1,
            load_seconds=0.0,
        )  # fmt: skip
        self.state = "ready"

    def send(self, out: list[m.ToEngine]) -> None:
        for message in m.decode_to_engine(m.encode(out)):
            self.sent.append(message)
            match message:
                case m.Generate():
                    self.requests.append(message)
                    self._playing[message.id] = asyncio.ensure_future(self._play(self.script(message)))
                case m.LoadAdapter() | m.UnloadAdapter():
                    self.calls.append(message)
                    self._playing[message.id] = asyncio.ensure_future(self._play(self.adapters(message)))
                case m.Abort(id=request):
                    self.aborted.append(request)
                    self._playing.pop(request).cancel()

    def say(self, *frame: m.FromEngine) -> None:
        """Deliver one frame now."""
        self._deliver(m.decode_from_engine(m.encode(list(frame))))

    def die(self) -> None:
        """The process ends, and nothing it was asked for will come."""
        for task in self._playing.values():
            task.cancel()
        self.restarts += 1
        self._become("restarting")
        self._fail_open("the engine process was killed")

    def start_again(self) -> None:
        assert self.info is not None
        self.say(self.info)

    async def _play(self, steps: Iterable[Frame | asyncio.Event]) -> None:
        for step in steps:
            if isinstance(step, asyncio.Event):
                await step.wait()
            else:
                self.say(*step)
            await asyncio.sleep(0)


def logprob(token: int, count: int, vocab_size: int) -> m.TokenLogprob:
    """A made-up but fixed distribution: the token itself is the second best, between its successors."""
    order = [token + 1, token, *(token + i for i in range(2, count + 1))]
    top = [(one % vocab_size, -0.5 * rank) for rank, one in enumerate(order, 1)]
    return m.TokenLogprob(token, -1.0, 2, top[:count])


def frames(request: m.Generate, answers: list[Answer], vocab_size: int, cut: Random | None = None) -> Iterator[Frame]:
    """The answers of all n sequences as an engine would tell them. cut: how they are cut and mixed; None: one token of
    each sequence at a time."""
    cut = cut or _Even()
    params = request.params
    owed: list[m.TokenLogprob] = []
    if params.prompt_logprobs is not None:
        owed = [logprob(t, params.prompt_logprobs, vocab_size) for t in request.prompt[1:]]
    at = [0] * request.n
    fresh = set(range(request.n))
    left = set(range(request.n))
    while left:
        frame: Frame = []
        for index in sorted(left):
            if cut.random() > 0.7:
                continue
            told = None
            if index == 0 and owed:
                size = cut.randint(1, len(owed))
                told, owed = owed[:size], owed[size:]
            answer = answers[index]
            size = 0 if index == 0 and owed else cut.randint(1, 3)
            tokens = list(answer.tokens[at[index] : at[index] + size])
            at[index] += len(tokens)
            ended = at[index] == len(answer.tokens) and not (index == 0 and owed)
            frame.append(
                m.TokenDelta(
                    id=request.id, index=index, tokens=tokens, prompt_logprobs=told,
                    logprobs=_logprobs(tokens, params.logprobs, vocab_size),
                    cached_tokens=len(request.prompt) // 16 * 16 if index in fresh else None,
                    finish=("stop" if answer.stop else "length") if ended else None,
                    guided=answer.guided if ended else None,
                )
            )  # fmt: skip
            fresh.discard(index)
            if ended:
                left.discard(index)
        if frame:
            yield frame


def _logprobs(tokens: list[int], count: int | None, vocab_size: int) -> list[m.TokenLogprob] | None:
    return None if count is None else [logprob(t, count, vocab_size) for t in tokens]


class _Even(Random):
    """Chance that always takes part, and always as little as possible."""

    def random(self) -> float:
        return 0.0

    def randint(self, a: int, b: int) -> int:
        return a
