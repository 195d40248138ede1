"""Many adapters in one product: what each row gets is its own adapter's, and its bits are its own affair."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loras import HALVES, KINDS, a_delta, a_piece, error, in_halves, kind_of

from quire.kernels import native, reference
from quire.kernels.linear import Linear
from quire.kernels.lora import Delta, Piece, Rows

WAYS = [*(native.cpu.isas() if native.cpu else ()), "torch"]


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Each instruction set of this machine, and torch."""
    torch.set_num_threads(1)
    if request.param == "torch":
        monkeypatch.setattr(native, "cpu", None)
        yield request.param
        return
    before = native.cpu.isa()
    native.cpu.use(request.param)
    yield request.param
    native.cpu.use(before)


SHAPE = st.tuples(st.integers(1, 70), st.integers(1, 150))


@given(
    shape=SHAPE,
    slots=st.lists(st.sampled_from([-1, 0, 1, 2, 5, 31]), min_size=1, max_size=40),
    kinds=st.dictionaries(st.sampled_from([0, 1, 2, 5, 31]), kind_of(), max_size=5),
    bias=st.booleans(),
    pack=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=120, deadline=None)
def test_every_row_gets_its_own_adapter(shape, slots, kinds, bias, pack, seed):
    check_against_reference(shape, slots, kinds, bias, pack, seed)


def check_against_reference(shape, slots, kinds, bias, pack, seed):
    g = torch.Generator().manual_seed(seed)
    inputs, outputs = shape
    weight, b = torch.randn(outputs, inputs, generator=g), torch.randn(outputs, generator=g) if bias else None
    x = torch.randn(len(slots), inputs, generator=g)
    linear = Linear(weight, b, pack=pack)
    plain = linear(x)
    wholes, deltas = {}, {}
    for slot, kind in kinds.items():
        deltas[slot], wholes[slot] = a_delta(g, inputs, outputs, kind)
        linear.put(slot, deltas[slot])
    given_x = x.clone()
    found = linear(x, Rows.of(slots))
    assert torch.equal(x, given_x)
    truth = reference.lora(x, weight, b, slots, deltas, wholes)
    # Where the terms of a sum cancel, its rounding is that of the terms.
    size = max(truth.norm(), weight.norm() * x.norm() / inputs**0.5)
    assert (found.double() - truth).norm() < 2e-6 * size
    alone = [i for i, slot in enumerate(slots) if slot not in deltas]
    assert torch.equal(found[alone], plain[alone])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(64, 172), (172, 64), (300, 7), (1, 1), (3, 1), (1, 3), (768, 129)])
def test_each_kind_of_delta_in_every_way(way, shape, kind):
    slots = [3, -1, 3, 0, 0, 3, 3, 3, -1, 0]
    check_against_reference(shape, slots, {3: (kind, 7), 0: (kind, 64)}, True, True, 1)


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 64, 100, 300])
def test_any_rank(way, rank):
    check_against_reference((45, 83), [0] * 9 + [-1], {0: ("pieces", rank)}, False, True, rank)


