"""Pages of bytes in Triton: their cases in a process that interprets, what is compiled of them, and who has none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from interpreted import needs_triton, run_cases

from quire.engine.attention import choose_backend
from quire.engine.errors import ConfigError

CASES = Path(__file__).with_name("attention_bytes_triton_cases.py")


@needs_triton
def test_they_do_what_float64_does_with_what_they_hold_and_keep_a_rows_bits():
    run_cases(CASES)


@needs_triton
@pytest.mark.slow
def test_many_long_random_batches_equal_float64_and_answers_are_the_same_in_any_company():
    run_cases(CASES, "slow")


@pytest.mark.parametrize(("name", "dtype", "found"), [
    ("torch", torch.float32, "kv_cache_dtype is 'fp8', and attention is the backend torch, .*triton"),
    ("auto", torch.bfloat16, "kv_cache_dtype is 'fp8', and attention is the backend torch, .*triton"),
    ("triton", torch.bfloat16, "attention is 'triton', and "),
])  # fmt: skip
def test_who_cannot_keep_e4m3_says_so(monkeypatch, name, dtype, found):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match=found):
        choose_backend(name, dtype, torch.device("cpu"), "fp8")


# Of each kind of bytes and of cards with and without e4m3 of their own: what a launch would compile, compiled.
COMPILED = """
import sys, torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler.compiler import make_backend
from triton.runtime.jit import create_function_from_signature
from quire.engine.attention import LayerSpec, Turn, triton_
from quire.engine.batch import Batch
from quire.engine.messages import SamplingParams
from quire.engine.plan import Plan, Slice
from quire.engine.sequence import Sequence
from quire.kernels.ops import Norm
from quire.kernels.triton import attention, cache

launches = {}

class Noted:
    def __init__(self, function):
        self.function = function
        backend = make_backend(GPUTarget("cuda", 80, 32))
        self.bind = create_function_from_signature(function.signature, function.params, backend)

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *args, **more):
        launches[self.function] = self.bind(*args, **more)

attention.attend_segments, cache.write = Noted(attention.attend_segments), Noted(cache.write)
attention.interpreted = lambda: False
cpu, dtype, dim = torch.device("cpu"), torch.bfloat16, int(sys.argv[2])
spec = LayerSpec(heads=32, kv_heads=8, head_dim=dim, scale=0.1)
pages = triton_.cache([spec], 20, dtype, cpu, {"int8": torch.int8, "fp8": torch.float8_e4m3fn}[sys.argv[1]])
seq = Sequence("r", 0, [0] * 33, SamplingParams(max_tokens=1, seed=0))
seq.blocks = [0, 1, 2]
batch = Batch.of(Plan([Slice(seq, 0, seq.tokens)]), cpu)
q, k, v = torch.zeros(33, 48, dim, dtype=dtype).split([32, 8, 8], 1)
cos, norm = torch.zeros(33, 1, dim // 2, dtype=dtype), Norm(torch.ones(dim, dtype=dtype), 1e-5)
triton_.plan(batch, [spec], pages)(0, q, k, v, Turn(cos, cos, norm, norm))
assert len(launches) == 2
for function, (bound, kinds, options) in launches.items():
    names = [p.name for p in function.params]
    signature = {name: kind[0] for name, kind in zip(names, kinds)}
    constants = {name: value for name, value in bound.items() if signature[name] == "constexpr"}
    source = ASTSource(function, signature, constexprs=constants)
    for arch in (80, 90):
        wanted = {name: options[name] for name in ("num_warps", "num_stages", "enable_fp_fusion") if name in options}
        ready = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=wanted)
        assert len(ready.asm["ptx"]) > 1000
        assert ready.metadata.shared <= 99 * 1024, (function, arch, ready.metadata.shared)
"""


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_they_compile_for_cards_that_know_e4m3_and_that_do_not(kind):
    """Within the shared memory that the smaller GPUs have."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    for dim in (128, 256):
        command = [sys.executable, "-c", COMPILED, kind, str(dim)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
