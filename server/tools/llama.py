"""Llama 3's JSON, with which the answer begins, or `<|python_tag|>` stands before; and Llama 4's Python."""

from .format import NAME, Format, Keys

JSON = Format(
    name="llama3_json",
    parallel=False,
    marks=(("<|python_tag|>",), ('{"name": function name, "parameters"',)),
    opens=("", "<|python_tag|>"),
    starts=("{",),
    trigger='{"name": "',
    head=Keys(arguments="parameters"),
    separator="; ",
)

PYTHONIC = Format(
    name="llama4_pythonic",
    marks=(("[func_name1(",),),
    opens=("[", "<|python_start|>["),
    closes=("]", "]<|python_end|>"),
    starts=("[",),
    head=("", NAME, "("),
    style="python",
    separator=", ",
)