@pytest.mark.parametrize(("inputs", "outputs"), [(64, 172), (172, 64), (33, 7), (768, 1280), (7, 1), (1100, 40)])
@pytest.mark.parametrize("ranks", [(1, 1), (3, 8), (16, 64), (5, 12)])
def test_a_rows_bits_depend_on_nothing_but_itself_and_its_adapter(way, inputs, outputs, ranks):
    """Not on how many rows there are, where it stands, who else is there, how many slots, nor its slot's number."""
    g = torch.Generator().manual_seed(5)
    weight = torch.randn(outputs, inputs, generator=g)
    x = torch.randn(333, inputs, generator=g)
    mine = Delta(
        gain=torch.randn(outputs, generator=g),
        offset=torch.randn(outputs, generator=g),
        pieces=(
            *(a_piece(g, inputs, outputs, rank) for rank in ranks),
            *(in_halves(g, a_piece(g, inputs, outputs, 7), kind) for kind in HALVES),
        ),
    )
    first = Linear(weight)
    first.put(0, mine)
    whole = first(x, Rows.of([0] * len(x)))
    for rows in (*range(1, 18), 31, 32, 64, 129):
        assert torch.equal(first(x[:rows], Rows.of([0] * rows)), whole[:rows]), f"{rows} rows"
    assert torch.equal(first(x[200:201], Rows.of([0])), whole[200:201])

    second = Linear(weight)
    second.put(17, mine)
    for slot in (0, 1, 2, 40):
        second.put(slot, a_delta(g, inputs, outputs, ("pieces", 4 + slot))[0])
    for _ in range(6):
        order = torch.randperm(len(x), generator=g)[:150]
        slots = torch.tensor([-1, 0, 1, 2, 17, 17, 40, 99])[torch.randint(8, (150,), generator=g)]
        found = second(x[order], Rows.of(slots.tolist()))
        at = slots == 17
        assert torch.equal(found[at], whole[order[at]])
        at = (slots == -1) | (slots == 99)
        assert torch.equal(found[at], second(x)[order[at]])


@pytest.mark.skipif(native.cpu is None, reason="the C++ kernels were not built")
@pytest.mark.parametrize("slots", [[0], [1], [2], [0] * 40, [0, 1, 2, 3] * 3, [1] * 5 + [2] * 3, [3] * 300 + [0]])
def test_any_number_of_threads_gives_the_same_bits(slots):
    """Rows are shared out among threads, or, where they are few, the weights."""
    g = torch.Generator().manual_seed(6)
    linear = Linear(torch.randn(1100, 900, generator=g))
    for slot, kind in enumerate(("pieces", "all but whole", "halves", "many pieces")):
        linear.put(slot, a_delta(g, 900, 1100, (kind, 60))[0])
    x = torch.randn(len(slots), 900, generator=g)
    found = []
    for threads in (1, 2, 5):
        native.cpu.threads(threads)
        try:
            found.append(linear(x, Rows.of(slots)))
        finally:
            native.cpu.threads(1)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_factors_of_16_bits_stay_so_where_they_are_read_and_are_plain_elsewhere(way):
    g = torch.Generator().manual_seed(7)
    piece = in_halves(g, a_piece(g, 64, 40, 9), torch.bfloat16)
    linear = Linear(torch.randn(40, 64, generator=g))
    linear.put(0, Delta(pieces=(piece,)))
    assert (linear.deltas._by_slot[0].pieces[0] is piece) == (way != "torch")
    x = torch.randn(5, 64, generator=g)
    plain = Linear(linear.dense())
    plain.put(0, Delta(pieces=(piece.plain(),)))
    rows = Rows.of([0] * 5)
    torch.testing.assert_close(linear(x, rows), plain(x, rows), rtol=1e-5, atol=1e-5)


def test_rows_that_lie_apart_in_memory(way):
    """x may be a part of something wider; what lies around it is neither read nor written."""
    g = torch.Generator().manual_seed(2)
    linear = Linear(torch.randn(40, 21, generator=g))
    linear.put(0, Delta(pieces=(a_piece(g, 21, 40, 5),)))
    wide = torch.full((9, 50), float("nan"))
    wide[:, 11:32] = torch.randn(9, 21, generator=g)
    x = wide[:, 11:32]
    rows = Rows.of([0] * 9)
    assert torch.equal(linear(x, rows), linear(x.contiguous(), rows))
    across = torch.randn(21, 9, generator=g).t()
    assert torch.equal(linear(across, rows), linear(across.contiguous(), rows))


