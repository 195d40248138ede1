"""One dialect: what it reads is what ECMA-262 means, and what it does not read it refuses by name."""

from __future__ import annotations

import random
import re
import threading
import time
import warnings

import pytest

from quire.engine.grammar import nfa, probe, regexes
from quire.engine.grammar.errors import GrammarRefused
from quire.engine.grammar.lower import cheapest, cost

SAME = [
    "abc",
    "a|b",
    "^a|b$",
    "^(foo|ba+r)$",
    "[a-c]{2,3}",
    "[^a-z]",
    "\\d+",
    "^\\w*$",
    "a.b",
    "(?:ab)?c",
    "x{2}",
    "^$",
    "a+?b",
    "[\\w-]+@",
    "[(?#{,3}\\]]|\\[]a",
    "\\{,3}|\\\\a",
]
LETTERS = ["a", "b", "c", "x", "f", "o", "r", "0", "_", "-", "@", "é", " ", "\n", "A", '"', "\\"]


@pytest.mark.parametrize("pattern", SAME)
def test_an_expression_matches_what_python_says_it_matches(pattern: str) -> None:
    regex = regexes.parse(pattern, whole=False)
    pick = random.Random(pattern)
    texts = [
        "",
        "abc",
        "foo",
        "baar",
        "x-y@",
        *("".join(pick.choices(LETTERS, k=pick.randint(0, 6))) for _ in range(120)),
    ]
    for text in texts:
        expected = re.search(pattern.replace("$", "\\Z"), text, re.ASCII) is not None
        assert probe.matches(regex, text) == expected, text


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("^.$", "\r", False),
        ("^.$", "\u2028", False),
        ("^\\s$", "\u00a0", True),
        ("^\\s$", "\ufeff", True),
        ("^\\d$", "٣", False),
        ("^\\W$", "é", True),
    ],
)
def test_classes_are_those_of_ecma(pattern: str, text: str, expected: bool) -> None:
    assert probe.matches(regexes.parse(pattern, whole=False), text) is expected


@pytest.mark.parametrize(
    "pattern",
    [
        '[^"]',
        "[^/\\\\]",
        '[^\\\\"]',
        "[\\x00-\\x1f]",
        "[^a]",
        '[^\\n"]',
        "[^a-z]|[\\x00-\\x1f]",
        "\\x01|b",
        "[\\x01-\\x1f]*c?",
    ],
)
def test_a_set_that_holds_control_characters_holds_no_quote_and_no_backslash_that_it_does_not_name(
    pattern: str,
) -> None:
    regex = regexes.parse(f"^(?:{pattern})$", whole=False)
    for text in (*'"\\/abc\n\t\b\f\ré', "", '\\"', "\nc"):
        assert probe.matches(regex, text) == (re.fullmatch(pattern, text) is not None), text


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("(?=a)", "look-around"), ("(?!a)", "negative look-around"), ("(?<=a)b", "look-around"),
        ("(a)\\1", "back reference"),
        ("a\\b", "\\b"), ("\\Ba", "\\B"), ("(?i)a", "(?i)"), ("(?i:a)", "(?i:"), ("(?>a)", "atomic"),
        ("a++", "possessive"),
        ("a^b", "anchor"), ("a{6000}", "count above 5000"), ("\\p{L}", "\\p"), ("[a", "unterminated"),
        ("(", "unterminated"), ("\\Aa", "\\A"),
        ("^a{,3}$", "{,3}"), ("a{,}", "{,}"), ("^\\N{BULLET}$", "\\N"), ("[\\N{BULLET}]", "\\N"),
        ("^\\U00000041$", "\\U"), ("\\a", "\\a"),
        ("^[]a]{3}$", "[]a"), ("^[^]]$", "[^]"), ("a(?#x)b", "(?#"), ("[a]b[x\\U00000041]", "\\U"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_by_name(pattern: str, name: str) -> None:
    with pytest.raises(GrammarRefused, match=re.escape(name)):
        regexes.parse(pattern, whole=False)


@pytest.mark.parametrize("pattern", SAME)
def test_the_cheapest_completion_of_a_text_completes_it_at_the_least_cost(pattern: str) -> None:
    regex = regexes.parse(pattern, whole=True)
    hint = nfa.hint(regex, cheapest)
    assert hint is not None
    text = hint.complete("")
    assert text is not None
    assert probe.matches(regex, text)
    assert sum(cost(((ord(c), ord(c)),)) for c in text) == regexes.least(regex, cost)
    for end in range(len(text)):
        rest = hint.complete(text[:end])
        assert rest is not None
        assert probe.matches(regex, text[:end] + rest)
        assert sum(cost(((ord(c), ord(c)),)) for c in rest) <= regexes.worst(regex, cost)
    assert hint.complete("\u4e2d\u4e2d\u4e2d\u4e2d") is None or probe.matches(
        regex, "\u4e2d" * 4 + (hint.complete("\u4e2d" * 4) or "")
    )


def test_two_that_are_read_at_once_leave_the_warnings_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Warnings are errors while one is read; whoever left last of two once left them so for the whole process."""
    before, read = list(warnings.filters), regexes.parser.parse
    second, first_left = threading.Event(), threading.Event()

    def slowly(text: str) -> object:
        if text == "first":
            second.wait(0.2)  # where two can be read at once, the second begins within the first
        else:
            second.set()
            first_left.wait(5)  # and ends behind it
        return read(text)

    monkeypatch.setattr(regexes.parser, "parse", slowly)
    one = threading.Thread(target=lambda: (regexes.parse("first", whole=True), first_left.set()))
    other = threading.Thread(target=regexes.parse, args=("second",), kwargs={"whole": True})
    for thread in (one, other):
        thread.start()
        time.sleep(0.02)
    for thread in (one, other):
        thread.join()
    assert list(warnings.filters) == before
