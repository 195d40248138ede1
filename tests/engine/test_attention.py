"""The attention backends over the paged cache: equal to the truth, and the same bits whatever the company."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.engine.attention import LayerSpec, Turn, choose_backend, torch_
from quire.engine.batch import Batch
from quire.engine.cache import KVCache
from quire.engine.config import BLOCK_SIZE
from quire.engine.messages import SamplingParams
from quire.engine.plan import Plan, Slice
from quire.engine.sequence import Sequence
from quire.kernels import attention as kernel
from quire.kernels import native, ops
from quire.kernels.triton import there

CPU = torch.device("cpu")

SPECS = {
    "plain": LayerSpec(heads=4, kv_heads=4, head_dim=16, scale=0.25),
    "grouped": LayerSpec(heads=6, kv_heads=2, head_dim=16, scale=0.25),
    "one kv head": LayerSpec(heads=5, kv_heads=1, head_dim=8, scale=0.3),
    "window": LayerSpec(heads=4, kv_heads=2, head_dim=16, scale=0.25, window=37),
    "narrow window": LayerSpec(heads=4, kv_heads=2, head_dim=16, scale=0.25, window=1),
    "softcap": LayerSpec(heads=4, kv_heads=2, head_dim=16, scale=1.0, softcap=3.0),
    "other v_head_dim": LayerSpec(heads=4, kv_heads=2, head_dim=24, scale=0.2, v_head_dim=8),
    "all": LayerSpec(heads=8, kv_heads=2, head_dim=32, scale=0.5, window=70, softcap=5.0, v_head_dim=16),
}


# Triton's interpreter is switched on in a process of its own: tests/kernels/test_attention_triton.py.
TRITON = ["triton"] if there.lack(torch.float32, CPU) is None else []


ISAS = native.cpu.isas() if native.cpu else []
KINDS = ("float32", "bfloat16", "int8")


@pytest.fixture(autouse=True, params=["torch", *TRITON, *(f"{kind} {isa}" for kind in KINDS for isa in ISAS)])
def way(request):
    """The backend in torch, the one in Triton, and the one in C++ with each instruction set of this machine, with pages
    of float32, bfloat16 and 8 bits."""
    native.set_threads(1)
    if request.param in ("torch", "triton"):
        yield request.param
        return
    before = native.kernels().isa()
    native.kernels().use(request.param.split()[1])
    yield request.param
    native.kernels().use(before)


def pages(way: str, specs: list[LayerSpec], count: int, dtype: torch.dtype = torch.float32):
    """The backend, and a cache of its own. What C++ does not serve is torch's."""
    kind = way.split()[0] if dtype == torch.float32 and way not in ("torch", "triton") else "auto"
    backend = choose_backend(way if way in ("torch", "triton") else "auto", dtype, CPU, kind)
    return backend, backend.cache(specs, count, dtype, CPU)


def spoil(cache: KVCache, stale: float) -> None:
    """What others may have left in pages."""
    for x in (*cache.k, *cache.v, *cache.k_units, *cache.v_units):
        x[:-1] = stale if x.is_floating_point() else 85


def kept(way: str, x: torch.Tensor) -> torch.Tensor:
    """Keys or values [n, kv_heads, D] as the pages hold them: with 8 bits 127 steps of the largest of each head's."""
    if way.startswith("bfloat16"):
        return x.bfloat16().to(x.dtype)
    if not way.startswith("int8") or x.dtype != torch.float32:
        return x
    top = x.abs().amax(-1, keepdim=True)
    return (x * (torch.full_like(top, 127) / top)).round() * (top / 127)  # 127 / top would be 127 * (1 / top)


def near(way: str, tolerance: float) -> dict[str, float]:
    """Tolerances; where bfloat16 is multiplied as such, queries and weights are rounded too."""
    tolerance = 1.5e-2 if way == "bfloat16 avx512bf16" else tolerance
    return {"rtol": tolerance, "atol": tolerance}


class Stream:
    """A sequence's q, k, v at every position, and what came out."""

    def __init__(self, spec: LayerSpec, length: int, seed: int, dtype: torch.dtype = torch.float32):
        g = torch.Generator().manual_seed(seed)
        v_dim = spec.v_head_dim or spec.head_dim
        self.q = torch.randn(length, spec.heads, spec.head_dim, generator=g).to(dtype)
        self.k = torch.randn(length, spec.kv_heads, spec.head_dim, generator=g).to(dtype)
        self.v = torch.randn(length, spec.kv_heads, v_dim, generator=g).to(dtype)
        self.length = length
        self.out = torch.full((length, spec.heads, v_dim), float("nan"), dtype=dtype)
        self.seq = Sequence("r", 0, [0] * length, SamplingParams(max_tokens=1, seed=0))


