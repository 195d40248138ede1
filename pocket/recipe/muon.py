"""Muon (Jordan et al. 2024): momentum whose matrices are made orthogonal before they are a step.

torch.optim.Muon orthogonalizes one matrix at a time and always in bfloat16, which a CPU without such arithmetic does
many times slower than float32. Here matrices of equal shape go together, in the precision of the run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch

_A, _B, _C = 3.4445, -4.7750, 2.0315  # the quintic of Newton-Schulz, as the authors tuned it
_STEPS = 5


class Muon(torch.optim.Optimizer):
    def __init__(self, matrices: Iterable[torch.Tensor], lr: float, momentum: float = 0.95, weight_decay: float = 0.0):
        """matrices: parameters of two dimensions."""
        super().__init__(matrices, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = torch.float32  # of the orthogonalization

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[tuple(matrix.shape)].append(matrix)
            for (rows, columns), matrices in alike.items():
                updates = [self._with_momentum(m, group["momentum"]) for m in matrices]
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                steps = orthogonal(torch.stack(updates).to(self.dtype)).float() * scale
                for matrix, step in zip(matrices, steps, strict=True):
                    matrix.mul_(1 - group["lr"] * group["weight_decay"]).sub_(step)

    def _with_momentum(self, matrix: torch.Tensor, momentum: float) -> torch.Tensor:
        """Nesterov's."""
        state = self.state[matrix]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(matrix)
        grad = matrix.grad
        assert grad is not None
        state["momentum"].lerp_(grad, 1 - momentum)
        return grad.lerp(state["momentum"], momentum)


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """x [matrices, rows, columns] -> about U V' of its singular value decomposition."""
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_STEPS):
        square = x @ x.mT
        x = _A * x + (_B * square + _C * square @ square) @ x
    return x.mT if tall else x
