"""A pretended device that computes late and really keeps its pages, and the engine's own loop over it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from hashlib import blake2b

from guides import LocalLink

from quire.engine import messages as m
from quire.engine.core import Engine
from quire.engine.grammar.desk import Desk
from quire.engine.guides import Guides
from quire.engine.lora.library import Library
from quire.engine.lora.slots import Slots
from quire.engine.plan import Outcome, Plan, Slice, StepResult
from quire.engine.sequence import Sequence, Status
from quire.engine.state import Limits, State

VOCAB, STOP = 50, 7


def next_token(text: list[int], seed: int) -> int:
    """What the "model" says after `text`."""
    digest = blake2b(bytes(text) + seed.to_bytes(8, "little"), digest_size=4).digest()
    return int.from_bytes(digest, "little") % VOCAB


class Chains:
    """What each sequence says if nothing ends it."""

    def __init__(self) -> None:
        self.texts: dict[str, list[int]] = {}

    def until(self, seq: Sequence, length: int) -> list[int]:
        text = self.texts.setdefault(seq.id, seq.tokens[: seq.prompt_len])
        while len(text) < length:
            text.append(next_token(text, seq.seed))
        return text[:length]


@dataclass
class Work:
    """A slice as the device got it: nothing that the host does later changes it."""

    piece: Slice
    tokens: list[int]
    blocks: list[int]
    start: int
    sample: bool
    seq: Sequence


class Broken(BaseException):
    """No engine takes it for the failure of a request."""


def insist(sound: bool, otherwise: str) -> None:
    if not sound:
        raise Broken(otherwise)


class Flown:
    """A step that was launched. Computed when somebody waits for it, or later ones."""

    def __init__(self, device: Device, works: list[Work], before: Flown | None, fails: bool):
        self.device, self.works, self.before, self.fails = device, works, before, fails
        self.tokens: list[int] | None = None  # of the slices that sample; below 0: failed
        self.sound = True  # what it read was what was meant

    def compute(self) -> None:
        self.tokens = []
        self.sound = not self.fails and (self.before is None or self.before.sound)
        if self.fails:
            self.tokens = [49 for work in self.works if work.sample]
            return
        for work in self.works:
            given = self.before.tokens if self.before is not None else []
            tokens = [max(0, given[-1 - token]) if token < 0 else token for token in work.tokens]
            found = self.device.compute(work, tokens, self.sound)
            if work.sample:
                self.tokens.append(found)

    def result(self) -> StepResult:
        self.device.catch_up(self)
        if self.fails:
            raise RuntimeError("no such luck")
        tokens = iter(self.tokens)
        outcomes = []
        for work in self.works:
            token = next(tokens) if work.sample else None
            outcomes.append(
                Outcome() if token is None else Outcome([token]) if token >= 0 else Outcome(error="poisoned")
            )
        return StepResult(outcomes)


@dataclass
class Device:
    """A runner over pages that hold tokens."""

    size: int
    rng: random.Random
    may_fly: bool = True
    luck: float = 0.0  # of launches that fail at once, of steps that fail in flight, and of those that fail on ground
    drafting: bool = False
    pages: dict[int, int] = field(default_factory=dict)  # slot -> token
    late: list[Flown] = field(default_factory=list)  # launched and not computed
    poisoned: set[str] = field(default_factory=set)
    chains: Chains = field(default_factory=Chains)
    told: list[str] = field(default_factory=list)  # who left
    launched: int = 0
    overlapped: int = 0  # launched while another flew
    executed: int = 0
    wasted: int = 0  # slices of sequences that had ended

    def __post_init__(self) -> None:
        self.guides, self.library, self.slots = Guides(LocalLink(Desk(None, 8))), Library(None, None, 0), Slots(1)

    def idle(self) -> bool:
        return False

    def counts(self) -> dict[str, int]:
        return {}

    def launch(self, plan: Plan, flying: Flown | None = None) -> Flown:
        insist(not any(piece.drafts for piece in plan.slices), "drafts fly")
        insist(all(piece.tokens for piece in plan.slices), "a slice is empty")
        behind = 1 if flying is not None else 0
        known = [token for piece in plan.slices for token in piece.tokens[: len(piece.tokens) - behind]]
        insist(min(known, default=0) >= 0, "a token is asked for that nobody has")
        self.told += plan.freed
        if self.rng.random() < self.luck:
            raise RuntimeError("not even launched")
        works = [Work(s, list(s.tokens), list(s.seq.blocks), s.start, s.sample, s.seq) for s in plan.slices]
        flown = Flown(self, works, flying, self.rng.random() < self.luck)
        self.late.append(flown)
        self.launched += 1
        self.overlapped += flying is not None
        return flown

    def catch_up(self, last: Flown | None = None) -> None:
        """Compute, in the order of the launches, all up to one, or all."""
        while self.late and (last is None or last.tokens is None):
            self.late.pop(0).compute()

    def compute(self, work: Work, tokens: list[int], sound: bool) -> int:
        """Write to the pages, read the text back from them, and say what follows. -1: it fails."""
        seq, size = work.seq, self.size
        slots = [work.blocks[p // size] * size + p % size for p in range(work.start + len(tokens))]
        for slot, token in zip(slots[work.start :], tokens, strict=True):
            self.pages[slot] = token
        text = [self.pages[slot] for slot in slots]
        bad = seq.request in self.poisoned
        if sound and not bad:
            insist(text == self.chains.until(seq, len(text)), "a page holds another text")
        self.wasted += seq.status is Status.FINISHED
        return -1 if bad else next_token(text, seq.seed)

    def execute(self, plan: Plan) -> StepResult:
        self.told += plan.freed
        if not plan.slices:
            return StepResult([])
        self.catch_up()  # the device works in order
        self.executed += 1
        if len(plan.slices) > 1 and self.rng.random() < self.luck:
            raise RuntimeError("no such luck on the ground")
        outcomes = []
        for piece in plan.slices:
            insist(min([*piece.tokens, *piece.seq.tokens]) >= 0, "the host needs to know them")
            accepted = piece.tokens[: len(piece.tokens) - piece.drafts]
            work = Work(piece, accepted, piece.seq.blocks, piece.start, piece.sample, piece.seq)
            token = self.compute(work, accepted, True)
            if not piece.sample:
                outcomes.append(Outcome())
            elif token < 0:
                outcomes.append(Outcome(error="poisoned"))
            else:
                tokens, text = [token], piece.seq.tokens[:]
                for draft in piece.drafted:
                    if draft != tokens[-1]:
                        break
                    # What is right is written where it belongs, as drafts are.
                    place = len(text) + len(tokens) - 1
                    self.pages[piece.seq.blocks[place // self.size] * self.size + place % self.size] = draft
                    tokens.append(next_token(text + tokens, piece.seq.seed))
                outcomes.append(Outcome(tokens, drafts=self.propose(text + tokens, piece.seq.seed)))
        return StepResult(outcomes)

    def propose(self, text: list[int], seed: int) -> list[int]:
        guesses: list[int] = []
        for _ in range(self.rng.choice((0, 0, 0, 1, 4)) if self.drafting else 0):
            right = next_token(text + guesses, seed)
            guesses.append(right if self.rng.random() < 0.7 else (right + 1) % VOCAB)
        return guesses


class Traffic:
    """A channel: requests and aborts at random, and all that was sent."""

    def __init__(self, requests: list[m.Generate], rng: random.Random, aborting: float = 0.0):
        self.left, self.rng, self.aborting = list(requests), rng, aborting
        self.engine: Engine | None = None
        self.aborted: set[str] = set()
        self.streams: dict[tuple[str, int], list[int]] = {}
        self.finished: dict[tuple[str, int], str] = {}
        self.failed: dict[str, str] = {}
        self.sent = 0

    def receive(self, wait: int) -> list[m.ToEngine]:
        inbox: list[m.ToEngine] = []
        for _ in range(self.rng.randrange(4)):
            if self.left:
                inbox.append(self.left.pop(0))
        if self.engine.state.requests and self.rng.random() < self.aborting:
            self.aborted.add(victim := self.rng.choice(list(self.engine.state.requests)))
            inbox.append(m.Abort(id=victim))
        if wait and not self.left and not inbox:
            return [m.Shutdown()]
        return inbox

    def send(self, out: list[m.FromEngine]) -> None:
        self.engine.state.check()
        self.sent += 1
        assert self.sent < 30_000, "it never ends"
        for message in out:
            if isinstance(message, m.Failed):
                self.failed[message.id] = message.message
            elif isinstance(message, m.TokenDelta):
                key = (message.id, message.index)
                assert key not in self.finished, "news after the end"
                assert (message.cached_tokens is not None) == (key not in self.streams)
                assert all(token >= 0 for token in message.tokens)
                self.streams.setdefault(key, []).extend(message.tokens)
                if message.finish:
                    self.finished[key] = message.finish


def crowd(seed: int, count: int, grounded: float = 0.0) -> list[m.Generate]:
    """Requests with shared beginnings, several lengths, siblings, priorities, salts; and options that do not fly."""
    rng = random.Random(seed)
    stems = [[rng.randrange(VOCAB) for _ in range(rng.choice((5, 16, 40, 100)))] for _ in range(4)]
    return [
        m.Generate(
            id=f"r{i}",
            prompt=rng.choice(stems) + [rng.randrange(VOCAB) for _ in range(rng.randrange(1, 40))],
            params=m.SamplingParams(
                max_tokens=rng.choice((0, 1, 2, 3, 20, 60)),
                seed=rng.randrange(1000),
                stop_token_ids=(STOP,) if rng.random() < 0.5 else (),
                logprobs=0 if rng.random() < grounded else None,
            ),
            n=rng.choice((1, 1, 1, 2, 4)),
            priority=rng.choice((0, 0, 0, 1, -1)),
            cache_salt=rng.choice(("", "", "mine")),
        )
        for i in range(count)
    ]


def expected(request: m.Generate, index: int) -> tuple[list[int], str]:
    text, finish = list(request.prompt), "length"
    for _ in range(request.params.max_tokens):
        text.append(next_token(text, (request.params.seed + index) % 2**64))
        if text[-1] in request.params.stop_token_ids:
            finish = "stop"
            break
    return text[len(request.prompt) :], finish


def serve(
    requests: list[m.Generate], seed: int, *, pages: int = 400, seqs: int = 8, budget: int = 64, cache: bool = True,
    aborting: float = 0.0, poisoned: frozenset[str] = frozenset(), **device,
) -> tuple[Device, Traffic, Engine]:  # fmt: skip
    rng = random.Random(seed)
    state = State(Limits(512, seqs, budget, 9000), pages, cache)
    place = Device(state.limits.block_size, rng, poisoned=set(poisoned), **device)
    traffic = Traffic(requests, rng, aborting)
    engine = Engine(place, state, traffic)
    traffic.engine = engine
    engine.run()
    assert engine.flying is None
    assert not state.requests
    assert len(state.pool.free) == state.pool.size, "a page is lost"
    assert not engine.arrived
    return place, traffic, engine
