"""The inner loop of paged attention, over keys with a running maximum (online softmax), and how what was found of two
runs of keys becomes one. What of a step is computed where is in attention.py."""

from __future__ import annotations

import triton
import triton.language as tl

from . import codes
from .tiles import tile_product

# float32 in three products of tensor cores each, which keeps 22 of its 24 bits: the plain one is many times slower, and
# Triton 3.6 does not compile it here.
_PRECISION = tl.constexpr("tf32x3")


@triton.jit
def _numbers(held, KIND: tl.constexpr, DOT: tl.constexpr):
    """What pages hold, as numbers: of bytes, those divided by their GAINS."""
    if KIND == "int8":
        return codes.whole(held, DOT) * 0.0078125
    if KIND == "fp8":
        return codes.e4m3(held, DOT)
    return held.to(DOT)


@triton.jit
def fold(peak, weight, acc, more_peak, more_weight, more):
    """What was found so far, and the next segment: -> both. An empty one, (-inf, 0, 0), changes nothing."""
    top = tl.maximum(peak, more_peak)
    base = tl.where(top == float("-inf"), 0.0, top)
    old, new = tl.exp2(peak - base), tl.exp2(more_peak - base)
    weight = tl.fma(weight, old, more_weight * new)
    acc = tl.fma(acc, tl.broadcast_to(old[:, None], acc.shape), more * new[:, None])
    return top, weight, acc


@triton.jit
def _tanh(x):
    """tanh, to 1e-7 of 1"""
    t = tl.exp2(-2.8853900817779268 * tl.abs(x))  # exp(-2 |x|)
    y = (1.0 - t) / (1.0 + t)
    return tl.where(x < 0, -y, y)


