"""When steps are captured and when replayed, what becomes of failures, and how much memory is kept for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from engine_place import local_runner
from interpreted import needs_triton, run_cases

from quire.engine import graphs as graphs_module
from quire.engine.batch import Batch
from quire.engine.graphs import Captured, Graphs, graphs_of, room_for, sizes
from quire.engine.messages import SamplingParams
from quire.engine.plan import Plan, Slice
from quire.engine.runner import Runner
from quire.engine.sequence import Sequence
from quire.kernels.ops import Rows

CPU = torch.device("cpu")
WIDTH, TAPPED = 3, 2
CASES = Path(__file__).with_name("graphs_cases.py")


@needs_triton
def test_steps_in_graphs_are_those_without():
    run_cases(CASES)


@needs_triton
@pytest.mark.slow
def test_steps_in_graphs_are_those_without_under_random_loads_and_preemption():
    run_cases(CASES, "slow")


class Ground:
    """Has room for sequences of up to 50 tokens. Steps with more than a token of a sequence may have a form of their
    own."""

    def __init__(self, forms=("plain",)):
        self.laid: list[int] = []
        self.cleared = 0
        self.forms = dict(zip(forms, (1, 4), strict=False))

    def form(self, batch: Batch) -> str:
        return list(self.forms)[-1] if len(batch.tokens) > len(batch.seq_lens) else "plain"

    def attend(self, rows: int, form: str, batch) -> None:
        return None

    def lay(self, rows: int, form: str, batch: Batch) -> bool:
        self.laid.append(rows)
        return max(batch.seq_lens) <= 50

    def clear(self) -> None:
        self.cleared += 1


class Recorded:
    def capture(self, step: Callable[[], None]) -> None:
        step()
        self.step = step

    def replay(self) -> None:
        self.step()


def forward(tokens, positions, attend):
    """Tells of each row its token and its place."""
    rows = torch.stack([tokens, positions, tokens * 100 + positions], 1).float()
    return rows, rows[:, :TAPPED] * 2


def made(most: int = 8, make=Recorded, forward=forward, forms=("plain",)) -> Graphs:
    return Graphs(forward, Ground(forms), sizes(most), WIDTH, TAPPED, torch.float32, CPU, make)


def step(*lengths: int, start: int = 4) -> Batch:
    slices = []
    for n, length in enumerate(lengths):
        seq = Sequence(str(n), 0, [0], SamplingParams(max_tokens=1, seed=0))
        seq.blocks = [*range(5 * n, 5 * n + 20)]
        slices.append(Slice(seq, start, list(range(10 * n + 1, 10 * n + 1 + length))))
    return Batch.of(Plan(slices), CPU)


def wanted(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    return forward(batch.tokens, batch.positions, None)


def same(found: tuple[torch.Tensor, torch.Tensor | None] | None, batch: Batch) -> bool:
    return found is not None and all(torch.equal(x, y) for x, y in zip(found, wanted(batch), strict=True))


@pytest.mark.parametrize("most", [1, 2, 3, 8, 20, 255, 256, 257, 512, 4000])
def test_sizes_ascend_to_the_most_rows_of_a_step(most):
    found = sizes(most)
    assert list(found) == sorted(set(found))
    assert found[0] == 1
    assert found[-1] == min(most, graphs_module.MOST_ROWS)
    assert all(b - a <= max(8, a // 8) for a, b in pairwise(found))


def test_a_size_is_captured_once_it_was_wanted_often_enough(monkeypatch):
    monkeypatch.setattr(graphs_module, "WANTED", 2)
    graphs = made()
    for n in range(5):
        batch = step(1, 1, start=n)
        found = graphs.run(batch, None)
        assert found is None if n < 2 else same(found, batch)
        assert graphs.stalled == (n == 2)
    assert graphs.counts() == {"captures": 1, "replays": 3, "eager": 2}
    # Padded: rows that are none have no slot, whatever the step before had there.
    for count in (4, 3, 4, 3, 3):
        batch = step(*[1] * count)
        found = graphs.run(batch, None)
    assert same(found, batch)
    assert found[0].shape == (3, WIDTH)
    assert graphs._inputs.slots[:4].tolist() == [*batch.slots.tolist(), -1]
    assert graphs.counts() == {"captures": 2, "replays": 6, "eager": 4}
    assert set(graphs._ground.laid) == {2, 4}


def test_rows_count_however_they_are_spread(monkeypatch):
    monkeypatch.setattr(graphs_module, "WANTED", 0)
    graphs = made()
    for lengths in ((4,), (1, 3), (2, 1, 1), (3,)):
        batch = step(*lengths)
        assert same(graphs.run(batch, None), batch)
    assert graphs.counts() == {"captures": 1, "replays": 4, "eager": 0}


def test_what_is_too_large_is_not_counted_and_what_has_no_room_or_an_adapter_is(monkeypatch):
    monkeypatch.setattr(graphs_module, "WANTED", 0)
    graphs = made()
    assert graphs.run(step(5, 4), None) is None
    assert graphs.counts() == {"captures": 0, "replays": 0, "eager": 0}
    assert graphs.run(step(1, 1), Rows.of([-1, 0])) is None
    assert graphs.counts() == {"captures": 0, "replays": 0, "eager": 1}
    assert graphs.run(step(1, 1, start=60), None) is None
    assert graphs.counts() == {"captures": 1, "replays": 0, "eager": 2}
    assert same(graphs.run(step(1, 1), None), step(1, 1))


def test_what_was_tapped_stays_when_the_next_step_is_replayed(monkeypatch):
    monkeypatch.setattr(graphs_module, "WANTED", 0)
    graphs = made()
    first, second = step(1, 1), step(1, 1, start=9)
    found = graphs.run(first, None)
    graphs.run(second, None)
    assert torch.equal(found[1], wanted(first)[1])


def test_a_capture_computes_nothing_of_the_step_before(monkeypatch):
    """The pages of that step may be others' by now."""
    monkeypatch.setattr(graphs_module, "WANTED", 0)
    slots = []

    def watched(tokens, positions, attend):
        slots.append(graphs._inputs.slots.clone())
        return forward(tokens, positions, attend)

    graphs = made(forward=watched)
    graphs.run(step(1, 1, 1), None)
    slots.clear()
    graphs.capture((2, "plain"))
    assert slots
    assert all((each == -1).all() for each in slots)
    assert graphs._ground.cleared == 2


