"""The C++ products: right for every kind of weight on every instruction set, and a row's bits are its own affair."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.kernels import native, ops
from quire.kernels.before import ACTIVATIONS
from quire.kernels.linear import Linear
from quire.kernels.matrix import Matrix, group_of
from quire.kernels.quantized import GROUPS, MIDDLE, Quantized, join, quantize

pytestmark = pytest.mark.skipif(native.cpu is None, reason="the C++ kernels were not built")

FLOATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WHOLES = {"int8": 8, "int4": 4}
KINDS = [*FLOATS, *WHOLES]
ISAS = native.cpu.isas() if native.cpu else []


@pytest.fixture(params=[(isa, threads) for isa in ISAS for threads in (1, 2)], ids=lambda p: f"{p[0]}-{p[1]}")
def machine(request):
    """Each instruction set of this machine, alone and with two threads."""
    before = native.kernels().isa()
    native.kernels().use(request.param[0])
    native.kernels().threads(request.param[1])
    yield request.param[0]
    native.kernels().use(before)
    native.kernels().threads(1)


def randoms(seed: int):
    g = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=g)


def make(kind: str, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
    if kind in WHOLES:
        return Linear(weight, bias, form=kind)
    return Linear(weight.to(FLOATS[kind]), bias, computed=torch.float32)


def off(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found.double() - truth).norm() / truth.norm())


def in_words(bits: int) -> bool:
    """Whether rows count with 16 bits beside weights of so many."""
    return bits == 8 and not native.multiplies_bytes()


def bound(kind: str) -> float:
    """What a product may be off, of its norm: float32 sums; before them rows in 16 bits, or in 8 by runs of 32."""
    return 1e-6 if kind in FLOATS else 1e-4 if in_words(WHOLES[kind]) else 1e-2


def counted(x: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """Rows as the products with whole numbers see them, float64."""
    run, most = (x.shape[1], 32767) if in_words(bits) else (min(group, 32), 127)
    parts = torch.nn.functional.pad(x, (0, -x.shape[1] % run)).unflatten(1, (-1, run))
    top = parts.abs().amax(-1, keepdim=True)
    codes = torch.round(parts * (most / top))
    return (codes.double() * (top.double() / most)).flatten(1)[:, : x.shape[1]]


SHAPES = [(64, 172), (512, 64), (17, 768), (300, 896), (7, 1100), (96, 2816), (7, 33), (1, 1), (16, 513)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_a_product_is_right_and_its_rows_stand_alone(machine, kind, outputs, inputs):
    check_product(kind, outputs, inputs)


@pytest.mark.parametrize("rows_in_bytes", [False, True], ids=["words", "bytes"])
def test_eight_bits_are_right_beside_rows_of_sixteen_and_of_eight(machine, monkeypatch, rows_in_bytes):
    """However the machine has it: what is packed for one is right on all of them."""
    monkeypatch.setattr(native, "multiplies_bytes", lambda: rows_in_bytes)
    for outputs, inputs in SHAPES:
        check_product("int8", outputs, inputs)
    for group, lows in itertools.product(GROUPS, (False, True)):
        check_quantized(8, group, 37, 2 * group + 33, 8, lows, 5)


def check_product(kind, outputs, inputs):
    some = randoms(outputs + inputs)
    bias, x, more = some(outputs), some(201, inputs), some(201, outputs)
    linear = make(kind, some(outputs, inputs), bias)
    whole = linear(x)
    assert off(whole, x.double() @ linear.dense().double().T + bias) < bound(kind)
    if kind in WHOLES:
        seen = counted(x, WHOLES[kind], 32)
        assert off(whole, seen @ linear.dense().double().T + bias) < 1e-5  # but for codes on the edge of two
    for rows in (*range(15), 24, 53, 64, 150):
        assert torch.equal(linear(x[:rows]), whole[:rows]), f"{rows} rows"
    assert torch.equal(linear(x[77:78]), whole[77:78])
    assert torch.equal(linear(x, add=more), whole + more)
    wide = some(201, 2 * inputs)
    wide[:, :inputs] = x
    assert torch.equal(linear(wide[:, :inputs]), whole)  # rows that do not lie side by side
    assert torch.equal(linear(x.T.contiguous().T), whole)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inputs", [64, 172])
def test_what_comes_before_a_product_is_what_it_is_by_itself(machine, kind, inputs):
    some = randoms(inputs)
    linear = make(kind, some(70, inputs))
    norm = ops.Norm(some(inputs), 1e-5)
    x, wide = some(33, inputs), 4 * some(33, 2 * inputs)
    assert torch.equal(linear(x, before=norm), linear(norm(x)))
    for name in ACTIVATIONS:
        gate = ops.Gate(name)
        assert torch.equal(linear(wide, before=gate), linear(gate(wide)))
        truth = ACTIVATIONS[name](wide[:, :inputs].double()) * wide[:, inputs:].double()
        torch.testing.assert_close(gate(wide).double(), truth, rtol=1e-5, atol=1e-5)
        for rows in (1, 2, 17):
            assert torch.equal(gate(wide[:rows]), gate(wide)[:rows])
    wide64 = x.double()
    truth = wide64 * torch.rsqrt(wide64.square().mean(-1, keepdim=True) + 1e-5) * norm.weight.double()
    torch.testing.assert_close(norm(x).double(), truth, rtol=1e-5, atol=1e-6)


def test_gates_far_from_zero(machine):
    x = torch.tensor(
        [-1e30, -200.0, -88.5, -20.0, -0.0, 0.0, 1e-20, 20.0, 88.5, 200.0, 1e30, float("inf"), float("nan")]
    )
    for name in ACTIVATIONS:
        found = ops.Gate(name)(torch.cat([x, torch.ones_like(x)])[None])[0]
        truth = ACTIVATIONS[name](x.double())
        torch.testing.assert_close(found.double(), truth, rtol=1e-5, atol=1e-5, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([8, 4]),
    st.sampled_from(GROUPS),
    st.integers(1, 70),
    st.integers(1, 700),
    st.integers(1, 20),
    st.booleans(),
    st.integers(0, 99),
)
def test_any_quantized_matrix(bits, group, outputs, inputs, rows, lows, seed):
    check_quantized(bits, group, outputs, inputs, rows, lows, seed)


def check_quantized(bits, group, outputs, inputs, rows, lows, seed):
    g = torch.Generator().manual_seed(seed)
    some = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    groups = -(-inputs // group)
    low, high = (-128, 128) if bits == 8 else (0, 16)
    codes = torch.randint(low, high, (outputs, inputs), generator=g).to(torch.int8 if bits == 8 else torch.uint8)
    matrix = Quantized(codes, some(outputs, groups), bits, group, some(outputs, groups) if lows else None)
    linear, x = Linear(matrix), some(rows, inputs)
    torch.testing.assert_close(linear.dense(), matrix.dense(), rtol=1e-6, atol=1e-6)
    dense = matrix.dense().double()
    found = linear(x).double()
    edges = 1e-5 if in_words(bits) else 1e-4  # codes on the edge of two: of 254 steps, one counts
    assert float((found - counted(x, bits, group) @ dense.T).norm()) <= edges * float(x.double().norm() * dense.norm())
    assert float((found - x.double() @ dense.T).norm()) <= (1e-4 if in_words(bits) else 1e-2) * float(
        x.double().norm() * dense.norm()
    )


@pytest.mark.parametrize("sizes", [(32, 16, 16), (20, 7, 9), (5,)])
@pytest.mark.parametrize("kind", KINDS)
def test_matrices_side_by_side(kind, sizes):
    some = randoms(3)
    parts = [some(size, 96) for size in sizes]
    if kind in WHOLES:
        whole, expected = (
            Linear(parts, form=kind),
            torch.cat([quantize(p, WHOLES[kind], 32).dense() for p in parts]),
        )
    else:
        kept = [p.to(FLOATS[kind]) for p in parts]
        whole, expected = Linear(kept, computed=torch.float32), torch.cat(kept).float()
    assert torch.equal(whole.dense(), expected)


def test_matrices_of_several_kinds_side_by_side():
    some = randoms(4)
    small, large = quantize(some(32, 256), 4, 128), quantize(some(16, 256), 8, 32)
    lows = Quantized(small.codes, small.scale, 4, 128, torch.ones_like(small.scale))
    for parts in ([small, large], [large, lows], [lows, small]):
        assert torch.equal(join(parts).dense(), torch.cat([p.dense() for p in parts]))
        assert torch.equal(Linear(parts).dense(), torch.cat([p.dense() for p in parts]))
    plain = some(16, 256)
    for part in (small, large, lows):
        found = Linear([part, plain], computed=torch.float32).dense()
        assert torch.equal(found[: len(part.codes)], part.dense()), "it stays as it is beside one that is quantized now"
        torch.testing.assert_close(found[len(part.codes) :], plain, rtol=0, atol=plain.abs().max().item() / 250)
    mixed = Linear([some(16, 64).bfloat16(), some(16, 64).half()], computed=torch.float32)
    assert mixed.dense().shape == (32, 64)


@pytest.mark.parametrize("bits", [8, 4])
def test_quantizing_meets_the_largest_and_zero(bits):
    weight = randoms(5)(9, 256)
    weight[3] = 0
    found = quantize(weight, bits, 64).dense()
    step = weight.view(9, 4, 64).abs().amax(-1) / (127 if bits == 8 else 8)
    assert ((found - weight).view(9, 4, 64).abs().amax(-1) <= step * (0.5001 if bits == 8 else 1.0001)).all()
    assert torch.equal(found[3], torch.zeros(256))
    largest = weight.view(9, 4, 64).abs().argmax(-1, keepdim=True)
    torch.testing.assert_close(found.view(9, 4, 64).gather(-1, largest), weight.view(9, 4, 64).gather(-1, largest))


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("outputs", "inputs"), [*SHAPES, (20, 35), (130, 200)])
def test_quantizing_on_the_way_into_a_matrix_is_quantizing_before_it(machine, kind, bits, outputs, inputs):
    randn = randoms(outputs + inputs)
    weight = (randn(outputs, inputs) * randn(outputs, 1)).to(FLOATS[kind])
    weight[0, :40] = 0
    weight[-1, : inputs // 2] = weight[-1].abs().max() * 3  # the largest of a group, more than once, of either sign
    weight[-1, 1 : inputs // 2 : 2] *= -1
    found, expected = Matrix.of([weight], bits=bits), Matrix.of([quantize(weight, bits, group_of(inputs, bits))])
    x = randn(9, inputs)
    assert torch.equal(found.dense(), expected.dense())
    assert torch.equal(found.product(x), expected.product(x))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers_spoil_their_own_output_only(machine, bits, odd):
    weight = randoms(1)(20, 200)
    whole = Matrix.of([weight], bits=bits).product(torch.ones(1, 200))
    weight[7, 150] = odd
    found = Matrix.of([weight], bits=bits).product(torch.ones(1, 200))
    assert found[0, 7].isnan()
    others = [n for n in range(20) if n != 7]
    assert torch.equal(found[0, others], whole[0, others])


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_is_no_number_harms_no_other(machine, kind):
    some = randoms(6)
    linear, x = make(kind, some(40, 300)), some(7, 300)
    clean = linear(x)
    for bad in (float("nan"), float("inf"), -float("inf"), 3e38):
        x[2, 250] = bad
        found = linear(x)
        assert not torch.isfinite(found[2]).all() or bad == 3e38
        others = [0, 1, 3, 4, 5, 6]
        assert torch.equal(found[others], clean[others])
    for nothing in (0, 1e-38, 1e-42):
        x[2] = nothing
        assert linear(x)[2].abs().max() < 1e-30
        assert torch.equal(linear(x)[others], clean[others])


def test_what_does_not_fit_is_refused():
    codes, scale = torch.zeros(4, 64, dtype=torch.int8), torch.ones(4, 2)
    for found, message in (
        (lambda: Quantized(codes, scale, 3, 32), "bits is 3"),
        (lambda: Quantized(codes, scale, 8, 31), "group 31"),
        (lambda: Quantized(codes, scale, 4, 32), r"codes is torch.int8 .*expected torch.uint8"),
        (lambda: Quantized(codes, scale[:, :1], 8, 32), r"scale is .*\[4, 1\], expected float32 \[4, 2\]"),
        (lambda: Quantized(codes, scale, 8, 32, scale.double()), "low is torch.float64"),
    ):
        with pytest.raises(ValueError, match=message):
            found()
    assert MIDDLE == {8: 0, 4: 8}
    with pytest.raises(ValueError, match="0 threads, expected 1 to 1024"):
        native.kernels().threads(0)


@pytest.mark.parametrize("row", [-1, 40, 10**9])
def test_a_row_that_is_not_there_is_refused(row):
    matrix = Linear(randoms(0)(40, 64)).matrix
    assert matrix.rows(torch.tensor([0, 39])).shape == (2, 64)
    assert matrix.rows(torch.tensor([], dtype=torch.int64)).shape == (0, 64)
    with pytest.raises(IndexError, match="expected 0 to 39"):
        matrix.rows(torch.tensor([3, row]))


def test_more_threads_than_cores_and_fewer_again():
    some = randoms(9)
    linear, x = make("float32", some(600, 512)), some(100, 512)
    alone = linear(x)
    try:
        for threads in (1, 7, 2, 5, 1, 3):
            native.kernels().threads(threads)
            for _ in range(20):
                assert torch.equal(linear(x), alone)
    finally:
        native.kernels().threads(1)


def test_products_of_several_threads_at_once():
    """The pool serves one caller; the others compute by themselves, and all are right."""
    from concurrent.futures import ThreadPoolExecutor

    some = randoms(8)
    linear, x = make("int8", some(600, 1024)), some(40, 1024)
    native.kernels().threads(2)
    try:
        alone = linear(x)
        with ThreadPoolExecutor(6) as crowd:
            for found in crowd.map(lambda _: linear(x), range(200)):
                assert torch.equal(found, alone)
    finally:
        native.kernels().threads(1)
