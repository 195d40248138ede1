"""Parameters between tags that carry their names: Qwen3-Coder, and Seed, MiniMax and MiniCPM with other tags."""

from .format import NAME, Format, Parameters, Slot

_QUOTED = Slot(r'(?P<name>[^"]+)', (None,))

QWEN3 = Format(
    name="qwen3_coder",
    marks=(("<tool_call>", "<function=", "<parameter="),),
    opens=("<tool_call>\n",),
    closes=("\n</tool_call>",),
    each=True,
    head=("<function=", NAME, ">\n"),
    style="parameters",
    parameters=Parameters(opens="<parameter=", middle=">\n", closes="\n</parameter>\n"),
    tail="</function>",
    separator="\n",
)

SEED = Format(
    name="seed_oss",
    marks=(("<seed:tool_call>",),),
    opens=("<seed:tool_call>\n",),
    closes=("\n</seed:tool_call>",),
    each=True,
    head=("<function=", NAME, ">\n"),
    style="parameters",
    parameters=Parameters(opens="<parameter=", middle=">", closes="</parameter>\n"),
    tail="</function>",
    separator="\n",
)

MINIMAX = Format(
    name="minimax_m2",
    marks=(("<minimax:tool_call>",),),
    opens=("<minimax:tool_call>\n",),
    closes=("\n</minimax:tool_call>",),
    head=('<invoke name="', _QUOTED, '">\n'),
    style="parameters",
    parameters=Parameters(opens='<parameter name="', middle='">', closes="</parameter>\n"),
    tail="</invoke>",
    separator="\n",
)

MINICPM = Format(
    name="minicpm5",
    marks=(('<function name="', '<param name="'),),
    opens=('<function name="',),
    closes=("</function>",),
    each=True,
    head=(_QUOTED, '">'),
    style="parameters",
    parameters=Parameters(opens='<param name="', middle='">', closes="</param>", cdata=True),
    separator="\n",
)
