"""GLM: the name, then pairs of keys and values between tags. Laguna and Hunyuan 3 write much the same."""

from .format import NAME, Format, Parameters

GLM45 = Format(
    name="glm45",
    marks=(("<arg_key>", "<tool_call>"),),
    opens=("<tool_call>",),
    closes=("</tool_call>",),
    each=True,
    head=(NAME, "\n"),
    style="parameters",
    parameters=Parameters(opens="<arg_key>", middle="</arg_key>\n<arg_value>", closes="</arg_value>\n"),
    separator="\n",
)

GLM47 = Format(
    name="glm47",
    marks=(("{function-name}<arg_key>",), ('"</arg_key>" -',)),
    opens=("<tool_call>",),
    closes=("</tool_call>",),
    each=True,
    head=(NAME,),
    style="parameters",
    parameters=Parameters(opens="<arg_key>", middle="</arg_key><arg_value>", closes="</arg_value>"),
)

HUNYUAN = Format(
    name="hunyuan_v3",
    marks=(("<tool_calls{}>", "<tool_sep{}>", ":opensource"),),
    opens=("<tool_calls:opensource>\n",),
    closes=("\n</tool_calls:opensource>",),
    head=("<tool_call:opensource>", NAME, "<tool_sep:opensource>\n"),
    style="parameters",
    parameters=Parameters(
        opens="<arg_key:opensource>",
        middle="</arg_key:opensource>\n<arg_value:opensource>",
        closes="</arg_value:opensource>\n",
    ),
    tail="</tool_call:opensource>",
    separator="\n",
)
