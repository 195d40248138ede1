"""Mistral: a JSON list behind `[TOOL_CALLS]`; later the name, an id for some, and the arguments between more tags."""

from .format import NAME, Format, Keys, Slot

OLD = Format(
    name="mistral_old",
    marks=(("[TOOL_CALLS]",),),
    opens=("[TOOL_CALLS][", "[TOOL_CALLS] ["),
    closes=("]",),
    head=Keys(),
    separator=", ",
    ids="nine",
)

NEW = Format(
    name="mistral",
    marks=(("[TOOL_CALLS]", "[ARGS]"),),
    opens=("[TOOL_CALLS]",),
    each=True,
    head=(NAME, "[ARGS]"),
    ids="nine",
)

WITH_ID = Format(
    name="mistral_call_id",
    marks=(("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),),
    opens=("[TOOL_CALLS]",),
    each=True,
    head=(NAME, "[CALL_ID]", Slot(r"(?P<id>[^\[]{1,64})", (Slot("[a-zA-Z0-9]{9}"),)), "[ARGS]"),
    ids="given",
)
