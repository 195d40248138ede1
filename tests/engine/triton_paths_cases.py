"""Models, products, tables and the sampler by Triton's kernels, as on a GPU, beside torch: on the CPU without the C++
kernels, by Triton's interpreter. Run by test_triton_paths.py."""

from __future__ import annotations

import random

import pytest
import torch
from engine_place import local_runner
from paged import PROMPTS, RAGGED, make, run
from sampling import sequence, step

from quire.engine import messages as m
from quire.engine import scheduler
from quire.engine.config import Speculation
from quire.engine.errors import ConfigError, ModelError
from quire.engine.messages import SamplingParams
from quire.engine.models.load import load_model
from quire.engine.plan import Slice
from quire.engine.sampling import CHAIN, Sampler, fused
from quire.engine.sequence import Sequence
from quire.engine.state import Limits, State
from quire.engine.weights import Weights
from quire.kernels import lora as loras
from quire.kernels import native, packed, vocabulary
from quire.kernels.embedding import Embedding, EmbeddingDelta
from quire.kernels.linear import Linear
from quire.kernels.lora import Delta, Piece, Rows
from quire.kernels.ops import Norm
from quire.kernels.quantized import Quantized, quantize
from quire.kernels.triton import chosen

CPU = torch.device("cpu")
SILENT = Speculation(method="none")
FORMS = (None, "int8", "int4", "fp8")


@pytest.fixture(autouse=True)
def no_kernels_for_the_cpu(monkeypatch):
    monkeypatch.setattr(native, "cpu", None)
    torch.set_num_threads(1)


@pytest.fixture
def in_torch(monkeypatch):
    def turn() -> None:
        for what in chosen.WAYS:
            monkeypatch.setitem(chosen.WAYS, what, "torch")

    return turn


def test_sums_and_norms_in_one_kernel_give_the_bits_of_two(tmp_path, monkeypatch):
    make("Qwen3", tmp_path, head_dim=8)
    model = load_model(tmp_path, dtype="auto", device=CPU, deterministic=True)
    found = []
    for _ in range(2):
        found.append(run(model, PROMPTS, RAGGED, "torch"))
        assert (model._added is None) == (len(found) == 2)
        monkeypatch.setattr(type(model), "_added", None)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize(
    ("family", "fields"),
    [("Llama", {"attention_bias": True}), ("Qwen3", {"tie_word_embeddings": True, "head_dim": 8}), ("GPT2", {})],
)
def test_a_model_gives_what_torch_gives(family, fields, tmp_path, in_torch):
    make(family, tmp_path, **fields)
    found = run(load_model(tmp_path, dtype="auto", device=CPU, deterministic=True), PROMPTS[2:], [[(0, 23)]], "torch")
    in_torch()
    truth = run(load_model(tmp_path, dtype="auto", device=CPU), PROMPTS[2:], [[(0, 23)]], "torch")
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "form", [None, "int4", *(pytest.param(form, marks=pytest.mark.slow) for form in ("int8", "fp8"))]
)
def test_a_row_has_the_same_bits_alone_in_a_batch_and_in_chunks(form, tmp_path, monkeypatch):
    """Up to 40 rows of a step: 1, 2 and 4 tiles, and more than PACKED_ROWS."""
    make("Llama", tmp_path, num_hidden_layers=1, tie_word_embeddings=form == "int4")
    monkeypatch.setattr(chosen, "PACKED_ROWS", 8)
    model = load_model(tmp_path, dtype="auto", device=CPU, quantization=form, deterministic=True)
    held = {"fp8": "fp8 and int8", "int4": "int4 and int8"}.get(str(form), form)
    assert model.kinds == (held or "float32")
    ragged = run(model, PROMPTS, RAGGED, "torch")
    for i in (0, 2):
        whole = run(model, [PROMPTS[i]], [[(0, len(PROMPTS[i]))]], "torch")[0]
        assert torch.equal(whole, ragged[i])


@pytest.mark.parametrize(("form", "least"), [("int8", 0.9998), ("fp8", 0.997), ("int4", 0.9)])
def test_quantized_at_load_stays_near(form, least, tmp_path, in_torch, monkeypatch):
    """By the kernel, and unpacked for torch's product."""
    truth = make("Llama", tmp_path, num_hidden_layers=1, tie_word_embeddings=True)
    in_torch()
    model = load_model(tmp_path, dtype="auto", device=CPU, quantization=form)
    with torch.inference_mode():
        expected = truth(torch.tensor(PROMPTS[2:])).logits[0]
    by_kernel = run(model, PROMPTS[2:], [[(0, 23)]], "torch")[0]
    monkeypatch.setattr(chosen, "PACKED_ROWS", 0)
    monkeypatch.setattr(packed, "OUTPUTS", 30)  # which do not end where panels do
    found = run(model, PROMPTS[2:], [[(0, 23)]], "torch")[0]
    torch.testing.assert_close(found, by_kernel, rtol=1e-4, atol=1e-4)
    assert torch.nn.functional.cosine_similarity(found.flatten(), expected.flatten(), dim=0) > least
    table = model.embedding(torch.arange(101))
    assert torch.equal(table, model.head.dense())
    assert model.head.kind == "int8"


