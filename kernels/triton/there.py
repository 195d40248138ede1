"""Whether the Triton kernels can run here. Imports no triton, which is not there on every machine."""

from __future__ import annotations

import importlib.util
import os

import torch

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LEAST = (8, 0)  # compute capability: for older cards Triton 3.6 does not compile products of tiles


def lack(dtype: torch.dtype, device: torch.device) -> str | None:
    """Why such tensors cannot be served, in words; None: they can.

    On a CPU they can where TRITON_INTERPRET=1 is set, which is Triton's own switch and for tests: kernels are then
    interpreted, thousands of times slower.
    """
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if dtype not in DTYPES:
        return f"the model runs in {dtype}"
    if device.type == "cuda":
        return _card_lacks(device)
    if os.environ.get("TRITON_INTERPRET", "0").lower() not in ("1", "true", "yes", "on", "y"):
        return f"the model is on {device}, not on CUDA"
    return None


def _card_lacks(device: torch.device) -> str | None:
    if torch.version.cuda is None or (has := torch.cuda.get_device_capability(device)) >= LEAST:
        return None
    found = f"the {torch.cuda.get_device_name(device)} has compute capability {has[0]}.{has[1]}"
    return f"{found}, and Triton's kernels need {LEAST[0]}.{LEAST[1]} or more"
