"""gpt-oss: a call is a message whose header names the function as its recipient. The others are for reasoning.py."""

from .format import Format, Slot

_HEADER = Slot(
    r".*\bto=functions\.(?P<name>[^\s<]+).*",
    ("commentary to=functions.", None, " <|constrain|>json"),
)

FORMAT = Format(
    name="openai",
    parallel=False,
    marks=(("<|channel|>analysis<|message|>", "<|start|>assistant"),),
    opens=("<|channel|>", "<|start|>assistant"),
    closes=("<|call|>",),
    each=True,
    starts=("to=",),
    head=(_HEADER, "<|message|>"),
)
