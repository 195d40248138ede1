"""Attention in Triton: on a GPU as it is, elsewhere by Triton's interpreter. Run by test_attention_triton.py."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from chunks import steps
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.engine.attention import LayerSpec, Turn, choose_backend, tiling, triton_
from quire.engine.batch import Batch
from quire.engine.cache import KVCache
from quire.engine.config import BLOCK_SIZE
from quire.engine.errors import ConfigError
from quire.engine.messages import SamplingParams
from quire.engine.plan import Plan, Slice
from quire.engine.sequence import Sequence
from quire.kernels import attention as truths
from quire.kernels.ops import Norm
from quire.kernels.triton import attention as kernel

DEVICE = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
NAN = float("nan")
SEGMENT = kernel.SEGMENT


@pytest.fixture(autouse=True)
def short_segments_and_poisoned_outputs(monkeypatch):
    """Segments of 64 keys, so that a hundred tokens have several; fresh memory holds NaN."""
    monkeypatch.setattr(kernel, "SEGMENT", 64)
    for forms in kernel.TILES.values():  # segments are whole tiles of keys
        monkeypatch.setitem(forms, "low", tuple(replace(one, keys=min(one.keys, 64)) for one in forms["low"]))
    empty = torch.Tensor.new_empty

    def poisoned(self, *args, **kwargs):
        found = empty(self, *args, **kwargs)
        return found.fill_(NAN) if found.is_floating_point() else found.fill_(-1)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)


class Text:
    """A sequence: its q, k, v at every place, where its keys and values are, and what came out."""

    def __init__(self, spec: LayerSpec, length: int, seed: int, dtype: torch.dtype):
        g = torch.Generator().manual_seed(seed)
        v_dim = spec.v_head_dim or spec.head_dim
        shapes = (spec.heads, spec.head_dim), (spec.kv_heads, spec.head_dim), (spec.kv_heads, v_dim)
        self.q, self.k, self.v = (torch.randn(length, *shape, generator=g).to(DEVICE, dtype) for shape in shapes)
        self.out = torch.full((length, spec.heads, v_dim), NAN, dtype=dtype, device=DEVICE)
        self.length = length
        self.seq = Sequence("r", 0, [0] * length, SamplingParams(max_tokens=1, seed=0))


def pool(spec: LayerSpec, pages: int, dtype: torch.dtype, one_order: bool = True) -> KVCache:
    """A cache whose pages and parts hold NaN."""
    cache = triton_.cache([spec], pages, dtype, DEVICE, one_order=one_order)
    cache.k[0][:-1] = cache.v[0][:-1] = NAN
    cache.scratch.get("parts", (1 << 20,), torch.float32, DEVICE).fill_(NAN)
    return cache


def step(spec, cache, pieces: list[tuple[Text, int, int]], room=None, turn=Turn()):  # noqa: B008
    """One step of (text, start, tokens) side by side."""
    slices = [Slice(text.seq, start, [0] * n) for text, start, n in pieces]
    attend = triton_.plan(Batch.of(Plan(slices), DEVICE), [spec], cache, room)
    q, k, v = (torch.cat([getattr(text, x)[start : start + n] for text, start, n in pieces]) for x in "qkv")
    out = attend(0, q, k, v, turn)
    for (text, start, n), rows in zip(pieces, out.split([n for _, _, n in pieces]), strict=True):
        text.out[start : start + n] = rows


def deal(spec, texts: list[Text], known: list[int], seed: int, dtype: torch.dtype, one_order: bool = True) -> KVCache:
    """Pages for all texts, dealt at random, in which so many first tokens of each are known."""
    chance = random.Random(seed)
    needs = [-(-text.length // BLOCK_SIZE) for text in texts]
    cache = pool(spec, sum(needs) + 2, dtype, one_order)
    free = list(range(cache.num_blocks))
    chance.shuffle(free)
    for text, need in zip(texts, needs, strict=True):
        text.seq.blocks = [free.pop() for _ in range(need)]
    for text, n in zip(texts, known, strict=True):
        place = torch.arange(n, device=DEVICE)
        page = torch.tensor(text.seq.blocks, device=DEVICE)[place // BLOCK_SIZE]
        for pages, new in ((cache.k[0], text.k), (cache.v[0], text.v)):
            pages[page, :, place % BLOCK_SIZE] = new[:n]
    return cache


def run(spec, texts: list[Text], cuts: list[list[int]], seed: int, dtype: torch.dtype, one_order: bool = True) -> None:
    """All texts side by side, text i in slices of cuts[i] tokens."""
    chance = random.Random(seed)
    cache = deal(spec, texts, [0] * len(texts), seed, dtype, one_order)
    at = [0] * len(texts)
    left = [list(c) for c in cuts]
    while any(left):
        due = [i for i, c in enumerate(left) if c]
        chance.shuffle(due)
        pieces = []
        for i in due:
            n = left[i].pop(0)
            pieces.append((texts[i], at[i], n))
            at[i] += n
        step(spec, cache, pieces)


def truth(spec: LayerSpec, text: Text, begin: int = 0) -> torch.Tensor:
    """float64 [length - begin, heads, v_dim]"""
    q, k, v = (x.double().cpu() for x in (text.q, text.k, text.v))
    return truths.reference(q[begin:], k, v, spec.scale, spec.window, spec.softcap)


def close(found: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether the error's norm is within the bound of the type, as a part of the norm of what was wanted."""
    off = ((found.double().cpu() - wanted).norm() / wanted.norm()).item()
    return off < BOUNDS[found.dtype]