@triton.jit
def _keys(
    m, l, o, at_key, page, query, keys, values, key_units, value_units,  # noqa: E741
    head, kv_heads, scale, cap, gain, place, begins, taken, low, high, tree, masks, words,
    HEAD_DIM: tl.constexpr, V_DIM: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, KEYS: tl.constexpr,
    PAGE: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, KIND: tl.constexpr, ROUNDED: tl.constexpr,
    DOT: tl.constexpr, BY_ITSELF: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """(m, l, o), the maximum, the weight and the sum of a segment so far, and KEYS keys more, from `at_key` on. Not
    MASKED: all rows see all of them."""
    d, e = tl.arange(0, D), tl.arange(0, DV)
    key = at_key + tl.arange(0, KEYS)
    d_inside, e_inside = (d < HEAD_DIM)[:, None], (e < V_DIM)[None, :]
    if MASKED:
        # What no row sees is not read: a weight of 0 does not hide a NaN that a page held before.
        there = (key >= low) & (key < high)
        d_inside, e_inside = d_inside & there[None, :], e_inside & there[:, None]
    slot = (page * kv_heads + head) * PAGE + key % PAGE  # of a token and a head: far fewer than 2^31
    from_k = keys + slot.to(tl.int64)[None, :] * HEAD_DIM + d[:, None]
    k = tl.load(from_k) if not MASKED and D == HEAD_DIM else tl.load(from_k, mask=d_inside, other=0)
    none = tl.zeros([query.shape[0], KEYS], tl.float32)
    scores = tile_product(query, _numbers(k, KIND, DOT), none, BY_ITSELF, _PRECISION) * scale
    if key_units is not None:
        unit = tl.load(key_units + slot, mask=there, other=0.0) if MASKED else tl.load(key_units + slot)
        scores = scores * (unit * gain)[None, :]
    if CAPPED:
        scores = cap * _tanh(scores)
    seen = tl.full(scores.shape, 1, tl.int1)
    if MASKED:
        seen = key[None, :] <= place[:, None]
        if WINDOWED:
            seen = seen & (key[None, :] >= begins[:, None])
        if at_key + KEYS > tree:
            nth, draft = key - tree, place - tree
            drafts = (taken & (draft >= 0))[:, None] & (nth >= 0)[None, :] & seen
            bit = tl.maximum(nth, 0)
            bits = tl.load(masks + draft[:, None] * words + (bit // 32)[None, :], mask=drafts, other=-1)
            seen = seen & (((bits >> (bit % 32)[None, :]) & 1) != 0)
        scores = tl.where(seen, scores, float("-inf"))
    top = tl.maximum(m, tl.max(scores, 1))
    base = tl.where(top == float("-inf"), 0.0, top)  # of a row that saw nothing: exp2 is 0 then, not NaN
    weights = tl.exp2(scores - base[:, None])
    fade = tl.exp2(m - base)
    l = tl.fma(l, fade, tl.sum(weights, 1))  # noqa: E741
    from_v = values + slot.to(tl.int64)[:, None] * V_DIM + e[None, :]
    v = tl.load(from_v) if not MASKED and DV == V_DIM else tl.load(from_v, mask=e_inside, other=0)
    if value_units is not None:
        unit = tl.load(value_units + slot, mask=there, other=0.0) if MASKED else tl.load(value_units + slot)
        weights = weights * (unit * gain)[None, :]
        if MASKED:
            weights = tl.where(seen, weights, 0.0)
    weights = weights.to(ROUNDED).to(DOT)
    o = tile_product(weights, _numbers(v, KIND, DOT), o * fade[:, None], BY_ITSELF, _PRECISION)
    return top, l, o


@triton.jit
def run(
    begin, end, clear, query, keys, values, key_units, value_units, pages, head, kv_heads, scale, cap, gain,
    place, begins, taken, low, high, tree, masks, words,
    HEAD_DIM: tl.constexpr, V_DIM: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, KEYS: tl.constexpr,
    PAGE: tl.constexpr, WINDOWED: tl.constexpr, CAPPED: tl.constexpr, KIND: tl.constexpr, ROUNDED: tl.constexpr,
    DOT: tl.constexpr, BY_ITSELF: tl.constexpr, ONE_LOOP: tl.constexpr,
):  # fmt: skip
    """(m, l, o) of keys from `begin`, a multiple of KEYS, to `end`. ONE_LOOP: all by the same instructions; else those
    in front of `clear` by fewer, whose sums may be rounded otherwise."""
    m = tl.full([query.shape[0]], float("-inf"), tl.float32)
    l = tl.full([query.shape[0]], 0.0, tl.float32)  # noqa: E741 - as the papers call it
    o = tl.full([query.shape[0], DV], 0.0, tl.float32)
    whole = begin
    if not ONE_LOOP:
        whole = tl.maximum(begin, tl.minimum(end, clear))
        # Pages are looked up a tile ahead, so that reading keys does not wait for it.
        key = begin + tl.arange(0, KEYS)
        page = tl.load(pages + key // PAGE, mask=key < high, other=0)
        for at_key in range(begin, whole, KEYS):
            m, l, o = _keys(  # noqa: E741
                m, l, o, at_key, page, query, keys, values, key_units, value_units, head, kv_heads, scale, cap, gain,
                place, begins, taken, low, high, tree, masks, words, HEAD_DIM, V_DIM, D, DV, KEYS, PAGE, WINDOWED,
                CAPPED, KIND, ROUNDED, DOT, BY_ITSELF, False,
            )  # fmt: skip
            key += KEYS
            page = tl.load(pages + key // PAGE, mask=key < high, other=0)
    # Anew: what a pipelined loop leaves behind is of one of its next steps (Triton 3.6).
    key = whole + tl.arange(0, KEYS)
    page = tl.load(pages + key // PAGE, mask=key < high, other=0)
    for at_key in tl.range(whole, end, KEYS, num_stages=None if ONE_LOOP else 1):  # beside another loop few
        m, l, o = _keys(  # noqa: E741
            m, l, o, at_key, page, query, keys, values, key_units, value_units, head, kv_heads, scale, cap, gain,
            place, begins, taken, low, high, tree, masks, words, HEAD_DIM, V_DIM, D, DV, KEYS, PAGE, WINDOWED,
            CAPPED, KIND, ROUNDED, DOT, BY_ITSELF, True,
        )  # fmt: skip
        key += KEYS
        page = tl.load(pages + key // PAGE, mask=key < high, other=0)
    return m, l, o
