"""The engine on a GPU: attention in Triton beside torch's, graphs and overlap beside neither, pages and weights in 8
bits and 4 beside 16."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import msgspec
import pytest
import torch
from on_gpu import CUDA, DEVICE, VOCAB, Place, asked, write_adapter

from quire.clients.bench.published import write_model
from quire.clients.bench.sides import Side, running
from quire.engine import messages as m
from quire.engine.measure.running import random_prompt
from quire.kernels.triton import chosen

PROMPTS = [random_prompt(n, VOCAB, n) for n in ((9, 130, 700, 33) if CUDA else (5, 20))]
# Log-probabilities of a token have a standard deviation of about 1 in this model; what rounding may change of them.
NEAR = {"bfloat16": 0.1, "fp8 pages": 0.3, "int8 pages": 0.1, "int8": 0.1, "fp8": 0.3, "int4": 1.0}


def mean(found: torch.Tensor, wanted: torch.Tensor) -> float:
    assert found.shape == wanted.shape
    assert wanted.std() > 0.3, "the model says nothing"
    return float((found - wanted).abs().mean())


def test_attention_in_triton_gives_torchs_tokens_in_float32(small32, count):
    requests = asked(count, 200 if CUDA else 20, 16 if CUDA else 3)
    found = Place(small32, enforce_eager=True).run(requests)
    assert found == Place(small32, attention="torch").run(requests)
    assert len({tuple(tokens) for tokens in found.values()}) == len(requests)


def test_attention_in_triton_is_as_near_to_float32_as_torchs_in_bfloat16(small, small32):
    truth = Place(small32, attention="torch").logprobs(PROMPTS)
    triton, by_torch = (Place(small, attention=name).logprobs(PROMPTS) for name in ("triton", "torch"))
    off = mean(triton, truth)
    assert off < NEAR["bfloat16"]
    assert off < 2 * mean(by_torch, truth) + 1e-3


@pytest.mark.skipif(not CUDA, reason="CUDA graphs need CUDA")
def test_steps_are_replayed_and_say_the_same(small, count):
    """In the deterministic mode, as what libraries compute depends on how many rows they are given."""
    graphs, eager = (Place(small, deterministic=True, enforce_eager=off) for off in (False, True))
    assert graphs.runner.graphs is not None
    assert eager.runner.graphs is None
    for seed, longest in ((0, 300), (0, 300), (5, 700)):
        before = graphs.runner.graphs.counts()
        requests = asked(count, longest, 40, seed)
        assert graphs.run(requests, at_once=24, budget=256) == eager.run(requests, at_once=24, budget=256)
        counts = graphs.runner.graphs.counts()
        assert counts["replays"] - before["replays"] > 40
    assert 0 < counts["captures"] <= sum(map(len, graphs.runner.graphs.kinds.values())), (
        "sizes are captured, not lengths"
    )


def test_steps_that_overlap_say_the_same(small, count):
    place = Place(small, deterministic=True)
    requests = asked(count, 300 if CUDA else 20, 30 if CUDA else 4)
    place.runner.overlap = True
    found = place.run(requests, at_once=16, budget=256)
    place.runner.overlap = False
    assert found == place.run(requests, at_once=16, budget=256)


@pytest.mark.parametrize("kept", ["fp8", "int8"])
def test_pages_of_8_bits_are_near_to_those_of_16(kept, small):
    plain, narrow = Place(small), Place(small, kv_cache_dtype=kept)
    truth = plain.logprobs(PROMPTS)
    assert 0 < mean(narrow.logprobs(PROMPTS), truth) < NEAR[f"{kept} pages"]
    sizes = [place.runner.cache.bytes / place.runner.cache.num_blocks for place in (narrow, plain)]
    assert sizes[0] < 0.6 * sizes[1]


@pytest.mark.parametrize("form", ["int8", "fp8", "int4"])
@pytest.mark.skipif(not CUDA, reason="on a CPU weights in few bits are the C++ kernels'")
def test_weights_in_few_bits_are_near_to_those_of_16(form, small):
    plain, packed = Place(small), Place(small, quantization=form)
    assert 0 < mean(packed.logprobs(PROMPTS), plain.logprobs(PROMPTS)) < NEAR[form]
    assert form in packed.runner.ready().weights
    # The table of embeddings keeps its 16 bits, the head has 8 at least.
    assert packed.runner.ready().weight_bytes < 0.8 * plain.runner.ready().weight_bytes
    requests = asked(8, 200, 16)  # up to 64 rows and more go different ways
    assert set(packed.run(requests)) == {request.id for request in requests}


def test_the_sampler_in_triton_draws_what_torchs_does(small32, monkeypatch, count):
    requests = [request for request in asked(count, 40 if CUDA else 8, 12 if CUDA else 2) if request.params.temperature]
    place = Place(small32, enforce_eager=True)
    found = place.run(requests)
    monkeypatch.setitem(chosen.WAYS, "sampler", "torch")
    by_torch = place.run(requests)
    same = sum(found[name] == by_torch[name] for name in found)
    assert same >= 0.98 * len(found), "but for numbers that lie on the border between two tokens"


def test_a_row_that_is_no_number_ends_its_request_alone(small32):
    """A NaN in the table of embeddings, for a token that nobody else has."""
    place = Place(small32, deterministic=True)
    good = asked(4, 24, 4)
    wanted = place.run(good)
    place.runner.model.embedding._weight[1] = float("nan")
    wire = place.wire([m.Generate(id="bad", prompt=[1, 1], params=good[0].params), *good])
    assert set(wire.failed) == {"bad"}
    assert "non-finite" in wire.failed["bad"]
    assert {name: wire.course.tokens[name] for name in wanted} == wanted


@pytest.mark.parametrize("form", [None, "int8"] if CUDA else [None])
def test_adapters_in_one_batch_are_each_what_they_are_alone(form, small, tmp_path, count):
    """LoRA of two ranks and DoRA, beside the base; in more company than there are slots, and in steps that fly."""
    place = Place(small, deterministic=True, quantization=form, max_loras=2)
    kinds = {"one": (8, False), "other": (5, False), "dora": (4, True)}
    for seed, (name, (rank, dora)) in enumerate(kinds.items()):
        folder = write_adapter(tmp_path / name, rank, dora, seed)
        assert not place.wire([m.LoadAdapter(id=name, name=name, path=str(folder))]).failed
    uses = [(), *((m.Use(name),) for name in kinds)]
    requests = [
        msgspec.structs.replace(request, adapters=uses[i % len(uses)])
        for i, request in enumerate(asked(count, 60 if CUDA else 9, 12 if CUDA else 2))
    ]
    together = place.run(requests, at_once=16)
    assert together == place.run(requests, at_once=1, cache=False)
    plain = place.run([msgspec.structs.replace(request, adapters=()) for request in requests])
    changed = {request.id for request in requests if together[request.id] != plain[request.id]}
    assert changed <= {request.id for request in requests if request.adapters}
    assert len(changed) >= count // 2


@pytest.mark.skipif(not CUDA, reason="the server is tried on a CPU elsewhere")
def test_a_server_on_a_gpu_answers(tmp_path):
    write_model("llama-3.2-1b", tmp_path / "model", tiny=True)
    command = [sys.executable, "-m", "quire.server.cli", "serve", str(tmp_path / "model"), "--port", "8617"]
    command += ["--device", DEVICE.type, "--attention", "triton"]
    base = "http://127.0.0.1:8617/v1"
    with running(Side("quire", base, subprocess.list2cmdline(command)), Path(tmp_path / "log"), 120):
        bodies = [{"model": "model", "prompt": f"say {i}", "max_tokens": 12, "ignore_eos": True} for i in range(4)]
        found = [httpx.post(f"{base}/completions", json=body, timeout=60) for body in bodies]
    assert [one.status_code for one in found] == [200] * 4
    assert all(one.json()["usage"]["completion_tokens"] == 12 for one in found)
