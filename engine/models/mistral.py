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
    window = fields.window(4096)
    found = read_shape(fields, windows=lambda layers: (window,) * layers)
    fields.finish()
    return found
