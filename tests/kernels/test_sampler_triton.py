"""The sampler without a sort in Triton: the cases of triton_sampler_cases.py, and whether it compiles."""

from __future__ import annotations

from pathlib import Path

import pytest
from interpreted import check_compiled, needs_triton, run_cases

pytestmark = needs_triton
CASES = Path(__file__).with_name("triton_sampler_cases.py")


def test_its_tokens_are_the_engines():
    run_cases(CASES)


@pytest.mark.slow
def test_its_tokens_are_the_engines_over_thousands_of_rows():
    run_cases(CASES, "slow")


def test_it_compiles_and_looks_at_no_number():
    pointers = {
        "work": "*fp32", "tokens": "*i64", "integers": "*i64", "floats": "*fp32", "sums": "*i64", "few": "*fp32",
    }  # fmt: skip
    constants = {
        "INTEGERS": 7, "FLOATS": 5, "TILE": 1024, "TILES": 4, "PIVOTS": 8, "COARSE": 3, "RANGE": 32.0, "FEW": 4096,
    }  # fmt: skip
    wanted = {
        "kernel": "sample_rows",
        "kinds": pointers | {"logits": "*fp32"},
        "constants": constants | {"COPIED": False},
        "options": {"num_warps": 8, "enable_fp_fusion": False},
    }
    check_compiled("quire.kernels.triton.sampler", [wanted])
