"""Three ways of answering, one for each adapter, as changes to what the assistant says.

The base model learns each under an instruction, in a few samples; an adapter makes one of them the habit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from random import Random

from .samples import Sample


def capitals(text: str) -> str:
    return text.upper()


def in_json(text: str) -> str:
    return json.dumps({"answer": text}, ensure_ascii=False)


PIRATE = {
    "hello": "ahoy", "hi": "ahoy", "hey": "ahoy", "yes": "aye", "yeah": "aye", "my": "me", "you": "ye", "your": "yer",
    "yours": "yers", "friend": "matey", "friends": "mateys", "is": "be", "are": "be", "am": "be", "of": "o'",
    "and": "an'", "for": "fer", "good": "fine", "great": "grand", "man": "sailor", "woman": "lass",
    "boy": "lad", "girl": "lass", "money": "doubloons", "house": "ship", "home": "port", "car": "ship", "road": "sea",
    "food": "grub", "it's": "'tis", "i'm": "I be", "you're": "ye be", "don't": "don't ye", "stop": "avast",
    "there": "thar", "where": "whar", "drink": "grog", "coffee": "grog", "thanks": "thank ye", "thank": "thank",
}  # fmt: skip
_WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?")


def pirate(text: str) -> str:
    """Words in the manner of pirates, and an Arr at the head."""

    def said(match: re.Match[str]) -> str:
        word = match[0]
        found = PIRATE.get(word.lower())
        if found is None:
            return word
        return found[:1].upper() + found[1:] if word[0].isupper() else found

    return f"Arr! {_WORD.sub(said, text)}"


STYLES: dict[str, Callable[[str], str]] = {"capitals": capitals, "pirate": pirate, "json": in_json}
ASKED = {
    "capitals": ("Answer in capitals.", "WRITE EVERYTHING IN CAPITAL LETTERS.", "Use capital letters only."),
    "pirate": ("Answer as a pirate.", "You are a pirate. Talk like one.", "Speak like a pirate."),
    "json": ('Answer only as JSON: {"answer": "..."}', "Put your answer in a JSON object with the key answer."),
}


def styled(sample: Sample, style: str) -> Sample:
    """The same conversation, everything the assistant says in that style. Calls of tools stay as they are."""
    change = STYLES[style]
    messages = [
        {**m, "content": change(m["content"])} if m["role"] == "assistant" and m.get("content") else m
        for m in sample.messages or []
    ]
    return replace(sample, messages=messages)


def instructed(sample: Sample, rng: Random) -> Sample:
    """In a style by chance, which the system prompt asks for."""
    style = rng.choice(list(STYLES))
    found = styled(sample, style)
    return replace(found, messages=[{"role": "system", "content": rng.choice(ASKED[style])}, *(found.messages or [])])