# --- requests, from the engine's door


OPTIONS = (
    {"temperature": 0.0, "logprobs": 2}, {"top_k": 5, "top_p": 0.8}, {"frequency_penalty": 0.4, "min_p": 0.1},
    {"typical_p": 0.7}, {"logit_bias": {5: 3.0}},
)  # fmt: skip


def answers(runner, at_once: int, budget: int) -> dict[str, tuple[list[int], list]]:
    limits = Limits(max_model_len=128, max_num_seqs=at_once, max_num_batched_tokens=budget, max_waiting=99)
    state = State(limits, 40, False)
    found: dict[str, tuple[list[int], list]] = {}
    for i, options in enumerate(OPTIONS):
        params = SamplingParams(max_tokens=3, **{"seed": 7 + i, **options})
        scheduler.add(state, m.Generate(id=str(i), prompt=PROMPTS[2][i : i + 9], params=params))
        found[str(i)] = [], []
    while state.has_work():
        plan = scheduler.schedule(state)
        for delta in scheduler.commit(state, plan, runner.execute(plan)):
            assert isinstance(delta, m.TokenDelta), delta
            found[delta.id][0].extend(delta.tokens)
            found[delta.id][1].extend(delta.logprobs or [])
    return found


def test_requests_get_the_same_answers_alone_in_a_crowd_in_chunks_and_from_torch(tmp_path, in_torch, monkeypatch):
    make("Llama", tmp_path, num_hidden_layers=1)
    fields = {"speculative_config": SILENT, "max_model_len": 128}
    runner = local_runner(tmp_path, deterministic=True, attention="triton", **fields)
    alone = answers(runner, 1, 64)
    assert len({tuple(tokens) for tokens, _ in alone.values()}) > 3
    assert answers(runner, 4, 17) == alone
    in_torch()
    torchs = answers(local_runner(tmp_path, attention="torch", **fields), 5, 64)
    assert {name: tokens for name, (tokens, _) in torchs.items()} == {n: tokens for n, (tokens, _) in alone.items()}


# --- the sampler


def some_rows(count: int, vocab: int, seed: int) -> tuple[torch.Tensor, list[Sequence]]:
    """Rows with options of all sorts, some of which the kernel does not have; logits with ties."""
    chance, g = random.Random(seed), torch.Generator().manual_seed(seed)
    logits = (torch.randn(count, vocab, generator=g) * 6).round() / 2
    seqs = []
    for i in range(count):
        options: dict = {"temperature": chance.choice([0.0, 0.7, 1.0, 1.4])}
        for name, values in {
            "top_k": [3, 20], "top_p": [0.3, 0.9], "min_p": [0.05], "repetition_penalty": [1.2],
            "frequency_penalty": [0.5], "typical_p": [0.6], "top_n_sigma": [1.0], "dry_multiplier": [0.8],
            "logit_bias": [{3: 2.0}], "allowed_token_ids": [tuple(range(0, vocab, 2))], "bad_words": [((4,),)],
            "logprobs": [0, 3], "mirostat": [2],
        }.items():  # fmt: skip
            if chance.random() < 0.2:
                options[name] = chance.choice(values)
        answer = [chance.randrange(vocab) for _ in range(chance.randrange(6))]
        seqs.append(sequence([1, 2, 3], answer, name=str(i), seed=100 * seed + i, **options))
    return logits, seqs


@pytest.fixture
def small_tiles(monkeypatch):
    """So that a small vocabulary has several tiles, and interpreting them takes less."""
    kernel = chosen.module("sampler")
    monkeypatch.setattr(kernel, "TILE", 16)
    monkeypatch.setattr(kernel, "TILES", 2)
    monkeypatch.setattr(kernel, "FEW", 48)


@pytest.mark.usefixtures("small_tiles")
def test_the_samplers_tokens_are_those_of_torch():
    able = Sampler(70, CPU)
    for seed in range(2):
        logits, seqs = some_rows(12, 70, seed)
        truth, _ = step(Sampler(70), logits, seqs)
        for sampler in (able, Sampler(70, CPU, alone=True)):
            found, _ = step(sampler, logits, seqs)
            assert [o.tokens for o in found] == [o.tokens for o in truth]
            assert [o.logprobs for o in found] == [o.logprobs for o in truth]
            assert sampler._fused
            assert len(sampler._fused) < len(seqs)
        able.forget([seq.id for seq in seqs])
        assert not able._fused