@pytest.mark.parametrize("isa", [way for way in WAYS if way != "torch"])
@given(
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 60),
    rank=st.integers(1, 20),
    rows=st.integers(1, 9),
    kind=st.sampled_from([torch.float32, *HALVES]),
    data=st.data(),
)
@settings(max_examples=120, deadline=None)
def test_the_native_kernel_writes_its_outputs_and_nothing_else(isa, inputs, outputs, rank, rows, kind, data):
    """Around x, y, a and b lies poison: NaN to be read by mistake, and a pattern that must still be there after."""
    start = data.draw(st.integers(0, outputs - 1))
    width = data.draw(st.integers(1, outputs - start))
    g = torch.Generator().manual_seed(rank)

    def walled(*shape, kind=torch.float32):
        size = torch.Size(shape).numel()
        wall = torch.full((size + 64,), float("nan"), dtype=kind)
        wall[32 : 32 + size] = torch.randn(size, generator=g)
        return wall[32 : 32 + size].view(shape), wall

    (a, _), (b, _), (x, _) = walled(rank, inputs, kind=kind), walled(rank, width, kind=kind), walled(rows, inputs)
    scales, _ = walled(rank)
    y, wall = walled(rows, outputs)
    before, untouched = y.clone(), wall.clone()
    linear = Linear(torch.zeros(outputs, inputs))
    piece = Piece(a, b.t(), start, scales)
    assert piece.a.data_ptr() == a.data_ptr()
    assert piece.b.data_ptr() == b.data_ptr()
    linear.put(2, Delta(pieces=(piece,)))
    slots = data.draw(st.lists(st.sampled_from([-1, 2]), min_size=rows, max_size=rows))
    native.cpu.use(isa)
    try:
        found = linear.deltas.apply(lambda _: y, x, Rows.of([*slots[:-1], 2]))
    finally:
        native.cpu.use(native.cpu.isas()[-1])
    assert found is y
    wanted = before.double()
    for row, slot in enumerate([*slots[:-1], 2]):
        if slot == 2:
            wanted[row, start : start + width] += b.double().t() @ (scales * (a.double() @ x[row].double()))
    torch.testing.assert_close(y.double(), wanted, rtol=1e-4, atol=1e-5)
    outside = torch.ones_like(y, dtype=torch.bool)
    outside[[i for i, slot in enumerate([*slots[:-1], 2]) if slot == 2], start : start + width] = False
    assert torch.equal(y[outside], before[outside])
    assert torch.equal(wall[:32].view(torch.int32), untouched[:32].view(torch.int32))
    assert torch.equal(wall[-32:].view(torch.int32), untouched[-32:].view(torch.int32))


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 2e-2), (torch.float16, 2e-3), (torch.float64, 1e-12)])
def test_other_kinds_of_numbers_run_in_torch(dtype, bound):
    g = torch.Generator().manual_seed(3)
    weight, x = torch.randn(90, 64, generator=g).to(dtype), torch.randn(12, 64, generator=g).to(dtype)
    r = lambda *shape: torch.randn(shape, generator=g).to(dtype)  # noqa: E731
    deltas = {slot: Delta(gain=r(90), pieces=(Piece(r(slot, 64), r(50, slot), 20),)) for slot in (1, 4, 16)}
    linear = Linear(weight)
    for slot, delta in deltas.items():
        linear.put(slot, delta)
    slots = [1, 4, -1, 16, 4, 4, 1, -1, 16, 16, 16, 2]
    found = linear(x, Rows.of(slots))
    assert found.dtype == dtype
    assert error(found, reference.lora(x, weight, None, slots, deltas)) < bound
    assert torch.equal(found[2], linear(x)[2])


# --- which rows, which slots


@given(st.lists(st.integers(-2, 6), max_size=60), st.data())
@settings(deadline=None)
def test_rows_are_grouped_by_slot(slots, data):
    rows = Rows.of(slots)
    if all(slot < 0 for slot in slots):
        assert rows is None
        return
    assert rows.count == len(slots)
    assert rows.slots == tuple(sorted({slot for slot in slots if slot >= 0}))
    for slot, at in rows.groups.items():
        assert at.tolist() == [i for i, other in enumerate(slots) if other == slot]
    wanted = data.draw(st.lists(st.integers(0, len(slots) - 1), max_size=10))
    chosen = rows.select(torch.tensor(wanted, dtype=torch.int64))
    again = Rows.of([slots[i] for i in wanted])
    assert (chosen is None) == (again is None)
    if chosen is not None:
        assert chosen.table.tolist() == again.table.tolist()
        assert rows.select(wanted).table.tolist() == again.table.tolist()


