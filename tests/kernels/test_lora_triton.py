"""The Triton kernels, in processes of their own: whether Triton interprets is settled when it is first imported."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="triton is not installed; where torch is for a GPU it comes with it",
)


def test_the_kernels_do_what_the_reference_does():
    """On a GPU as they are, elsewhere by Triton's interpreter: triton_cases.py."""
    cases = Path(__file__).with_name("triton_cases.py")
    env = os.environ | ({} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(cases)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=cases.parents[2], timeout=600)
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout


COMPILE = """
import json, torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from quire.kernels.triton import lora as kernel

dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
kinds = {"x": "*{0}", "y": "*{0}", "h": "*fp32", "entries": "*i64", "of_row": "*i64", "order": "*i64",
         "tile_slot": "*i64", "tile_first": "*i64", "tile_last": "*i64"}
found = {}
for name in ("bgmv_shrink", "bgmv_expand", "sgmv_shrink", "sgmv_expand"):
    function = getattr(kernel, name)
    for dtype in dtypes:
        constants = {p.name: kernel.DOTS[dtypes[dtype]] if p.name == "DOT" else getattr(kernel, p.name)
                     for p in function.params if p.is_constexpr}
        signature = {p.name: "constexpr" if p.is_constexpr else kinds.get(p.name, "i32").format(dtype)
                     for p in function.params}
        source = ASTSource(function, signature, constexprs=constants)
        built = triton.compile(source, target=GPUTarget("cuda", 80, 32))
        found[name + " " + dtype] = len(built.asm["ptx"])
    plain = [p for p in function.params if not p.is_constexpr]
    found["looked at by " + name] = [p.name for p in plain if p.name not in kinds and not p.do_not_specialize]
    found["aligned for " + name] = [p.name for p in plain if p.name in kinds and not p.do_not_specialize_on_alignment]
print(json.dumps(found))
"""


def test_the_kernels_compile_and_look_at_no_number():
    """For a GPU that need not be there. What Triton keys its compiled variants by, besides dtypes and constants, is
    which numbers are 1 or divisible by 16 and which pointers are aligned: it is told to look at none. (The interpreter
    compiles nothing, so variants cannot be counted there.)"""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-c", COMPILE], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    for name, value in found.items():
        if name.startswith(("looked", "aligned")):
            assert value == [], name
        else:
            assert value > 1000, name
