"""The records that extraction is practised on: fields with their names, values, and how a text says them.

`TRAINED` and `RESERVED` share no record and no field name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from . import words

Make = Callable[[Random], Any]


@dataclass(frozen=True, slots=True)
class Field:
    """says: sentences, {s} for the subject and {v} for the value; of a boolean, one for true and one for false."""

    names: tuple[str, ...]
    type: str
    says: tuple[str, ...]
    make: Make
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """opens: first sentences, that say the first field. subject: what {s} is afterwards; empty for he or she."""

    title: str
    subject: str
    opens: tuple[str, ...]
    first: Field
    fields: tuple[Field, ...]


def _n(low: int, high: int) -> Make:
    return lambda rng: rng.randint(low, high)


def _some(items: list[str]) -> Make:
    return lambda rng: rng.sample(items, rng.choice((2, 2, 3)))


def _names(rng: Random) -> list[str]:
    return list(dict.fromkeys(words.first_name(rng) for _ in range(rng.choice((2, 3)))))


def _of(items: list[str]) -> Make:
    return lambda rng: rng.choice(items)


def _text(*names: str, says: tuple[str, ...], make: Make) -> Field:
    return Field(names, "string", says, make)


_PERSON = _text("name", "person", "full_name", says=(), make=words.full_name)
_AGE = Field(("age", "years"), "integer", ("{s} is {v} years old.", "{s} turned {v} last week."), _n(3, 95))
_CITY = _text("city", "home", "town", says=("{s} lives in {v}.", "{s} comes from {v}."), make=words.city)
_JOB = _text(
    "job",
    "work",
    "profession",
    says=("{s} works as a {v}.", "{s} is a {v}."),
    make=_of([j for j in words.JOBS if j[0] not in "aeiou"]),
)
_MAIL = _text("email", "mail", "contact", says=("Write to {v}.", "The email is {v}."), make=words.email)
_LIKES = Field(("hobbies", "likes", "interests"), "array", ("{s} likes {v}.", "{s} enjoys {v}."), _some(words.HOBBIES))
_MARRIED = Field(("married", "is_married"), "boolean", ("{s} is married.", "{s} is not married."), _n(0, 1))
_PRICE = Field(
    ("price", "cost", "price_usd"), "number", ("{s} costs {v} dollars.", "The price is {v} dollars."), words.money
)
_COLOR = _text("color", "colour", says=("{s} is {v}.", "The color is {v}."), make=_of(words.COLORS))
_STOCK = Field(
    ("quantity", "stock", "count"), "integer", ("There are {v} of them.", "We have {v} in stock."), _n(2, 900)
)
_WHEN = _text("date", "day", "when", says=("It is on {v}.", "The date is {v}."), make=words.day)
_AT = _text("time", "start", "begins", says=("It starts at {v}.", "It begins at {v}."), make=words.time)
_WHERE = _text("place", "location", "venue", says=("It takes place in {v}.", "We meet in {v}."), make=words.city)
_WHO = Field(("guests", "attendees", "people"), "array", ("{v} will come.", "The guests are {v}."), _names)
_YEAR = Field(("year", "released"), "integer", ("It came out in {v}.", "It is from {v}."), _n(1900, 2030))
_CODE = _text("id", "code", "reference", says=("The code is {v}.", "It has the id {v}."), make=words.code)
_USED = Field(("used", "second_hand"), "boolean", ("It is used.", "It is not used."), _n(0, 1))
_FREE = Field(("free", "no_charge"), "boolean", ("Entry is free.", "Entry is not free."), _n(0, 1))
_SIZE = Field(
    ("size", "format"),
    "string",
    ("The size is {v}.", "It comes in size {v}."),
    _of(["small"]),
    ("small", "medium", "large"),
)
_RATING = Field(
    ("rating", "stars", "score"),
    "number",
    ("It has {v} stars.", "People give it {v} stars."),
    lambda r: r.choice((1.5, 2.5, 3.5, 4.5, 3.2, 4.8, 2, 3, 4)),
)
_TAGS = Field(("tags", "topics", "keywords"), "array", ("It is about {v}.", "The topics are {v}."), _some(words.NOUNS))

TRAINED: tuple[Record, ...] = (
    Record("person", "", ("This is {v}.", "I met {v} today.", "Let me tell you about {v}.", "My friend is {v}."),
           _PERSON, (_AGE, _CITY, _JOB, _LIKES, _MARRIED, _MAIL)),
    Record("contact", "", ("Please save {v}.", "The new contact is {v}."), _PERSON, (_MAIL, _CITY, _JOB, _CODE)),
    Record("product", "It", ("We sell a {v}.", "Look at this {v}.", "The shop has a new {v}."),
           _text("product", "item", "name", says=(), make=_of(words.THINGS)), (_PRICE, _COLOR, _STOCK, _USED, _SIZE,
               _RATING, _CODE)),
    Record("book", "The book", ('I read "{v}".', 'The book is called "{v}".'),
           _text("title", "book", "name", says=(), make=words.title),
           (_text("author", "writer", "by", says=("It was written by {v}.", "The author is {v}."),
                  make=words.full_name),
            _YEAR, Field(("pages", "length"), "integer", ("It has {v} pages.",), _n(40, 900)), _TAGS, _PRICE, _RATING)),
    Record("movie", "The movie", ('We watched "{v}".', '"{v}" is a movie.'),
           _text("title", "movie", "film", says=(), make=words.title),
           (_text("director", "made_by", says=("The director is {v}.", "{v} made it."), make=words.full_name),
            _YEAR, _RATING, _TAGS, Field(("minutes", "duration"), "integer", ("It is {v} minutes long.",), _n(60,
                200)))),
    Record("event", "It", ("You are invited to the {v}.", "Do not miss the {v}."),
           _text("event", "name", "title", says=(),
                 make=lambda r: f"{r.choice(words.NOUNS)} {r.choice(('party', 'festival', 'dinner', 'concert'))}"),
           (_WHEN, _AT, _WHERE, _WHO, _FREE, _PRICE)),
    Record("meeting", "It", ("The meeting is about the {v}.", "We must talk about the {v}."),
           _text("topic", "subject", "about", says=(), make=_of(words.NOUNS)), (_WHEN, _AT, _WHERE, _WHO)),
    Record("order", "The order", ("{v} placed an order.", "We have an order from {v}."),
           _text("customer", "buyer", "client", says=(), make=words.full_name),
           (Field(("items", "products"), "array", ("It is for {v}.",), _some(words.FOODS)),
            Field(("total", "amount", "sum"), "number", ("The total is {v} dollars.",), words.money), _CODE,
            _text("address_city", "ship_to", says=("Ship it to {v}.",), make=words.city),
            Field(("paid", "is_paid"), "boolean", ("It is paid.", "It is not paid."), _n(0, 1)))),
    Record("pet", "The pet", ("Our pet is called {v}.", "We have a pet called {v}."),
           _text("name", "pet", "called", says=(), make=words.first_name),
           (_text("animal", "kind", "species", says=("{s} is a {v}.",),
                  make=_of([a for a in words.ANIMALS if a[0] not in "aeiou"])),
            _AGE, _COLOR, Field(("weight", "kilos"), "number", ("{s} weighs {v} kg.",), lambda r: r.randint(1,
                60) + 0.5))),
    Record("flight", "The flight", ("We take flight {v}.", "Your flight is {v}."),
           _text("flight", "number", "flight_number", says=(), make=words.code),
           (_text("from", "origin", says=("It leaves from {v}.",), make=words.city),
            _text("to", "destination", says=("It goes to {v}.",), make=words.city), _PRICE,
            _text("gate", "exit", says=("The gate is {v}.",), make=lambda r: f"{r.choice('ABCDE')}{r.randint(1, 60)}"),
            Field(("delayed", "late"), "boolean", ("It is late.", "It is not late."), _n(0, 1)))),
    Record("city", "The city", ("{v} is a city.", "We went to {v}."), _text("city", "name", says=(),
        make=lambda r: words.invented(r).capitalize()),
           (Field(("population", "people"), "integer", ("It has {v} people.",), _n(900, 9000000)),
            _text("country", "nation", says=("It is in {v}.",), make=_of(words.COUNTRIES)),
            _text("river", "water", says=("The river {v} runs through it.",),
                  make=lambda r: words.invented(r).capitalize()))),
    Record("recipe", "It", ("Today we cook {v}.", "Here is how to make {v}."),
           _text("dish", "recipe", "name", says=(), make=words.dish),
           (Field(("ingredients", "needs"), "array", ("You need {v}.", "Take {v}."), _some(words.FOODS)),
            Field(("minutes", "cook_time"), "integer", ("It takes {v} minutes.",), _n(5, 120)),
            Field(("servings", "portions"), "integer", ("It is enough for {v} people.",), _n(2, 12)))),
    Record("car", "The car", ("I drive a {v}.", "There is a {v} for sale."),
           _text("model", "car", "make", says=(),
                 make=lambda r: f"{words.invented(r).capitalize()} {r.randint(1, 900)}"),
           (_YEAR, _COLOR, _PRICE, _USED, Field(("km", "mileage"), "integer", ("It has run {v} km.",), _n(10,
               300000)))),
    Record("task", "The task", ("Please {v}.", "Somebody has to {v}."),
           _text("task", "todo", says=(),
                 make=lambda r: f"{r.choice(('clean', 'paint', 'fix', 'sell'))} the {r.choice(words.THINGS)}"),
           (_text("owner", "assigned_to", "who", says=("{v} will do it.",), make=words.first_name),
            _text("due", "deadline", says=("It must be done by {v}.",), make=words.day),
            Field(("priority", "importance"), "string", ("The priority is {v}.",), _of(["low"]), ("low", "normal",
                "high")),
            Field(("done", "finished"), "boolean", ("It is done.", "It is not done."), _n(0, 1)))),
)  # fmt: skip

RESERVED: tuple[Record, ...] = (
    Record("house", "The house", ("There is a house on {v}.", "We looked at a house on {v}."),
           _text("street", says=(), make=lambda r: f"{words.invented(r).capitalize()} Street"),
           (Field(("rooms",), "integer", ("It has {v} rooms.",), _n(2, 14)), Field(("rent",), "number",
               ("The rent is {v} dollars.",), words.money),
            Field(("has_garden",), "boolean", ("It has a garden.", "It has no garden."), _n(0, 1)),
            _text("landlord", says=("The landlord is {v}.",), make=words.full_name))),
    Record("song", "The song", ('I like the song "{v}".', '"{v}" is a song.'), _text("song", says=(), make=words.title),
           (_text("singer", says=("{v} sings it.", "The singer is {v}."), make=words.full_name),
            Field(("seconds",), "integer", ("It is {v} seconds long.",), _n(60, 600)),
            Field(("style",), "string", ("The style is {v}.",), _of(["jazz"]), ("jazz", "rock", "folk")))),
    Record("team", "The team", ("Our team is called {v}.", "{v} is a good team."),
           _text("team", says=(), make=lambda r: f"{words.invented(r).capitalize()} United"),
           (_text("coach", says=("The coach is {v}.",), make=words.full_name), Field(("wins",), "integer",
               ("It won {v} games.",), _n(0, 60)),
            Field(("players",), "array", ("The players are {v}.",), _names))),
    Record("patient", "", ("The patient is {v}.", "{v} came to the doctor."), _text("patient", says=(),
        make=words.full_name),
           (Field(("pulse",), "integer", ("The pulse is {v}.",), _n(45, 140)), Field(("fever",), "number",
               ("The fever is {v} degrees.",), lambda r: r.randint(36, 40) + 0.5),
            _text("illness", says=("{s} has the {v} illness.",), make=words.invented),
            Field(("smoker",), "boolean", ("{s} smokes.", "{s} does not smoke."), _n(0, 1)))),
    Record("plant", "The plant", ("This plant is the {v}.", "I grow the {v}."), _text("plant", says=(),
        make=words.invented),
           (Field(("height_cm",), "integer", ("It is {v} cm tall.",), _n(3, 300)), _text("blooms_in",
               says=("It blooms in {v}.",), make=_of(words.MONTHS)),
            Field(("needs_sun",), "boolean", ("It needs sun.", "It does not need sun."), _n(0, 1)))),
    Record("job offer", "It", ("We are looking for a {v}.", "There is a job as a {v}."), _text("role", says=(),
        make=_of([j for j in words.JOBS if j[0] not in "aeiou"])),
           (Field(("salary",), "integer", ("The pay is {v} dollars.",), _n(900, 90000)), _text("company",
               says=("The company is {v}.",), make=lambda r: words.invented(r).capitalize()),
            Field(("remote",), "boolean", ("You can work from home.", "You cannot work from home."), _n(0, 1)),
            Field(("languages",), "array", ("You should speak {v}.",), _some(words.LANGUAGES)))),
)  # fmt: skip
