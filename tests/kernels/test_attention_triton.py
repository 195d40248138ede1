"""Attention in Triton: its cases and the engine's own in processes that interpret, and what is compiled of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from interpreted import needs_triton, run_cases

from quire.engine.attention import BACKENDS, choose_backend
from quire.engine.errors import ConfigError
from quire.kernels import lora

CASES = Path(__file__).with_name("attention_triton_cases.py")
ENGINE = CASES.parents[1] / "engine" / "test_attention.py"
on_the_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="these tests are on the CPU; on a GPU others are")


@needs_triton
def test_the_kernels_do_what_float64_does_and_keep_a_rows_bits():
    run_cases(CASES)


@needs_triton
@pytest.mark.slow
def test_many_long_random_batches_equal_float64_and_keep_a_rows_bits():
    run_cases(CASES, "slow")


def engines(names: str) -> None:
    """The engine's tests of that name over this backend."""
    env = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(ENGINE), "-k", names]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=CASES.parents[2], timeout=3600)
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout


@needs_triton
@on_the_cpu
@pytest.mark.slow
def test_the_engine_reads_and_writes_its_pages_through_it():
    engines("triton and moved")


@needs_triton
@on_the_cpu
@pytest.mark.slow
def test_all_that_the_engine_asks_of_a_backend():
    engines("triton")


def test_it_is_refused_where_it_cannot_run(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ConfigError, match=r"attention is 'triton', and .*; expected auto or torch"):
        choose_backend("triton", torch.bfloat16, torch.device("cpu"))


@needs_triton
@pytest.mark.parametrize(("has", "name"), [((7, 5), "torch"), ((8, 0), "triton"), ((12, 0), "triton")])
def test_a_card_that_triton_compiles_no_products_for_is_left_to_torch(monkeypatch, has, name):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: has)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Card")
    card = torch.device("cuda:0")
    assert choose_backend("auto", torch.float16, card).__name__ == BACKENDS[name]
    assert lora.way_of(torch.float16, card) == name
    if name == "torch":
        found = (
            r"attention is 'triton', and the NVIDIA Card has compute capability 7\.5, and Triton's kernels need 8\.0"
        )
        with pytest.raises(ConfigError, match=found):
            choose_backend("triton", torch.float16, card)


# Triton keys its compiled variants by types and constants, and by which numbers are 1 or divisible by 16 and which
# addresses are divisible by 16. Launches are noted instead of made, and their keys counted.
VARIANTS = """
import json, random, re, sys, torch, triton
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

target = GPUTarget("cuda", 80, 32)
backend = make_backend(target)
keys, built = {}, {}

class Noted:
    def __init__(self, function):
        self.function = function
        self.bind = create_function_from_signature(function.signature, function.params, backend)

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *args, **more):
        bound, kinds, options = self.bind(*args, **more)
        name = self.function.__name__
        keys.setdefault(name, {})[str((kinds, sorted(options.items(), key=str)))] = (bound, kinds, options)

for module, names in ((attention, ("attend_segments", "join_segments")), (cache, ("write", "carry"))):
    for name in names:
        setattr(module, name, Noted(getattr(module, name)))
attention.interpreted = lambda: False

def left_behind(ir):
    # What is used of a pipelined loop behind it that is no sum of floats.
    found = []
    for name, types in re.findall(r"(%\\w+):\\d+ = scf.for .*? -> \\((.*?)\\)  : ", ir):
        kinds = re.split(r", (?=tensor|!ttg|i32|i64)", types)
        if any("async" in kind for kind in kinds):
            used = {int(n) for n in re.findall(re.escape(name) + r"#(\\d+)", ir)}
            found += [kinds[n] for n in sorted(used) if "xf32" not in kinds[n] and "async" not in kinds[n]]
    return found

def steps(dtype, dim):
    chance = random.Random(1)
    spec = LayerSpec(heads=32, kv_heads=8, head_dim=dim, scale=0.1, window=700)
    cpu = torch.device("cpu")
    caches = [triton_.cache([spec, spec], 2000, dtype, cpu, one_order=one) for one in (False, True)]
    norm = Norm(torch.ones(dim, dtype=dtype), 1e-5)
    for lengths in ([1], [16], [1, 1, 1], [1] * 16, [700], [513, 1, 2], [33, 1, 1, 1], [64, 16], [1000, 1]):
        slices = []
        for n in lengths:
            start = chance.choice([0, 1, 15, 16, 511, 1600])
            seq = Sequence("r", 0, [0] * (start + n), SamplingParams(max_tokens=1, seed=0))
            seq.blocks = list(range(-(-(start + n) // 16)))
            slices.append(Slice(seq, start, [0] * n, *((3, True, (-1, -1, 0)) if n > 30 and n % 2 else ())))
        batch = Batch.of(Plan(slices), cpu)
        rows = batch.query_start[-1]
        q, k, v = torch.zeros(rows, 48, dim, dtype=dtype).split([32, 8, 8], 1)
        cos = torch.zeros(rows, 1, dim // 2, dtype=dtype)
        for pages in caches:
            attend = triton_.plan(batch, [spec, spec], pages)
            for layer in (0, 1):
                attend(layer, q, k, v, Turn(cos, cos, norm, norm))
        caches[0].move(list(range(rows)), list(range(rows)))

for dtype, dim in ((torch.bfloat16, 128), (torch.float16, 64), (torch.float32, 64)):
    keys.clear()
    steps(dtype, dim)
    for name, variants in keys.items():
        built[f"{name} {dtype}"] = len(variants)
    if dtype == torch.bfloat16:
        function = attention.attend_segments.function
        for n, (bound, kinds, options) in enumerate(keys["attend_segments"].values()):
            names = [p.name for p in function.params]
            signature = {n: kind[0] for n, kind in zip(names, kinds)}
            constants = {n: v for n, v in bound.items() if signature[n] == "constexpr"}  # None is one too
            attrs = {(i,): backend.parse_attr(kind[1]) for i, kind in enumerate(kinds) if isinstance(kind[1], str)}
            for arch in (80, 90):
                source = ASTSource(function, signature, constants | {"WINDOWED": arch == 80}, attrs)
                ready = triton.compile(source, target=GPUTarget("cuda", arch, 32),
                                       options={k: options[k] for k in ("num_warps", "num_stages", "enable_fp_fusion")})
                built[f"compiled {n} {arch}"] = [len(ready.asm["ptx"]), ready.metadata.shared]
                built[f"left behind {n} {arch}"] = left_behind(ready.asm["ttgir"])
print(json.dumps(built))
"""


@needs_triton
def test_one_variant_of_each_kernel_serves_all_steps_of_a_model():
    """Counted without a GPU; and what decodes and prompts are computed by compiles, within the shared memory that the
    smaller GPUs have."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", VARIANTS], env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert {name for name in found if "bfloat16" in name} == {
        f"{name} torch.bfloat16" for name in ("attend_segments", "join_segments", "write", "carry")
    }
    for name, value in found.items():
        if name.startswith("compiled"):
            assert value[0] > 1000, name
            assert value[1] <= 99 * 1024, name
        elif name.startswith("left behind"):
            # Triton 3.6 gives what a later step of the loop would have begun with: wrong pages, once.
            assert value == [], name
        else:
            # There and back are two; tiles are low, high (in float32 they are alike) or of one order.
            high = "float32" not in name
            wanted = {"carry": 2, "attend_segments": 2 + high, "join_segments": 1 + high}
            assert value == wanted.get(name.split()[0], 1), name
