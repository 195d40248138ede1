"""Short simple stories: a hero, a friend, a place and a plot whose beats are each told in one of several ways."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from ..samples import Sample
from . import chat, words
from .plots import ENDS, MOODS, OPENS, PLOTS

PLACES = (
    ("a small village", "the village"), ("the green forest", "the forest"), ("the old town", "the town"),
    ("a quiet valley", "the valley"), ("the big city", "the city"), ("a village by the sea", "the village"),
    ("the mountains", "the mountains"), ("a sunny meadow", "the meadow"), ("the dark woods", "the woods"),
    ("an old park", "the park"), ("a little farm", "the farm"), ("the high hills", "the hills"),
    ("a garden full of flowers", "the garden"), ("a small island", "the island"), ("the snowy north", "the north"),
    ("a green land", "the land"), ("the land of rivers", "the land of rivers"), ("a warm bay", "the bay"),
)  # fmt: skip
OTHERS = (
    "the lake", "the old bridge", "the top of the hill", "the market", "the lighthouse", "the waterfall",
    "the big oak tree",
    "the beach", "the river", "the apple garden", "the station", "the old tower", "the edge of the forest",
    "the harbor",
)  # fmt: skip
TRAITS = "kind brave curious shy clever lazy cheerful careful funny proud quiet gentle hungry patient stubborn".split()
FUN = ("to sing", "to run", "to read", "to play in the grass", "to swim", "to climb trees", "to look at the clouds",
       "to dance", "to draw", "to eat honey", "to collect stones", "to listen to stories",
       "to help others")  # fmt: skip
TREASURES = (
    "hat",
    "ball",
    "key",
    "book",
    "bell",
    "kite",
    "ring",
    "scarf",
    "drum",
    "map",
    "coin",
    "boat",
    "flute",
    "doll",
    "lamp",
    "feather",
)
LOOKS = ("small", "little", "young", "old", "white", "brown", "tiny", "big", "gray", "round")
TIMES = ("morning", "evening", "day", "winter day", "summer day", "spring morning", "afternoon")
WEATHER = ("warm", "cold", "sunny", "rainy", "windy", "bright", "quiet", "fresh")
_GIRL = ("she", "her", "her")
_BOY = ("he", "him", "his")


@dataclass(frozen=True, slots=True)
class Someone:
    """short: how the story calls them. intro: with the indefinite article, and the name where there is one."""

    short: str
    intro: str
    pronouns: tuple[str, str, str]


def make(rng: Random, held_out: bool) -> Sample:
    """A story, asked for in a chat; one in five as plain text."""
    hero, friend = _someone(rng), _someone(rng)
    while friend.short == hero.short:
        friend = _someone(rng)
    topic, beats = rng.choice(PLOTS)
    slots = _slots(rng, hero, friend)
    text = _tell(rng, beats, slots)
    if rng.random() < 0.2:
        return Sample("stories", text=text)
    question = _request(rng, hero, friend, topic.format(**slots), slots)
    return Sample("stories", [*chat.opening(rng, share=0.35), chat.user(question), chat.assistant(text)])


def _someone(rng: Random) -> Someone:
    """A child or a grown-up with a name, or an animal with or without one."""
    female = rng.random() < 0.5
    pronouns = _GIRL if female else _BOY
    name = (
        rng.choice(words.GIRLS if female else words.BOYS) if rng.random() < 0.85 else words.invented(rng).capitalize()
    )
    roll = rng.random()
    if roll < 0.3:
        who = rng.choice(("little girl", "girl", "young girl") if female else ("little boy", "boy", "young boy"))
        return Someone(name, f"a {who} {rng.choice(('named', 'called'))} {name}", pronouns)
    if roll < 0.4:
        job = rng.choice(words.JOBS)
        return Someone(name, f"{words.article(job)} named {name}", pronouns)
    animal = rng.choice(words.ANIMALS)
    look = rng.choice(LOOKS)
    if animal in ("kitten", "puppy") and look in ("old", "big"):
        look = "little"
    if roll < 0.75:
        return Someone(name, f"{words.article(look)} {animal} named {name}", pronouns)
    return Someone(f"the {animal}", f"{words.article(look)} {animal}", pronouns)


def _slots(rng: Random, hero: Someone, friend: Someone) -> dict[str, str]:
    thing, second = rng.sample(TREASURES, 2)
    look = rng.choice((*words.COLORS, "little", "new", "magic", "shiny"))
    a_place, place = rng.choice(PLACES)
    he, him, his = hero.pronouns
    fhe, fhim, fhis = friend.pronouns
    return {
        "intro": hero.intro, "Intro": _capital(hero.intro), "h": hero.short, "H": _capital(hero.short),
        "f": friend.short,
        "F": _capital(friend.short), "fintro": friend.intro, "he": he, "him": him, "his": his, "He": _capital(he),
        "His": _capital(his), "fhe": fhe,
        "fhim": fhim, "fhis": fhis, "thing": thing, "a_thing": words.article(f"{look} {thing}"),
        "a_thing2": words.article(second), "food": rng.choice(("soup", "bread", "honey", "cake", "cheese", "rice",
            "pasta", *words.FRUITS)),
        "a_place": a_place, "place": place, "other": rng.choice(OTHERS), "time": rng.choice(TIMES),
        "trait": rng.choice(TRAITS),
        "fun": rng.choice(FUN), "weather": rng.choice(WEATHER),
    }  # fmt: skip


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _tell(rng: Random, beats: tuple[tuple[str, ...], ...], slots: dict[str, str]) -> str:
    """One way for every beat; the friend is introduced where first named."""
    choice = rng.choice
    parts = [choice(OPENS), choice(MOODS), *(choice(beat) for beat in beats), choice(ENDS)]
    parts = [part for part in parts if part]
    for at, part in enumerate(parts):
        places = [part.find(slot) for slot in ("{f}", "{F}") if slot in part]
        if places:
            first = min(places)
            slot = part[first : first + 3]
            known = slots["fintro"] if slot == "{f}" else _capital(slots["fintro"])
            parts[at] = part[:first] + known + part[first + 3 :]
            break
    breaks = {1 + len(parts) // 3, 1 + 2 * len(parts) // 3} if rng.random() < 0.35 else set()
    text = ""
    for at, part in enumerate(parts):
        text += ("" if not at else "\n\n" if at in breaks else " ") + part
    return text.format(**slots)


def _request(rng: Random, hero: Someone, friend: Someone, topic: str, slots: dict[str, str]) -> str:
    who = hero.intro
    roll = rng.random()
    if roll < 0.15:
        return rng.choice(_ANY)
    if roll < 0.5:
        about = who
    elif roll < 0.7:
        about = f"{who} and {friend.intro}"
    elif roll < 0.9:
        about = f"{who} {topic}"
    else:
        about = f"{who} in {slots['a_place']}"
    return rng.choice(_ABOUT).format(about)


_ANY = ("Tell me a story.", "Tell me a short story.", "I want to hear a story.", "Can you tell me a story?",
        "Please write a story.",
        "Tell me a bedtime story.", "Make up a story.", "A story, please!")  # fmt: skip
_ABOUT = (
    "Tell me a story about {}.", "Write a story about {}.", "Tell me a short story about {}.",
    "Can you tell me a story about {}?",
    "I would like a story about {}.", "Write a short story about {}.", "Make up a story about {}.",
    "Please tell a story about {}.",
    "Story about {}, please.", "Do you know a story about {}?",
)  # fmt: skip
