"""Kimi K2: sections of calls whose ids carry the name: `functions.name:0`."""

from .format import Format, Slot

FORMAT = Format(
    name="kimi_k2",
    marks=(("<|tool_calls_section_begin|>",),),
    opens=("<|tool_calls_section_begin|>",),
    closes=("<|tool_calls_section_end|>",),
    head=(
        "<|tool_call_begin|>",
        Slot(r"\s*(?P<id>(?:functions\.)?(?P<name>.+):[0-9]+)\s*", ("functions.", None, ":", Slot("[0-9]{1,3}"))),
        "<|tool_call_argument_begin|>",
    ),
    tail="<|tool_call_end|>",
    ids="given",
)
