"""Calls as Python or something like it writes them, between tags: LFM2, Gemma 4."""

from .format import NAME, Format

LFM2 = Format(
    name="lfm2",
    marks=(("<|tool_call_start|>",), ("<|tool_list_start|>",), ("List of tools: [", "<|im_start|>")),
    opens=("<|tool_call_start|>[",),
    closes=("]<|tool_call_end|>",),
    head=("", NAME, "("),
    style="python",
    separator=", ",
)

GEMMA4 = Format(
    name="gemma4",
    marks=(("<|tool_call>call:", "<tool_call|>"),),
    opens=("<|tool_call>call:",),
    closes=("<tool_call|>",),
    each=True,
    head=(NAME,),
    style="gemma",
)