@pytest.mark.usefixtures("small_tiles")
def test_tokens_that_nobody_waits_for_are_the_same():
    logits, seqs = some_rows(10, 70, 9)
    plain = [s for s in seqs if not (s.params.mirostat or s.params.dry_multiplier)]
    plain.append(sequence(name="typical", typical_p=0.5))
    pieces = [Slice(s, len(s.tokens) - 1, s.tokens[-1:], 0) for s in plain]
    logits = logits[: len(plain)]
    logits[0] = float("-inf")
    truth = Sampler(70).tokens(logits.clone(), pieces)
    assert truth[0] == -1
    assert torch.equal(Sampler(70, CPU).tokens(logits.clone(), pieces), truth)
    only = [piece for piece in pieces if fused.before(links(piece.seq)) is not None]
    assert 0 < len(only) < len(pieces)
    at = [pieces.index(piece) for piece in only]
    assert torch.equal(Sampler(70, CPU).tokens(logits[at], only), truth[at])


def links(seq: Sequence):
    sampler = Sampler(70)
    step(sampler, torch.zeros(1, 70), [seq])
    return sampler._links[seq.id]


def test_every_option_is_known_to_be_the_kernels_or_not():
    names = [link.name for link in CHAIN]
    assert set(fused.DOES) | set(fused.BEFORE) <= set(names)
    assert names[: len(fused.BEFORE)] == list(fused.BEFORE)


def test_masks_leave_what_torch_leaves(in_torch):
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 70, generator=g)
    masks = torch.randint(-(1 << 31), 1 << 31, (2, 3), generator=g).to(torch.int32)
    found, which = logits.clone(), [-1, 1, 0, -1, 1]
    kept = vocabulary.constrain(found, masks, which)
    in_torch()
    wanted = logits.clone()
    assert torch.allclose(kept, vocabulary.constrain(wanted, masks, which))
    assert torch.equal(found, wanted)
    assert bool(found.isinf().any())


# --- products and tables


def test_what_cannot_be_packed_in_4_bits_has_8_and_the_same_weights():
    q = quantize(torch.randn(40, 96), 4, 16)
    linear = Linear(q)
    assert linear.kind == "int8"
    assert torch.equal(linear.dense(), q.dense())
    x = torch.randn(3, 96)
    torch.testing.assert_close(linear(x, add=torch.ones(3, 40)), x @ q.dense().T + 1, rtol=1e-4, atol=1e-4)
    norm = Norm(torch.rand(96), 1e-5)
    torch.testing.assert_close(linear(x, before=norm), norm(x) @ q.dense().T, rtol=1e-4, atol=1e-4)


