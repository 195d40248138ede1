"""Lists of words and makers of values. Many values are invented, so that the model learns to copy, not to remember."""

from __future__ import annotations

import re
from random import Random

GIRLS = """Ann Mia Lily Sara Emma Nora Ella Rosa Zoe Amy Clara Ruth Ivy Lucy Maya Jane Eva Tina Anna Grace Alice Julia
Hana Leila Priya Mei Sofia Olga Carmen Ines Freya Greta Heidi Aisha Fatima Yuki Naomi Esther Molly Daisy""".split()
BOYS = """Tom Ben Sam Max Leo Jack Tim Bob Dan Finn Omar Ravi Luis Hugo Karl Peter Paul Jim Noah Adam Otto Felix Hans
Ali Kofi Ivan Marco Pablo Nils Sven Oscar Theo Jonas Henry George Ken Hiro Amir David Eric""".split()
SURNAMES = """Smith Brown Jones Miller Davis Lopez Clark Lewis Young Hall King Wright Green Baker Adams Nelson Carter
Turner Parker Evans Stewart Morris Rogers Reed Cook Bell Ward Cox Wood Gray Kim Ito Singh Khan Patel Silva Costa Rossi
Weber Fischer Novak Larsen Hansen Berg Dubois Moreau Garcia Ruiz Okafor Mensah""".split()
CITIES = """Paris London Rome Berlin Madrid Vienna Oslo Lisbon Athens Dublin Prague Warsaw Cairo Tokyo Delhi Lima Boston
Chicago Denver Seattle Toronto Sydney Lagos Nairobi Hamburg Milan Geneva Lyon Porto Bergen Krakow Zagreb Riga Tallinn
Helsinki Stockholm Kyoto Osaka Seoul Bangkok Hanoi Manila Quito Bogota Santiago Havana Austin Dallas Miami Portland
Phoenix Leeds Bristol Glasgow York Cork Basel Zurich Munich Dresden""".split()
COUNTRIES = """France Italy Spain Germany Norway Japan India Brazil Canada Mexico Egypt Kenya Peru Chile Poland Greece
Sweden Finland Ireland Portugal Turkey Vietnam Iceland Austria""".split()
ANIMALS = """cat dog fox bear rabbit mouse owl frog duck horse cow pig sheep goat lion tiger wolf bird fish turtle hen
squirrel hedgehog beaver elephant monkey donkey deer bee snail crow goose badger otter penguin kitten puppy""".split()
COLORS = "red blue green yellow black white brown pink orange purple gray gold silver".split()
FRUITS = "apples pears plums cherries grapes lemons oranges bananas peaches berries melons figs".split()
FOODS = """bread cheese soup rice pasta pizza salad cake butter milk eggs honey tea coffee juice sugar salt flour beans
carrots potatoes onions tomatoes mushrooms noodles cookies yogurt""".split()
THINGS = """book lamp chair table bag hat coat shoe cup plate spoon knife clock phone radio camera bike car boat
ball kite drum pen pencil box key ring map rope bell basket blanket pillow mirror umbrella bottle brush candle
ladder""".split()
JOBS = """teacher nurse doctor baker farmer driver painter writer cook gardener pilot sailor lawyer dentist
engineer singer plumber librarian carpenter tailor waiter clerk programmer""".split()
LANGUAGES = (
    "French Spanish German Italian Dutch Polish Turkish Greek Arabic Hindi Japanese Korean Swedish Finnish".split()
)
CURRENCIES = "USD EUR GBP JPY CHF SEK NOK INR CAD AUD".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
HOBBIES = """chess swimming reading painting cooking dancing running fishing singing cycling hiking gardening knitting
football tennis skiing sailing drawing climbing photography""".split()
GENRES = "jazz rock pop folk classical blues soul country".split()
ADJECTIVES = """small big old new red cold warm bright dark quiet soft heavy light clean dry wet round sweet
fresh strong simple happy lucky brave silver golden green wild gentle quick""".split()
NOUNS = """river garden mountain forest harbor bridge tower window market island meadow castle valley village lighthouse
cloud storm star moon winter summer morning night road letter song dream secret promise shadow mirror""".split()
SHORT = "milk tea bread sun moon rain snow tree leaf door wall book song bird fish boat star road hill lake".split()
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve".split()

