"""What an error of a step says of the machine: its memory is short, or its device is lost. The one place that knows the
words for it.

Torch raises OutOfMemoryError where its allocator has no more, and else AcceleratorError or a RuntimeError with CUDA's
own text in it, as Triton does ("Triton Error [CUDA]: ..."). Most errors of CUDA stay: every later call of the process
returns them again, and only a new process can use the device (CUDA's runtime API, cudaErrorIllegalAddress and others).
"""

from __future__ import annotations

import traceback

import torch

# What CUDA says for which memory is short. It is said by what does not ask torch's allocator.
SHORT = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "can't allocate memory", "not enough memory")
# What it says of a call that was wrong, and changed nothing: the device goes on. All else is taken to stay, for to take
# a lost device for a sound one would fail every request from then on.
PASSING = (
    "invalid argument",
    "invalid configuration argument",
    "invalid device function",
    "invalid resource handle",
    "no kernel image is available",
    "device kernel image is invalid",
    "too many resources requested for launch",
    "operation not supported",
    "operation not permitted when stream is capturing",
    "operation failed due to a previous error during capture",
    "CUBLAS_STATUS_INVALID_VALUE",
    "CUBLAS_STATUS_NOT_SUPPORTED",
)
MARKS = ("CUDA error", "CUDA driver error", "Triton Error [CUDA]", "cuDNN error", "HIP error")


def short_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SHORT)


def lost(error: BaseException) -> str | None:
    """Why the device is lost to this process, in one line; None: it is not."""
    if not isinstance(error, RuntimeError) or short_of_memory(error):
        return None
    text = str(error)
    if not isinstance(error, torch.AcceleratorError) and not any(mark in text for mark in MARKS):
        return None
    return None if any(words in text for words in PASSING) else text.strip().partition("\n")[0]


def of_the_step(error: BaseException) -> bool:
    """Whether an error is more than one sequence's own: the step as a whole has failed."""
    return short_of_memory(error) or lost(error) is not None


def words(error: BaseException) -> str:
    """Its kind and what it says, in one line."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}"


def let_go(error: BaseException) -> None:
    """Give memory back that nobody uses: what torch keeps, and what the calls had in hand that an error came through,
    which it holds for as long as it is looked at, and so does an error that was raised meanwhile."""
    seen: BaseException | None = error
    while seen is not None:
        traceback.clear_frames(seen.__traceback__)
        seen = seen.__context__
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
