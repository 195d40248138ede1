"""Qwen2 and Qwen2.5: biases on query, key and value; some layers may have a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ..errors import ModelError
from .config import Fields
from .decoder import Decoder, Shape, Windows, read_shape

PREFIX = "model."
HARMLESS = (".rotary_emb.inv_freq",)
Model = Decoder


def shape(config: Mapping[str, Any]) -> Shape:
    fields = Fields(config)
    found = read_shape(fields, windows=partial(windows, fields), qkv_bias=True)
    fields.finish()
    return found


def windows(fields: Fields, layers: int) -> Windows:
    """The window of each layer: by `layer_types` where given, else all layers from `max_window_layers` on."""
    used = fields.flag("use_sliding_window", False)
    window = fields.window(4096) if used else fields.any("sliding_window")
    types = fields.any("layer_types")
    if types is None:
        first = fields.number("max_window_layers", 28, low=0)
        types = ["sliding_attention" if used and i >= first else "full_attention" for i in range(layers)]
    known = ("sliding_attention", "full_attention")
    if not isinstance(types, list) or len(types) != layers or not all(kind in known for kind in types):
        raise ModelError(f"config.json: layer_types is {types}; expected {layers} of {' | '.join(known)}")
    return tuple(window if used and kind == "sliding_attention" else None for kind in types)
