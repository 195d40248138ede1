"""Whole engines with graphs give what they give without, under random loads; and every step has room in its graph. The
launches of attention are done in plain torch; the kernels themselves run in graphs_cases.py."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="triton is not installed; where torch is for a GPU it comes with it")

import paged
import torch
from graph_loads import CONTEXT, SILENT, answers, bench, compared, poison, small_model, workload
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_launches import stand_in

from quire.engine import graphs as graphs_module
from quire.engine import runner as runner_module
from quire.engine.attention import LayerSpec, tiling, triton_
from quire.engine.batch import Batch
from quire.engine.config import BLOCK_SIZE, MOST_DRAFTS, Speculation
from quire.engine.messages import SamplingParams
from quire.engine.plan import Plan, Slice
from quire.engine.sequence import Sequence
from quire.kernels.triton import attention as kernel

DEVICE = torch.device("cpu")
DRAFTS = Speculation(method="ngram", num_speculative_tokens=4, adaptive=False, prompt_lookup_min=1)
# Small pools and budgets: prompts are cut into chunks beside decodes, and sequences are preempted.
TIGHT = {"device": "cpu", "pages": 7, "max_num_batched_tokens": 24}


@pytest.fixture
def launches(monkeypatch):
    """Where they are noted. Segments of 32 keys, so that CONTEXT has three, and tiles are split."""
    monkeypatch.setattr(kernel, "SEGMENT", 32)
    monkeypatch.setattr(tiling, "FILL", 64)
    monkeypatch.setattr(runner_module, "choose_backend", lambda *_: triton_)
    poison(monkeypatch)
    return stand_in(monkeypatch)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.mark.parametrize("speculation", [SILENT, DRAFTS], ids=["tokens", "drafts"])
def test_answers_are_those_of_steps_without_graphs(model, launches, monkeypatch, speculation):
    monkeypatch.setattr(graphs_module, "WANTED", 1)
    found = compared(model, workload(0, 9), speculative_config=speculation, **TIGHT)
    assert found.state.preemptions > 0
    graphs = found.runner.graphs
    assert graphs.replays > 2 * graphs.eager > 0
    assert speculation is SILENT or sum(map(sum, found.runner.speculator.tally.drafted.values())) > 10
    assert any(name == "join_segments" for name, _, _ in launches)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_answers_under_long_random_loads_are_those_of_steps_without_graphs(model, launches, monkeypatch, seed):
    monkeypatch.setattr(graphs_module, "WANTED", seed % 3)
    compared(model, workload(seed, 20), speculative_config=DRAFTS if seed % 2 else SILENT, **TIGHT)


@pytest.mark.parametrize("name", ["GPT2", "Gemma3", pytest.param("Qwen3", marks=pytest.mark.slow)])
def test_other_families(name, tmp_path, launches, monkeypatch):
    """Gemma 3 through transformers' own modules, with layers that have a window and layers that have none."""
    monkeypatch.setattr(graphs_module, "WANTED", 0)
    paged.make(name, tmp_path / name)
    fields = {"max_model_len": CONTEXT, "speculative_config": SILENT, **TIGHT, "pages": 30}
    found = compared(tmp_path / name, workload(5, 4), **fields)
    assert found.runner.graphs.eager == 0


def test_each_replay_launches_what_was_captured(model, launches, monkeypatch):
    """The same grids, numbers and addresses, whatever the lengths are: nothing of a step is a constant of its graph."""
    monkeypatch.setattr(graphs_module, "WANTED", 0)
    found = bench(model, True, speculative_config=SILENT, **TIGHT | {"pages": 30})
    graphs = found.runner.graphs
    of_size: dict[tuple[int, str], list] = {}
    run = graphs.run
    stay = {"keys", "values", "tables", "positions", "slots", "parts", "peaks"}

    def noted(batch, rows):
        launches.clear()
        given = run(batch, rows)
        if batch.query_start[-1] > graphs.sizes[-1]:
            return given
        assert given is not None
        form = graphs._ground.form(batch)
        size = next(size for size in graphs.kinds[form] if size >= batch.query_start[-1]), form
        each = len(launches) // (3 if graphs.stalled else 1)  # a capture runs the step twice
        seen = [
            (
                name,
                grid,
                {
                    key: value.data_ptr() if isinstance(value, torch.Tensor) else value
                    for key, value in given.items()
                    if key in stay or not isinstance(value, torch.Tensor)
                },
            )
            for name, grid, given in launches[-each:]
        ]
        assert seen
        assert seen == of_size.setdefault(size, seen)
        return given

    monkeypatch.setattr(graphs, "run", noted)
    answers(found, workload(3, 6))
    assert len(of_size) > 2
    assert graphs.eager == 0
    assert graphs.replays > 20


def tree(data: st.DataObject, drafts: int) -> tuple[int, ...]:
    return tuple(data.draw(st.integers(-1, n - 1)) for n in range(drafts)) if data.draw(st.booleans()) else ()


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_step_of_so_many_rows_has_room(data):
    """However long the sequences are and however its rows are spread over them."""
    rows = data.draw(st.sampled_from([1, 2, 8, 24]))
    context = data.draw(st.sampled_from([31, 96, 700]))
    kv_heads = data.draw(st.sampled_from([1, 2, 80]))
    specs = [
        LayerSpec(kv_heads * group, kv_heads, 8, 1.0, window=window)
        for group in (1, data.draw(st.sampled_from([2, 40])))
        for window in (None, data.draw(st.sampled_from([1, 20, 100])))
    ]
    cache = triton_.cache(specs, 1, torch.float32, DEVICE, one_order=data.draw(st.booleans()))
    left, slices = data.draw(st.integers(1, rows)), []
    while left:
        count = data.draw(st.integers(1, min(left, context)))
        start = data.draw(st.one_of(st.just(context - count), st.integers(0, context - count)))
        drafts = data.draw(st.integers(0, min(count - 1, MOST_DRAFTS)))
        seq = Sequence("r", 0, [0], SamplingParams(max_tokens=1, seed=0))
        seq.blocks = [0] * (-(-(start + count) // BLOCK_SIZE) + 2)
        slices.append(Slice(seq, start, [0] * count, drafts, True, tree(data, drafts)))
        left -= count
    batch = Batch.of(Plan(slices), DEVICE)
    ground = triton_.Ground(rows, specs, cache, context, data.draw(st.integers(len(slices), 30)))
    assert ground.lay(rows, ground.form(batch), batch)


def test_what_has_no_room_is_not_laid():
    spec = LayerSpec(heads=1, kv_heads=1, head_dim=16, scale=0.25)
    cache = triton_.cache([spec], 3, torch.float32, DEVICE)
    ground = triton_.Ground(2, [spec], cache, 2 * BLOCK_SIZE, 2)
    ground.clear()
    seq = Sequence("r", 0, [0], SamplingParams(max_tokens=1, seed=0))
    seq.blocks = [1] * 50
    batch = Batch.of(Plan([Slice(seq, 0, [7])]), DEVICE)
    assert not ground.lay(2, ground.form(batch), batch)
    assert not ground._table.any()
