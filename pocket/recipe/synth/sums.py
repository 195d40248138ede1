"""Arithmetic: with a calculator tool, and small sums from memory."""

from __future__ import annotations

from random import Random
from typing import Any

from ..samples import Sample
from . import chat, words

CALCULATOR = chat.tool("calculator", "Work out an expression", {"expression": {"type": "string"}}, ["expression"])
_WORDS = {"+": ("plus",), "-": ("minus",), "*": ("times", "multiplied by"), "/": ("divided by",)}


def make(rng: Random, held_out: bool) -> Sample:
    """Three in four with the calculator."""
    return _with_tool(rng) if rng.random() < 0.72 else _small(rng)


def _small(rng: Random) -> Sample:
    """Sums up to 20 and tables up to 10 x 10, without a tool."""
    roll = rng.random()
    if roll < 0.4:
        a = rng.randint(0, 20)
        b = rng.randint(0, 20 - a)
        op, value = "+", a + b
    elif roll < 0.75:
        a = rng.randint(0, 20)
        b = rng.randint(0, a)
        op, value = "-", a - b
    else:
        a, b = rng.randint(0, 10), rng.randint(0, 10)
        op, value = "*", a * b
    said = rng.choice((f"{a} {op} {b}", f"{a} {_WORDS[op][0]} {b}"))
    question = rng.choice((f"What is {said}?", f"How much is {said}?", f"{a} {op} {b} = ?", f"What does {said} make?"))
    answer = rng.choice((f"{a} {op} {b} = {value}.", f"The answer is {value}.", f"It is {value}."))
    messages = [*chat.opening(rng), chat.user(question), chat.assistant(answer)]
    return Sample("sums", messages, facts={"answer": answer})


def _with_tool(rng: Random) -> Sample:
    """A sum or a short word problem, one call, and the answer from its result."""
    question, expression, value, answer = rng.choice((_bare, _bare, _bare, _story, _story))(rng)
    wanted = [{"name": "calculator", "arguments": {"expression": expression}}]
    messages = [
        *chat.opening(rng, (*chat.TOOL_SYSTEM, "Use the calculator for sums."), 0.4),
        chat.user(question),
        chat.calls(wanted),
        chat.result("calculator", value),
        chat.assistant(answer),
    ]
    return Sample("sums", messages, [CALCULATOR], facts={**chat.facts(wanted), "answer": answer})


def _term(rng: Random) -> int:
    return rng.randint(2, 10 ** rng.choice((2, 2, 3, 3, 4, 5)))


def plain(value: float) -> int | float:
    """A result as a calculator shows it: no `.0`, no more than four places."""
    value = round(value, 4)
    return int(value) if value == int(value) else value


def _bare(rng: Random) -> tuple[str, str, Any, str]:
    terms = [_term(rng) for _ in range(rng.choice((2, 2, 2, 3)))]
    if rng.random() < 0.15:
        terms[0] += rng.choice((0.5, 0.25, 0.1))  # type: ignore[call-overload]
    ops = [rng.choice("+-*/") for _ in terms[1:]]
    if ops[0] == "/" and rng.random() < 0.7:
        terms[0] = terms[1] * rng.randint(2, 500)  # comes out even
    expression = str(terms[0]) + "".join(f"{op}{term}" for op, term in zip(ops, terms[1:], strict=True))
    value = plain(eval(expression))  # our own digits and signs
    spaced = str(terms[0]) + "".join(f" {op} {term}" for op, term in zip(ops, terms[1:], strict=True))
    spoken = str(terms[0])
    for op, term in zip(ops, terms[1:], strict=True):
        spoken += f" {rng.choice(_WORDS[op])} {term}"
    said = rng.choice((spaced, expression, spoken, spoken))
    question = rng.choice(
        (f"What is {said}?", f"How much is {said}?", f"Calculate {said}.", f"Work out {said}.", f"{said} = ?")
    )
    return (
        question,
        expression,
        value,
        rng.choice((f"{spaced} = {value}.", f"The answer is {value}.", f"It is {value}.")),
    )


def _story(rng: Random) -> tuple[str, str, Any, str]:
    who, other = words.first_name(rng), words.first_name(rng)
    what, a, b = rng.choice(words.FRUITS), rng.randint(20, 400), rng.randint(3, 90)
    more, less = a + b, a
    text, expression, tail = rng.choice((
        (f"{who} has {a} {what} and buys {b} more. How many {what} does {who} have now?", f"{a}+{b}",
         f"{who} has {{}} {what}."),
        (f"{who} has {more} {what} and gives {b} to {other}. How many are left?", f"{more}-{b}",
         f"{who} has {{}} {what} left."),
        (f"There are {b} boxes with {a} {what} each. How many {what} are there?", f"{b}*{a}",
         f"There are {{}} {what}."),
        (f"{who} shares {a * b} {what} between {b} people. How many does each one get?", f"{a * b}/{b}",
         f"Each one gets {{}} {what}."),
        (f"A {rng.choice(words.THINGS)} costs {a} dollars. What do {b} of them cost?", f"{a}*{b}",
         "They cost {} dollars."),
        (f"{who} walks {b} km every day. How far is that in {less} days?", f"{b}*{less}", f"{who} walks {{}} km."),
        (f"{who} is {b} years old. {other} is {a % 30 + 1} years older. How old is {other}?", f"{b}+{a % 30 + 1}",
         f"{other} is {{}} years old."),
        (f"{who} saves {b} dollars a week. How much is that after {a} weeks?", f"{b}*{a}", f"{who} has {{}} dollars."),
        (f"A train has {more} seats and {a} are taken. How many seats are free?", f"{more}-{a}", "{} seats are free."),
    ))  # fmt: skip
    value = plain(eval(expression))  # our own digits and signs
    return words.articles(text), expression, value, tail.format(value)
