"""Copying and editing: the answer is made of the words of the question."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ..samples import Sample
from . import chat, words

Turn = tuple[str, str]


def make(rng: Random, held_out: bool) -> Sample:
    question, answer = (words.articles(text) for text in rng.choices(_TASKS, _WEIGHTS)[0](rng))
    messages = [*chat.opening(rng, share=0.3), chat.user(question), chat.assistant(answer)]
    return Sample("copy", messages, facts={"answer": answer})


def _text(rng: Random) -> str:
    """One to four sentences."""
    return " ".join(words.sentence(rng) for _ in range(rng.choices((1, 2, 3, 4), (40, 30, 20, 10))[0]))


def _items(rng: Random, least: int = 3, most: int = 7) -> list[str]:
    """Different words of one sort; one list in four is of invented words."""
    count = rng.randint(least, most)
    if rng.random() < 0.25:
        return list(dict.fromkeys(words.invented(rng) for _ in range(count)))
    return rng.sample(rng.choice(_SORTS), count)


_SORTS = (
    words.FRUITS,
    words.FOODS,
    words.THINGS,
    words.ANIMALS,
    words.COLORS,
    words.CITIES,
    words.GIRLS,
    words.JOBS,
    words.NOUNS,
)


def _repeat(rng: Random) -> Turn:
    text = _text(rng)
    if rng.random() < 0.15:
        text = " ".join(words.invented(rng) for _ in range(rng.randint(2, 8)))
    elif rng.random() < 0.15:
        text = " ".join(words.code(rng) for _ in range(rng.randint(1, 5)))
    ask = rng.choice(("Repeat this: {}", "Say this again: {}", "Copy this text:\n{}", "Repeat after me: {}",
                      "Write this: {}",
                      'Repeat: "{}"', "Please repeat the following text.\n\n{}", "Copy exactly: {}"))  # fmt: skip
    return ask.format(text), text


def _twice(rng: Random) -> Turn:
    text = words.sentence(rng)
    count = rng.choice((2, 2, 3))
    return f"Say this {'twice' if count == 2 else 'three times'}: {text}", " ".join([text] * count)


def _quote(rng: Random) -> Turn:
    sentences = list(dict.fromkeys(words.sentence(rng) for _ in range(rng.randint(2, 4))))
    at = rng.randrange(len(sentences))
    which = "last" if at == len(sentences) - 1 and rng.random() < 0.5 else ("first", "second", "third", "fourth")[at]
    ask = rng.choice(("Quote the {} sentence.", "What is the {} sentence?", "Give me the {} sentence of this text."))
    return f"{ask.format(which)}\n\n{' '.join(sentences)}", sentences[at]


def _replace(rng: Random) -> Turn:
    text = _text(rng)
    old = rng.choice([w for w in _bare_words(text) if len(w) > 2 and w.lower() not in _COMMON])
    new = words.invented(rng) if rng.random() < 0.5 else rng.choice(words.SHORT)
    new = new.capitalize() if old[0].isupper() else new
    ask = rng.choice(('Replace "{}" by "{}": {}', "Change the word {} to {} in this text: {}",
                      'Put "{1}" for "{0}": {2}',
                      "Replace {} with {}.\n\n{}"))  # fmt: skip
    return ask.format(old, new, text), _swap(text, old, new)


_COMMON = set("the and was has have are under near with there every".split())  # may stand twice, or in capitals


def _swap(text: str, old: str, new: str) -> str:
    """Whole words only."""
    return " ".join(w.replace(old, new) if w.strip(".,:") == old else w for w in text.split(" "))


def _bare_words(text: str) -> list[str]:
    return [bare for w in text.split(" ") if (bare := w.strip(".,:")).isalpha()]


def _fix(rng: Random) -> Turn:
    """One word has two letters swapped or one doubled."""
    text = words.sentence(rng)
    word = rng.choice([w for w in _bare_words(text) if len(w) > 3] or ["Please"])
    at = rng.randrange(1, len(word) - 1)
    wrong = word[:at] + word[at + 1] + word[at] + word[at + 2 :] if rng.random() < 0.6 else word[: at + 1] + word[at:]
    ask = rng.choice(
        ("Fix the spelling: {}", "Correct this sentence: {}", "There is a mistake in this text. Fix it: {}")
    )
    return ask.format(_swap(text, word, wrong)), text


def _case(rng: Random) -> Turn:
    text = words.sentence(rng) if rng.random() < 0.7 else " ".join(_items(rng, 1, 4))
    if rng.random() < 0.6:
        ask = rng.choice(("Write this in capital letters: {}", "Make this upper case: {}", "Put this in capitals: {}"))
        return ask.format(text), text.upper()
    ask = rng.choice(("Write this in small letters: {}", "Make this lower case: {}"))
    return ask.format(text.upper() if rng.random() < 0.5 else text), text.lower()


def _reverse(rng: Random) -> Turn:
    items = _items(rng, 3, 6)
    ask = rng.choice(("Reverse this list: {}", "Write this list backwards: {}", "Turn the order around: {}"))
    return ask.format(", ".join(items)), ", ".join(reversed(items))


def _sort(rng: Random) -> Turn:
    if rng.random() < 0.45:
        numbers = rng.sample(range(1, rng.choice((20, 100, 100, 1000))), rng.randint(3, 6))
        ask = rng.choice(("Sort these numbers: {}", "Put these numbers in order: {}"))
        return ask.format(", ".join(map(str, numbers))), ", ".join(map(str, sorted(numbers)))
    items = _items(rng, 3, 5)
    ask = rng.choice(("Sort these words: {}", "Put these words in alphabetical order: {}", "Sort by the alphabet: {}"))
    return ask.format(", ".join(items)), ", ".join(sorted(items))


def _number(rng: Random) -> Turn:
    items = _items(rng, 2, 6) if rng.random() < 0.7 else [words.sentence(rng) for _ in range(rng.randint(2, 4))]
    ask = rng.choice(("Number these lines:\n{}", "Make a numbered list:\n{}", "Put a number before each line:\n{}"))
    return ask.format("\n".join(items)), "\n".join(f"{n}. {item}" for n, item in enumerate(items, 1))


def _bullets(rng: Random) -> Turn:
    items = _items(rng, 2, 6)
    ask = rng.choice(("Make a list of these: {}", "Write this as a list: {}", "Put these in a list: {}"))
    return ask.format(", ".join(items)), "\n".join(f"- {item}" for item in items)


def _join(rng: Random) -> Turn:
    items = _items(rng, 2, 6)
    ask = rng.choice(("Write these on one line:\n{}", "Join these lines with commas:\n{}"))
    return ask.format("\n".join(f"- {i}" for i in items) if rng.random() < 0.5 else "\n".join(items)), ", ".join(items)


def _pick(rng: Random) -> Turn:
    items = _items(rng, 3, 6)
    at = rng.randrange(len(items))
    which = "last" if at == len(items) - 1 else ("first", "second", "third", "fourth", "fifth", "sixth")[at]
    ask = rng.choice(("What is the {} word: {}?", "Which word is {} in this list: {}?", "Give me the {} of these: {}."))
    return ask.format(which, ", ".join(items)), items[at]


def _drop(rng: Random) -> Turn:
    items = _items(rng, 3, 6)
    gone = rng.choice(items)
    left = [i for i in items if i != gone]
    ask = rng.choice(("Remove {} from this list: {}", "Leave out {}: {}", "Take {} off the list: {}"))
    return ask.format(gone, ", ".join(items)), ", ".join(left)


def _add(rng: Random) -> Turn:
    *items, new = _items(rng, 3, 6)
    ask = rng.choice(("Add {} to this list: {}", "Put {} at the end of this list: {}"))
    return ask.format(new, ", ".join(items)), ", ".join([*items, new])


def _go_on(rng: Random) -> Turn:
    """A row of numbers, days, months or letters, and its next three."""
    roll = rng.random()
    if roll < 0.5:
        start, step = rng.randint(0, 60), rng.choice((1, 1, 2, 2, 3, 5, 10))
        row = [str(start + step * n) for n in range(8)]
    else:
        names = rng.choice((words.DAYS, words.MONTHS, list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")))
        at = rng.randrange(len(names))
        row = [names[(at + n) % len(names)] for n in range(8)]
    shown = rng.randint(3, 4)
    ask = rng.choice(("Continue: {}", "Go on: {}", "What comes next: {}", "Continue this list: {}"))
    return ask.format(", ".join(row[:shown]) + " ..."), ", ".join(row[shown : shown + 3])


def _spell(rng: Random) -> Turn:
    word = words.invented(rng) if rng.random() < 0.3 else rng.choice(rng.choice(_SORTS)).lower()
    return rng.choice((f"Spell {word}.", f'Spell the word "{word}".', f"How do you spell {word}?")), "-".join(word)


def _fill(rng: Random) -> Turn:
    """Values go into a given form."""
    name, town, what = words.first_name(rng), words.city(rng), rng.choice(words.THINGS)
    form = rng.choice(("Dear {name}, your {what} is in {city}.", "{name} from {city} wants a {what}.",
                       "Name: {name}\nCity: {city}\nItem: {what}",
                       "Hello {name}! Come to {city} and bring the {what}."))  # fmt: skip
    given = [f"name = {name}", f"city = {town}", f"what = {what}"]
    rng.shuffle(given)
    return f"Fill in the form with {', '.join(given)}:\n{form}", form.format(name=name, city=town, what=what)


def _answer_from(rng: Random) -> Turn:
    """A question whose answer stands in the text."""
    who, where, color, what = words.first_name(rng), words.city(rng), rng.choice(words.COLORS), rng.choice(words.THINGS)
    other, day = words.first_name(rng), rng.choice(words.DAYS)
    text = [f"{who} lives in {where}.", f"{who} has a {color} {what}.", f"{other} comes to visit on {day}."]
    rng.shuffle(text)
    question, answer = rng.choice((
        (f"Where does {who} live?", f"{who} lives in {where}."), (f"What color is the {what}?",
            f"The {what} is {color}."),
        (f"What does {who} have?", f"{who} has a {color} {what}."), ("Who comes to visit?", f"{other} comes to visit."),
        ("On which day is the visit?", f"The visit is on {day}."), (f"Who has a {what}?", f"{who} has a {what}."),
    ))  # fmt: skip
    return (f"{' '.join(text)} {question}" if rng.random() < 0.5 else f"{question}\n\n{' '.join(text)}"), answer


_TASKS: tuple[Callable[[Random], Turn], ...] = (
    _repeat, _twice, _quote, _replace, _fix, _case, _reverse, _sort, _number, _bullets, _join, _pick, _drop, _add,
    _go_on, _spell, _fill, _answer_from,
)  # fmt: skip
_WEIGHTS = (20, 3, 8, 12, 5, 8, 5, 4, 6, 4, 3, 4, 4, 3, 4, 2, 4, 10)
