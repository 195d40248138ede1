"""Triton's kernels in processes of their own: whether Triton interprets is settled when it is first imported."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None,
    reason="triton is not installed; where torch is for a GPU it comes with it",
)


def run_cases(cases: Path, marks: str = "not slow", *, interpreted: bool = not torch.cuda.is_available()) -> None:
    """The tests of a file, on a GPU as they are, elsewhere by Triton's interpreter. interpreted: on a GPU too, for what
    is about tensors on the CPU."""
    env = os.environ | ({"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""} if interpreted else {})
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", marks, str(cases)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, cwd=cases.parents[2], timeout=1800)
    assert done.returncode == 0, done.stdout[-6000:]
    assert " passed" in done.stdout


COMPILE = """
import importlib, json, sys, warnings
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

warnings.simplefilter("ignore")
module, wanted = importlib.import_module(sys.argv[1]), json.loads(sys.argv[2])
named = {"float32": tl.float32, "bfloat16": tl.bfloat16, "float16": tl.float16}
found = {"missing": [name for name, it in vars(module).items()
                     if isinstance(it, triton.JITFunction) and it.do_not_specialize and name not in
                     {each["kernel"] for each in wanted}]}
functions = [it for it in vars(module).values() if isinstance(it, triton.JITFunction)]
found["defaults that Triton 3.6 does not compile"] = [
    f"{it.__name__}: {p.name}" for it in functions for p in it.params if isinstance(p.default, str)]
for each in wanted:
    function, kinds = getattr(module, each["kernel"]), each["kinds"]
    constants = {name: named.get(value, value) if isinstance(value, str) else value
                 for name, value in each["constants"].items()}
    signature = {p.name: "constexpr" if p.name in constants else kinds.get(p.name, "i32") for p in function.params}
    source = ASTSource(function, signature, constexprs=constants)
    target = GPUTarget("cuda", each.get("target", 80), 32)
    built = triton.compile(source, target=target, options=each.get("options", {}))
    found[json.dumps(each)] = len(built.asm["ptx"])
    found["shared memory of " + json.dumps(each)] = [n for n in [built.metadata.shared] if n > 99 * 1024]
    numbers = [p for p in function.params if not p.is_constexpr and kinds.get(p.name, "i32")[0] not in "*f"]
    pointers = [p for p in function.params if not p.is_constexpr and kinds.get(p.name, "i32")[0] == "*"]
    found["looked at by " + function.__name__] = [p.name for p in numbers if not p.do_not_specialize]
    found["aligned for " + function.__name__] = [p.name for p in pointers if not p.do_not_specialize_on_alignment]
print(json.dumps(found))
"""


def check_compiled(module: str, wanted: list[dict]) -> None:
    """For a GPU that need not be there: each kernel, with the kinds of its arguments and its constants, compiles; every
    kernel of the module is among them; none takes more shared memory than the smaller cards have; and Triton looks at
    no number for being 1 or divisible by 16, and at no pointer for being aligned. Besides kinds and constants that is
    all it keys compiled variants by. (The interpreter compiles nothing, so variants cannot be counted there.)"""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", COMPILE, module, json.dumps(wanted)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    for name, value in found.items():
        if isinstance(value, list):
            assert value == [], name
        else:
            assert value > 500, name