@given(st.lists(st.tuples(st.sampled_from([0, 1, 7, 8, 9, 100]), st.integers(0, 4)), min_size=1, max_size=30))
@settings(deadline=None)
def test_slots_are_filled_emptied_and_filled_again(acts):
    """Whatever was put and dropped before, a slot does what was put into it last."""
    g = torch.Generator().manual_seed(1)
    weight, x = torch.randn(20, 12, generator=g), torch.randn(12, 12, generator=g)
    choices = [a_delta(g, 12, 20, (kind, 3))[0] for kind in ("pieces", "gains", "offset", "all but whole")]
    linear, held = Linear(weight), {}
    slots = [0, 1, 7, 8, 9, 100] * 2
    for slot, act in acts:
        if act == len(choices):
            linear.drop(slot)
            held.pop(slot, None)
        else:
            linear.put(slot, choices[act])
            held[slot] = choices[act]
        assert (linear.deltas is None) == (not held)
        assert linear.deltas is None or len(linear.deltas) == len(held)
        found = linear(x, Rows.of(slots))
        assert error(found, reference.lora(x, weight, None, slots, held)) < 2e-6


def test_a_product_that_no_slot_of_the_step_changes_computes_the_base_alone():
    linear = Linear(torch.randn(5, 4))
    linear.put(1, Delta(offset=torch.ones(5)))
    x = torch.randn(3, 4)
    assert torch.equal(linear(x, Rows.of([0, 2, -1])), linear(x))
    assert torch.equal(linear(x[:0], None), linear(x[:0]))


def test_a_base_whose_rows_all_have_a_product_of_their_own_is_not_computed():
    linear, own = Linear(torch.randn(5, 4)), Linear(torch.randn(5, 4), torch.randn(5))
    linear.put(0, Delta(whole=own))
    x = torch.randn(3, 4)

    def base(_):
        raise AssertionError("the base was computed")

    assert torch.equal(linear.deltas.apply(base, x, Rows.of([0, 0, 0])), own(x))


def test_b_lies_as_the_kernels_read_it_and_is_copied_once():
    b = torch.randn(9, 3)
    piece = Piece(torch.randn(3, 4), b)
    assert torch.equal(piece.b, b)
    assert piece.b.t().is_contiguous()
    assert Piece(piece.a, piece.b).b.data_ptr() == piece.b.data_ptr()


# --- what does not fit is refused, and changes nothing


def bad_deltas():
    z = torch.zeros
    yield Delta(pieces=(Piece(z(2, 5), z(6, 2)),)), r"pieces\[0\]\.a is \[2, 5\], expected \[rank, 4\]"
    yield Delta(pieces=(Piece(z(2, 4), z(5, 2), 2),)), r"pieces\[0\] changes the outputs \[2, 7\), the product has 6"
    yield Delta(pieces=(Piece(z(2, 4), z(5, 2), -1),)), r"outputs \[-1, 4\)"
    yield Delta(gain=z(5)), r"gain is \[5\], expected \[6\]"
    yield Delta(offset=z(6, 1)), r"offset is \[6, 1\], expected \[6\]"
    yield Delta(gain_in=z(6)), r"gain_in is \[6\], expected \[4\]"
    yield Delta(whole=Linear(z(6, 5))), r"whole is \[6, 5\], expected \[6, 4\]"
    yield Delta(gain=z(6).half()), r"gain is torch.float16 on cpu, expected torch.float32 on cpu"
    yield Delta(gain=z(6), offset=z(6).half()), r"offset is torch.float16"
    scaled = Piece(z(2, 4).half(), z(5, 2).half(), 0, z(2).half())
    yield Delta(gain=z(6), pieces=(scaled,)), r"pieces\[0\]\.scales is torch.float16 on cpu, expected torch.float32"


