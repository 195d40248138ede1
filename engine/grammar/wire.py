"""What the engine and the process that follows grammars (desk.py) say to each other.

A place is a number of tokens of an answer: the token at place n comes behind n others.
"""

from __future__ import annotations

import msgspec

from ..messages import Guided, ThoughtBudget
from .spec import GrammarSpec


class Start(msgspec.Struct, frozen=True):
    """What the process is told at its start."""

    wire: int  # the number of its socket
    model: str  # folder of the tokenizer
    vocab_size: int  # rows of the model's head
    engines: dict[str, str]  # kind of grammar -> engine, before grammar.KINDS


# ---------------------------------------------------------------- engine -> desk


class Compile(msgspec.Struct, frozen=True, tag=True):
    """Answered by Ready or Refused. spec: None where only a vocabulary is needed."""

    grammar: int  # its number from now on
    spec: GrammarSpec | None


class Forget(msgspec.Struct, frozen=True, tag=True):
    """No new answer comes under this grammar. Where it is not compiled yet it need not be: then nothing may answer."""

    grammar: int


class Open(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A new answer, of which nothing is said yet."""

    answer: int  # its number
    grammar: int | None  # None: only its thoughts are bound
    most: int  # tokens it may have
    after: tuple[int, ...] = ()  # behind which its grammar begins
    thought: ThoughtBudget | None = None
    every: bool = False  # the model's word on every token is wanted: none is forced
    ahead: bool = True  # what must come may be sampled in one step; not where each token rests on the one before


class Look(msgspec.Struct, frozen=True, tag=True):
    """The first `place` tokens of an answer stay, `tokens` follow them: what may come next, and behind each draft?
    Answered by Masks."""

    answer: int
    place: int
    tokens: list[int]
    drafts: list[int] = []


class Took(msgspec.Struct, frozen=True, tag=True):
    """Tokens were sampled from a place on. Answered by Follows, and then by Masks for the place behind that."""

    answer: int
    place: int
    tokens: list[int]
    kept: list[float]  # of each, the share of the model's probability that its mask left


class Close(msgspec.Struct, frozen=True, tag=True):
    answer: int


# ---------------------------------------------------------------- desk -> engine


class Ready(msgspec.Struct, frozen=True, tag=True):
    """A grammar is compiled."""

    grammar: int
    shortest: int | None  # tokens of a shortest answer, where that is known


class Refused(msgspec.Struct, frozen=True, tag=True):
    """It cannot be; code, message and param of a GrammarRefused."""

    grammar: int
    code: str
    message: str
    param: str | None


class Masks(msgspec.Struct, frozen=True, tag=True):
    """What may come at a place, and behind each draft as far as these may come: int32 [ceil(vocab / 32)] each, or None
    where anything may."""

    answer: int
    place: int
    drafts: int  # that were asked for
    bits: list[bytes | None]


class Follows(msgspec.Struct, frozen=True, tag=True):
    """What must come behind the tokens from a place on, and what the grammar did to the answer up to there. drafts:
    what must come too, but is to be sampled."""

    answer: int
    place: int
    forced: list[int]
    drafts: list[int]
    guided: Guided


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Nothing more can come of an answer; code, message and param of a QuireError."""

    answer: int
    code: str
    message: str
    param: str | None


ToDesk = Compile | Forget | Open | Look | Took | Close
FromDesk = Ready | Refused | Masks | Follows | Failed

encode = msgspec.msgpack.Encoder().encode
decode_to_desk = msgspec.msgpack.Decoder(list[ToDesk]).decode
decode_from_desk = msgspec.msgpack.Decoder(list[FromDesk]).decode