def test_parts_in_floating_point_beside_quantized_ones_get_8_bits():
    q, plain = quantize(torch.randn(40, 128), 4, 64), torch.randn(24, 128)
    linear = Linear([q, plain], form="fp8")
    assert linear.kind == "int8"
    assert torch.equal(linear.dense()[:40], q.dense())
    torch.testing.assert_close(linear.dense()[40:], plain, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("form", ["int8", "int4", "fp8"])
def test_packing_some_outputs_at_once_is_packing_all(form, monkeypatch):
    weight = torch.randn(150, 96)
    weight[3] = 0
    whole = packed.pack([weight], None, form)
    monkeypatch.setattr(packed, "ROWS", 64)
    assert torch.equal(packed.pack([weight], None, form).dense(), whole.dense())
    assert not bool(whole.dense()[3].any())
    index = torch.tensor([0, 149, 63, 64, 3, 0])
    assert torch.equal(whole.rows(index), whole.dense()[index])
    table = Embedding(whole, torch.bfloat16)
    assert table(index).dtype == torch.bfloat16
    assert table.product().shared == table.shared


def test_an_order_of_inputs_comes_along_and_two_do_not():
    q = quantize(torch.randn(30, 64), 8, 32)
    one, other = (Quantized(q.codes, q.scale, 8, 32, None, torch.randperm(64)) for _ in range(2))
    assert torch.equal(Linear([one, one]).dense(), torch.cat([one.dense(), one.dense()]))
    assert torch.equal(Linear(one).table.rows(torch.tensor([4, 29])), one.dense()[[4, 29]])
    for parts in ([one, other], [one, torch.randn(3, 64)]):
        with pytest.raises(ValueError, match="inputs in different orders"):
            Linear(parts)

    class Reader:
        names = {"a.weight": 1, "b.weight": 1}

        def read(self, name):
            return one if name == "a.weight" else other

        def where(self, name):
            return "folder"

    weights = Weights(Reader(), dtype=torch.float32, device=CPU, progress=lambda done, total: None)
    with pytest.raises(ModelError, match="folder: a and b cannot be packed: the matrices of one product"):
        weights.linear(["a", "b"], 64, [30, 30])


@pytest.mark.parametrize("form", FORMS)
def test_what_is_compiled_at_load_is_what_steps_run(form, monkeypatch):
    """Every number of rows up to 64 finds its kernels: 1, 2 and 4 tiles, with something to add and without."""
    linear = Linear(torch.randn(20, 32), form=form, fixed=form is None)
    module = chosen.module("dense" if form is None else "matrix")
    kernel = module.dense_products if form is None else module.products
    seen: set[tuple] = set()

    class Noted:
        def __getitem__(self, grid):
            def launch(*args, **constants):
                seen.add((tuple(arg is None for arg in args), *sorted((k, str(v)) for k, v in constants.items())))
                kernel[grid](*args, **constants)

            return launch

    monkeypatch.setattr(module, kernel.__name__ if hasattr(kernel, "__name__") else "products", Noted())
    linear.warm(torch.float32)
    warm, _ = set(seen), seen.clear()
    assert len(warm) == (3 if form is None else 6)
    for rows in (2, 16, 31, 64):
        linear(torch.randn(rows, 32))
        linear(torch.randn(rows, 32), add=torch.randn(rows, 20))
    assert seen == warm


# --- adapters where a row must have the same bits


def test_adapters_go_one_way_where_bits_are_fixed(monkeypatch):
    monkeypatch.setattr(loras, "way_of", lambda dtype, device: "triton")
    kernel, ways = loras.gathered(), []
    for name in ("by_row", "by_tile"):
        way = getattr(kernel, name)
        monkeypatch.setattr(kernel, name, lambda *args, name=name, way=way: (ways.append(name), way(*args)))
    weight, a, b = torch.randn(50, 40), torch.randn(4, 40), torch.randn(50, 4)
    x, rows = torch.randn(3, 40), Rows.of([0, -1, 1])
    whole = Linear(torch.randn(50, 40))
    plain, fixed = Linear(weight), Linear(weight, fixed=True)
    for linear in (plain, fixed):
        linear.put(0, Delta(pieces=(Piece(a, b),)))
        linear.put(1, Delta(whole=whole))
    found = fixed(x, rows)
    assert ways == ["by_tile"]
    torch.testing.assert_close(found, plain(x, rows), rtol=1e-4, atol=1e-4)
    assert ways == ["by_tile", "by_row"]
    assert whole._how == "fixed"
    add = torch.randn(3, 50).bfloat16()
    for form in (None, "int8"):
        linear = Linear(weight.bfloat16(), form=form, fixed=True)
        linear.put(0, Delta(pieces=(Piece(a.bfloat16(), b.bfloat16()),)))
        among, alone = (linear(x.bfloat16(), some, add=add) for some in (rows, None))
        assert torch.equal(among[1:], alone[1:]), "the bits depend on others' adapters"
        assert not torch.equal(among[0], alone[0])
    later = Linear(weight)
    later.put(0, Delta(whole=Linear(torch.randn(50, 40))))
    later.fix()
    assert later.deltas._by_slot[0].whole._how == "fixed"
    table = Embedding(torch.randn(9, 40), fixed=True)
    table.put(0, EmbeddingDelta(torch.randn(9, 2), torch.randn(40, 2)))
    assert table.deltas._by_slot[0][1]._how == table.product()._how == "fixed"
    assert table.product().shared == table.shared


def test_a_product_that_oneDNN_packed_can_be_fixed_later():
    weight, x = torch.randn(30, 20), torch.randn(2, 20)
    linear = Linear(weight, torch.ones(30))
    before = linear(x)
    linear.fix()
    assert torch.equal(linear.dense(), weight)
    torch.testing.assert_close(linear(x), before, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_fixed_is_refused(tmp_path, monkeypatch):
    make("Gemma2", tmp_path, head_dim=8)
    with pytest.raises(ConfigError, match="deterministic is true, and on cpu the model runs in transformers' own code"):
        load_model(tmp_path, dtype="auto", device=CPU, deterministic=True)
    monkeypatch.setitem(chosen.WAYS, "norm", "torch")
    make("Llama", tmp_path / "llama")
    with pytest.raises(ConfigError, match="deterministic is true, and torch computes norm"):
        load_model(tmp_path / "llama", dtype="auto", device=CPU, deterministic=True)
