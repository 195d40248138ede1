"""Products with weights in few bits in Triton: the cases of triton_matrix_cases.py, and whether they compile."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from interpreted import check_compiled, needs_triton, run_cases

from quire.kernels.triton import chosen

pytestmark = needs_triton
NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
POINTERS = {
    "partial": "*fp32", "counters": "*i32", "panels": "*u8", "scale": "*fp16", "low": "*fp32", "order": "*i64",
    "bias": "*fp32", "sums": "*fp32",
}  # fmt: skip


def test_the_kernels_do_what_float64_does():
    run_cases(Path(__file__).with_name("triton_matrix_cases.py"))


def product(form: int, kind: str, tile: int, several: int, plain: bool, target: int = 80) -> dict:
    """plain: one piece, nothing added, the inputs in order and read by 16 bytes; otherwise none of that."""
    names = ("low", "order", "bias", "add", "sums") if plain else ("bias", "add")
    constants = {
        "FORM": form, "SHARED": 1 if plain else 2, "TILES": several, "TILE": tile, "ROWS": 16, "LANES": 64,
        "EVEN": plain, "DOT": NAMES[kind], "ALONE": plain, "BY_ITSELF": False,
    }  # fmt: skip
    kinds = POINTERS | {"x": f"*{kind}", "add": f"*{kind}", "y": f"*{kind}"}
    warps, stages = chosen.module("matrix").way(("int8", "int4", "fp8")[form], 4 if kind == "fp32" else 2)
    return {
        "kernel": "products",
        "kinds": kinds,
        "constants": constants | dict.fromkeys(names),
        "target": target,
        "options": {"num_warps": warps, "num_stages": stages},
    }


def rest(kind: str) -> list[dict]:
    sums = {"x": f"*{kind}", "sums": "*fp32", "order": "*i64"}
    return [{"kernel": "tile_sums", "kinds": sums, "constants": {"TILE": 32}, "options": {"num_warps": 1}}]


def test_the_kernels_compile_and_look_at_no_number():
    some = [product(1, "bf16", 32, 1, False), product(2, "fp16", 128, 2, True, 90)]
    check_compiled("quire.kernels.triton.matrix", some + rest("bf16"))


@pytest.mark.slow
@pytest.mark.parametrize("target", [80, 90])
@pytest.mark.parametrize("kind", NAMES)
def test_all_kinds_compile(kind, target):
    tiles = {0: (16, 128), 1: (32, 128), 2: (16, 128)}
    some = [
        product(form, kind, tile, several, plain, target)
        for form, several, plain in itertools.product(tiles, (1, 2, 4), (False, True))
        for tile in tiles[form]
    ]
    check_compiled("quire.kernels.triton.matrix", some + rest(kind))
