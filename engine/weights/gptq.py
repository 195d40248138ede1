"""GPTQ, as AutoGPTQ and GPTQModel write it.

X.qweight int32 [in * bits / 32, out]: the codes of neighbouring inputs share a word, the first in its lowest bits.
X.qzeros int32 [groups, out * bits / 32], the same along the outputs. X.scales [groups, out]. X.g_idx [in]: the group of
each input. weight = scale * (code - zero).

In checkpoint_format "gptq" each zero is stored one less, with "gptq_v2" as it is. GPTQModel takes that one from all
fields of a word by one subtraction, so where a zero is 0 its field borrows from the next; adding to whole words gives
it back. (Readers that add one to each field differ there, and among themselves; all agree where no zero is 0.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ...kernels.quantized import MIDDLE, Quantized
from .packing import FLOATS, Parts, Settings, count, fields, groups, matrix, per_module

ENDS = ("qweight", "qzeros", "scales", "g_idx")

ONES = {4: 0x11111111, 8: 0x01010101}  # one in each field of a word, by bits
FORMATS = {"gptq": ONES, "gptq_v2": {4: 0, 8: 0}}  # -> what to add to a word of zeros

FIXED: dict[str, tuple[Any, ...]] = {  # what may stand there; anything else would change the layout or the maths
    "method": ("gptq",),
    "data_type": ("int",),
    "pack_dtype": ("int32",),
    "is_marlin_format": (False,),
    "awq_gemm_checkpoint": (False,),
    "activation": (),
    "adapter": (),
    "rotation": (),
}

# How the codes were found, and wishes for the kernels of others. Which modules are packed their names say.
HARMLESS = frozenset(
    """
    act_group_aware amp autoround_version backend batch_size block_name_to_quantize cache_block_outputs
    damp_auto_increment damp_percent dataset disable_exllama enable_minmax_tuning enable_norm_bias_tuning
    enable_quanted_input exllama_config gradient_accumulate_steps iters lm_head low_gpu_mem_usage lr max_input_length
    meta minmax_lr model_file_base_name model_name_or_path model_seqlen module_name_preceding_first_block
    modules_in_block_to_quantize mse nsamples pad_token_id provider quantizer scale_dtype seqlen static_groups
    to_quant_block_names tokenizer true_sequential use_cuda_fp16 use_exllama
    """.split()
)


@dataclass(frozen=True, slots=True)
class Layout:
    """How one matrix is packed."""

    bits: int
    size: int  # inputs that share a scale
    symmetric: bool  # all zeros are the middle of the codes
    reordered: bool  # the groups were made of inputs in another order, so the file must say which

    @classmethod
    def of(cls, settings: Settings) -> Layout:
        return cls(
            bits=settings.one_of("bits", MIDDLE),
            size=settings.group("group_size"),
            symmetric=settings.flag("sym", True),
            reordered=settings.flag("desc_act", False),
        )


def method(settings: Settings) -> Callable[[Parts], Quantized]:
    """Take all fields of a quantization_config; what makes a matrix of its parts."""
    formats = [settings.one_of(name, FORMATS, None) for name in ("checkpoint_format", "format")]
    older, newer = formats
    if older and newer and older != newer:
        raise settings.wrong("format", newer, f"{older!r}, which checkpoint_format is")
    add = FORMATS[older or newer or "gptq"]
    layout = per_module(settings, ("bits", "group_size", "sym", "desc_act"), Layout.of, HARMLESS)
    settings.fixed(FIXED)
    settings.finish(HARMLESS)
    return lambda parts: unpack(parts, layout(parts.base), add)


def unpack(parts: Parts, layout: Layout, add: Mapping[int, int]) -> Quantized:
    """One matrix [out, in]. add: FORMATS."""
    bits, size = layout.bits, layout.size
    words = parts.tensor("qweight", torch.int32, (None, None))
    inputs, outputs = words.shape[0] * 32 // bits, words.shape[1]
    order = parts.order("g_idx", inputs, size) if "g_idx" in parts or layout.reordered else None
    shape = groups(inputs, size), outputs
    why = f"for {inputs} inputs in groups of {size}"
    scale = parts.tensor("scales", FLOATS, shape, why=why)
    zeros = parts.tensor("qzeros", torch.int32, (shape[0], count(outputs * bits, 32)), why=why)
    zero = fields(zeros + add[bits], bits)[:, :outputs]
    codes = fields(words.t(), bits)
    if not layout.symmetric:
        return matrix(codes, scale.t(), zero.t(), bits, size, order)
    middle = 1 << bits - 1
    # Some write the middle itself in a symmetric v1 file. Kernels for symmetric files never look, so they are in use.
    if not any(bool((zero == value).all()) for value in {middle, middle + (add[bits] > 0)}):
        raise parts.wrong("qzeros", "has zeros beside the middle", f"{middle} everywhere, as sym is true")
    return matrix(codes, scale.t(), None, bits, size, order)
