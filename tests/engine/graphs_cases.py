"""Steps in graphs beside the same steps without: on a GPU as they are, elsewhere by Triton's interpreter, with a graph
that is no more than what was recorded, run again. Run by test_graphs.py."""

from __future__ import annotations

import pytest
import torch
from adapters import ask
from graph_loads import DEVICE, NAN, SILENT, compared, poison, small_model, workload

from quire.engine import graphs as graphs_module
from quire.engine.attention import LayerSpec, tiling, triton_
from quire.engine.batch import Batch
from quire.engine.config import BLOCK_SIZE
from quire.engine.graphs import Captured
from quire.engine.messages import SamplingParams
from quire.engine.plan import Plan, Slice
from quire.engine.sequence import Sequence
from quire.kernels.triton import attention as kernel


@pytest.fixture(autouse=True)
def short_segments_and_poisoned_memory(monkeypatch):
    """Segments of 32 keys, so that texts have several, and tiles are split."""
    monkeypatch.setattr(kernel, "SEGMENT", 32)
    monkeypatch.setattr(tiling, "FILL", 64)
    monkeypatch.setattr(graphs_module, "WANTED", 0)
    poison(monkeypatch)


def test_answers_are_those_of_steps_without_graphs(tmp_path):
    """A long text, a short one, and a prompt beside them."""
    load = [[ask("a", list(range(3, 43)), tokens=3)], [ask("b", [5, 6], tokens=3)], [ask("c", list(range(40, 45)))]]
    found = compared(small_model(tmp_path / "llama", layers=1), load, speculative_config=SILENT)
    assert len(found.runner.graphs._graphs) > 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_answers_under_random_loads_and_preemption_are_those_of_steps_without_graphs(tmp_path, seed):
    found = compared(
        small_model(tmp_path / "llama"), workload(seed, 8), speculative_config=SILENT, pages=7,
        max_num_batched_tokens=24,
    )  # fmt: skip
    assert found.runner.graphs.replays > 0
    assert found.state.preemptions > 0 or seed > 0, "the first of them leaves no room"


@pytest.mark.parametrize("group", [1, 3])
def test_padding_rows_write_to_no_page(group):
    """And what they hold, NaN here, stays with them."""
    spec, rows = LayerSpec(heads=group, kv_heads=1, head_dim=16, scale=0.25), 4
    cache = triton_.cache([spec], 3, torch.float32, DEVICE)
    cache.k[0][:-1] = cache.v[0][:-1] = NAN
    ground = triton_.Ground(rows, [spec], cache, 2 * BLOCK_SIZE, rows)
    seq = Sequence("r", 0, [0], SamplingParams(max_tokens=1, seed=0))
    seq.blocks = [1]
    batch = Batch.of(Plan([Slice(seq, 0, [7])]), DEVICE)
    inputs = graphs_module.Inputs(*(torch.full((rows,), -1, device=DEVICE) for _ in range(3)))
    inputs.slots[0], inputs.positions[0] = batch.slots[0], 0
    form = ground.form(batch)
    attend = ground.attend(rows, form, inputs)
    assert ground.lay(rows, form, batch)
    q, k, v = (torch.full((rows, heads, 16), NAN, device=DEVICE) for heads in (group, 1, 1))
    q[0], k[0], v[0] = 1.0, 2.0, 3.0
    out = attend(0, q, k, v)
    assert (out[0] == 3).all()
    held = cache.v[0].isnan().logical_not()
    held[-1] = False
    assert held.sum() == 16  # one slot
    assert held[1, 0, 0].all()
    assert not cache.k[0][-1].any()
    ground.clear()
    assert attend(0, q, k, v).isnan().all()


@pytest.mark.skipif(DEVICE.type == "cpu", reason="no GPU")
def test_a_failed_capture_leaves_the_stream_as_it_was():
    current = torch.cuda.current_stream()
    make = Captured.on(DEVICE)
    with pytest.raises(RuntimeError):
        make().capture(lambda: torch.ones(1, device=DEVICE).item())
    assert torch.cuda.current_stream() == current
    x, y = torch.ones(3, device=DEVICE), torch.zeros(3, device=DEVICE)
    graph = make()
    graph.capture(lambda: y.copy_(x * 2))
    x.fill_(4)
    graph.replay()
    assert y.tolist() == [8, 8, 8]
