"""Requests on their way to the scheduler: a grammar is compiled beside the loop; nobody waits for another's.

A compilation that takes too long is given up, and so is one whose client left; its thread comes to its end by the
limits of `grammar.spec.Limits`.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from . import messages as m
from .errors import GrammarRefused, QuireError, RequestError
from .grammar import Compiled
from .grammar.guide import Guide
from .grammar.spec import GrammarSpec

THREADS = 2
SECONDS = 10.0  # a grammar may take to compile
KEPT = 256  # compiled grammars


@dataclass(slots=True)
class _Waiting:
    request: m.Generate
    compiled: Future[Compiled] | None  # None: nothing to compile
    since: float


class Intake:
    """In the order of arrival, but for those whose grammar is not ready."""

    def __init__(
        self,
        compile: Callable[[GrammarSpec], Compiled],
        guide: Callable[[Compiled, tuple[int, ...]], Guide],
        warm: Callable[[], None] = lambda: None,
    ):
        """compile: raises QuireError; called in a thread, as is warm, once, first. guide: one answer's, given where its
        grammar begins."""
        self._compile = compile
        self._guide = guide
        self._pool = ThreadPoolExecutor(THREADS, "grammar")
        self._known: OrderedDict[GrammarSpec, Future[Compiled]] = OrderedDict()
        self._waiting: dict[str, _Waiting] = {}
        self._pool.submit(warm)  # a model that no grammar can bind says so to whoever asks for one

    @property
    def waits(self) -> bool:
        """Whether anybody is in here."""
        return bool(self._waiting)

    def enter(self, request: m.Generate) -> None:
        grammar = request.params.grammar
        compiled = self._compiled(grammar) if grammar is not None else None
        self._waiting[request.id] = _Waiting(request, compiled, time.monotonic())

    def forget(self, request: str) -> None:
        self._waiting.pop(request, None)

    def leave(self) -> list[tuple[m.Generate, Callable[[], list[Guide]]]]:
        """Who can go on, and what gives the guides of its answers: none where no grammar binds them. It raises
        QuireError where the grammar cannot be."""
        out: list[tuple[m.Generate, Callable[[], list[Guide]]]] = []
        for id_, one in list(self._waiting.items()):
            if one.compiled is None:
                out.append((one.request, list))
            elif one.compiled.done() or time.monotonic() - one.since > SECONDS:
                out.append((one.request, partial(self._guides, one.request, one.compiled)))
            else:
                continue
            del self._waiting[id_]
        return out

    def _compiled(self, grammar: GrammarSpec) -> Future[Compiled]:
        found = self._known.get(grammar)
        if found is None:
            found = self._known[grammar] = self._pool.submit(self._compile, grammar)
            if len(self._known) > KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(grammar)
        return found

    def _guides(self, request: m.Generate, compiled: Future[Compiled]) -> list[Guide]:
        params = request.params
        try:
            found = compiled.result(timeout=0)
        except TimeoutError:
            raise GrammarRefused(f"the grammar took more than {SECONDS:.0f} s to compile") from None
        except QuireError:
            raise
        except Exception as error:
            raise GrammarRefused(f"the grammar could not be compiled: {type(error).__name__}: {error}") from None
        if not params.grammar_after and found.shortest is not None and params.max_tokens < found.shortest:
            raise RequestError(
                f"max_tokens is {params.max_tokens}; the shortest answer that the grammar allows has {found.shortest}",
                param="max_tokens",
            )
        return [self._guide(found, params.grammar_after) for _ in range(request.n)]
