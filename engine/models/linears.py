"""The linear layers of a transformers model as products of ours."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import nn

from ...kernels.ops import Linear, Rows


class Hook(Protocol):
    """What a layer has to know of the step that runs."""

    rows: Rows | None
    counting: bool  # whether the model is being looked at


class Packed(nn.Module):
    """A linear layer through `kernels.ops.Linear`: packed weights, rows that do not depend on each other, adapters."""

    def __init__(self, linear: nn.Linear, pack: bool, hook: Hook, form: str | None, device: torch.device):
        super().__init__()
        self._hook = hook
        self.calls: list[int] = []  # rows of each call while the model is looked at
        self.in_features, self.out_features = linear.in_features, linear.out_features
        bias = None if linear.bias is None else linear.bias.data.to(device)
        weight = linear.weight.data
        self.product = Linear(weight.to(device) if pack else weight, bias, pack=pack, form=form)
        self.bias = linear.bias
        # For code that asks for its dtype or device; whoever multiplies by it himself meets a wrong shape at once.
        self.register_buffer("weight", linear.weight.data.new_empty((0, linear.in_features)), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, self.in_features)
        if self._hook.counting:
            self.calls.append(len(flat))
        return self.product(flat, self._hook.rows).view(*x.shape[:-1], self.out_features)


def pack_linears(model: Any, hook: Hook, form: str | None, device: torch.device) -> list[Packed]:
    """Replace plain linear layers, one at a time so that no second copy of the model exists."""
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    packed = []
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                few = None if form is None or child.weight is table else "int8" if child is head else form
                packed.append(Packed(child, child.weight is not table, hook, few, device))
                setattr(module, name, packed[-1])
    return packed


def left_over(model: nn.Module) -> list[nn.Parameter]:
    """Matrices that are neither in a linear layer nor tables of embeddings, once the linear layers are replaced."""
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    return [p for p in model.parameters() if p.dim() > 1 and id(p) not in tables]
