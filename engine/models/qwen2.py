"""Qwen2 and Qwen2.5: biases on query, key and value; some layers may have a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ModelError
from .config import Fields
from .decoder import Decoder, Shape, read_shape

PREFIX = "model."
HARMLESS = (".rotary_emb.inv_freq",)
Model = Decoder


def shape(config: Mapping[str, Any]) -> Shape:
    fields = Fields(config)
    found = read_shape(fields, windows=windows(config, fields), qkv_bias=True)
    fields.finish()
    return found


def windows(config: Mapping[str, Any], fields: Fields) -> tuple[int | None, ...]:
    """The window of each layer: by `layer_types` where given, else all layers from `max_window_layers` on."""
    layers = config.get("num_hidden_layers") or 0
    window = fields.any("sliding_window")
    used = fields.flag("use_sliding_window", False)
    types = fields.any("layer_types")
    if types is None:
        first = config.get("max_window_layers", 28)
        types = ["sliding_attention" if used and i >= first else "full_attention" for i in range(layers)]
    if len(types) != layers or not set(types) <= {"sliding_attention", "full_attention"}:
        raise ModelError(
            f"config.json: layer_types is {types}; expected {layers} of sliding_attention | full_attention"
        )
    return tuple(window if used and kind == "sliding_attention" else None for kind in types)
