"""Norms, gates and masks in Triton: the cases of triton_row_cases.py, and whether they compile for a GPU."""

from __future__ import annotations

from pathlib import Path

from interpreted import check_compiled, needs_triton, run_cases

pytestmark = needs_triton
KINDS = ["fp32", "bf16", "fp16"]


def test_the_kernels_do_what_float64_does():
    run_cases(Path(__file__).with_name("triton_row_cases.py"))


def test_norms_and_gates_compile_and_look_at_no_number():
    norms = [
        {
            "kernel": "rms_norm_rows",
            "kinds": {
                "x": f"*{k}",
                "y": f"*{k}",
                "weight": f"*{k}",
                "residual": f"*{k}",
                "eps": "fp32",
                "offset": "fp32",
            },
            "constants": {"TILE": 1024} | ({"residual": None} if k == "bf16" else {}),
        }
        for k in KINDS
    ]
    gates = [
        {
            "kernel": "gate_rows",
            "kinds": {"x": f"*{k}", "y": f"*{k}"},
            "constants": {"TILE": 1024, "ACTIVATION": activation},
        }
        for activation, k in enumerate([*KINDS, "bf16"], 1)
    ]
    layers = [
        {
            "kernel": "layer_norm_rows",
            "kinds": {"x": f"*{k}", "y": f"*{k}", "weight": f"*{k}", "bias": f"*{k}", "eps": "fp32"},
            "constants": {"TILE": 1024},
        }
        for k in KINDS
    ]
    check_compiled("quire.kernels.triton.rows", norms + layers + gates)


def test_masks_compile_and_look_at_no_number():
    wanted = [
        {
            "kernel": "forbid_unset",
            "kinds": {"logits": f"*{k}", "masks": "*i32", "which": "*i64"},
            "constants": {"TILE": 1024} | ({} if k == "fp32" else {"which": None}),
        }
        for k in KINDS
    ]
    check_compiled("quire.kernels.triton.mask", wanted)