SPECS = {
    "grouped": LayerSpec(heads=6, kv_heads=2, head_dim=16, scale=0.25),
    "one kv head": LayerSpec(heads=5, kv_heads=1, head_dim=24, scale=0.2),
    "window and v": LayerSpec(heads=2, kv_heads=1, head_dim=20, scale=0.2, window=37, v_head_dim=48),
    "all": LayerSpec(heads=4, kv_heads=1, head_dim=32, scale=0.5, window=70, softcap=5.0, v_head_dim=16),
}


@pytest.mark.parametrize(
    ("spec", "cuts", "dtype"),
    [
        (LayerSpec(heads=2, kv_heads=1, head_dim=256, scale=0.06, softcap=20.0), [18, 2, 1], torch.bfloat16),
        (LayerSpec(heads=2, kv_heads=1, head_dim=256, scale=0.06), [18, 1], torch.float32),
        (
            LayerSpec(heads=8, kv_heads=2, head_dim=80, scale=0.1, window=30, v_head_dim=128),
            [30, 12, 1],
            torch.bfloat16,
        ),
        (LayerSpec(heads=3, kv_heads=3, head_dim=64, scale=0.125), [20, 3, 1], torch.float16),
        (LayerSpec(heads=71, kv_heads=1, head_dim=8, scale=0.3), [3, 1], torch.float32),
    ],
    ids=["256 capped", "256 in float32", "80 windowed", "64 ungrouped", "71 of one"],
)
def test_heads_of_any_size_and_number(spec, cuts, dtype):
    """A prompt in parts, in one tile or several, and a token, beside another sequence."""
    for one_order in (True, False):
        texts = [Text(spec, sum(cuts), 1, dtype), Text(spec, 3, 2, dtype)]
        run(spec, texts, [cuts, [2, 1]], 1, dtype, one_order)
        for text in texts:
            assert close(text.out, truth(spec, text))


@pytest.mark.parametrize(("examples", "longest"), [(2, 40), pytest.param(40, 140, marks=pytest.mark.slow)])
def test_any_batch_equals_the_truth_and_has_the_bits_of_each_alone(examples, longest):
    test = given(data=st.data(), longest=st.just(longest))(any_batch)
    settings(max_examples=examples, deadline=None, database=None)(test)()


def any_batch(data, longest):
    """Decodes beside chunks, over any pages, each against float64 and, where it is asked for, bit by bit against itself
    in one piece."""
    one_order = data.draw(st.booleans())
    spec = data.draw(st.sampled_from(list(SPECS.values())))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    lengths = data.draw(st.lists(st.integers(1, longest), min_size=1, max_size=3))
    texts = [Text(spec, n, i, dtype) for i, n in enumerate(lengths)]
    run(spec, texts, [data.draw(steps(n)) for n in lengths], data.draw(st.integers(0, 99)), dtype, one_order)
    for i, text in enumerate(texts):
        assert close(text.out, truth(spec, text))
        if not one_order:
            continue
        alone = Text(spec, text.length, i, dtype)
        run(spec, [alone], [[alone.length]], 0, dtype)
        assert torch.equal(text.out, alone.out)


