"""The runner executes plans on real weights: the golden text, prompt log-probabilities, and errors that stay alone."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quire.engine import runner as runner_module
from quire.engine.config import BLOCK_SIZE, EngineConfig, Speculation
from quire.engine.errors import ConfigError
from quire.engine.flying import sound_rows
from quire.engine.machine import physical_cores
from quire.engine.messages import SamplingParams
from quire.engine.plan import Plan, Slice
from quire.engine.runner import Runner
from quire.engine.sequence import Sequence
from quire.engine.warm import first_steps
from quire.kernels import native

MEMORY = 1 << 25


def start(folder: Path, **fields) -> Runner:
    fields = {"kv_cache_memory": MEMORY, "threads": 1, **fields}
    return Runner(EngineConfig(model=str(folder), **fields), lambda done, total: None)


@pytest.fixture(scope="module")
def stories_runner(stories):
    return start(stories)


def sequence(prompt: list[int], first_page: int, name: str = "r", **params) -> Sequence:
    params = {"max_tokens": 300, "seed": 0, "temperature": 0.0, **params}
    seq = Sequence(name, 0, prompt, SamplingParams(**params))
    seq.blocks = list(range(first_page, first_page + 32))
    return seq


def generate(runner: Runner, seqs: list[Sequence], count: int) -> None:
    """Advance all sequences together, `count` tokens each."""
    for _ in range(count):
        plan = Plan([Slice(s, s.computed, s.tokens[s.computed :]) for s in seqs])
        for seq, outcome in zip(seqs, runner.execute(plan).outcomes, strict=True):
            assert outcome.error is None, outcome.error
            seq.computed = len(seq.tokens)
            seq.tokens += outcome.tokens


def test_greedy_from_bos_gives_the_golden_tokens(stories_runner, golden):
    seq = sequence(golden["prompt_ids"], 0)
    generate(stories_runner, [seq], len(golden["completion_ids"]))
    assert seq.tokens[1:] == golden["completion_ids"]


def test_the_fallback_gives_the_golden_tokens_too(stories, golden):
    seq = sequence(golden["prompt_ids"], 0)
    generate(start(stories, model_impl="transformers"), [seq], len(golden["completion_ids"]))
    assert seq.tokens[1:] == golden["completion_ids"]


@pytest.mark.parametrize(
    ("limit", "tokens", "sequences", "prompts", "rows"),
    [
        (4096, 2048, 256, [2048], 256),
        (500, 2048, 256, [500] * 4 + [48], 256),
        (512, 2048, 3, [512] * 3, 3),
        (512, 8, 256, [8], 8),
        (512, BLOCK_SIZE, 1, [BLOCK_SIZE], 1),
    ],
)
def test_what_a_runner_begins_with_is_as_large_as_any_step(limit, tokens, sequences, prompts, rows, stories_runner):
    """Short sequences fill a step side by side, and each that can run is sampled."""
    first, second = first_steps(limit, tokens, sequences)
    assert [len(piece.tokens) for piece in first] == prompts
    assert [len(piece.tokens) for piece in second] == [1] * rows
    assert len({piece.seq.id for piece in second}) == rows
    assert all(piece.end <= min(limit, len(piece.seq.blocks) * BLOCK_SIZE) for piece in [*first, *second])
    if len(first[0].seq.blocks) <= stories_runner.cache.num_blocks and rows < 100:
        for slices in (first, second):
            outcomes = stories_runner.execute(Plan(slices)).outcomes
            assert len({tuple(outcome.tokens) for outcome in outcomes}) == len({piece.end for piece in slices})
        stories_runner.execute(Plan([], freed=[piece.seq.id for piece in second]))


def test_neighbours_change_nothing(stories_runner, golden):
    seqs = [sequence(golden["prompt_ids"] + golden["completion_ids"][:n], 40 * n, str(n)) for n in (0, 1, 5)]
    generate(stories_runner, seqs, 60)
    whole = golden["prompt_ids"] + golden["completion_ids"]
    for seq in seqs:
        assert seq.tokens == whole[: len(seq.tokens)]


def test_ready_tells_what_was_loaded(stories_runner):
    ready = stories_runner.ready()
    assert ready.architecture == "LlamaForCausalLM"
    assert (ready.dtype, ready.device, ready.vocab_size) == ("float32", "cpu", 512)
    assert (ready.max_model_len, ready.block_size) == (512, BLOCK_SIZE)
    assert 0 < ready.kv_bytes <= MEMORY
    assert ready.kv_bytes == ready.num_blocks * BLOCK_SIZE * 5 * 4 * 2 * 8 * 4
    assert ready.kept == "float32"
    assert ready.weight_bytes > 260_000 * 4 * 0.9
    assert ready.load_seconds > 0


def test_a_step_without_slices_is_a_step(stories_runner):
    assert stories_runner.execute(Plan([], freed=["gone/0"])).outcomes == []


def test_prompt_logprobs_are_those_of_the_whole_prompt_however_it_is_cut(stories_runner, golden, monkeypatch):
    prompt = golden["prompt_ids"] + golden["completion_ids"][:45]
    seq = sequence(prompt, 0, prompt_logprobs=2)
    whole = stories_runner.execute(Plan([Slice(seq, 0, prompt)])).outcomes[0]
    assert len(whole.prompt_logprobs) == len(prompt) - 1
    assert [t.token for t in whole.prompt_logprobs] == prompt[1:]
    assert all(t.rank == 1 and t.logprob <= 0 and len(t.top) == 2 for t in whole.prompt_logprobs)
    for one in whole.prompt_logprobs:
        assert one.top[0] == (one.token, one.logprob)
        assert math.exp(one.top[0][1]) + math.exp(one.top[1][1]) <= 1 + 1e-6
    monkeypatch.setattr(runner_module, "PROMPT_ROWS", 3)
    found = []
    for begin, end in ((0, 7), (7, 8), (8, len(prompt) - 1), (len(prompt) - 1, len(prompt))):
        last = end == len(prompt)
        outcome = stories_runner.execute(Plan([Slice(seq, begin, prompt[begin:end], sample=last)])).outcomes[0]
        found += outcome.prompt_logprobs
        assert outcome.tokens == (whole.tokens if last else [])
    assert found == whole.prompt_logprobs


def test_prompt_logprobs_are_the_first_siblings_alone(stories_runner, golden):
    prompt = golden["prompt_ids"] + golden["completion_ids"][:9]
    seq = sequence(prompt, 0, prompt_logprobs=2)
    seq.leader = sequence(prompt, 1, prompt_logprobs=2)
    assert stories_runner.execute(Plan([Slice(seq, 0, prompt)])).outcomes[0].prompt_logprobs is None


def test_generated_tokens_have_no_prompt_logprobs(stories_runner):
    seq = sequence([1, 403], 0, prompt_logprobs=0)
    seq.tokens += [407, 261]
    outcome = stories_runner.execute(Plan([Slice(seq, 0, seq.tokens)])).outcomes[0]
    assert [t.token for t in outcome.prompt_logprobs] == [403]


def test_a_sequence_whose_sampling_fails_ends_alone(stories_runner, golden, monkeypatch):
    bad, good = sequence([1], 0, "bad"), sequence([1], 40, "good")
    sample = stories_runner.sampler.sample

    def broken(logits, slices):
        if any(s.seq is bad for s in slices):
            raise ValueError("no such token")
        return sample(logits, slices)

    monkeypatch.setattr(stories_runner.sampler, "sample", broken)
    outcomes = stories_runner.execute(Plan([Slice(bad, 0, [1]), Slice(good, 0, [1])])).outcomes
    assert outcomes[0].error == "sampling failed: ValueError: no such token"
    assert outcomes[1].error is None
    assert outcomes[1].tokens == golden["completion_ids"][:1]


def test_logits_that_are_not_finite_end_their_sequence_alone(stories, golden, tmp_path):
    # A token whose embedding is not a number; the head is untied, so only who reads that token is hurt.
    folder = tmp_path / "m"
    shutil.copytree(stories, folder)
    tensors = load_file(folder / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = embedding.clone()
    embedding[99] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = (folder / "config.json").read_text().replace('"tie_word_embeddings": true', '"tie_word_embeddings": false')
    (folder / "config.json").write_text(config)
    runner = start(folder)
    bad, good = sequence([1, 99], 0, "bad"), sequence([1], 40, "good")
    outcomes = runner.execute(Plan([Slice(bad, 0, [1, 99]), Slice(good, 0, [1])])).outcomes
    assert outcomes[0].error == "the model gave non-finite logits"
    assert (outcomes[1].error, outcomes[1].tokens) == (None, golden["completion_ids"][:1])
    # The pages it leaves behind hold what is not a number; whoever gets them next is not hurt.
    heir = sequence([1], 0, "heir")
    generate(runner, [heir], 60)
    assert heir.tokens[1:] == golden["completion_ids"][:60]


def test_rows_are_sound_if_a_token_can_be_drawn():
    nan, inf = float("nan"), float("inf")
    rows = torch.tensor([[1.0, 2.0], [nan, 1.0], [inf, 1.0], [-inf, 1.0], [-inf, -inf]])
    assert sound_rows(rows).tolist() == [True, False, False, True, False]


def test_max_model_len_above_the_models_is_refused(stories):
    with pytest.raises(ConfigError, match=r"max_model_len is 513; expected at most 512"):
        start(stories, max_model_len=513)


def test_max_model_len_that_the_cache_cannot_hold_is_refused_with_the_numbers(stories):
    with pytest.raises(ConfigError, match=r"max_model_len is 512, but the KV cache holds 256 tokens \(1280 bytes each"):
        start(stories, max_model_len=512, kv_cache_memory=17 * BLOCK_SIZE * 1280)


def test_without_max_model_len_the_cache_sets_it(stories):
    runner = start(stories, kv_cache_memory=17 * BLOCK_SIZE * 1280)
    assert runner.ready().max_model_len == 256


def test_the_pool_is_no_larger_than_all_sequences_can_fill(stories):
    assert start(stories, max_num_seqs=2, max_model_len=100).ready().num_blocks == 2 * 7


def test_an_unknown_attention_backend_is_refused(stories):
    with pytest.raises(ConfigError, match=r"attention is 'nope'; expected auto or one of native, torch"):
        start(stories, attention="nope")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"attention": "triton"}, "attention is 'triton'"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype is 'fp8'"),
        ({"speculative_config": Speculation(model="./nowhere")}, "speculative_config has './nowhere' as model"),
    ],
)
def test_what_cannot_be_is_refused_before_the_weights_are_read(stories, monkeypatch, fields, named):
    monkeypatch.setattr(runner_module, "load_model", lambda *_, **__: pytest.fail("read the weights"))
    with pytest.raises(ConfigError, match=named):
        start(stories, device="cpu", **fields)


def test_threads_are_the_physical_cores_unless_said(stories, monkeypatch):
    """The kernels' own; torch keeps one beside them, and has all where they are not there."""
    asked: list[int] = []
    set_threads = native.set_threads
    monkeypatch.setattr(native, "set_threads", lambda count: (asked.append(count), set_threads(count)))
    assert physical_cores() >= 1
    start(stories, threads=None)
    start(stories, threads=1)
    assert asked == [physical_cores(), 1]
    assert torch.get_num_threads() == 1
    if native.cpu is not None:
        native.kernels().threads(1)
    monkeypatch.setattr(native, "cpu", None)
    start(stories, threads=None)
    assert torch.get_num_threads() == physical_cores()
    start(stories, threads=1)
    assert torch.get_num_threads() == 1


def test_idle_moments_come_to_an_end(stories):
    runner = start(stories)
    moments = 0
    while runner.idle():
        moments += 1
    assert moments <= 1 + runner.cache.bytes // (1 << 21) + 1
    assert not runner.idle()
