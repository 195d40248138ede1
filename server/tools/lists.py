"""JSON lists of calls, which differ in their tags and keys: Phi-4, Granite 3, Apriel, Nemotron, Command, Apertus ..."""

from .format import NAME, Format, Keys

PHI4 = Format(
    name="phi4_mini",
    marks=(("<|tool|>", "<|/tool|>"),),
    opens=("<|tool_call|>[", "functools["),
    closes=("]<|/tool_call|>", "]"),
    separator=", ",
)

FIREFUNCTION = Format(
    name="firefunction", marks=(("functools[",),), opens=(" functools[",), closes=("]",), separator=", "
)

GRANITE = Format(
    name="granite",
    marks=(("<|tool_call|>", "<|start_of_role|>"),),
    opens=("<|tool_call|>[", "<|tool_call|> ["),
    closes=("]",),
    separator=", ",
)

APRIEL = Format(
    name="apriel", marks=(("<tool_calls>[",),), opens=("<tool_calls>[",), closes=("]</tool_calls>",), separator=", "
)

NEMOTRON = Format(
    name="nemotron", marks=(("<TOOLCALL>",),), opens=("<TOOLCALL>[",), closes=("]</TOOLCALL>",), separator=", "
)

COHERE = Format(
    name="cohere",
    marks=(("<|START_ACTION|>",),),
    opens=("<|START_ACTION|>[\n    ",),
    closes=("\n]<|END_ACTION|>",),
    head=Keys(name="tool_name", arguments="parameters", number="tool_call_id"),
    separator=",\n    ",
)

COMMAND_R = Format(
    name="command_r",
    marks=(("Action:", "```json", "directly-answer"),),
    opens=("Action:\n```json\n[\n    ", "Action: ```json\n["),
    closes=("\n]```", "]\n```"),
    head=Keys(name="tool_name", arguments="parameters"),
    separator=",\n    ",
)

APERTUS = Format(
    name="apertus",
    marks=(("<|tools_prefix|>",),),
    opens=("<|tools_prefix|>[",),
    closes=("]<|tools_suffix|>",),
    head=('{"', NAME, '": '),
    tail="}",
    separator=", ",
)