@pytest.mark.parametrize(
    ("name", "dtype"), [("one kv head", torch.float32), ("all", torch.bfloat16), ("grouped", torch.float16)], ids=str
)
def test_whole_and_split_tiles_have_the_same_bits(name, dtype, monkeypatch):
    """And the second launch is there only where tiles are split."""
    spec, found, launches = SPECS[name], {}, []
    join = kernel.join_segments
    monkeypatch.setattr(kernel, "join_segments", Counted(join, launches))
    known = [122, 68, 30]
    for fill in (0, 1 << 30):
        monkeypatch.setattr(tiling, "FILL", fill)
        texts = [Text(spec, 132, 1, dtype), Text(spec, 69, 2, dtype), Text(spec, 31, 3, dtype)]
        cache = deal(spec, texts, known, 3, dtype)
        step(spec, cache, [(text, n, text.length - n) for text, n in zip(texts, known, strict=True)])
        found[fill] = torch.cat([text.out[n:] for text, n in zip(texts, known, strict=True)])
        assert len(launches) == (fill > 0)
    assert torch.equal(found[0], found[1 << 30])
    assert close(found[0], torch.cat([truth(spec, text, n) for text, n in zip(texts, known, strict=True)]))


def test_segments_of_their_own_length(monkeypatch):
    """A chunk over the border between two of them, and a token behind it, against one by one."""
    monkeypatch.setattr(kernel, "SEGMENT", SEGMENT)
    spec, dtype, n = SPECS["one kv head"], torch.bfloat16, SEGMENT - 3
    text, single = (Text(spec, n + 7, 1, dtype) for _ in range(2))
    cache = deal(spec, [text], [n], 1, dtype)
    step(spec, cache, [(text, n, 6)])
    step(spec, cache, [(text, n + 6, 1)])
    cache = deal(spec, [single], [n], 2, dtype)
    for at in range(n, n + 7):
        step(spec, cache, [(single, at, 1)])
    assert close(text.out[n:], truth(spec, text, n))
    assert torch.equal(text.out[n:], single.out[n:])


class Counted:
    """A kernel that notes its grids."""

    def __init__(self, kernel, grids: list):
        self.kernel, self.grids = kernel, grids

    def __getitem__(self, grid):
        self.grids.append(grid)
        return self.kernel[grid]


def test_a_prefix_that_another_computed_gives_the_bits_of_ones_own():
    spec, dtype = SPECS["grouped"], torch.bfloat16
    own, late = Text(spec, 90, 1, dtype), Text(spec, 90, 1, dtype)
    cache = deal(spec, [own], [30], 1, dtype)
    step(spec, cache, [(own, 30, 60)])
    late.seq.blocks = [*own.seq.blocks[:5], *(set(range(cache.num_blocks)) - set(own.seq.blocks))][:6]
    step(spec, cache, [(late, 80, 10)])
    assert torch.equal(late.out[80:], own.out[80:])


def test_what_is_behind_the_window_is_not_read():
    spec, dtype = SPECS["window and v"], torch.float32
    text = Text(spec, 140, 1, dtype)
    cache = deal(spec, [text], [139], 1, dtype)
    behind = (139 - spec.window) // BLOCK_SIZE
    for page in text.seq.blocks[:behind]:
        cache.k[0][page] = cache.v[0][page] = NAN
    text.seq.blocks[:behind] = [1 << 30] * behind  # no such page: reading there would end the process
    step(spec, cache, [(text, 139, 1)])
    assert close(text.out[139:], truth(spec, text, 139))


