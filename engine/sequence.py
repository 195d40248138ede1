"""A sequence: one row of generation. The scheduler changes it, and ahead.py for what is foreseen."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from enum import Enum
from typing import TYPE_CHECKING

from .messages import SamplingParams

if TYPE_CHECKING:
    from .guides import Guide
    from .lora.adapter import Adapter


class Status(Enum):
    WAITING = "waiting"  # in the queue: never ran, or was preempted
    RUNNING = "running"  # holds pages
    FINISHED = "finished"


class Sequence:
    """Tokens and how far they are computed.

    `tokens` are the prompt and all that was accepted; `computed` of them have their keys and values in pages. There
    is no prefill and no decode: each step lets `computed` catch up with `len(tokens) + len(drafts)`. A page i of
    `blocks` holds positions [i * BLOCK_SIZE, (i + 1) * BLOCK_SIZE).
    """

    __slots__ = (
        "id", "request", "index", "tokens", "prompt_len", "end", "computed", "drafts", "parents", "blocks", "hashes",
        "status", "params", "seed", "priority", "arrival", "salt", "leader", "cached_tokens", "preemptions",
        "announced", "published", "prompt_logprobs_sent", "guide", "adapter", "weight", "prediction", "plain",
    )  # fmt: skip

    def __init__(
        self,
        request: str,
        index: int,
        prompt: list[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        arrival: int = 0,
        salt: str = "",
        leader: Sequence | None = None,
        guide: Guide | None = None,
        adapter: Adapter | None = None,
        weight: float = 1.0,
        prediction: tuple[int, ...] = (),
    ):
        self.id = f"{request}/{index}"
        self.request = request
        self.index = index
        self.tokens = list(prompt)
        self.prompt_len = len(prompt)
        self.end = len(prompt) + params.max_tokens  # tokens it may have at most
        self.computed = 0
        self.drafts: list[int] = []
        self.parents: Seq[int] = ()  # of the drafts, where they are a tree; see Slice
        self.blocks: list[int] = []
        self.hashes: list[bytes] = []  # chained hash of each full page of tokens, as far as known
        self.status = Status.WAITING
        self.params = params
        self.seed = (params.seed + index) % 2**64
        self.priority = priority
        self.arrival = arrival  # order of arrival, a count
        self.salt = salt
        self.leader = leader  # of n > 1: the sibling that computes the shared prompt first
        self.cached_tokens = 0  # prompt tokens found in the prefix cache when it first ran
        self.preemptions = 0
        self.announced = False  # its first delta has gone out
        self.published = 0  # pages of `blocks` that others may find
        self.guide = guide  # where its answer stands in its grammar; engine/guides.py moves it
        self.adapter = adapter  # None: the base alone
        self.weight = weight  # of its turns among adapters
        self.prediction = prediction  # what its answer may be for the most part
        self.plain: bool | None = None  # whether its steps may fly (ahead.py); None: nobody has asked yet
        self.prompt_logprobs_sent = 0  # prompt positions, from 1 on, whose logprobs have gone out

    @property
    def generated(self) -> int:
        return len(self.tokens) - self.prompt_len

    @property
    def owes_prompt_logprobs(self) -> bool:
        """Prompt positions must be computed, not found in the cache: their logits are wanted. The leader owes them."""
        return (
            self.params.prompt_logprobs is not None
            and self.leader is None
            and self.prompt_logprobs_sent < self.prompt_len - 1
        )

    def __repr__(self) -> str:
        return f"<{self.id} {self.status.value} {self.computed}/{len(self.tokens)}+{len(self.drafts)}>"
