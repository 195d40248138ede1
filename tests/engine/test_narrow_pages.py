"""Pages of fewer bits through the engine: more tokens, and a request's answer is the same in any company."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from draft_pair import blurred, eagle_head
from engine_place import Place, local_runner
from speculation_cases import told

from quire.engine.cache import bytes_per_token
from quire.engine.config import Speculation
from quire.engine.errors import ConfigError
from quire.engine.runner import Runner
from quire.engine.spec.drafter import Drafter
from quire.engine.spec.eagle import Eagle
from quire.kernels import native

pytestmark = pytest.mark.skipif(native.cpu is None, reason="the C++ kernels were not built")

SILENT = Speculation(method="none")
NAMES = range(12)


@pytest.fixture(scope="module", params=["bfloat16", "int8"])
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def runner(stories, kind) -> Runner:
    return local_runner(stories, kv_cache_dtype=kind, speculative_config=SILENT)


def asked(place: Place, which=NAMES) -> Place:
    """Prompts of several lengths, whose beginnings some share; every second greedy."""
    for n in which:
        prompt = [1, *range(300, 300 + 7 * (n % 5)), 403 + n, 310]
        place.add(str(n), None, 24, seed=n, prompt=prompt, temperature=n % 2 * 1.0)
    return place


@pytest.fixture(scope="module")
def alone(runner) -> dict:
    found = {}
    for n in NAMES:
        found |= told(asked(Place(runner), [n]).run())
    return found


def test_the_same_memory_holds_more_tokens(runner, stories, kind):
    floats = local_runner(stories, speculative_config=SILENT)
    kept = getattr(torch, kind)
    sizes = [bytes_per_token(r.model.layers, dtype) for r, dtype in ((runner, kept), (floats, torch.float32))]
    heads = sum(spec.kv_heads for spec in runner.model.layers)
    assert sizes[0] == (sizes[1] // 4 + 8 * heads if kind == "int8" else sizes[1] // 2)
    assert runner.cache.k[0].dtype == kept
    assert floats.cache.k[0].dtype == torch.float32
    for one, size in zip((runner, floats), sizes, strict=True):
        assert one.ready().kv_bytes == one.cache.num_blocks * 16 * size <= 1 << 22


def test_every_answer_ends_and_they_are_not_all_alike(alone):
    assert len({tuple(answer) for answer, _, _ in alone.values()}) > 8
    assert all(finish in ("length", "stop") for _, _, finish in alone.values())


@pytest.mark.parametrize("room", [{}, {"budget": 17}, {"pages": 14}], ids=["crowd", "chunks", "preempted"])
def test_company_changes_nothing(runner, alone, room):
    place = asked(Place(runner, **room)).run()
    assert not place.failed
    assert told(place) == alone
    assert bool(place.state.gauges()["preemptions"]) == ("pages" in room)


def test_a_hit_in_the_prefix_cache_changes_nothing(runner, alone):
    place = asked(Place(runner)).run()
    place.answers.clear()
    place.deltas.clear()
    assert told(asked(place).run()) == alone
    assert place.state.gauges()["prefix_hits"] > 100


@pytest.mark.parametrize("method", ["draft_model", "eagle3", "ngram"])
def test_guesses_change_nothing_and_their_makers_pages_are_as_narrow(method, kind, stories, alone, tmp_path: Path):
    if method == "draft_model":
        made = {"model": str(blurred(stories, tmp_path / "draft", 0.05))}
    elif method == "eagle3":
        made = {"model": str(eagle_head(stories, tmp_path / "head"))}
    else:
        made = {"prompt_lookup_min": 1}
    speculation = Speculation(method=method, adaptive=False, **made)
    runner = local_runner(stories, kv_cache_dtype=kind, speculative_config=speculation)
    maker = runner.speculator.maker
    if method != "ngram":
        assert isinstance(maker, Drafter | Eagle)
        assert all(x.dtype == getattr(torch, kind) for x in (*maker._cache.k, *maker._cache.v))
        runner.speculator.proposers = []
    assert told(asked(Place(runner)).run()) == alone
    assert sum(map(sum, runner.speculator.tally.drafted.values())) > 50


def test_likelihoods_are_near_those_of_floats(runner, stories, golden):
    """The model's own text: the log-probabilities of its tokens, with narrow pages and with floats."""
    floats = local_runner(stories, speculative_config=SILENT)
    text = [*golden["prompt_ids"], *golden["completion_ids"]][:200]
    found = []
    for one in (runner, floats):
        place = Place(one)
        place.add("t", None, 1, prompt=text, prompt_logprobs=0, temperature=0.0)
        place.run()
        logprobs = [p for delta in place.deltas["t", 0] for p in delta.prompt_logprobs or []]
        found.append(torch.tensor([p.logprob for p in logprobs]))
    assert len(found[0]) == len(text) - 1
    difference = found[0] - found[1]
    assert difference.mean().abs() < 0.01
    assert 0 < difference.abs().mean() < 0.05, "with heads of 8 dimensions and scores to 20"


@pytest.mark.parametrize(("fields", "kept"), [
    ({"dtype": "float32"}, "float32"),
    ({"dtype": "float16"}, "float32"),
    ({"dtype": "bfloat16"}, "float32"),
    ({"quantization": "int8"}, "bfloat16"),
    ({"quantization": "int4", "kv_cache_dtype": "float32"}, "float32"),
    ({"dtype": "bfloat16", "kv_cache_dtype": "bfloat16"}, "bfloat16"),
    ({"quantization": "int8", "attention": "torch"}, "float32"),
])  # fmt: skip
def test_pages_are_of_floats_but_beside_quantized_weights(stories, fields, kept):
    assert local_runner(stories, **fields).ready().kept == kept


@pytest.mark.parametrize(("fields", "found"), [
    ({"attention": "torch"}, "kv_cache_dtype is 'int8', and attention is the backend torch"),
    ({"kv_cache_dtype": "int4"}, "kv_cache_dtype is 'int4'.*expected auto, float32$"),
    ({"kv_cache_dtype": "fp8"}, r"kv_cache_dtype is 'fp8', and attention is the backend native.*triton \(CUDA\)$"),
])  # fmt: skip
def test_what_cannot_be_kept_so_is_refused_by_name(stories, fields, found):
    with pytest.raises(ConfigError, match=found):
        local_runner(stories, **{"kv_cache_dtype": "int8", **fields})
