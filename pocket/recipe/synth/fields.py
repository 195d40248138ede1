"""Fields of any name, so that names are read and not remembered.

`records` and `params` hold a few dozen names, and a model that sees nothing else learns by heart which sentence belongs
to which: it extracts 98 of 100 records with those names, and 8 of 100 with others. A name of these here is one to three
words of a long list, or invented, and the words stand in the sentence that says the value too. No noun or
verb is one that `records.RESERVED` or `actions.RESERVED` uses in a name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

from . import words
from .records import Field, Make, Record

NOUNS = """account age angle answer area author badge balance band bank barrel base basin battery beach beam bed belt
bench bill block board bolt bonus border bottom bowl branch brand breed brick bucket budget building bus
button cabin cable camp canal cap capital captain carrier case cave cellar chain chance channel chapter charge
chef chief choice circle class client climate club coast collar colony color column comment contract corner
council course court cousin cover crew crop crown cup current cushion custom cycle dealer degree depot desert
design desk detail device diet direction disk distance district dock domain dose draft drawer dress drink duty
edge editor effort election engine entrance entry error escort estate event exam expert fabric factory family
farm father feature fee fence field figure film filter finish fleet flag flavor floor focus folder force form
format formula frame friend fuel function fund game gap garage gear gift glass goal grade grain group guard
guide habit handle heart helper hero hill history holder hobby holiday host hour idea image impact income
index insect island issue jacket jewel journal journey judge kernel key kit lab layer leader league
lecture lens lesson letter library lid limit line link list load loan lobby locker logo mail manager manner
margin mark master match material matter meal measure medal medium member memory menu merchant message metal
method metric minister mission mixture mode model module moment monitor mood motor mouth nation nature
neighbor network news nickname notice novel number nurse object ocean offer office opinion option orbit
orchard order organ origin outcome outfit output owner packet page pair panel paper parcel parent park partner
party passage password path pattern pay peak pension period permit phase phone photo piece pilot pipe pitch
planet platform pocket poem point policy pool port position poster power president price prince prize process
product profile profit program project proof province purpose quarter queen question queue range rank rate
reason recipe region relative relief reply report request reserve resort result reward ride rival river robe
rocket roof root route row rule sail sample scale scene scheme school scope score screen script season seat
section sector seed series server session shade shape share shelf shell shift shop sign signal silk site skill
slot smell snack soil soldier sound source space speaker species speech speed sponsor sport spot stage stamp
standard state station statue status stock store storm story stream string studio subject suburb suit summit
supply surface survey switch symbol system table tail talent target task taste teacher term test text theme
theory thread ticket tissue token tone tool topic total tour tower track trade train tree trend trial tribe
trip trophy truck trust tube tunnel turn tutor type uncle union unit user valley value van vendor version
vessel victim view village visit voice volume wage wall warden wave weapon weather wedding weight wheel width
wing winner wire witness worker wound writer yard zone""".split()
MODIFIERS = """first last next main old new home best lowest highest early late local public private final extra spare
daily weekly yearly total average current former third big small left right upper lower inner outer short long
safe secret common rare real full half open closed""".split()
UNITS = (
    "kg km miles liters hours weeks months percent points euros dollars tons grams watts volts degrees meters"
).split()
THINGS = """windows wheels legs branches towers screens beds engines shelves boxes tickets sheep trees stairs
buttons bottles chairs keys lamps rings boats sisters brothers students members workers shops bridges islands stations
books cards coins letters photos prizes medals tables horses trains lights cameras corners layers""".split()
QUALITIES = """broken clean closed cold cheap dangerous dry empty famous fast fragile fresh frozen full heavy hidden hot
hungry insured legal local locked lost modern narrow new noisy old organic popular private public rare ready rich
ripe safe sealed shared sharp sick slow sold strong sweet tired toxic vegan verified visible wet wild wooden""".split()
SIZES = (("length", "long"), ("width", "wide"), ("depth", "deep"), ("thickness", "thick"), ("distance", "away"))
VERBS = (
    ("likes", "like"), ("uses", "use"), ("wants", "want"), ("sells", "sell"), ("keeps", "keep"),
    ("makes", "make"), ("includes", "include"), ("accepts", "accept"), ("offers", "offer"), ("fears", "fear"),
    ("supports", "support"), ("contains", "contain"), ("allows", "allow"), ("eats", "eat"), ("drinks", "drink"),
)  # fmt: skip
DOERS = (
    ("driver", "drive"), ("swimmer", "swim"), ("dancer", "dance"), ("drinker", "drink"), ("traveler", "travel"),
    ("gambler", "gamble"), ("cook", "cook"), ("painter", "paint"), ("hunter", "hunt"), ("climber", "climb"),
)  # fmt: skip
DONE = (
    ("losses", "lost {v} games"), ("goals", "scored {v} goals"), ("sales", "sold {v} of them"),
    ("visits", "had {v} visits"), ("repairs", "needed {v} repairs"), ("calls", "made {v} calls"),
    ("trips", "made {v} trips"), ("points", "got {v} points"), ("falls", "fell {v} times"), ("shots", "took {v} shots"),
)  # fmt: skip
ROLES = (
    ("painter", "paints"), ("builder", "builds"), ("driver", "drives"), ("owner", "owns"), ("teacher", "teaches"),
    ("seller", "sells"), ("designer", "designs"), ("editor", "edits"), ("keeper", "keeps"), ("baker", "bakes"),
    ("cleaner", "cleans"), ("planner", "plans"), ("leader", "leads"), ("founder", "founded"), ("guard", "guards"),
    ("pilot", "flies"), ("maker", "makes"), ("printer", "prints"), ("collector", "collects"), ("reader", "reads"),
    ("tester", "tests"), ("inventor", "invented"), ("carrier", "carries"), ("lender", "lends"), ("trainer", "trains"),
    ("supervisor", "supervises"), ("sponsor", "sponsors"), ("translator", "translates"), ("buyer", "bought"),
)  # fmt: skip
HAPPENS = """opens starts ends ripens arrives leaves sleeps lives works stops lands hides waits meets begins happens
changes returns moves stands falls""".split()
WHEN: tuple[tuple[str, Make], ...] = (
    ("in", lambda r: r.choice(words.MONTHS)), ("in", words.city), ("in", lambda r: r.choice(words.COUNTRIES)),
    ("at", words.time), ("on", words.day), ("near", words.city),
)  # fmt: skip
SHOULD = "bring read visit learn buy try avoid know watch pack invite study check".split()
SUBJECTS = ("It", "It", "It", "He", "She", "")  # "": the title says what it is

STRINGS: tuple[Make, ...] = (
    words.full_name, words.full_name, words.first_name, words.city, words.code, words.code, words.day, words.time,
    words.title, words.phrase, words.email, words.invented, words.dish,
    lambda r: words.invented(r).capitalize(),
    lambda r: f"{words.invented(r).capitalize()} {r.choice(words.NOUNS).capitalize()}",
    lambda r: r.choice(r.choice((words.COLORS, words.ANIMALS, words.FOODS, words.JOBS, words.MONTHS, words.NOUNS,
                                 words.LANGUAGES, words.COUNTRIES, words.THINGS, words.HOBBIES))),
)  # fmt: skip


def name_words(rng: Random) -> list[str]:
    """What a field is called, as words; one in four says nothing at all."""
    roll = rng.random()
    noun = words.invented(rng) if rng.random() < 0.25 else rng.choice(NOUNS)
    if roll < 0.5:
        return [noun]
    return [rng.choice(MODIFIERS) if roll < 0.7 else rng.choice(NOUNS), noun]


def spelled(rng: Random, parts: list[str]) -> str:
    """The words as a key: mostly `home_port`, now and then `homePort` or `home port`."""
    roll = rng.random()
    if roll < 0.85:
        return "_".join(parts)
    return parts[0] + "".join(part.capitalize() for part in parts[1:]) if roll < 0.95 else " ".join(parts)


def plain(name: str) -> str:
    """`homePort` and `home_port` as `home port`."""
    return re.sub(r"(?<=[a-z])([A-Z])", r" \1", name).replace("_", " ").lower()


def plural(noun: str) -> str:
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def text(rng: Random) -> Field:
    roll = rng.random()
    if roll < 0.08:
        role, does = rng.choice(ROLES)
        says: tuple[str, ...] = (f"{{v}} {does} it.", f"{{v}} {does} it.", f"The {role} is {{v}}.")
        return Field((role,), "string", says, rng.choice((words.full_name, words.full_name, words.first_name)))
    if roll < 0.18:
        happens, (place, make) = rng.choice(HAPPENS), rng.choice(WHEN)
        names = (f"{happens}_{place}", f"{happens}_{place}", happens)
        return Field((rng.choice(names),), "string", (f"{{s}} {happens} {place} {{v}}.",), make)
    parts = name_words(rng)
    said = " ".join(parts)
    says = (f"The {said} is {{v}}.", f"The {said} is {{v}}.", f"{said.capitalize()}: {{v}}.",
            f"{{v}} is the {said}.", f"The {said} is called {{v}}.", f"For the {said} we have {{v}}.",
            f"We chose {{v}} as the {said}.", f"Its {said} is {{v}}.", f"{{s}} has the {{v}} {said}.",
            f"{{s}} has the {said} {{v}}.", f'The {said} is "{{v}}".', f'"{{v}}" is the {said}.')  # fmt: skip
    return Field((spelled(rng, parts),), "string", says, rng.choice(STRINGS))


def choice(rng: Random) -> Field:
    parts = name_words(rng)
    said = " ".join(parts)
    pool = rng.choice((words.COLORS, QUALITIES, words.GENRES, words.ADJECTIVES, words.ANIMALS))
    options = tuple(rng.sample(pool, rng.randint(2, 4)))
    return Field((spelled(rng, parts),), "string", (f"The {said} is {{v}}.", f"{said.capitalize()}: {{v}}."),
                 lambda r: r.choice(options), options)  # fmt: skip


def number(rng: Random) -> Field:
    whole = rng.random() < 0.65
    top = rng.choice((9, 60, 400, 9000))
    made: Make = (lambda r: r.randint(0, top)) if whole else (lambda r: round(r.uniform(0, top), r.choice((1, 2))))
    kind = "integer" if whole else "number"
    roll = rng.random()
    if roll < 0.3:
        thing = rng.choice(THINGS)
        names: tuple[str, ...] = (thing, f"number_of_{thing}", f"{thing}_count", f"how_many_{thing}")
        return Field((rng.choice(names),), "integer", (f"It has {{v}} {thing}.", f"There are {{v}} {thing}."),
                     lambda r: r.randint(2, max(top, 3)))  # fmt: skip
    if roll < 0.42:
        size, wide = rng.choice(SIZES)
        unit = rng.choice(("cm", "m", "km", "mm", "miles"))
        names = (f"{size}_{unit}", size, f"{unit}_{wide}")
        return Field((rng.choice(names),), kind, (f"It is {{v}} {unit} {wide}.",), made)
    if roll < 0.5:
        name, happened = rng.choice(DONE)
        return Field((name,), "integer", (f"{{s}} {happened}.",), lambda r: r.randint(2, max(top, 3)))
    parts = name_words(rng)
    said = " ".join(parts)
    if roll < 0.75:
        unit = rng.choice(UNITS)
        key = [*parts, unit] if rng.random() < 0.5 else parts
        return Field((spelled(rng, key),), kind, (f"The {said} is {{v}} {unit}.",), made)
    return Field((spelled(rng, parts),), kind, (f"The {said} is {{v}}.", f"{said.capitalize()}: {{v}}."), made)


def yes_or_no(rng: Random) -> Field:
    roll = rng.random()
    if roll < 0.3:
        quality = rng.choice(QUALITIES)
        name = rng.choice((quality, f"is_{quality}"))
        return Field((name,), "boolean", (f"It is {quality}.", f"It is not {quality}."), words.code)
    if roll < 0.55:
        parts = name_words(rng)
        said = " ".join(parts)
        name = spelled(rng, [rng.choice(("has", "has", "with")), *parts])
        return Field((name,), "boolean", (f"It has {words.article(said)}.", f"It has no {said}."), words.code)
    if roll < 0.65:
        doer, does = rng.choice(DOERS)
        name = rng.choice((doer, f"is_{doer}", f"can_{does}", f"{does}s"))
        if rng.random() < 0.5:
            return Field((name,), "boolean", (f"{{s}} {does}s.", f"{{s}} does not {does}."), words.code)
        return Field((name,), "boolean", (f"{{s}} can {does}.", f"{{s}} cannot {does}."), words.code)
    does, do = rng.choice(VERBS)
    parts = name_words(rng)
    said = " ".join(parts)
    says = (f"{{s}} {does} {said}.", f"{{s}} does not {do} {said}.")
    return Field((spelled(rng, [does, *parts]),), "boolean", says, words.code)


def to_do(rng: Random) -> Field:
    should = rng.choice(SHOULD)
    pool = rng.choice((words.FOODS, words.NOUNS, words.COUNTRIES, words.ANIMALS, words.THINGS))
    names = (f"to_{should}", f"should_{should}", f"must_{should}", f"{should}_list")
    says = (f"You should {should} {{v}}.", f"You must {should} {{v}}.", f"We have to {should} {{v}}.")
    return Field((rng.choice(names),), "array", says, lambda r: r.sample(pool, 2))


def several(rng: Random) -> Field:
    if rng.random() < 0.12:
        return to_do(rng)
    many = rng.choice(THINGS) if rng.random() < 0.5 else plural(rng.choice(NOUNS))
    pool = rng.choice((words.COLORS, words.ANIMALS, words.FOODS, words.NOUNS, words.HOBBIES, words.FRUITS, None))
    name = rng.choice((many, many, f"all_{many}", f"{many}_list"))
    says = (f"The {many} are {{v}}.", f"The {many} are {{v}}.", f"{many.capitalize()}: {{v}}.",
            f"{{v}} are the {many}.", f"Its {many} are {{v}}.")  # fmt: skip
    size = rng.choice((2, 2, 3))
    if pool is None:
        named = rng.choice((words.first_name, words.city, words.invented))
        return Field((name,), "array", says, lambda r: list(dict.fromkeys(named(r) for _ in range(size))))
    return Field((name,), "array", says, lambda r: r.sample(pool, size))


KINDS: tuple[Callable[[Random], Field], ...] = (text, number, yes_or_no, several, choice)
SHARES = (42, 26, 14, 10, 8)


def different(rng: Random, count: int) -> list[Field]:
    """So many fields, of which no two have a word of their names in common."""
    found: list[Field] = []
    taken: set[str] = set()
    while len(found) < count:
        field = rng.choices(KINDS, SHARES)[0](rng)
        parts = set(plain(field.names[0]).split())
        if not parts & taken:
            found.append(field)
            taken |= parts
    return found


def record(rng: Random) -> Record:
    """A record of something, with names that no other has."""
    first = text(rng)
    said = plain(first.names[0])
    opens = (f"The {said} is {{v}}.", f"This {said} is called {{v}}.", f"Our {said} is {{v}}.", "Look at {v}.",
             f"I know a {said} called {{v}}.", "We talked about {v}.", f"{{v}} is a good {said}.",
             "There is news about {v}.", "We are looking for {v}.", "I like {v}.", "We looked at {v}.",
             "I have the {v}.", "{v} came today.", "We need a {v}.", f"Our {said} is called {{v}}.",
             f"There is a {said} called {{v}}.",
             f'I like the {said} "{{v}}".', f'"{{v}}" is a {said}.', "There is something new on {v}.")  # fmt: skip
    subject = rng.choice(SUBJECTS) or f"The {rng.choice(NOUNS)}"
    own = set(said.split())
    others = [f for f in different(rng, 8) if not own & set(plain(f.names[0]).split())]
    return Record(said, subject, (rng.choice(opens),), first, tuple(others[:6]))
