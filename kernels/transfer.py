"""From the host to a device without waiting for it.

A copy from ordinary memory waits until the device has done all that it was given before: CUDA synchronizes the stream
first. One from pinned memory only joins what is queued.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sent(host: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on `device`, itself where that is the host. Pinned memory is kept until it has been read."""
    if device.type == "cpu":
        return host
    if device.type != "cuda" or not host.numel():
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)


class Fetched:
    """What a tensor of a device holds at this point of its stream, read later: `read` waits for that point only, not
    for what is launched behind it."""

    __slots__ = ("_event", "_host")

    def __init__(self, tensor: Tensor):
        self._event: torch.cuda.Event | None = None
        self._host = tensor
        if tensor.device.type == "cuda":
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._host.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))

    def read(self) -> Tensor:
        """On the host. Raises what went wrong on the device until then."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
