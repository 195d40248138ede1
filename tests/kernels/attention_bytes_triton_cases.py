"""Pages of bytes in Triton, int8 and e4m3: on a GPU as they are, elsewhere by Triton's interpreter. Run by
test_attention_bytes_triton.py."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from chunks import steps
from engine_place import Place, local_runner
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from speculation_cases import told

from quire.engine.attention import LayerSpec, Turn, choose_backend, tiling, triton_
from quire.engine.batch import Batch
from quire.engine.cache import KVCache, bytes_per_token
from quire.engine.config import BLOCK_SIZE, Speculation
from quire.engine.messages import SamplingParams
from quire.engine.plan import Plan, Slice
from quire.engine.sequence import Sequence
from quire.kernels import attention as truths
from quire.kernels.triton import attention as kernel
from quire.kernels.triton import cache as writing

DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
KINDS = {"int8": torch.int8, "fp8": torch.float8_e4m3fn}
NAN = float("nan")
SPECS = {
    "grouped": LayerSpec(heads=6, kv_heads=2, head_dim=16, scale=0.25),
    "all": LayerSpec(heads=4, kv_heads=1, head_dim=24, scale=0.3, window=70, softcap=5.0, v_head_dim=16),
}


@pytest.fixture(autouse=True)
def short_segments(monkeypatch):
    """Of 64 keys, so that a hundred tokens have several."""
    monkeypatch.setattr(kernel, "SEGMENT", 64)
    for forms in kernel.TILES.values():  # segments are whole tiles of keys
        monkeypatch.setitem(forms, "low", tuple(replace(one, keys=min(one.keys, 64)) for one in forms["low"]))


def counted(x: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """x [.., D] as torch would hold it: (codes of the kind, units [..])"""
    unit = x.float().abs().amax(-1) / kernel.LARGEST[kind]
    y = x.float() / torch.where(unit > 0, unit, 1.0)[..., None]
    return (y.round() if kind == "int8" else y).to(KINDS[kind]), unit


def held(x: torch.Tensor, kind: str) -> torch.Tensor:
    """x [.., D] as the pages hold it, float64"""
    codes, unit = counted(x.cpu(), kind)
    return codes.to(torch.float64) * unit[..., None].double()


class Text:
    """A sequence: its q, k, v at every place, where its keys and values are, and what came out. Values of a head are
    small, as the first token's are in real models, and keys differ in size from head to head."""

    def __init__(self, spec: LayerSpec, length: int, seed: int, dtype: torch.dtype):
        g = torch.Generator().manual_seed(seed)
        v_dim = spec.v_head_dim or spec.head_dim
        shapes = (spec.heads, spec.head_dim), (spec.kv_heads, spec.head_dim), (spec.kv_heads, v_dim)
        q, k, v = (torch.randn(length, *shape, generator=g) for shape in shapes)
        v *= 10.0 ** -torch.randint(0, 4, (length, spec.kv_heads, 1), generator=g)
        k *= torch.tensor([1.0, 0.01])[: spec.kv_heads, None]
        self.q, self.k, self.v = (x.to(DEVICE, dtype) for x in (q, k, v))
        self.out = torch.full((length, spec.heads, v_dim), NAN, dtype=dtype, device=DEVICE)
        self.length = length
        self.seq = Sequence("r", 0, [0] * length, SamplingParams(max_tokens=1, seed=0))


def backend(kind: str, dtype: torch.dtype):
    return choose_backend("triton", dtype, DEVICE, kind)


def spoiled(spec: LayerSpec, pages: int, dtype: torch.dtype, kind: str) -> KVCache:
    """A cache that holds what others left: units of NaN."""
    cache = backend(kind, dtype).cache([spec], pages, dtype, DEVICE, one_order=True)
    for x in (cache.k[0], cache.v[0]):
        x.view(torch.uint8)[:-1] = 0x7F
    for x in (cache.k_units[0], cache.v_units[0]):
        x[:-1] = NAN
    return cache


