"""Llama 1, 2 and 3."""

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
    fields.one_of("pretraining_tp", (1,), 1)  # more: the products were to be cut in pieces
    bias = fields.flag("attention_bias", False)
    found = read_shape(fields, qkv_bias=bias, out_bias=bias, mlp_bias=fields.flag("mlp_bias", False))
    fields.finish()
    return found
