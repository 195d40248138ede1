"""Triton's kernels in the sizes that models have. (In small ones, of any shape: tests/kernels/test_*_triton.py, which
run as they are where there is a GPU.)"""

from __future__ import annotations

import pytest
import torch
from on_gpu import CUDA, DEVICE, cases
from sampling import sequence

from quire.engine.attention import LayerSpec
from quire.kernels.quantized import quantize
from quire.kernels.triton import there

if there.lack(torch.float32, DEVICE) is None:
    from quire.kernels.triton import attention, dense, matrix, rows

KIND = torch.bfloat16 if CUDA else torch.float32
HEADS = {
    "8b": LayerSpec(32, 8, 128, 128**-0.5),
    "1b": LayerSpec(32, 8, 64, 64**-0.5),
    "wide": LayerSpec(8, 4, 256, 0.06),
}
LENGTHS = (4096, 700, 33) if CUDA else (70, 33)
COUNTS = (1, 2, 16, 17, 64) if CUDA else (1, 3)


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """The norm of the error, as a part of the norm of what was wanted."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("name", HEADS if CUDA else ["8b"])
def test_attention_of_a_model_behind_long_texts(name):
    """The last tokens of texts side by side, with segments as long as they are, and the same bits alone."""
    shared, spec = cases("attention_triton_cases"), HEADS[name] if CUDA else LayerSpec(4, 2, 16, 0.25)
    texts = [shared.Text(spec, n, n, KIND) for n in LENGTHS]
    known = [max(0, n - 5) for n in LENGTHS]
    cache = shared.deal(spec, texts, known, 1, KIND)
    shared.step(spec, cache, [(text, n, text.length - n) for text, n in zip(texts, known, strict=True)])
    for text, n in zip(texts, known, strict=True):
        wanted = shared.truth(spec, text, n)
        assert off(text.out[n:].cpu(), wanted) < (1e-2 if CUDA else 1e-5)
        beside = text.out[n:].clone()
        cache = shared.deal(spec, [text], [n], 2, KIND)
        shared.step(spec, cache, [(text, n, text.length - n)])
        assert torch.equal(text.out[n:], beside)


@pytest.mark.parametrize("name", HEADS if CUDA else ["8b"])
@pytest.mark.parametrize("new", [(1, 1, 1), (5, 1, 40), (9, 70, 2)] if CUDA else [(1, 9), (20, 1)])
def test_attention_as_it_is_fastest_is_near_too(name, new):
    """Tokens and pieces of prompts side by side, behind texts that end anywhere in a tile of keys."""
    shared, spec = cases("attention_triton_cases"), HEADS[name] if CUDA else LayerSpec(4, 2, 16, 0.25)
    for shift in range(3):
        texts = [shared.Text(spec, n + 41 * shift, n, KIND) for n in LENGTHS[: len(new)]]
        known = [text.length - min(n, text.length) for text, n in zip(texts, new, strict=True)]
        cache = shared.deal(spec, texts, known, 1, KIND, one_order=False)
        shared.step(spec, cache, [(text, n, text.length - n) for text, n in zip(texts, known, strict=True)])
        for text, n in zip(texts, known, strict=True):
            assert off(text.out[n:].cpu(), shared.truth(spec, text, n)) < (1e-2 if CUDA else 1e-5)


@pytest.mark.skipif(not CUDA, reason="a prompt of this length takes the interpreter an hour")
@pytest.mark.parametrize("one_order", [True, False])
def test_attention_of_a_whole_prompt_is_torchs(one_order):
    spec, length = HEADS["8b"], 3000
    shared = cases("attention_triton_cases")
    text = shared.Text(spec, length, 1, KIND)
    cache = shared.deal(spec, [text], [0], 1, KIND, one_order)
    shared.step(spec, cache, [(text, 0, length)])
    q, k, v = (x.movedim(0, 1)[None].float() for x in (text.q, text.k, text.v))
    wanted = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, scale=spec.scale, enable_gqa=True
    )
    assert off(text.out.float(), wanted[0].movedim(1, 0)) < 1e-2


@pytest.mark.parametrize("form", ["int8", "int4", "fp8", "dense"])
def test_products_of_a_models_shape(form):
    """Against the weights made whole, in float32; a row's bits are its own wherever it stands, and in any company."""
    outputs, inputs = (14_336, 4096) if CUDA else (96, 640)
    g = torch.Generator(DEVICE).manual_seed(1)
    weight = torch.randn(outputs, inputs, generator=g, device=DEVICE) / inputs**0.5
    if form == "dense":
        held = weight.to(KIND)
        product, whole = lambda x: dense.product(x, held), held.float()
    else:
        if form == "fp8":
            scale = weight.abs().amax(1) / 448
            packed = matrix.Packed.of_fp8((weight / scale[:, None]).to(torch.float8_e4m3fn), scale)
        else:
            packed = matrix.Packed.of(quantize(weight, int(form[-1]), 128))
        product, whole = packed.product, packed.dense()
    x = torch.randn(max(COUNTS) + 7, inputs, generator=g, device=DEVICE).to(KIND)
    torch.backends.cuda.matmul.allow_tf32 = False
    every = product(x)
    assert off(every.float(), x.float() @ whole.T) < (6e-3 if CUDA else 1e-5)
    for count in COUNTS:
        assert torch.equal(product(x[:count]), every[:count]), count
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(2)).to(DEVICE)
    if CUDA or form == "dense":  # the interpreter's product of tiles is numpy's
        assert torch.equal(product(x[order]), every[order])