@pytest.mark.parametrize("window", [None, 3])
def test_trees_of_more_drafts_than_a_word_has_bits(window):
    """Against the dense truth of each draft's own line, and with the same bits beside another."""
    spec = LayerSpec(heads=4, kv_heads=2, head_dim=16, scale=0.25, window=window)
    chance, before, drafts, dtype = random.Random(5), 30, 35, torch.bfloat16
    parents = tuple(chance.randrange(-1, n) for n in range(drafts))
    text, beside = Text(spec, before + 1 + drafts, 1, dtype), Text(spec, 20, 2, dtype)
    found = []
    for others in (False, True):
        cache = deal(spec, [text, beside], [before, 19], 1, dtype)
        pieces = [Slice(beside.seq, 19, [0])] if others else []
        pieces.append(Slice(text.seq, before, [0] * (1 + drafts), drafts, True, parents))
        batch = Batch.of(Plan(pieces), DEVICE)
        q, k, v = (getattr(text, x)[before:] for x in "qkv")
        if others:
            q, k, v = (torch.cat([getattr(beside, x)[19:], y]) for x, y in zip("qkv", (q, k, v), strict=True))
        found.append(triton_.plan(batch, [spec], cache)(0, q, k, v)[len(pieces) - 1 :])
    assert torch.equal(found[0], found[1])
    for n, path in enumerate(pieces[-1].behind()):
        line = [*range(before + 1), *(before + 1 + i for i in path)]
        row, keys, values = (x[line].double().cpu() for x in (text.q, text.k, text.v))
        wanted = truths.reference(row[-1:], keys, values, spec.scale, spec.window)
        assert close(found[0][n : n + 1], wanted)


def test_a_step_laid_out_with_more_room_has_the_same_bits_and_grids_of_that_room(monkeypatch):
    """As a captured step would be: programs beyond what there is to do return at once."""
    spec, dtype, grids = SPECS["all"], torch.bfloat16, []
    text = Text(spec, 140, 1, dtype)
    cache = deal(spec, [text], [139], 1, dtype)
    step(spec, cache, [(text, 139, 1)])
    tight = text.out[139:].clone()
    for name in ("attend_segments", "join_segments"):
        monkeypatch.setattr(kernel, name, Counted(getattr(kernel, name), grids))
    monkeypatch.setattr(kernel, "interpreted", lambda: DEVICE.type == "cpu")
    for fill in (0, 1 << 30):  # nothing for the second launch to do, and something
        monkeypatch.setattr(tiling, "FILL", fill)
        text.out[139:] = NAN
        step(spec, cache, [(text, 139, 1)], triton_.Room(works=9, splits=5, pages=40, masks=7, parts=99))
        assert torch.equal(text.out[139:], tight)
        assert [grid[0] for grid in grids] == [9, 5]
        grids.clear()
    with pytest.raises(ValueError, match="needs 9 pages, and there is room for 8"):
        step(spec, cache, [(text, 139, 1)], triton_.Room(works=9, splits=5, pages=8, masks=7, parts=99))


def test_parts_of_split_tiles_stay_within_their_bound(monkeypatch):
    spec, dtype = SPECS["grouped"], torch.float32
    monkeypatch.setattr(tiling, "FILL", 1 << 30)
    bound = 3 * 2 * 3 * 2 * 18  # of a decode: 3 items, 3 segments, 2 kv heads; and once more
    monkeypatch.setattr(tiling, "PARTS", bound)
    texts = [Text(spec, 140, 1, dtype), Text(spec, 140, 2, dtype)]
    cache = deal(spec, texts, [139, 130], 3, dtype)
    slices = Slice(texts[0].seq, 139, [0]), Slice(texts[1].seq, 130, [0] * 10)
    assert 0 < triton_.plan(Batch.of(Plan(list(slices)), DEVICE), [spec], cache)._parts <= bound
    step(spec, cache, [(texts[0], 139, 1), (texts[1], 130, 10)])
    assert all(close(text.out[n:], truth(spec, text, n)) for text, n in zip(texts, (139, 130), strict=True))


# ---------------------------------------------------------------- what goes into the pages


