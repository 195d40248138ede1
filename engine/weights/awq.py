"""AWQ, as AutoAWQ writes it for its GEMM kernel.

X.qweight int32 [in, out / 8]: the codes of eight neighbouring outputs share a word, in an order that suits that kernel.
X.qzeros int32 [groups, out / 8], the same. X.scales [groups, out]. weight = scale * (code - zero).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...kernels.quantized import Quantized
from .packing import FLOATS, Parts, Settings, groups, matrix, per_module

ENDS = ("qweight", "qzeros", "scales")

BITS = 4
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the output in each field of a word, from the lowest bits on
PLACES = [ORDER.index(output) for output in range(8)]  # the field of each output

BACKENDS = (  # kernels of others that read this layout; "llm-awq" packs otherwise
    *("auto", "auto_trainable", "autoawq", "exllama_v1", "exllama_v2", "gemm", "gemm_triton", "machete", "marlin"),
    *("torch_awq", "torch_fused_awq"),
)

FIXED: dict[str, tuple[Any, ...]] = {  # what may stand there; anything else would change the layout or the maths
    "version": ("gemm", "GEMM"),
    "format": ("gemm",),
    "method": ("awq",),
    "pack_dtype": ("int32",),
    "desc_act": (False,),
    "backend": BACKENDS,
    "activation": (),
    "adapter": (),
    "rotation": (),
}

# How the codes were found, and wishes for the kernels of others. Which modules are packed their names say.
HARMLESS = frozenset(
    """
    act_group_aware batch_size block_name_to_quantize cache_block_outputs damp_percent dataset do_fuse exllama_config
    fuse_max_seq_len lm_head max_input_length meta model_seqlen module_name_preceding_first_block
    modules_in_block_to_quantize modules_to_fuse modules_to_not_convert pad_token_id sym tokenizer true_sequential
    """.split()
)


@dataclass(frozen=True, slots=True)
class Layout:
    """How one matrix is packed."""

    size: int  # inputs that share a scale
    symmetric: bool  # all zeros are the middle of the codes

    @classmethod
    def of(cls, settings: Settings) -> Layout:
        settings.one_of("bits", (BITS,))
        return cls(settings.group("group_size"), not settings.flag("zero_point"))


def method(settings: Settings) -> Callable[[Parts], Quantized]:
    """Take all fields of a quantization_config; what makes a matrix of its parts."""
    layout = per_module(settings, ("bits", "group_size", "zero_point"), Layout.of, HARMLESS)
    settings.fixed(FIXED)
    settings.finish(HARMLESS)
    return lambda parts: unpack(parts, layout(parts.base))


def unpack(parts: Parts, layout: Layout) -> Quantized:
    """One matrix [out, in]."""
    words = parts.tensor("qweight", torch.int32, (None, None))
    inputs, outputs = words.shape[0], words.shape[1] * 8
    count = groups(inputs, layout.size)
    why = f"for {inputs} inputs in groups of {layout.size}"
    scale = parts.tensor("scales", FLOATS, (count, outputs), why=why)
    zero = outputs_first(parts.tensor("qzeros", torch.int32, (count, outputs // 8), why=why))
    codes = outputs_first(words)
    if not layout.symmetric:
        return matrix(codes, scale.t(), zero, BITS, layout.size)
    if not bool((zero == 8).all()):
        raise parts.wrong("qzeros", "has zeros beside the middle", "8 everywhere, as zero_point is false")
    return matrix(codes, scale.t(), None, BITS, layout.size)


def outputs_first(words: Tensor) -> Tensor:
    """int32 [rows, words] -> uint8 [8 * words, rows], in the order of the outputs."""
    turned = words.t().contiguous()
    return torch.stack([(turned >> 4 * place & 15).to(torch.uint8) for place in PLACES], 1).flatten(0, 1)
