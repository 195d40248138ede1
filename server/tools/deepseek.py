"""DeepSeek: R1 and V3 with the arguments in a fenced block, V3.1 without, V3.2 and V4 with a markup of their own."""

from .format import NAME, Format, Parameters, Slot

V3 = Format(
    name="deepseek_v3",
    marks=(("<｜tool▁calls▁begin｜>", "```json"),),
    opens=("<｜tool▁calls▁begin｜>",),
    closes=("<｜tool▁calls▁end｜>",),
    head=("<｜tool▁call▁begin｜>function<｜tool▁sep｜>", NAME, "\n```json\n"),
    tail="\n```<｜tool▁call▁end｜>",
    separator="\n",
)

V31 = Format(
    name="deepseek_v31",
    marks=(("<｜tool▁calls▁begin｜>",),),
    opens=("<｜tool▁calls▁begin｜>",),
    closes=("<｜tool▁calls▁end｜>",),
    head=("<｜tool▁call▁begin｜>", NAME, "<｜tool▁sep｜>"),
    tail="<｜tool▁call▁end｜>",
)

_DSML = Parameters(
    opens='<｜DSML｜parameter name="',
    middle='" string="true">',
    json='" string="false">',
    closes="</｜DSML｜parameter>\n",
)
_INVOKE = Slot(r'(?P<name>[^"]+)', (None,))

V32 = Format(
    name="deepseek_v32",
    marks=(("｜DSML｜", "function_calls"),),
    opens=("<｜DSML｜function_calls>\n",),
    closes=("\n</｜DSML｜function_calls>",),
    head=('<｜DSML｜invoke name="', _INVOKE, '">\n'),
    style="parameters",
    parameters=_DSML,
    tail="</｜DSML｜invoke>",
    separator="\n",
)

V4 = Format(
    name="deepseek_v4",
    marks=(("｜DSML｜", "tool_calls"),),
    opens=("<｜DSML｜tool_calls>\n",),
    closes=("\n</｜DSML｜tool_calls>",),
    head=('<｜DSML｜invoke name="', _INVOKE, '">\n'),
    style="parameters",
    parameters=_DSML,
    tail="</｜DSML｜invoke>",
    separator="\n",
)
