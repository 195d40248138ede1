"""What errors of torch, CUDA and Triton say: memory is short, the device is lost, or one call was wrong."""

from __future__ import annotations

import pytest
import torch

from quire.engine.faults import let_go, lost, of_the_step, short_of_memory

# As torch writes them (c10/cuda/CUDAException.cpp, CUDACachingAllocator.cpp, ATen/cuda/Exceptions.h), and Triton.
TAIL = (
    "\nCUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1\n"
)
SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB"),
    torch.AcceleratorError("CUDA error: out of memory" + TAIL),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
    ),
    MemoryError(),
]
LOST = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered" + TAIL),
    torch.AcceleratorError("CUDA error: device-side assert triggered" + TAIL),
    torch.AcceleratorError("CUDA error: unspecified launch failure" + TAIL),
    torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered" + TAIL),
    torch.AcceleratorError("something new" + TAIL),
    RuntimeError("CUDA error: misaligned address" + TAIL),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`"),
    RuntimeError("CUDA driver error: unknown error"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
]
PASSING = [
    torch.AcceleratorError("CUDA error: invalid configuration argument" + TAIL),
    torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing" + TAIL),
    RuntimeError("Triton Error [CUDA]: invalid argument"),
    RuntimeError("CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasGemmEx( handle, opa, opb, m, n, k)`"),
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 0"),
    ValueError("CUDA error: an illegal memory access was encountered"),
    IndexError("list index out of range"),
]


@pytest.mark.parametrize("error", SHORT, ids=str)
def test_memory_is_short(error):
    assert short_of_memory(error)
    assert lost(error) is None
    assert of_the_step(error)


@pytest.mark.parametrize("error", LOST, ids=str)
def test_the_device_is_lost_and_why_is_one_line(error):
    assert lost(error) == str(error).partition("\n")[0]
    assert not short_of_memory(error)
    assert of_the_step(error)


@pytest.mark.parametrize("error", PASSING, ids=str)
def test_the_device_goes_on(error):
    assert lost(error) is None
    assert not short_of_memory(error)
    assert not of_the_step(error)


def test_what_torch_keeps_is_given_back_where_there_is_cuda(monkeypatch):
    emptied = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(True))
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda there=there: there)
        let_go(MemoryError())
        assert len(emptied) == there
