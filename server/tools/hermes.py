"""JSON objects, each between tags: Hermes and all who learned from it, such as Qwen 2.5 and 3, or Granite 4."""

from .format import Format, Keys

FORMAT = Format(
    name="hermes",
    marks=(("<tool_call>",),),
    opens=("<tool_call>\n",),
    closes=("\n</tool_call>",),
    each=True,
    head=Keys(),
    separator="\n",
)