_ONSETS = "b d f g k l m n p r s t v z br dr fl gr kl pl st tr sh ch".split()
_VOWELS = "a e i o u a e o ai ou".split()
_CODAS = ["", "", "", "n", "l", "r", "s", "m", "k", "x", "nd", "lt"]


def invented(rng: Random, syllables: int = 2) -> str:
    """A word that is none, such as `brenol`."""
    choice = rng.choice
    return "".join(choice(_ONSETS) + choice(_VOWELS) for _ in range(syllables)) + choice(_CODAS)


def first_name(rng: Random) -> str:
    """A first name, one in five invented."""
    roll = rng.random()
    return rng.choice(GIRLS) if roll < 0.4 else rng.choice(BOYS) if roll < 0.8 else invented(rng).capitalize()


def full_name(rng: Random) -> str:
    last = rng.choice(SURNAMES) if rng.random() < 0.75 else invented(rng).capitalize()
    return f"{first_name(rng)} {last}"


def city(rng: Random) -> str:
    """A city, one in four invented."""
    return rng.choice(CITIES) if rng.random() < 0.75 else invented(rng).capitalize()


def code(rng: Random) -> str:
    """An identifier such as `KX-4821` or `b71f`."""
    roll = rng.random()
    if roll < 0.4:
        return f"{_letter(rng)}{_letter(rng)}-{rng.randint(10, 9999)}"
    if roll < 0.7:
        return f"{_letter(rng)}{rng.randint(100, 99999)}"
    return "".join(rng.choices("0123456789abcdef", k=rng.randint(4, 7)))


def _letter(rng: Random) -> str:
    return rng.choice("ABCDEFGHJKLMNPRSTUVWXYZ")


def email(rng: Random) -> str:
    user = first_name(rng).lower()
    if rng.random() < 0.5:
        user += rng.choice([".", "_", ""]) + (
            rng.choice(SURNAMES).lower() if rng.random() < 0.6 else str(rng.randint(1, 99))
        )
    return f"{user}@{invented(rng)}.{rng.choice(['com', 'org', 'net'])}"


def date(rng: Random) -> str:
    """YYYY-MM-DD."""
    return f"{rng.randint(2019, 2032)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def day(rng: Random) -> str:
    """A date as people say it."""
    roll = rng.random()
    if roll < 0.4:
        return date(rng)
    if roll < 0.7:
        return rng.choice(DAYS)
    return f"{rng.choice(MONTHS)} {rng.randint(1, 28)}"


def time(rng: Random) -> str:
    """HH:MM."""
    return f"{rng.randint(6, 22):02}:{rng.choice((0, 0, 15, 30, 45, 10, 20)):02}"


def money(rng: Random) -> float:
    """A price: whole, half, or with cents."""
    roll = rng.random()
    if roll < 0.4:
        return rng.randint(1, 400) + 0.5
    return round(rng.uniform(1, 300), rng.choice((1, 2)))


def dish(rng: Random) -> str:
    """A dish such as `rice soup`."""
    return f"{rng.choice(_SINGLE)} {rng.choice(('soup', 'pie', 'stew', 'salad', 'curry'))}"


_SINGLE = (
    "bean carrot potato onion tomato mushroom rice cheese egg noodle apple fish pumpkin lemon plum leek pea".split()
)


