"""Keys and values in 8 bits: what the pages hold, what that costs, and that one bad token harms no other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.engine.attention import LayerSpec, choose_backend, native_, native_int8
from quire.engine.batch import Batch
from quire.engine.cache import KVCache, bytes_per_token
from quire.engine.config import BLOCK_SIZE
from quire.engine.errors import ConfigError
from quire.engine.messages import SamplingParams
from quire.engine.plan import Plan, Slice
from quire.engine.sequence import Sequence
from quire.kernels import attention as kernel
from quire.kernels import native

pytestmark = pytest.mark.skipif(native.cpu is None, reason="the C++ kernels were not built")

CPU = torch.device("cpu")
SPECS = [
    LayerSpec(heads=6, kv_heads=2, head_dim=64, scale=0.125),
    LayerSpec(heads=4, kv_heads=4, head_dim=128, scale=128**-0.5, window=200),
    LayerSpec(heads=5, kv_heads=1, head_dim=19, scale=0.2, v_head_dim=13, softcap=4.0),
]
NAN = float("nan")


@pytest.fixture(autouse=True, params=native.cpu.isas() if native.cpu else [None])
def isa(request):
    native.set_threads(1)
    before = native.kernels().isa()
    native.kernels().use(request.param)
    yield request.param
    native.kernels().use(before)


def given_to(spec: LayerSpec, length: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    v_dim = spec.v_head_dim or spec.head_dim
    shapes = (spec.heads, spec.head_dim), (spec.kv_heads, spec.head_dim), (spec.kv_heads, v_dim)
    q, k, v = (torch.randn(length, *shape, generator=g) for shape in shapes)
    return q, k, v


def attend(spec: LayerSpec, q, k, v, cuts=(), backend=native_int8) -> tuple[torch.Tensor, KVCache]:
    """All of one sequence, in slices that end at `cuts`; its pages stand in falling order."""
    length = len(q)
    count = -(-length // BLOCK_SIZE)
    cache = backend.cache([spec], count, torch.float32, CPU)
    seq = Sequence("r", 0, [0] * length, SamplingParams(max_tokens=1, seed=0))
    seq.blocks = list(reversed(range(count)))
    found = []
    for start, end in zip([0, *cuts], [*cuts, length], strict=True):
        step = backend.plan(Batch.of(Plan([Slice(seq, start, [0] * (end - start))]), CPU), [spec], cache)
        found.append(step(0, q[start:end], k[start:end], v[start:end]))
    return torch.cat(found), cache


def held(cache: KVCache, length: int) -> list[torch.Tensor]:
    """[length, kv_heads, D] codes of keys, of values, and [length, kv_heads] the units of both."""
    pages = torch.tensor([cache.num_blocks - 1 - i // BLOCK_SIZE for i in range(length)])
    places = torch.arange(length) % BLOCK_SIZE
    return [x[where] for x, where in cache.at(pages, places)]


def off(found: torch.Tensor, truth: torch.Tensor) -> float:
    return ((found.double() - truth.double()).norm() / truth.double().norm()).item()


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_pages_hold_127_steps_of_the_largest_of_each_token_and_head(spec):
    q, k, v = given_to(spec, 70, 1)
    k *= torch.logspace(-20, 20, 70)[:, None, None]
    cache = attend(spec, q * 0, k, v, [3, 33])[1]
    codes_k, codes_v, units_k, units_v = held(cache, 70)
    for x, codes, units in ((k, codes_k, units_k), (v, codes_v, units_v)):
        top = x.abs().amax(-1)
        assert torch.equal(units, top / 127)
        assert torch.equal(codes.abs().amax(-1), torch.full(codes.shape[:2], 127, dtype=torch.int8))
        assert torch.equal(codes, (x * (torch.full_like(top, 127) / top)[..., None]).round().to(torch.int8))
        assert ((codes * units[..., None] - x).abs() <= 0.5001 * units[..., None]).all()


@pytest.mark.parametrize("spec", SPECS, ids=range(len(SPECS)))
def test_attention_is_that_over_what_the_pages_hold(spec):
    q, k, v = given_to(spec, 1500, 2)
    found, cache = attend(spec, q, k, v, [700, 1200, 1499])
    codes_k, codes_v, units_k, units_v = (x.double() for x in held(cache, 1500))
    rows = [0, 1, 17, 300, 1023, 1024, 1499]
    for row in rows:
        keys, values = (c[: row + 1] * u[: row + 1, :, None] for c, u in ((codes_k, units_k), (codes_v, units_v)))
        truth = kernel.reference(q[row : row + 1].double(), keys, values, spec.scale, spec.window, spec.softcap)
        assert off(found[row : row + 1], truth) < 1e-5
    truth = kernel.reference(q[-200:], k, v, spec.scale, spec.window, spec.softcap)
    assert 1e-4 < off(found[-200:], truth) < 1.5e-2, "as 8 bits have it: no better, no worse"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_token_that_is_no_number_or_nothing_harms_no_other(isa, data):
    """Rows before it, and rows whose window it left, keep their bits; rows that see one that is no number are none."""
    windowed = data.draw(st.booleans())
    spec = LayerSpec(heads=4, kv_heads=2, head_dim=12, scale=0.3, window=20 if windowed else None)
    length = data.draw(st.integers(2, 170))
    bad = data.draw(st.integers(0, length - 1))
    what = data.draw(st.sampled_from([NAN, float("inf"), -float("inf"), 0.0, 1e-35]))
    small = what in (0.0, 1e-35)
    which = data.draw(st.sampled_from(["key", "value", "both"]))
    head = data.draw(st.integers(0, 1))
    q, k, v = given_to(spec, length, length)
    clean = attend(spec, q, k, v)[0]
    for x in {"key": (k,), "value": (v,), "both": (k, v)}[which]:
        if small:
            x[bad, head] = what
        else:
            x[bad, head, data.draw(st.integers(0, 11))] = what
    found = attend(spec, q, k, v, sorted(data.draw(st.sets(st.integers(1, length - 1), max_size=3))))[0]
    sees = torch.zeros(length, 4, dtype=torch.bool)
    sees[bad : bad + (20 if windowed else length), 2 * head : 2 * head + 2] = True
    assert torch.equal(found[~sees], clean[~sees])
    if small:
        truth = kernel.reference(q, k, v, spec.scale, spec.window)
        assert off(found, truth) < 2e-2
    else:
        assert found[sees].isnan().all()


def test_the_largest_numbers_there_are_do_not_overflow_on_the_way_in():
    spec = SPECS[0]
    q, k, v = given_to(spec, 20, 3)
    v = v.sign() * torch.finfo(torch.float32).max / 32  # 20 of them are summed
    found, cache = attend(spec, q, k, v)
    assert (held(cache, 20)[1].abs() == 127).all()
    assert torch.isfinite(found).all()


def test_values_moved_go_with_their_units():
    spec = SPECS[0]
    q, k, v = given_to(spec, 40, 4)
    k *= torch.arange(1, 41)[:, None, None]
    cache = attend(spec, q, k, v)[1]
    before = held(cache, 40)
    slot = lambda place: (2 - place // BLOCK_SIZE) * BLOCK_SIZE + place % BLOCK_SIZE  # noqa: E731
    cache.move([slot(3), slot(16)], [slot(16), slot(3)])
    for x in before:
        x[[3, 16]] = x[[16, 3]]
    assert all(torch.equal(a, b) for a, b in zip(held(cache, 40), before, strict=True))


def test_a_page_takes_a_quarter_and_the_units():
    in_bytes, in_floats = (backend.cache(SPECS, 10, torch.float32, CPU) for backend in (native_int8, native_))
    assert in_bytes.bytes == 10 * BLOCK_SIZE * bytes_per_token(SPECS, torch.int8)
    units = 10 * BLOCK_SIZE * 8 * sum(spec.kv_heads for spec in SPECS)
    assert in_bytes.bytes == in_floats.bytes // 4 + units


@pytest.mark.parametrize(("name", "dtype"), [("torch", torch.float32), ("auto", torch.bfloat16)])
def test_other_backends_refuse_by_name(name, dtype):
    with pytest.raises(ConfigError, match="kv_cache_dtype is 'int8', and attention is the backend torch"):
        choose_backend(name, dtype, CPU, "int8")
    with pytest.raises(ConfigError, match="kv_cache_dtype is 'int4'"):
        choose_backend(name, dtype, CPU, "int4")
    assert choose_backend("native", torch.float32, CPU, "int8") is native_int8
