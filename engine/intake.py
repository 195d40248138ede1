"""Requests on their way to the scheduler: grammars are compiled and adapters read beside the loop; nobody waits for
another's.

A compilation that takes too long is given up, and so is one whose clients all left: it does not begin any more, or
where it has, comes to its end by the limits of `grammar.spec.Limits`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from . import messages as m
from .errors import GrammarRefused, RequestError
from .grammar.spec import GrammarSpec
from .guides import Grammar, Guide
from .lora.adapter import Adapter

SECONDS = 30.0  # a grammar may take to compile, with what everybody else leaves


@dataclass(slots=True)
class _Waiting:
    request: m.Generate
    compiled: Future[Grammar] | None  # None: nothing to compile
    adapter: Future[Adapter] | None  # None: the base alone
    since: float

    def ready(self, now: float) -> bool:
        compiled = self.compiled is None or self.compiled.done() or now - self.since > SECONDS
        return compiled and (self.adapter is None or self.adapter.done())


Made = Callable[[], tuple[list[Guide], Adapter | None]]


class Compiler(Protocol):
    """Who compiles grammars: engine/guides.py."""

    def compile(self, spec: GrammarSpec | None) -> Future[Grammar]: ...

    def give_up(self, compiled: Future[Grammar]) -> None: ...

    def hear(self) -> None: ...


class Intake:
    """In the order of arrival, but for those whose grammar or adapter is not ready."""

    def __init__(self, compiler: Compiler, adapt: Callable[[Iterable[m.Use], m.Merge], Future[Adapter]] | None = None):
        """adapt: an adapter that is, or will be, in memory; needed where requests name any."""
        self._compiler = compiler
        self._adapt = adapt
        self._waiting: dict[str, _Waiting] = {}

    @property
    def waits(self) -> bool:
        """Whether anybody is in here."""
        return bool(self._waiting)

    def enter(self, request: m.Generate) -> None:
        params = request.params
        bound = params.grammar is not None or params.thought is not None
        compiled = self._compiler.compile(params.grammar) if bound else None
        adapter = None
        if request.adapters:
            assert self._adapt is not None
            adapter = self._adapt(request.adapters, request.merge)
        self._waiting[request.id] = _Waiting(request, compiled, adapter, time.monotonic())

    def forget(self, request: str) -> None:
        if (one := self._waiting.pop(request, None)) is not None:
            self._give_up(one)

    def _give_up(self, one: _Waiting) -> None:
        """Its grammar, unless it is done or others wait for it."""
        compiled = one.compiled
        if compiled is None or compiled.done() or any(other.compiled is compiled for other in self._waiting.values()):
            return
        self._compiler.give_up(compiled)

    def leave(self) -> list[tuple[m.Generate, Made]]:
        """Who can go on, and what gives the guides of its answers (none where nothing binds them) and its adapter. It
        raises QuireError where there can be none."""
        if self._waiting:
            self._compiler.hear()
        now = time.monotonic()
        gone = [one for one in self._waiting.values() if one.ready(now)]
        for one in gone:
            del self._waiting[one.request.id]
        for one in gone:
            self._give_up(one)
        return [(one.request, partial(self._made, one)) for one in gone]

    def _made(self, one: _Waiting) -> tuple[list[Guide], Adapter | None]:
        guides = self._guides(one.request, one.compiled) if one.compiled is not None else []
        return guides, one.adapter.result(timeout=0) if one.adapter is not None else None

    def _guides(self, request: m.Generate, compiled: Future[Grammar]) -> list[Guide]:
        params = request.params
        try:
            found = compiled.result(timeout=0)
        except TimeoutError:
            raise GrammarRefused(f"the grammar took more than {SECONDS:.0f} s to compile") from None
        shortest, behind = found.shortest, len(params.grammar_after)
        if shortest is not None and params.max_tokens < shortest + behind:
            more = f", behind the {behind} that end its thought" if behind else ""
            raise RequestError(
                f"max_tokens is {params.max_tokens}; the shortest answer that the grammar allows has {shortest}{more}",
                param="max_tokens",
            )
        grammar = found if params.grammar is not None else None
        return [Guide(grammar, params.grammar_after, params.thought) for _ in range(request.n)]