def turned(x: torch.Tensor, turn: Turn, norm: Norm | None) -> torch.Tensor:
    """float64, on the CPU"""
    x = x.double().cpu()
    if norm is not None:
        x = x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * norm.weight.double().cpu()
    if turn.cos is None or turn.sin is None:
        return x
    cos, sin = turn.cos.double().cpu(), turn.sin.double().cpu()
    a, b, rest = x.tensor_split([cos.shape[-1], 2 * cos.shape[-1]], -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(
    ("dim", "angles", "norms"), [(64, 32, "both"), (80, 20, "k"), (24, 12, "none"), (32, 0, "both"), (16, 0, "none")]
)
def test_keys_and_values_reach_their_slots_normed_and_turned(dtype, dim, angles, norms):
    """Out of one tensor of q, k and v side by side, as the models have it; all other slots stay as they were."""
    heads, kv_heads, v_dim, rows = 11, 9, dim, 5
    g = torch.Generator().manual_seed(dim)
    make = lambda *shape: torch.randn(*shape, generator=g).to(DEVICE, dtype)  # noqa: E731
    q, k, v = make(rows, heads + 2 * kv_heads, dim).split([heads, kv_heads, kv_heads], 1)
    cos, sin = (make(rows, 1, angles), make(rows, 1, angles)) if angles else (None, None)
    q_norm = Norm(make(dim), 1e-5) if norms == "both" else None
    k_norm = Norm(make(dim), 0.3) if norms != "none" else None
    turn = Turn(cos, sin, q_norm, k_norm)
    keys, values = (torch.full((4, kv_heads, BLOCK_SIZE, d), NAN, dtype=dtype, device=DEVICE) for d in (dim, v_dim))
    slots = [17, 0, 63, 31, 32]
    where = torch.tensor(slots, device=DEVICE)
    found = triton_.pages.store(q, k, v, keys, values, where, turn)
    assert (found is q) == (q_norm is None and cos is None)
    assert close(found, turned(q, turn, q_norm))
    page, place = where // BLOCK_SIZE, where % BLOCK_SIZE
    assert close(keys[page, :, place], turned(k, turn, k_norm))
    assert torch.equal(values[page, :, place], v)
    for pages in (keys, values):
        pages[page, :, place] = NAN
        assert pages.isnan().all()


def test_a_row_without_a_slot_is_none():
    q, k, v = (torch.randn(2, 2, 16, device=DEVICE) for _ in range(3))
    keys, values = (torch.full((1, 2, BLOCK_SIZE, 16), NAN, device=DEVICE) for _ in range(2))
    triton_.pages.store(q, k, v, keys, values, torch.tensor([-1, 3], device=DEVICE), Turn())
    assert torch.equal(keys[0, :, 3], k[1])
    assert keys.isnan().sum() == values.isnan().sum() == 2 * 15 * 16


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_slots_are_moved_as_if_all_at_once(dtype):
    """In layers of different shape, with sources that are targets; a NaN is moved like anything else."""
    specs = [
        LayerSpec(heads=2, kv_heads=2, head_dim=24, scale=1.0),
        LayerSpec(heads=3, kv_heads=3, head_dim=300 - 44, scale=1.0, v_head_dim=16),
    ]
    cache = triton_.cache(specs, 6, dtype, DEVICE)
    for x in (*cache.k, *cache.v):
        x[:-1].normal_()
        x[0, 0, 3, 5] = NAN
    sources, targets = [3, 95, 7, 40, 41], [95, 3, 8, 41, 42]
    wanted = [x.clone() for x in (*cache.k, *cache.v)]
    for x, y in zip(wanted, (*cache.k, *cache.v), strict=True):
        for a, b in zip(sources, targets, strict=True):
            x[b // BLOCK_SIZE, :, b % BLOCK_SIZE] = y[a // BLOCK_SIZE, :, a % BLOCK_SIZE]
    cache.move(sources, targets)
    word = torch.int32 if dtype.itemsize == 4 else torch.int16
    assert all(torch.equal(x.view(word), y.view(word)) for x, y in zip(wanted, (*cache.k, *cache.v), strict=True))


def test_what_it_has_no_tiles_for_is_refused():
    assert choose_backend("triton", torch.bfloat16, DEVICE) is triton_
    spec = LayerSpec(heads=2, kv_heads=2, head_dim=64, scale=1.0)
    with pytest.raises(ConfigError, match=r"'triton', and the model has heads of 512 dimensions; expected torch"):
        triton_.cache([spec, replace(spec, v_head_dim=512)], 2, torch.float32, DEVICE)
    with pytest.raises(ConfigError, match=r"the model runs in torch\.float64"):
        choose_backend("triton", torch.float64, DEVICE)
