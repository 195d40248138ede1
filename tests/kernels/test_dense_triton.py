"""Products in one order of sums in Triton: the cases of triton_dense_cases.py, and whether they compile."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from interpreted import check_compiled, needs_triton, run_cases

pytestmark = needs_triton
NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def test_the_kernels_do_what_float64_does():
    run_cases(Path(__file__).with_name("triton_dense_cases.py"))


def product(kind: str, several: int, plain: bool, target: int = 80) -> dict:
    """plain: one piece, nothing added, read by 16 bytes; otherwise none of that."""
    constants = {
        "DEPTH": 32 if kind == "fp32" else 64, "TILES": several, "ROWS": 16, "LANES": 64, "EVEN": plain,
        "DOT": NAMES[kind], "ALONE": plain, "BY_ITSELF": False,
    }  # fmt: skip
    kinds = dict.fromkeys(("x", "weight", "y", "bias", "add"), f"*{kind}") | {"partial": "*fp32", "counters": "*i32"}
    constants |= dict.fromkeys(("bias", "add")) if plain else {}
    options = {"num_warps": 2, "num_stages": 4}
    return {"kernel": "dense_products", "kinds": kinds, "constants": constants, "target": target, "options": options}


def test_the_kernels_compile_and_look_at_no_number():
    check_compiled("quire.kernels.triton.dense", [product("bf16", 4, True), product("fp32", 1, False, 90)])


@pytest.mark.slow
@pytest.mark.parametrize("target", [80, 90])
@pytest.mark.parametrize("kind", NAMES)
def test_all_kinds_compile(kind, target):
    some = [product(kind, several, plain, target) for several, plain in itertools.product((1, 2, 4), (False, True))]
    check_compiled("quire.kernels.triton.dense", some)