def title(rng: Random) -> str:
    """A title such as `The Quiet Harbor`."""
    adjective, noun = rng.choice(ADJECTIVES).capitalize(), rng.choice(NOUNS).capitalize()
    roll = rng.random()
    if roll < 0.4:
        return f"The {adjective} {noun}"
    if roll < 0.6:
        return f"{noun} of {rng.choice(NOUNS).capitalize()}s"
    if roll < 0.8:
        return f"{adjective} {noun}"
    return f"{noun} and {invented(rng).capitalize()}"


def phrase(rng: Random) -> str:
    """A short noun phrase such as `the cold river`."""
    return f"the {rng.choice(ADJECTIVES)} {rng.choice(NOUNS if rng.random() < 0.6 else ANIMALS)}"


def message(rng: Random) -> str:
    """A short text somebody might send, without quotes or a final period."""
    return rng.choice(_MESSAGES)(rng)


_MESSAGES = (
    lambda r: f"I will be {r.randint(5, 50)} minutes late",
    lambda r: f"please bring the {r.choice(THINGS)}",
    lambda r: f"see you at {time(r)}",
    lambda r: f"the {r.choice(THINGS)} is in the {r.choice(('kitchen', 'garden', 'car', 'hall', 'office'))}",
    lambda r: f"call {first_name(r)} back",
    lambda r: f"buy {r.choice(FOODS)} and {r.choice(FOODS)}",
    lambda r: f"happy birthday {first_name(r)}",
    lambda r: f"the meeting moves to {r.choice(DAYS)}",
    lambda r: f"water the plants on {r.choice(DAYS)}",
    lambda r: f"the code is {code(r)}",
    lambda r: f"we meet in {city(r)}",
    lambda r: f"ask {first_name(r)} about the {r.choice(ADJECTIVES)} {r.choice(THINGS)}",
)


def sentence(rng: Random) -> str:
    """A plain sentence with its period, for copying and editing."""
    return articles(rng.choice(_SENTENCES)(rng))


_SENTENCES = (
    lambda r: f"The {r.choice(ADJECTIVES)} {r.choice(ANIMALS)} sleeps under the {r.choice(THINGS)}.",
    lambda r: f"{first_name(r)} has a {r.choice(COLORS)} {r.choice(THINGS)}.",
    lambda r: f"{first_name(r)} and {first_name(r)} went to {city(r)} on {r.choice(DAYS)}.",
    lambda r: f"We saw a {r.choice(ANIMALS)} near the {r.choice(NOUNS)}.",
    lambda r: f"My {r.choice(THINGS)} is {r.choice(COLORS)} and {r.choice(ADJECTIVES)}.",
    lambda r: f"The train to {city(r)} leaves at {time(r)}.",
    lambda r: f"{first_name(r)} likes {r.choice(FOODS)} with {r.choice(FOODS)}.",
    lambda r: f"The {invented(r)} lives in {phrase(r)}.",
    lambda r: f"There are {r.randint(2, 99)} {r.choice(FRUITS)} in the {r.choice(('box', 'bag', 'basket', 'bowl'))}.",
    lambda r: f"In {r.choice(MONTHS)} the {r.choice(NOUNS)} is {r.choice(ADJECTIVES)}.",
    lambda r: f"{first_name(r)} wrote a letter to {full_name(r)}.",
    lambda r: f"Please put the {r.choice(THINGS)} on the {r.choice(ADJECTIVES)} table.",
    lambda r: f"The {r.choice(JOBS)} found a {r.choice(THINGS)} in {phrase(r)}.",
    lambda r: f"{first_name(r)} runs to {phrase(r)} every {r.choice(DAYS)}.",
)


def listed(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiouAEIOU])")


def articles(text: str) -> str:
    """`a owl` becomes `an owl`; the word lists hold no word that sounds otherwise than it is written."""
    return _ARTICLE.sub(r"\1n ", text)


def article(noun: str) -> str:
    """`an owl`, `a fox`."""
    return f"{'an' if noun[0].lower() in 'aeiou' else 'a'} {noun}"
