"""One call behind another, each with tags of its own around a JSON object: GigaChat, Functionary, Solar."""

from .format import NAME, Format, Slot

GIGACHAT3 = Format(
    name="gigachat3",
    parallel=False,
    marks=(("function call", "<|role_sep|>"),),
    opens=("<|message_sep|>\n\nfunction call<|role_sep|>\n",),
    each=True,
)

GIGACHAT31 = Format(
    name="gigachat31", parallel=False, marks=(("<|function_call|>",),), opens=("<|function_call|>",), each=True
)

FUNCTIONARY31 = Format(
    name="functionary_v31",
    marks=(("<function=", "</function>"),),
    opens=("<function=",),
    closes=("</function>",),
    each=True,
    head=(NAME, ">"),
)

FUNCTIONARY32 = Format(
    name="functionary_v32",
    marks=((">>>all",),),
    opens=(">>>", ""),  # the prompt may end with it
    starts=("",),
    head=(NAME, "\n"),
    separator=">>>",
    content="all",
)

SOLAR = Format(
    name="solar_open",
    marks=(("<|tool_call:begin|>", "<|tool_call:args|>"),),
    opens=("<|tool_calls|>",),
    closes=("<|calls|>",),
    head=(
        "<|tool_call:begin|>",
        Slot("(?P<id>[^<]{1,64})", (Slot("[a-z0-9]{10}"),)),
        "<|tool_call:name|>",
        NAME,
        "<|tool_call:args|>",
    ),
    tail="<|tool_call:end|>",
    ids="given",
)