def test_with_nothing_to_run_what_was_wanted_most_is_captured():
    graphs = made()
    assert not graphs.idle()
    for count in (1, 4, 4, 3, 2):
        assert graphs.run(step(*[1] * count), None) is None
    assert graphs.idle()
    assert list(graphs._graphs) == [(4, "plain")]
    assert graphs.idle()
    assert graphs.idle()
    assert not graphs.idle()
    assert sorted(size for size, _ in graphs._graphs) == [1, 2, 4]
    for count in (1, 2, 3, 4):
        batch = step(*[1] * count)
        assert same(graphs.run(batch, None), batch)
    assert graphs.counts() == {"captures": 3, "replays": 4, "eager": 5}


def test_forms_are_captured_apart_and_have_sizes_of_their_own(monkeypatch):
    monkeypatch.setattr(graphs_module, "WANTED", 0)
    graphs = made(forms=("plain", "long"))
    assert graphs.kinds == {"plain": (1, 2, 4, 8), "long": (4, 8)}
    for batch in (step(1, 1), step(2), step(1, 1), step(2, 1)):
        assert same(graphs.run(batch, None), batch)
    assert set(graphs._graphs) == {(2, "plain"), (4, "long")}
    assert graphs.counts() == {"captures": 2, "replays": 4, "eager": 0}


def test_a_size_whose_capture_failed_runs_without_for_good_and_it_is_told_once(caplog, monkeypatch):
    monkeypatch.setattr(graphs_module, "WANTED", 1)
    tried = []

    class Fails(Recorded):
        def capture(self, step):
            tried.append(1)
            if len(tried) == 1:
                raise RuntimeError("operation not permitted when stream is capturing")
            super().capture(step)

    graphs = made(make=Fails)
    with caplog.at_level(logging.ERROR, "quire.engine"):
        for _ in range(5):
            assert graphs.run(step(1, 1), None) is None
        assert not graphs.idle()
        for _ in range(2):
            found = graphs.run(step(1), None)
    assert same(found, step(1))
    assert len(tried) == 2
    assert graphs.counts() == {"captures": 1, "replays": 1, "eager": 6}
    assert [r.getMessage() for r in caplog.records] == [
        "no CUDA graph could be captured of steps of 2 rows; they run without"
    ]


@pytest.mark.parametrize(("frees", "room"), [([1000, 700, 690], 300 + 3 * 10), ([1000, 700, 700], 300)])
def test_memory_for_the_graphs_is_what_the_largest_takes_and_each_ones_own(frees, room):
    free = iter(frees)
    graphs = made()
    assert room_for(lambda: graphs, lambda: next(free)) == room
    assert set(graphs._graphs) == {(1, "plain"), (8, "plain")}
    assert graphs.sizes == graphs.kinds["plain"] == (1, 2, 4, 8)


def test_no_memory_is_kept_for_what_cannot_be_captured():
    class Fails(Recorded):
        def capture(self, step):
            raise RuntimeError("no")

    assert room_for(lambda: made(make=Fails), iter([10, 5]).__next__) == 0
    assert room_for(lambda: None, iter([10, 5]).__next__) == 0


class Backend:
    def __init__(self):
        self.Ground = lambda rows, layers, cache, context, sequences: Ground()


def test_steps_are_captured_on_cuda_alone_where_the_backend_has_a_ground(stories, monkeypatch):
    found = {}
    for eager in (False, True):
        runner: Runner = local_runner(stories, enforce_eager=eager)
        assert runner.graphs is None
        model, more = runner.model, (runner.cache, 512, forward, 0)
        found[eager] = graphs_of(runner.config, Backend(), model, *more, Recorded)
        assert graphs_of(runner.config, Backend(), model, *more) is None  # a CPU
        assert graphs_of(runner.config, object(), model, *more, Recorded) is None
        monkeypatch.setattr(model, "device", torch.device("cuda"))
        monkeypatch.setattr(Captured, "on", lambda device: Recorded)
        monkeypatch.setattr(graphs_module, "Graphs", lambda *args: args)
        assert (graphs_of(runner.config, Backend(), model, *more) is None) == eager
        monkeypatch.undo()
    assert found[True] is None
    assert found[False].sizes == sizes(graphs_module.MOST_ROWS)