@pytest.mark.parametrize(("delta", "message"), bad_deltas())
def test_what_does_not_fit_a_product_is_refused(delta, message):
    linear = Linear(torch.randn(6, 4))
    if "expected torch.float32" not in message:
        with pytest.raises(ValueError, match=message):
            linear.put(0, delta)
        assert linear.deltas is None
    good = Delta(offset=torch.ones(6))
    linear.put(0, good)
    linear.put(1, good)
    with pytest.raises(ValueError, match=message):
        linear.put(1, delta)
    x = torch.randn(2, 4)
    assert torch.equal(linear(x, Rows.of([1, 0])), linear(x) + 1)


def test_a_step_that_does_not_fit_is_refused():
    linear = Linear(torch.randn(6, 4))
    linear.put(0, Delta(offset=torch.ones(6)))
    with pytest.raises(ValueError, match="rows tells of 2 rows, x has 3"):
        linear(torch.randn(3, 4), Rows.of([0, 0]))
    with pytest.raises(ValueError, match=r"the adapters are torch\.float32"):
        linear.deltas.apply(lambda x: x, torch.randn(2, 4).half(), Rows.of([0, 0]))
    with pytest.raises(ValueError, match="slot is -1, expected 0 or more"):
        linear.put(-1, Delta(offset=torch.ones(6)))


@pytest.mark.parametrize(
    ("a", "b"), [((2, 4), (6, 3)), ((0, 4), (6, 0)), ((4,), (6, 1)), ((2, 4, 1), (6, 2))]
)  # fmt: skip
def test_factors_that_do_not_fit_each_other_are_refused(a, b):
    with pytest.raises(ValueError, match="expected"):
        Piece(torch.zeros(a), torch.zeros(b))
    with pytest.raises(ValueError, match="expected the same"):
        Piece(torch.zeros(2, 4), torch.zeros(6, 2).half())
    with pytest.raises(ValueError, match=r"scales is \[3\] on cpu, expected \[2\] on cpu"):
        Piece(torch.zeros(2, 4), torch.zeros(6, 2), scales=torch.zeros(3))
    with pytest.raises(ValueError, match=r"a is torch\.float64, expected one of torch\.float32, torch\.bfloat16"):
        Piece(torch.zeros(2, 4).double(), torch.zeros(6, 2).double(), scales=torch.zeros(2))


@pytest.mark.skipif(native.cpu is None, reason="the C++ kernels were not built")
def test_the_native_module_refuses_what_it_cannot_take():
    with pytest.raises(ValueError, match="no instruction set 'mmx'"):
        native.cpu.use("mmx")
    with pytest.raises(TypeError, match="lora takes 9 numbers, got 1"):
        native.cpu.lora(1)
    with pytest.raises(TypeError):
        native.cpu.lora(*[0] * 8, "x")
    assert native.cpu.isa() == native.cpu.isas()[-1]
    assert native.described() == f"C++ ({native.cpu.isa()})"


@pytest.mark.parametrize("module", ["None", "types.SimpleNamespace(VERSION=0)"])
def test_without_the_native_module_or_with_an_old_one_torch_serves_and_the_log_says_so(module):
    code = (
        "import sys, types, quire.kernels\n"
        f"sys.modules['quire.kernels._cpu'] = quire.kernels._cpu = {module}\n"
        "if quire.kernels._cpu is None: del quire.kernels._cpu\n"
        "import torch; from quire.kernels import lora, native\n"
        "print(native.described(), lora.way_of(torch.float32, torch.device('cpu')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["torch", "torch"]
    assert "the C++ kernels for the CPU are not there" in done.stderr