def run(
    way: str,
    spec: LayerSpec,
    streams: list[Stream],
    cuts: list[list[int]],
    order: int,
    dtype=torch.float32,
    stale=float("nan"),
):
    """Compute all streams together, stream i in slices of cuts[i] tokens. Pages are dealt at random, first `stale`."""
    chance = random.Random(order)
    need = sum(-(-s.length // BLOCK_SIZE) for s in streams)
    backend, cache = pages(way, [spec], need + 3, dtype)
    spoil(cache, stale)
    free = list(range(cache.num_blocks))
    chance.shuffle(free)
    for s in streams:
        s.seq.blocks, s.seq.computed = [], 0
    cuts = [list(c) for c in cuts]
    while any(cuts):
        slices = []
        for s, c in zip(streams, cuts, strict=True):
            if c and (chance.random() < 0.7 or not slices):
                n = c.pop(0)
                start, end = s.seq.computed, s.seq.computed + n
                while len(s.seq.blocks) * BLOCK_SIZE < end:
                    s.seq.blocks.append(free.pop())
                slices.append((s, Slice(s.seq, start, [0] * n)))
                s.seq.computed = end
        chance.shuffle(slices)
        batch = Batch.of(Plan([piece for _, piece in slices]), CPU)
        attend = backend.plan(batch, [spec], cache)
        q, k, v = (torch.cat([getattr(s, x)[p.start : p.end] for s, p in slices]) for x in "qkv")
        out = attend(0, q, k, v)
        for (s, p), rows in zip(slices, out.split([len(p.tokens) for _, p in slices]), strict=True):
            s.out[p.start : p.end] = rows


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_ragged_batches_equal_the_dense_truth_at_every_position(way, spec, dtype):
    if way.startswith(("bfloat16", "int8")) and dtype != torch.float32:
        pytest.skip("C++ computes in float32")
    streams = [Stream(spec, n, n, dtype) for n in (1, 16, 65, 150, 201)]
    run(way, spec, streams, [[1], [5, 11], [64, 1], [1, 70, 3, 76], [198, 1, 1, 1]], order=1, dtype=dtype)
    for s in streams:
        truth = kernel.reference(s.q, kept(way, s.k), kept(way, s.v), spec.scale, spec.window, spec.softcap)
        torch.testing.assert_close(s.out, truth, **near(way, 2e-6 if dtype == torch.float32 else 1e-2))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize(
    "parents", [(-1, -1, 0, 0, 2, 1, 4), (-1, 0, 1, -1, 3, 2, 5), (-1, -1, -1), (-1, 0, 0)], ids=str
)
@pytest.mark.parametrize("before", [1, 15, 61, 126, 130])
def test_a_draft_of_a_tree_sees_what_leads_to_it(way, spec, parents, before):
    """Beside a plain sequence: each row of the tree against the dense truth of its own line."""
    drafts = len(parents)
    stream, beside = Stream(spec, before + 1 + drafts, 1), Stream(spec, 20, 2)
    backend, cache = pages(way, [spec], 20)
    spoil(cache, float("nan"))
    stream.seq.blocks, beside.seq.blocks = list(range(3, 14)), [1, 2]
    for slices in (
        [(stream, Slice(stream.seq, 0, [0] * before)), (beside, Slice(beside.seq, 0, [0] * 18))],
        [
            (stream, Slice(stream.seq, before, [0] * (1 + drafts), drafts, True, parents)),
            (beside, Slice(beside.seq, 18, [0] * 2)),
        ],
    ):
        batch = Batch.of(Plan([piece for _, piece in slices]), CPU)
        attend = backend.plan(batch, [spec], cache)
        out = attend(0, *(torch.cat([getattr(s, x)[p.start : p.end] for s, p in slices]) for x in "qkv"))
        for (s, p), rows in zip(slices, out.split([len(p.tokens) for _, p in slices]), strict=True):
            s.out[p.start : p.end] = rows
    first = before + 1
    assert batch.positions[1 : 1 + drafts].tolist() == [first + len(path) - 1 for path in slices[0][1].behind()[1:]]
    for n, path in enumerate(slices[0][1].behind()):
        line = [*range(first), *(first + i for i in path)]
        row = stream.q[line][-1:]
        k, v = kept(way, stream.k[line]), kept(way, stream.v[line])
        truth = kernel.reference(row, k, v, spec.scale, spec.window, spec.softcap)
        torch.testing.assert_close(stream.out[first - 1 + n : first + n], truth, **near(way, 2e-6))
    k, v = kept(way, beside.k), kept(way, beside.v)
    truth = kernel.reference(beside.q, k, v, spec.scale, spec.window, spec.softcap)
    torch.testing.assert_close(beside.out, truth, **near(way, 2e-6))


@st.composite
def cuttings(draw, length: int) -> list[int]:
    found: list[int] = []
    while sum(found) < length:
        found.append(min(length - sum(found), draw(st.integers(1, 5) | st.integers(1, length))))
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_row_has_the_same_bits_in_any_company_chunking_and_page_layout(way, data):
    spec = data.draw(st.sampled_from(list(SPECS.values())))
    narrow = way.startswith(("bfloat16", "int8"))  # only of float32
    dtype = data.draw(st.sampled_from([torch.float32, torch.float32, *([] if narrow else [torch.bfloat16])]))
    native.set_threads(data.draw(st.sampled_from([1, 2])))
    most, longest = (3, 70) if way == "triton" else (7, 210)  # the interpreter takes its time
    lengths = data.draw(st.lists(st.integers(1, longest), min_size=1, max_size=most))
    streams = [Stream(spec, n, i, dtype) for i, n in enumerate(lengths)]
    run(way, spec, streams, [data.draw(cuttings(n)) for n in lengths], order=data.draw(st.integers(0, 99)), dtype=dtype)
    for i, n in enumerate(lengths):
        alone = Stream(spec, n, i, dtype)
        run(way, spec, [alone], [[n]], order=0, dtype=dtype, stale=0.0)
        assert torch.equal(streams[i].out, alone.out)


@pytest.mark.parametrize("spec", [SPECS["grouped"], SPECS["window"]], ids=["grouped", "window"])
def test_decoding_one_by_one_has_the_bits_of_a_whole_prefill(way, spec):
    whole, single = Stream(spec, 150, 3), Stream(spec, 150, 3)
    run(way, spec, [whole], [[150]], order=0)
    run(way, spec, [single], [[1] * 150], order=0)
    assert torch.equal(whole.out, single.out)


def test_a_row_has_the_same_bits_alone_and_among_thirty_two(way):
    spec = LayerSpec(heads=12, kv_heads=4, head_dim=64, scale=0.125)
    first, more = (4, 1) if way == "triton" else (100, 7)
    streams = [Stream(spec, first + more * i, i) for i in range(32)]
    run(way, spec, streams, [[s.length - 2, 1, 1] for s in streams], order=5)
    for i in (0, 13, 31):
        alone = Stream(spec, streams[i].length, i)
        run(way, spec, [alone], [[alone.length - 2, 1, 1]], order=0)
        assert torch.equal(streams[i].out, alone.out)


def test_long_chunks_in_pieces_and_many_rows_in_calls_keep_their_bits(way, monkeypatch):
    spec = SPECS["grouped"]
    whole = [Stream(spec, n, n) for n in (190, 180)]
    run(way, spec, whole, [[187, 1, 1, 1], [177, 3]], order=1)
    monkeypatch.setattr(kernel, "SCORE_FLOATS", 1)
    monkeypatch.setattr(torch_, "GATHER", 1)
    monkeypatch.setattr(torch_, "CALL", 1)
    pieces = [Stream(spec, n, n) for n in (190, 180)]
    run(way, spec, pieces, [[187, 1, 1, 1], [177, 3]], order=1)
    assert all(torch.equal(a.out, b.out) for a, b in zip(whole, pieces, strict=True))


def test_where_products_do_not_agree_chunks_keep_the_bits_of_single_rows(way, monkeypatch):
    monkeypatch.setattr(kernel, "products_agree", lambda *_: False)
    for name in ("grouped", "all"):
        spec = SPECS[name]
        chunked, single = Stream(spec, 140, 1), Stream(spec, 140, 1)
        run(way, spec, [chunked], [[90, 50]], order=1)
        run(way, spec, [single], [[1] * 140], order=1)
        assert torch.equal(chunked.out, single.out)


def test_what_a_page_held_before_is_never_seen_even_if_it_was_not_a_number(way):
    spec = SPECS["grouped"]
    clean, dirty = Stream(spec, 100, 1), Stream(spec, 100, 1)
    run(way, spec, [clean], [[50, 49, 1]], order=1, stale=0.0)
    run(way, spec, [dirty], [[50, 49, 1]], order=1, stale=float("nan"))
    assert torch.equal(clean.out, dirty.out)


def test_layers_of_different_shape_share_one_plan(way):
    specs = [SPECS["grouped"], SPECS["window"], SPECS["other v_head_dim"]]
    backend, cache = pages(way, specs, 8)
    streams = [Stream(spec, 80, i) for i, spec in enumerate(specs)]
    seq = streams[0].seq
    seq.blocks = [5, 2, 7, 0, 4]
    attend = backend.plan(Batch.of(Plan([Slice(seq, 0, [0] * 80)]), CPU), specs, cache)
    for i, (spec, s) in enumerate(zip(specs, streams, strict=True)):
        truth = kernel.reference(s.q, kept(way, s.k), kept(way, s.v), spec.scale, spec.window, spec.softcap)
        torch.testing.assert_close(attend(i, s.q, s.k, s.v), truth, **near(way, 2e-6))


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("angles", [0, 5, 16])
def test_queries_and_keys_are_normed_and_turned_first(way, norms, angles):
    spec, s = LayerSpec(heads=4, kv_heads=2, head_dim=32, scale=0.2), None
    g = torch.Generator().manual_seed(angles)
    cos, sin = (torch.randn(70, 1, angles, generator=g) for _ in range(2)) if angles else (None, None)
    q_norm, k_norm = (ops.Norm(torch.randn(32, generator=g), 1e-5) for _ in range(2)) if norms else (None, None)
    turn = Turn(cos, sin, q_norm, k_norm)
    s = Stream(spec, 70, 1)
    backend, cache = pages(way, [spec], 8)
    s.seq.blocks = [5, 2, 7, 0, 4]
    found = backend.plan(Batch.of(Plan([Slice(s.seq, 0, [0] * 70)]), CPU), [spec], cache)(0, s.q, s.k, s.v, turn)
    keys = kept(way, turn(s.k, k_norm)) if way.startswith("bfloat16") else turn(s.k, k_norm)
    if way.startswith("int8"):
        # Which way a tie is rounded hangs on the last bit of what was turned: what was written is what counts.
        at = torch.tensor([s.seq.blocks[i // BLOCK_SIZE] for i in range(70)]), torch.arange(70) % BLOCK_SIZE
        (codes, units) = (x[where] for x, where in cache.at(*at)[:3:2])
        units = units[..., None]
        assert ((codes * units - keys).abs() <= 0.501 * units).all()
        keys = codes * units
    truth = kernel.reference(turn(s.q, q_norm), keys, kept(way, s.v), spec.scale)
    torch.testing.assert_close(found, truth, **near(way, 5e-6))


def test_long_contexts_in_segments_keep_their_bits(way):
    """With one sequence its segments are computed at the same time, among others one after the other."""
    spec = LayerSpec(heads=4, kv_heads=2, head_dim=16, scale=0.25)
    length = 540 if way == "triton" else 3000  # segments are of 512 keys there
    long, others = Stream(spec, length, 1), [Stream(spec, 40, 2 + i) for i in range(8)]
    run(way, spec, [long, *others], [[length - 100, 98, 2], *([38, 1, 1] for _ in others)], order=2)
    for threads in (1, 2):
        native.set_threads(threads)
        alone = Stream(spec, length, 1)
        run(way, spec, [alone], [[length - 2, 1, 1]], order=0)
        assert torch.equal(alone.out, long.out)
    truth = kernel.reference(long.q, kept(way, long.k), kept(way, long.v), spec.scale)
    torch.testing.assert_close(long.out, truth, **near(way, 1e-5))


def test_values_moved_to_other_places_are_read_there(way):
    spec = SPECS["grouped"]
    s = Stream(spec, 40, 1)
    backend, cache = pages(way, [spec], 8)
    s.seq.blocks = [1, 2, 3]
    attend = backend.plan(Batch.of(Plan([Slice(s.seq, 0, [0] * 39)]), CPU), [spec], cache)
    attend(0, s.q[:39], s.k[:39], s.v[:39])
    cache.move([1 * BLOCK_SIZE + 3, 2 * BLOCK_SIZE], [2 * BLOCK_SIZE, 1 * BLOCK_SIZE + 3])  # places 3 and 16
    attend = backend.plan(Batch.of(Plan([Slice(s.seq, 39, [0])]), CPU), [spec], cache)
    found = attend(0, s.q[39:], s.k[39:], s.v[39:])
    s.k, s.v = kept(way, s.k), kept(way, s.v)
    torch.testing.assert_close(found, kernel.reference(s.q[39:], s.k, s.v, spec.scale), **near(way, 2e-6))
    s.k[[3, 16]], s.v[[3, 16]] = s.k[[16, 3]], s.v[[16, 3]]
    torch.testing.assert_close(found, kernel.reference(s.q[39:], s.k, s.v, spec.scale), **near(way, 2e-6))
