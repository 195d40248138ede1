"""The grammars of a process and the answers under them: messages in, messages out (wire.py).

What is quick is done at once, in the order in which it came, tokens before masks: who sampled one waits for what must
follow, while a mask has as long as the model takes. Compiling is done aside (aside.py), and so is what takes long about
an answer.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from queue import SimpleQueue

from ..errors import GrammarRefused, QuireError
from . import Compiled, warm, wire
from . import compile as compile_grammar
from .answer import Answer
from .aside import Job
from .thoughts import Thoughts
from .vocabulary import Vocabulary

LARGE = 16 * 1024  # characters of a grammar of which it is known beforehand that it takes long
MASKS = 0.0005  # seconds until those that are filled are sent, and tokens that came meanwhile have their turn
SLOW = 0.01  # seconds of the processor that nothing about an answer takes, where its grammar is quick
HOPELESS = 5  # times of that, that something took once, and the grammar is never quick again
QUICK_AGAIN = 16  # things on end that did not take long: what is built when it is first needed is there
SHARE, BURST = 0.25, 0.1  # of a processor that a slow grammar may have like others, and seconds of it at once

Out = list[wire.FromDesk]


class _Kept:
    """A grammar, and whether it is slow to follow: then in threads. Only who has the lock follows it."""

    def __init__(self, compiled: Compiled | None, slow: bool):
        self.compiled, self.slow, self.lock = compiled, slow, threading.Lock()
        self._hopeless, self._quick = slow, 0
        self._spent, self._at = 0.0, time.monotonic()  # seconds that it took lately

    def took(self, seconds: float) -> None:
        """Of the processor: a machine that is busy makes no grammar slow."""
        if seconds <= SLOW and not self.slow:
            return
        self._spent = self.spent + seconds
        self._at = time.monotonic()
        if seconds > SLOW:
            self.slow, self._quick = True, 0
            self._hopeless = self._hopeless or seconds > HOPELESS * SLOW
            return
        self._quick += 1
        if self._quick >= QUICK_AGAIN and not self._hopeless:
            self.slow = False

    @property
    def spent(self) -> float:
        return max(0.0, self._spent - SHARE * (time.monotonic() - self._at))


class _Open:
    """An answer; what is still to be done about it, and whether a thread does it."""

    def __init__(self, opened: wire.Open, kept: _Kept):
        self.opened, self.kept = opened, kept
        self.answer: Answer | None = None  # made when it is first looked at
        self.todo: deque[wire.Look | wire.Took] = deque()
        self.away = self.closed = False


class Desk:
    """`hear` what the engine says, and `work` for as long as it is `busy`: that gives what is to be said. Both belong
    to one thread."""

    def __init__(
        self,
        load: Callable[[], Vocabulary],
        vocab_size: int,
        engines: Mapping[str, str] = {},
        wake: Callable[[], object] = lambda: None,
        aside: Callable[[Job], object] = lambda job: job(),
        long: Callable[[Job], object] | None = None,
    ):
        """load: raises GrammarRefused; called once, in a thread. wake: called in a thread when `work` has something to
        say. aside: does what may take long, in a thread or at once; long: what is known to, None: the same."""
        self._load, self._vocab_size, self._engines, self._wake = load, vocab_size, engines, wake
        self._vocabulary: Vocabulary | QuireError | None = None
        self._loading = threading.Lock()
        self._aside, self._long = aside, long or aside
        self._grammars: dict[int, _Kept] = {}
        self._given_up: set[int] = set()  # grammars, before they were compiled
        self._answers: dict[int, _Open] = {}
        self._tokens: deque[_Open] = deque()  # who has something in `todo`, and it is a token
        self._masks: deque[_Open] = deque()
        self._done: SimpleQueue[tuple[_Open | None, Out]] = SimpleQueue()  # of threads

    @property
    def busy(self) -> bool:
        """Whether `work` has something to do at once."""
        return bool(self._tokens or self._masks or not self._done.empty())

    def warm(self, then: Callable[[], object]) -> None:
        """Make ready what every grammar needs, beside the loop. then: called where that is done."""

        def work() -> None:
            warm(self.vocabulary())
            then()

        self._aside(work)

    def vocabulary(self) -> Vocabulary:
        """Raises GrammarRefused where this model's answers cannot be bound. Any thread may call it."""
        with self._loading:
            if self._vocabulary is None:
                try:
                    self._vocabulary = self._load()
                except QuireError as error:
                    self._vocabulary = error
        if isinstance(self._vocabulary, QuireError):
            raise self._vocabulary
        return self._vocabulary

    # ------------------------------------------------------------ what is said

    def hear(self, messages: Iterable[wire.ToDesk]) -> None:
        for message in messages:
            match message:
                case wire.Compile():
                    long = message.spec is not None and len(message.spec.text) > LARGE
                    (self._long if long else self._aside)(partial(self._compile, message, long))
                case wire.Forget(grammar=number):
                    known = self._grammars.pop(number, None) is not None
                    (self._given_up.discard if known else self._given_up.add)(number)
                case wire.Open():
                    kept = self._grammars[message.grammar] if message.grammar is not None else _Kept(None, False)
                    self._answers[message.answer] = _Open(message, kept)
                case wire.Look() | wire.Took():
                    self._due(self._answers[message.answer], message)
                case wire.Close(answer=number):
                    self._answers.pop(number).closed = True

    def _due(self, one: _Open, what: wire.Look | wire.Took) -> None:
        if isinstance(what, wire.Look) and one.todo and not one.away:
            last = one.todo[-1]
            if isinstance(last, wire.Look) and last.place == what.place and not last.tokens:
                one.todo.pop()  # nobody needs that answer any more
                one.todo.append(what)
                return
        one.todo.append(what)
        if one.away or len(one.todo) > 1:
            return
        self._queue(one)

    def _queue(self, one: _Open) -> None:
        """It has its turn."""
        if one.kept.slow:
            self._send_aside(one)
        else:
            (self._tokens if isinstance(one.todo[0], wire.Took) else self._masks).append(one)

    def _send_aside(self, one: _Open) -> None:
        one.away = True
        (self._long if one.kept.spent > BURST else self._aside)(partial(self._do_slowly, one))

    # ------------------------------------------------------------ what is done

    def work(self) -> Out:
        """What is quick and waits to be done: all tokens, else some masks; and what threads have done."""
        out: Out = []
        while not self._done.empty():
            one, found = self._done.get()
            if one is None or not one.closed:
                out += found
            if one is not None:
                one.away = False
                if one.todo and not one.closed:
                    self._queue(one)
        since = time.thread_time()
        if self._tokens:
            while self._tokens:
                out += self._do(self._tokens.popleft(), since)
            return out
        until = time.perf_counter() + MASKS
        while self._masks:
            out += self._do(self._masks.popleft(), since)
            if time.perf_counter() > until:
                break
        return out

    def _do(self, one: _Open, since: float) -> Out:
        """The first thing that is due about an answer. since: as `_timed` has it."""
        if one.closed:
            return []
        if one.kept.slow or not one.kept.lock.acquire(blocking=False):  # as was found out; or a thread is still at it
            self._send_aside(one)
            return []
        try:
            out = self._timed(one, since)
        finally:
            one.kept.lock.release()
        if one.todo and not one.away:
            self._queue(one)
        return out

    def _do_slowly(self, one: _Open) -> None:
        """In a thread."""
        with one.kept.lock:
            out = [] if one.closed else self._timed(one, time.thread_time())
        self._done.put((one, out))
        self._wake()

    def _timed(self, one: _Open, since: float) -> Out:
        """since: a reading of the thread's own time, before now. It costs ten times what the clock does, so it is asked
        again only where the clock says that it may have been long."""
        began = time.perf_counter()
        out = self._done_about(one, one.todo.popleft())
        took = time.perf_counter() - began
        one.kept.took(took if took <= SLOW else min(took, time.thread_time() - since))
        return out

    def _done_about(self, one: _Open, what: wire.Look | wire.Took) -> Out:
        number = one.opened.answer
        try:
            if one.answer is None:
                one.answer = self._answer(one)
            answer = one.answer
            if isinstance(what, wire.Took):
                forced = answer.take(what.tokens, what.kept)
                drafts = answer.coming if one.opened.ahead and not forced else []
                one.todo.appendleft(wire.Look(number, len(answer.tokens), [], drafts))
                return [wire.Follows(number, what.place, forced, drafts, answer.summary())]
            masks = answer.look(what.place, what.tokens, what.drafts)
            bits = [mask.tobytes() if mask is not None else None for mask in masks]
            return [wire.Masks(number, len(answer.tokens), len(what.drafts), bits)]
        except QuireError as error:
            return [wire.Failed(number, error.code or "", error.message, error.param)]
        except Exception as error:
            return [wire.Failed(number, GrammarRefused.code, _told("the grammar failed", error), None)]

    def _answer(self, one: _Open) -> Answer:
        opened, vocabulary, compiled = one.opened, self.vocabulary(), one.kept.compiled
        thoughts = Thoughts(opened.thought, vocabulary.written) if opened.thought is not None else None
        return Answer(
            compiled.matcher() if compiled is not None else None, self._vocab_size, vocabulary.eos_ids[0], opened.most,
            opened.after, thoughts, vocabulary.written, opened.every,
        )  # fmt: skip

    def _compile(self, asked: wire.Compile, slow: bool) -> None:
        """In a thread. slow: it is known beforehand that its answers will be."""
        if asked.grammar in self._given_up:
            self._given_up.discard(asked.grammar)
            return
        out: Out
        try:
            vocabulary = self.vocabulary()
            compiled = (
                compile_grammar(asked.spec, vocabulary, engines=self._engines) if asked.spec is not None else None
            )
            self._grammars[asked.grammar] = _Kept(compiled, slow)
            out = [wire.Ready(asked.grammar, compiled.shortest if compiled is not None else None)]
        except QuireError as error:
            out = [wire.Refused(asked.grammar, error.code or "", error.message, error.param)]
        except Exception as error:
            code = GrammarRefused.code
            out = [wire.Refused(asked.grammar, code, _told("the grammar could not be compiled", error), None)]
        self._done.put((None, out))
        self._wake()


def _told(what: str, error: Exception) -> str:
    return f"{what}: {type(error).__name__}: {error}"
