"""Mistral: Llama with a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .config import Fields
from .decoder import Decoder, Shape, read_shape

PREFIX = "model."
HARMLESS = (".rotary_emb.inv_freq",)
Model = Decoder


def shape(config: Mapping[str, Any]) -> Shape:
    fields = Fields(config)
    window = fields.any("sliding_window")
    layers = config.get("num_hidden_layers") or 0
    found = read_shape(fields, windows=(window,) * layers)
    fields.finish()
    return found
