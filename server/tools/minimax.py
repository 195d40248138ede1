"""MiniMax M3: parameters as elements under their own names, nested for objects and lists."""

from .format import Format, Parameters, Slot

M3 = Format(
    name="minimax_m3",
    marks=(("]<]minimax[>[",),),
    opens=("]<]minimax[>[<tool_call>\n",),
    closes=("\n]<]minimax[>[</tool_call>",),
    head=(']<]minimax[>[<invoke name="', Slot(r'(?P<name>[^"]+)', (None,)), '">'),
    style="nested",
    parameters=Parameters(opens="]<]minimax[>[<", middle=">", closes="]<]minimax[>[</"),
    tail="]<]minimax[>[</invoke>",
    separator="\n",
)
