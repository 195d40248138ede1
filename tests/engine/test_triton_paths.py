"""What runs on a GPU by Triton's kernels: the cases of triton_paths_cases.py, in a process that interprets them."""

from __future__ import annotations

from pathlib import Path

import pytest
from interpreted import needs_triton, run_cases

pytestmark = needs_triton
CASES = Path(__file__).with_name("triton_paths_cases.py")


def test_models_products_and_the_sampler_by_tritons_kernels():
    run_cases(CASES, interpreted=True)


@pytest.mark.slow
def test_rows_of_int8_and_fp8_weights_keep_their_bits_by_tritons_kernels():
    run_cases(CASES, "slow", interpreted=True)
