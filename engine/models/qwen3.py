"""Qwen3: queries and keys are normalized head by head; some layers may have a sliding window."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from .config import Fields
from .decoder import Decoder, Shape, read_shape
from .qwen2 import windows

PREFIX = "model."
HARMLESS = (".rotary_emb.inv_freq",)
Model = Decoder


def shape(config: Mapping[str, Any]) -> Shape:
    fields = Fields(config)
    bias = fields.flag("attention_bias", False)
    found = read_shape(
        fields,
        windows=partial(windows, fields),
        head_dim=fields.number("head_dim", 128),
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=True,
    )
    fields.finish()
    return found