def run(spec, texts: list[Text], cuts: list[list[int]], seed: int, dtype: torch.dtype, kind: str) -> KVCache:
    """All texts side by side over pages dealt at random, text i in slices of cuts[i] tokens."""
    chance = random.Random(seed)
    needs = [-(-text.length // BLOCK_SIZE) for text in texts]
    cache = spoiled(spec, sum(needs) + 2, dtype, kind)
    free = list(range(cache.num_blocks))
    chance.shuffle(free)
    for text, need in zip(texts, needs, strict=True):
        text.seq.blocks = [free.pop() for _ in range(need)]
    at, left = [0] * len(texts), [list(c) for c in cuts]
    while any(left):
        due = [i for i, c in enumerate(left) if c]
        chance.shuffle(due)
        pieces = [(texts[i], at[i], left[i][0]) for i in due]
        step(spec, cache, pieces, dtype, kind)
        for i in due:
            at[i] += left[i].pop(0)
    return cache


def step(spec, cache, pieces: list[tuple[Text, int, int]], dtype: torch.dtype, kind: str) -> None:
    slices = [Slice(text.seq, start, [0] * n) for text, start, n in pieces]
    attend = backend(kind, dtype).plan(Batch.of(Plan(slices), DEVICE), [spec], cache)
    q, k, v = (torch.cat([getattr(text, x)[start : start + n] for text, start, n in pieces]) for x in "qkv")
    for (text, start, n), rows in zip(pieces, attend(0, q, k, v).split([n for _, _, n in pieces]), strict=True):
        text.out[start : start + n] = rows


def truth(spec: LayerSpec, text: Text, kind: str | None) -> torch.Tensor:
    """float64 [length, heads, v_dim]: of what the pages hold; None: of the keys and values themselves"""
    q, k, v = (x.double().cpu() for x in (text.q, text.k, text.v))
    if kind is not None:
        k, v = held(text.k, kind), held(text.v, kind)
    return truths.reference(q, k, v, spec.scale, spec.window, spec.softcap)


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return ((found.double().cpu() - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize(("examples", "longest"), [(1, 24), pytest.param(30, 140, marks=pytest.mark.slow)])
def test_any_batch_equals_the_truth_of_what_is_held_and_has_the_bits_of_each_alone(examples, longest):
    test = given(data=st.data(), longest=st.just(longest))(any_batch)
    settings(max_examples=examples, deadline=None, database=None)(test)()


def any_batch(data, longest):
    spec = data.draw(st.sampled_from(list(SPECS.values())))
    dtype = data.draw(st.sampled_from(list(BOUNDS)))
    kind = data.draw(st.sampled_from(list(KINDS)))
    lengths = data.draw(st.lists(st.integers(1, longest), min_size=1, max_size=3))
    texts = [Text(spec, n, i, dtype) for i, n in enumerate(lengths)]
    run(spec, texts, [data.draw(steps(n)) for n in lengths], data.draw(st.integers(0, 99)), dtype, kind)
    for i, text in enumerate(texts):
        assert off(text.out, truth(spec, text, kind)) < BOUNDS[dtype]
        alone = Text(spec, text.length, i, dtype)
        run(spec, [alone], [[alone.length]], 0, dtype, kind)
        assert torch.equal(text.out, alone.out)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("fp8", torch.bfloat16), pytest.param("int8", torch.float16, marks=pytest.mark.slow)]
)
def test_a_prompt_in_chunks_and_a_token_behind_it(kind, dtype):
    """Over a border of segments, whole and split, against what is held; and so near to the numbers themselves as bytes
    are: 1 / 254 of the largest of a head for int8, 1 / 16 of each number for e4m3."""
    spec = LayerSpec(heads=2, kv_heads=1, head_dim=16, scale=0.25)
    found = []
    for fill in (0, 1 << 30):
        text = Text(spec, 70, 1, dtype)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tiling, "FILL", fill)
            run(spec, [text], [[60, 9, 1]], 1, dtype, kind)
        found.append(text.out)
    assert torch.equal(found[0], found[1])
    assert off(found[0], truth(spec, text, kind)) < BOUNDS[dtype]
    assert 0.001 < off(found[0], truth(spec, text, None)) < {"int8": 0.02, "fp8": 0.1}[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_prefix_that_another_computed_gives_the_bits_of_ones_own(kind):
    spec, dtype = SPECS["grouped"], torch.bfloat16
    own, late = Text(spec, 90, 1, dtype), Text(spec, 90, 1, dtype)
    cache = run(spec, [own], [[30, 60]], 1, dtype, kind)
    late.seq.blocks = [*own.seq.blocks[:5], *(set(range(cache.num_blocks)) - set(own.seq.blocks))][:6]
    step(spec, cache, [(late, 80, 10)], dtype, kind)
    assert torch.equal(late.out[80:], own.out[80:])


@pytest.mark.parametrize("kind", KINDS)
def test_pages_whose_bytes_are_exact_give_the_bits_of_pages_of_the_models_kind(kind):
    """Numbers that the bytes hold exactly, in units of a power of two: both kinds of pages hold the same."""
    spec, dtype = SPECS["grouped"], torch.bfloat16
    exact, plain = Text(spec, 40, 1, dtype), Text(spec, 40, 1, dtype)
    for text in (exact, plain):
        for x in (text.k, text.v):
            codes = torch.randint(-7, 8, x.shape, generator=torch.Generator().manual_seed(3)) * 16
            codes[..., 0] = {"int8": 127, "fp8": 448}[kind]
            x.copy_(codes / 128)
    run(spec, [exact], [[33, 7]], 1, dtype, kind)
    cache = triton_.cache([spec], 8, dtype, DEVICE)
    plain.seq.blocks = [3, 1, 4]
    slices = [Slice(plain.seq, 0, [0] * 40)]
    out = triton_.plan(Batch.of(Plan(slices), DEVICE), [spec], cache)(0, plain.q, plain.k, plain.v)
    assert off(exact.out, out.double().cpu()) < 2e-3, "weights times units are rounded, weights alone elsewhere"
    assert off(exact.out, truth(spec, exact, None)) < BOUNDS[dtype]


# ---------------------------------------------------------------- what goes into the pages


ROWS = st.lists(
    st.one_of(
        st.floats(-(2.0**20), 2.0**20, width=32),
        st.floats(-(2.0**-10), 2.0**-10, width=32),
        st.sampled_from([0.0, -0.0, 2.0**-126, 448.0]),
    ),
    min_size=24,
    max_size=24,
)


@given(rows=st.lists(ROWS, min_size=1, max_size=2))
@settings(max_examples=15, deadline=None, database=None, phases=[Phase.generate])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_bytes_and_units_are_those_that_torch_rounds_to(kind, dtype, rows):
    """To the bit, and within half a step of what was given; other slots stay as they were."""
    x = torch.tensor(rows, dtype=torch.float64).to(dtype)[:, None, :]
    keys, values = (torch.zeros(2, 1, BLOCK_SIZE, 24, dtype=KINDS[kind], device=DEVICE) for _ in range(2))
    units = torch.full((2, 1, BLOCK_SIZE), 7.0, device=DEVICE), torch.full((2, 1, BLOCK_SIZE), 7.0, device=DEVICE)
    slots = [17, 3][: len(rows)]
    given_ = x.to(DEVICE)
    writing.store(given_, given_, given_, keys, values, torch.tensor(slots, device=DEVICE), Turn(), units)
    codes, wanted = counted(x, kind)
    for pages, unit in ((keys.cpu(), units[0].cpu()), (values.cpu(), units[1].cpu())):
        for n, slot in enumerate(slots):
            got, counts = pages[slot // 16, 0, slot % 16], unit[slot // 16, 0, slot % 16]
            if x[n].abs().max() >= 1e-30:
                assert torch.equal(got.view(torch.uint8), codes[n, 0].view(torch.uint8))
                assert counts == wanted[n, 0]
            else:
                assert counts == 0
            error = (got.double() * counts.double() - x[n, 0].double()).abs()
            size, largest = x[n, 0].double().abs(), x[n].double().abs().max()
            bound = largest / 254 if kind == "int8" else torch.maximum(size / 16, largest / 448 / 1024)
            assert (error <= bound * (1 + 1e-6) + 1e-30).all()
        assert (unit == 7).sum() == 32 - len(slots)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [NAN, float("inf")], ids=str)
def test_what_is_not_all_numbers_is_seen_by_those_behind_it_alone(kind, bad):
    spec, dtype = SPECS["grouped"], torch.float32
    text, sound = Text(spec, 12, 1, dtype), Text(spec, 12, 1, dtype)
    text.v[5, 1, 3] = bad
    for each in (text, sound):
        run(spec, [each], [[12]], 1, dtype, kind)
    assert torch.equal(text.out[:5], sound.out[:5])
    assert torch.equal(text.out[:, :3], sound.out[:, :3])
    assert text.out[5:, 3:].isnan().all()


@pytest.mark.parametrize("kind", KINDS)
def test_slots_are_moved_with_their_units_as_if_all_at_once(kind):
    specs = [
        LayerSpec(heads=2, kv_heads=2, head_dim=24, scale=1.0),
        LayerSpec(heads=3, kv_heads=3, head_dim=256, scale=1.0, v_head_dim=16),
    ]
    cache = backend(kind, torch.bfloat16).cache(specs, 6, torch.bfloat16, DEVICE)
    everything = [x.view(torch.uint8) for x in (*cache.k, *cache.v)]
    everything += [x.unsqueeze(-1).view(torch.uint8) for x in (*cache.k_units, *cache.v_units)]
    for x in everything:
        x[:-1] = torch.randint(0, 256, x[:-1].shape, dtype=torch.uint8)
    sources, targets = [3, 95, 7, 40, 41], [95, 3, 8, 41, 42]
    wanted = [x.clone() for x in everything]
    for x, y in zip(wanted, everything, strict=True):
        for a, b in zip(sources, targets, strict=True):
            x[b // BLOCK_SIZE, :, b % BLOCK_SIZE] = y[a // BLOCK_SIZE, :, a % BLOCK_SIZE]
    cache.move(sources, targets)
    assert all(torch.equal(x, y) for x, y in zip(wanted, everything, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_the_cache_has_the_bytes_that_were_counted(kind):
    specs = list(SPECS.values())
    cache = backend(kind, torch.float16).cache(specs, 10, torch.float16, DEVICE)
    floats = bytes_per_token(specs, torch.float16)
    assert cache.bytes == 10 * BLOCK_SIZE * bytes_per_token(specs, KINDS[kind])
    assert bytes_per_token(specs, KINDS[kind]) == floats // 2 + 8 * sum(spec.kv_heads for spec in specs)
    assert cache.k[0].dtype == KINDS[kind]


def test_auto_is_the_backend_that_can_keep_it():
    assert choose_backend("auto", torch.bfloat16, DEVICE, "fp8").__name__.endswith("triton_fp8")
    assert choose_backend("auto", torch.bfloat16, DEVICE, "int8").__name__.endswith("triton_int8")


# ---------------------------------------------------------------- through the engine


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_the_same_in_any_company(stories, kind):
    """Alone, beside each other in chunks, and behind a cached prefix; and the pool holds what such pages take."""
    silent = Speculation(method="none")
    runner = local_runner(stories, attention="triton", kv_cache_dtype=kind, speculative_config=silent)
    assert runner.cache.k[0].dtype == KINDS[kind]
    size = bytes_per_token(runner.model.layers, KINDS[kind])
    assert runner.ready().kv_bytes == runner.cache.num_blocks * BLOCK_SIZE * size <= 1 << 22

    def answers(which, **room) -> dict:
        place = Place(runner, **room)
        for n in which:
            prompt = [1, *range(300, 317), 403 + n]
            place.add(str(n), None, 4, seed=n, prompt=prompt, temperature=n * 1.0)
        return told(place.run())

    alone = answers([0]) | answers([1])
    assert len({tuple(answer) for answer, _, _ in alone.values()}) == 2
    assert answers([0, 1], budget=16) == alone
