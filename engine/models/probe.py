"""What the layers of a transformers model ask of attention, taken down while it runs a few tokens of one sequence.

Whatever our attention would leave out, such as sinks, biases, masks of another shape or attention that is not causal,
raises ModelError here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ...kernels.attention import reference
from ..attention import LayerSpec
from ..errors import ModelError

# Arguments that say nothing about the arithmetic: positions are in q and k by now, and the rest are of no use here.
IGNORED = {
    "position_ids",
    "cache_position",
    "use_cache",
    "past_key_values",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
}
MaskFunction = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class Probe:
    """Stands for the attention and the mask builder of one forward pass. Layers are in the order of their calls."""

    def __init__(self, name: str, max_position: int):
        self.name = name
        self.max_position = max_position
        self.modules: list[nn.Module] = []
        self.layers: list[LayerSpec] = []
        self._windows: dict[int, int | ModelError | None] = {}  # id of a mask -> its window, or why it has none
        self._masks: list[torch.Tensor] = []  # kept alive, so that ids stay theirs

    def attention(
        self,
        module: nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        dropout: float = 0.0,
        sliding_window: int | None = None,
        softcap: float | None = None,
        is_causal: bool | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """One layer's call. query [1, heads, T, head_dim], key, value [1, kv_heads, T, ..] -> [1, T, heads, ..]."""
        where = f"{self.name}: attention layer {len(self.layers)} ({type(module).__name__})"
        for argument, given in kwargs.items():
            if argument not in IGNORED and given is not None and given is not False:
                raise ModelError(f"{where} is called with {argument}, which the paged attention does not have")
        if is_causal is False or getattr(module, "is_causal", True) is False:
            raise ModelError(f"{where} is not causal; expected a causal language model")
        if any(module is seen for seen in self.modules):
            raise ModelError(f"{where} is called twice in a step; expected one call a layer")
        if query.shape[2] != key.shape[2] or query.shape[1] % key.shape[1] or key.shape[1] != value.shape[1]:
            shapes = [list(x.shape) for x in (query, key, value)]
            raise ModelError(f"{where} has q, k, v of shapes {shapes}; expected self attention with grouped heads")
        if isinstance(scaling, torch.Tensor) or dropout:
            raise ModelError(f"{where} has a scale that is learned, or dropout; expected a number and none")
        window = self._window(attention_mask, sliding_window, where)
        head_dim, v_dim = query.shape[3], value.shape[3]
        spec = LayerSpec(
            heads=query.shape[1],
            kv_heads=key.shape[1],
            head_dim=head_dim,
            scale=head_dim**-0.5 if scaling is None else float(scaling),
            window=window,
            softcap=softcap or None,
            v_head_dim=None if v_dim == head_dim else v_dim,
        )
        self.modules.append(module)
        self.layers.append(spec)
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        return reference(q, k, v, spec.scale, spec.window, spec.softcap)[None].contiguous()  # as some layers want it

    def mask(
        self, *args: Any, mask_function: MaskFunction, q_length: int, kv_length: int, **kwargs: Any
    ) -> torch.Tensor:
        """The mask builder: takes down which window the mask function draws, and gives the mask [1, 1, q, kv]."""
        device = kwargs.get("device")
        mask = _draw(mask_function, torch.arange(q_length), torch.arange(kv_length))[None, None].to(device)
        try:
            self._windows[id(mask)] = self._measure(mask_function)
        except ModelError as error:  # for the layer that asks for it: some models make masks that none does
            self._windows[id(mask)] = error
        self._masks.append(mask)
        return mask

    def _measure(self, function: MaskFunction) -> int | None:
        """The window of a mask function, found by asking it at several positions up to the last."""
        last = self.max_position - 1
        keys = torch.arange(last + 1)
        window = int(_draw(function, torch.tensor([last]), keys).sum())
        queries = torch.tensor(sorted({0, 1, last // 7, last // 3, last // 2, window - 1, min(window, last), last}))
        expected = (keys <= queries[:, None]) & (keys > queries[:, None] - window)
        if window < 1 or not torch.equal(_draw(function, queries, keys), expected):
            raise ModelError(
                f"{self.name}: its attention mask is neither causal nor a sliding window; expected one of them"
            )
        return window if window <= last else None

    def _window(self, mask: torch.Tensor | None, asked: int | None, where: str) -> int | None:
        """The layer's window: the mask says it where there is one, else the argument."""
        asked = asked if asked is not None and 0 < asked < self.max_position else None
        if mask is None:
            return asked
        if id(mask) not in self._windows:
            raise ModelError(f"{where} is called with a mask of its own (a bias or ALiBi); expected a causal mask")
        drawn = self._windows[id(mask)]
        if isinstance(drawn, ModelError):
            raise drawn
        if asked is not None and asked != drawn:
            raise ModelError(f"{where} asks for a window of {asked} but its mask has {drawn}; expected the same")
        return drawn


def _draw(function: MaskFunction, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Ask a mask function (batch, head, query, key) -> bool for all pairs: [queries, keys]."""
    zero = torch.zeros((1, 1), dtype=torch.int64)
    found = function(zero, zero, queries[:, None], keys[None, :])
    return found.expand(len(queries), len(keys)).bool()