def test_norms_of_a_models_width():
    x = torch.randn(300 if CUDA else 3, 4096, device=DEVICE).to(KIND)
    weight = torch.rand(4096, device=DEVICE).to(KIND)
    wide = x.double()
    wanted = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    found = rows.rms_norm(x, weight, 1e-5)
    assert off(found, wanted) < (4e-3 if CUDA else 1e-6)
    assert torch.equal(rows.rms_norm(x[2:3], weight, 1e-5), found[2:3])


@pytest.mark.skipif(not CUDA, reason="a vocabulary of this size takes the interpreter minutes")
def test_the_sampler_over_a_models_vocabulary():
    shared = cases("triton_sampler_cases")
    differ = sum(shared.check_equal(*shared.some_rows(64, 128_256, seed)) for seed in range(4))
    assert differ <= 2, "of 256 rows"
    greedy = torch.randn(256, 151_936)
    seqs = [sequence([1], name=str(i), temperature=0.0) for i in range(256)]
    assert shared.drawn(greedy, seqs) == greedy.argmax(-1).tolist()


@pytest.mark.skipif(not CUDA, reason="CUDA graphs need CUDA")
def test_kernels_that_are_captured_give_the_same_bits():
    """Attention over a step of decodes, captured and replayed twice."""
    shared, spec = cases("attention_triton_cases"), HEADS["8b"]
    texts = [shared.Text(spec, n, n, KIND) for n in (900, 40, 3000)]
    known = [text.length - 1 for text in texts]
    cache = shared.deal(spec, texts, known, 1, KIND)
    pieces = list(zip(texts, known, [1] * 3, strict=True))
    shared.step(spec, cache, pieces)
    eager = torch.cat([text.out[-1:] for text in texts])
    slices = [shared.Slice(text.seq, start, [0]) for text, start, _ in pieces]
    attend = shared.triton_.plan(shared.Batch.of(shared.Plan(slices), DEVICE), [spec], cache)
    q, k, v = (torch.cat([getattr(text, x)[-1:] for text in texts]) for x in "qkv")
    attend(0, q, k, v)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = attend(0, q, k, v)
    for _ in range(2):
        out.zero_()
        graph.replay()
        assert torch.equal(out, eager)
    assert attention.SEGMENT == 512
