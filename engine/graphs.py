"""CUDA graphs: the layers of a step of few rows, launched as one.

Such a step may take a GPU less time than Python takes to launch its kernels. So the layers are captured once for each
of a few sizes, over tensors that stay where they are; a step is copied there, padded to the next size, and replayed. A
size counts rows, however they are spread: one token of each sequence, drafts that are verified, short prompts. What
follows the layers (logits, sampling) is launched as ever. Steps with adapters run as ever too: which products they
change, and how, is decided in Python (kernels/lora.py).

Padding rows have tokens and positions that some step had, no slot, so that nothing of them is written to a page, and no
entry in the attention's lists, so that nothing is read for them. What is computed of them is arbitrary, and as no
operation looks from one row to another, it stays theirs.

Attention computes steps of few rows a sequence otherwise than those with longer pieces, so that a size has a graph of
either form. One is captured when it was wanted often enough, or in a moment with nothing to run; until then, and where
a capture failed, its steps run as ever. Captured kernels hold addresses: of weights, pages, and what is kept here.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import Tensor

from ..kernels.ops import Rows
from .attention import Attend
from .batch import Batch
from .cache import KVCache
from .config import EngineConfig
from .models import CausalLM

log = logging.getLogger("quire.engine")

WANTED = 4  # steps of a size that run as ever before it is captured in mid-service
MOST_ROWS = 512  # of a step that is replayed: with more the GPU has enough to do

Kind = tuple[int, str]  # of a graph: its rows, and a form of the ground's
Forward = Callable[[Tensor, Tensor, Attend], tuple[Tensor, Tensor | None]]  # tokens [T], positions [T] -> hidden, taps


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """Of a step, all int64 [rows]."""

    tokens: Tensor
    positions: Tensor
    slots: Tensor  # below 0: the row is none


class Ground(Protocol):
    """The attention backend's part: tables that stay where they are, for steps of some number of rows. forms: of steps,
    which are captured apart; of each the rows that its sizes are apart, at least."""

    forms: dict[str, int]

    def form(self, batch: Batch) -> str:
        """Of a step: a key of `forms`."""
        ...

    def attend(self, rows: int, form: str, batch: Inputs) -> Attend:
        """What is captured with a step of `rows` rows, whose slots and positions stay in these tensors."""
        ...

    def lay(self, rows: int, form: str, batch: Batch) -> bool:
        """Fill the tables for a step that is replayed with so many rows. False, and nothing done, where it does not
        fit."""
        ...

    def clear(self) -> None:
        """Fill them for a step of nothing."""
        ...


class Captured:
    """One CUDA graph. pool: of memory, shared by graphs that never run at the same time; stream: all are captured on
    the same, beside the current one."""

    def __init__(self, device: torch.device, pool: Any, stream: torch.cuda.Stream):
        self._device, self._pool, self._stream = device, pool, stream
        self._graph = torch.cuda.CUDAGraph()

    @classmethod
    def on(cls, device: torch.device) -> Callable[[], Captured]:
        with torch.cuda.device(device):
            return partial(cls, device, torch.cuda.graph_pool_handle(), torch.cuda.Stream(device))

    def capture(self, step: Callable[[], None]) -> None:
        """Run the step once, for all that is compiled or allocated when it is first used, and then capture it. Raises
        what the step raises, and where it does something that cannot be captured."""
        with torch.cuda.device(self._device):
            current = torch.cuda.current_stream()
            try:
                self._stream.wait_stream(current)
                with torch.cuda.stream(self._stream):
                    step()
                current.wait_stream(self._stream)
                # Threads that read adapters may allocate and copy meanwhile.
                with torch.cuda.graph(
                    self._graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
                ):
                    step()
            finally:
                torch.cuda.set_stream(current)  # torch leaves it as it is where a capture fails

    def replay(self) -> None:
        self._graph.replay()


class Graph(Protocol):
    def capture(self, step: Callable[[], None]) -> None: ...

    def replay(self) -> None: ...


def sizes(most: int) -> tuple[int, ...]:
    """Rows of the steps that are captured, ascending, where one step has up to `most` sequences."""
    most = min(most, MOST_ROWS)
    found = [n for n in (1, 2, 4, *range(8, 256, 8), *range(256, MOST_ROWS, 32)) if n < most]
    return (*found, most)


class Graphs:
    """Of one model and its pages. captures, replays: how many there were; eager: steps that had few enough rows, and
    were not replayed.

    ground: for the largest size. kinds: the sizes of each form. width, tapped: of what `forward` gives, in elements of
    dtype; tapped 0: none.
    """

    def __init__(
        self,
        forward: Forward,
        ground: Ground,
        sizes: tuple[int, ...],
        width: int,
        tapped: int,
        dtype: torch.dtype,
        device: torch.device,
        make: Callable[[], Graph],
    ):
        self._forward, self._ground, self.sizes, self._make = forward, ground, sizes, make
        most = sizes[-1]
        self._inputs = Inputs(*(torch.zeros(most, dtype=torch.int64, device=device) for _ in range(3)))
        self._hidden = torch.zeros((most, width), dtype=dtype, device=device)
        self._tapped = torch.zeros((most, tapped), dtype=dtype, device=device) if tapped else None
        self.kinds = {
            form: tuple(n for n in sizes if n % apart == 0 or n == most) for form, apart in ground.forms.items()
        }
        self._graphs: dict[Kind, Graph | None] = {}  # None: its capture failed
        self._wanted: dict[Kind, int] = {}  # what is not captured -> steps
        self.captures = self.replays = self.eager = 0
        self.stalled = False  # the last run had to wait for a capture

    def run(self, batch: Batch, rows: Rows | None) -> tuple[Tensor, Tensor | None] | None:
        """Hidden states [T, width], which hold until the next run, and what entered the layers that are tapped [T,
        tapped], if the step could be replayed. rows: of adapters."""
        self.stalled = False
        count = batch.query_start[-1]
        if count > self.sizes[-1]:
            return None
        form = self._ground.form(batch)
        size = self.kinds[form][bisect_left(self.kinds[form], count)]
        graph = self._ready((size, form)) if rows is None else None
        if graph is None or not self._ground.lay(size, form, batch):
            self.eager += 1
            return None
        inputs = self._inputs
        for kept, given in zip(
            (inputs.tokens, inputs.positions, inputs.slots), (batch.tokens, batch.positions, batch.slots), strict=True
        ):
            kept[:count].copy_(given)
        inputs.slots[count:size] = -1
        graph.replay()
        self.replays += 1
        # Drafters may keep what was tapped beyond the step.
        return self._hidden[:count], None if self._tapped is None else self._tapped[:count].clone()

    @torch.inference_mode()
    def idle(self) -> bool:
        """There is nothing to run: capture the size that was wanted most. Whether there was one."""
        if not self._wanted:
            return False
        self.capture(max(self._wanted, key=self._wanted.__getitem__))
        return True

    def counts(self) -> dict[str, int]:
        """The fields of StepStats that are of this."""
        return {"captures": self.captures, "replays": self.replays, "eager": self.eager}

    def _ready(self, kind: Kind) -> Graph | None:
        if kind not in self._graphs:
            self._wanted[kind] = self._wanted.get(kind, 0) + 1
            if self._wanted[kind] <= WANTED:
                return None
            self.capture(kind)
        return self._graphs[kind]

    def capture(self, kind: Kind) -> bool:
        """Whether it can be replayed from now on. Where it failed that is told once, and it is not tried again."""
        self._wanted.pop(kind, None)
        self._graphs[kind] = None
        self.stalled = True
        size, form = kind
        inputs = self._inputs
        mine = Inputs(inputs.tokens[:size], inputs.positions[:size], inputs.slots[:size])
        try:
            attend = self._ground.attend(size, form, mine)

            def step() -> None:
                hidden, tapped = self._forward(mine.tokens, mine.positions, attend)
                self._hidden[:size].copy_(hidden)
                if self._tapped is not None and tapped is not None:
                    self._tapped[:size].copy_(tapped)

            # Whatever was there last, it is not computed again: its pages may be others' by now.
            inputs.slots.fill_(-1)
            self._ground.clear()
            graph = self._make()
            graph.capture(step)
        except Exception:
            log.exception("no CUDA graph could be captured of steps of %d rows; they run without", size)
            return False
        self._graphs[kind] = graph
        self.captures += 1
        return True


def graphs_of(
    config: EngineConfig,
    backend: ModuleType,
    model: CausalLM,
    cache: KVCache,
    context: int,
    forward: Forward,
    taps: int,
    make: Callable[[], Graph] | None = None,
) -> Graphs | None:
    """None where steps are not captured: `enforce_eager`, not on CUDA, or an attention backend without a `Ground`.

    context: tokens that a sequence may reach. taps: layers that `forward` taps. make: instead of CUDA's graphs, on any
    device.
    """
    if config.enforce_eager or not hasattr(backend, "Ground") or (make is None and model.device.type != "cuda"):
        return None
    due = sizes(MOST_ROWS)
    ground = backend.Ground(due[-1], model.layers, cache, context, config.max_num_seqs)
    width, kind, device = model.width, model.dtype, model.device
    return Graphs(forward, ground, due, width, taps * width, kind, device, make or Captured.on(device))


def room_for(make: Callable[[], Graphs | None], free: Callable[[], int]) -> int:
    """Bytes that the graphs of all sizes will take, about. free: bytes that are free on the device.

    The largest of each form is captured, which takes what all share and what is its own, and the smallest of one, which
    tells how much is each one's own. All are dropped.
    """
    before = free()
    graphs = make()
    if graphs is None:
        return 0
    each = [(size, form) for form, found in graphs.kinds.items() for size in found]
    if not all(graphs.capture((found[-1], form)) for form, found in graphs.kinds.items()):
        return 0
    largest = free()
    graphs.capture(each[0])
    own = max(0, largest - free())
    return max(0, before - largest) + own * (len(each) - len(graphs.kinds))
