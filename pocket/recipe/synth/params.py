"""The parameters that invented tools take: their names, types, values, and how a question says them.

Every parameter has names for training and reserved names for held-out tools; no reserved name is ever trained on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from . import words

Make = Callable[[Random], Any]


@dataclass(frozen=True, slots=True)
class Param:
    """about: what its description says. says: phrases with {} for the value, one that begins with a capital letter is
    a sentence of its own; of a boolean, one phrase for true and one for false. options: the values of an enum.
    """

    names: tuple[str, ...]
    reserved: tuple[str, ...]
    type: str
    about: str
    says: tuple[str, ...]
    make: Make = words.code
    options: tuple[str, ...] = ()


def _whole(low: int, high: int) -> Make:
    return lambda rng: rng.randint(low, high)


def _some(items: list[str]) -> Make:
    return lambda rng: rng.sample(items, rng.choice((2, 2, 3)))


def _words(rng: Random) -> list[str]:
    return [
        words.invented(rng) if rng.random() < 0.3 else rng.choice(words.NOUNS) for _ in range(rng.choice((2, 2, 3)))
    ]


def _place(rng: Random) -> str:
    return (
        rng.choice(("", "", "old ", "new "))
        + rng.choice(words.NOUNS)
        + rng.choice((" hotel", " park", " hall", " cafe"))
    )


def _task(rng: Random) -> str:
    verb = rng.choice(("clean", "paint", "fix", "find", "sell", "wash", "buy", "move", "return", "check"))
    return f"{verb} the {rng.choice(words.ADJECTIVES)} {rng.choice(words.THINGS)}"


def _thing(rng: Random) -> str:
    return f"{rng.choice(words.COLORS)} {rng.choice(words.THINGS)}" if rng.random() < 0.6 else words.invented(rng)


def _room(rng: Random) -> str:
    rooms = ("kitchen", "bedroom", "hall", "office", "garage", "bathroom", "attic", "library")
    return rng.choice(rooms) if rng.random() < 0.8 else f"room {rng.randint(1, 99)}"


def _half(low: int, high: int) -> Make:
    return lambda rng: rng.randint(low, high) + rng.choice((0.5, 0.25, 0.1, 0.7))


def _symbol(rng: Random) -> str:
    return "".join(rng.choices("ABCDEFGHIKLMNOPRSTVX", k=rng.choice((3, 4))))


PARAMS: dict[str, Param] = {
    # text
    "city": Param(("city", "town", "location", "city_name"), ("place_name", "in_city"), "string", "Name of the city",
                  ("in {}", "in {}", "near {}"), words.city),
    "from": Param(("from", "origin", "from_city", "start"), ("leave_from", "first_city"), "string", "City of departure",
                  ("from {}",), words.city),
    "to": Param(("to", "destination", "to_city", "end"), ("go_to", "last_city"), "string", "City of arrival",
                ("to {}",), words.city),
    "country": Param(("country", "nation", "country_name"), ("in_country", "the_country"), "string",
                     "Name of the country",
                     ("in {}", "for {}"), lambda r: r.choice(words.COUNTRIES)),
    "date": Param(("date", "day", "on", "when"), ("on_day", "the_day"), "string", "The day",
                  ("on {}", "on {}", "for {}"), words.day),
    "time": Param(("time", "at", "hour", "start_time"), ("at_time", "clock_time"), "string", "Time of day",
                  ("at {}",), words.time),
    "person": Param(("name", "person", "full_name", "who"), ("person_name", "whose"), "string", "Name of the person",
                    ("for {}", "for {}", "under the name {}"), words.full_name),
    "recipient": Param(("to", "recipient", "receiver", "contact"), ("send_to", "goes_to"), "string", "Who gets it",
                       ("to {}",), words.first_name),
    "email": Param(("email", "email_address", "mail"), ("mail_to", "reply_email"), "string", "Email address",
                   ("to {}", "using the email {}"), words.email),
    "text": Param(("text", "message", "content", "body"), ("the_text", "words"), "string", "The text",
                  ('saying "{}"', 'with the text "{}"', 'that says "{}"'), words.message),
    "note": Param(("note", "comment", "remark"), ("side_note", "extra_text"), "string", "A note",
                  ('with the note "{}"', 'Add the note "{}"'), words.message),
    "title": Param(("title", "name", "label"), ("the_title", "called"), "string", "The title",
                   ("called {}", "with the title {}"), words.title),
    "id": Param(("id", "code", "number", "reference"), ("id_code", "ref_number"), "string", "The identifier",
                ("with the id {}", "number {}", "with the code {}"), words.code),
    "task": Param(("task", "todo", "text"), ("the_task", "to_be_done"), "string", "What must be done",
                  ("to {}",), _task),
    "item": Param(("item", "product", "object", "article"), ("the_item", "which_thing"), "string", "Name of the item",
                  ("of the {}", "for the {}"), _thing),
    "food": Param(("food", "dish", "meal"), ("the_food", "what_to_eat"), "string", "The dish",
                  ("with {}",), lambda r: r.choice(words.FOODS)),
    "place": Param(("place", "venue", "address"), ("the_place", "where_to"), "string", "The place",
                   ("at the {}", "at the {}", "near the {}"), _place),
    "room": Param(("room", "area", "zone"), ("the_room", "which_room"), "string", "The room",
                  ("in the {}",), _room),
    "word": Param(("word", "term", "query"), ("the_word", "look_for"), "string", "The word",
                  ('for the word "{}"', 'for "{}"'),
                  lambda r: words.invented(r) if r.random() < 0.3 else r.choice(words.NOUNS)),
    "symbol": Param(("symbol", "ticker"), ("short_name", "stock_code"), "string", "Short name of the stock",
                    ("of {}", "for {}"), _symbol),
    "file": Param(("file", "path", "filename"), ("file_name", "the_file"), "string", "Name of the file",
                  ("in the file {}", "named {}"),
                  lambda r: f"{words.invented(r)}.{r.choice(('txt', 'csv', 'pdf', 'md', 'png'))}"),
    # whole numbers
    "people": Param(("people", "guests", "party_size", "seats"), ("guest_count", "how_many_people"), "integer",
                    "Number of people", ("for {} people", "for {} guests"), _whole(2, 12)),
    "quantity": Param(("quantity", "count", "amount"), ("how_many", "number_of_items"), "integer", "How many",
                      ("Take {}", "I need {} of them"), _whole(2, 40)),
    "limit": Param(("limit", "max_results", "top"), ("at_most", "result_count"), "integer", "Most results to give",
                   ("Show at most {}", "Give me {} results"), _whole(2, 25)),
    "minutes": Param(("minutes", "duration", "duration_minutes", "length"), ("how_long", "for_minutes"), "integer",
                     "Duration in minutes", ("for {} minutes",), _whole(2, 120)),
    "days": Param(("days", "day_count", "nights"), ("for_days", "how_many_days"), "integer", "Number of days",
                  ("for {} days", "for the next {} days"), _whole(2, 14)),
    "level": Param(("level", "volume", "brightness", "percent"), ("how_strong", "set_level"), "integer",
                   "From 0 to 100", ("to {}", "to {} percent"), _whole(1, 100)),
    "year": Param(("year", "since_year"), ("in_year", "the_year"), "integer", "The year", ("from the year {}", "of {}"),
                  _whole(1900, 2030)),
    "age": Param(("age", "years"), ("how_old", "age_in_years"), "integer", "Age in years", ("aged {}",), _whole(5, 90)),
    "stars": Param(("stars", "rating", "score"), ("star_count", "points_given"), "integer", "From 1 to 5",
                   ("with {} stars",), _whole(1, 5)),
    # numbers
    "price": Param(("max_price", "budget", "price_limit"), ("price_under", "most_to_pay"), "number", "Highest price",
                   ("under {} dollars", "for at most {} dollars"), words.money),
    "amount": Param(("amount", "value", "sum"), ("how_much", "money_amount"), "number", "The amount",
                    ("of {}", "worth {}"), words.money),
    "weight": Param(("weight", "weight_kg", "kilograms"), ("how_heavy", "kilos"), "number", "Weight in kilograms",
                    ("weighing {} kg", "of {} kg"), _half(1, 40)),
    "degrees": Param(("temperature", "degrees", "target"), ("how_warm", "target_heat"), "number", "Degrees Celsius",
                     ("to {} degrees",), _half(5, 30)),
    "distance": Param(("distance", "distance_km", "kilometers"), ("how_far", "km_count"), "number", "Distance in km",
                      ("within {} km",), _half(1, 90)),
    # enums
    "unit": Param(("unit", "units", "scale"), ("which_unit", "in_units"), "string", "Unit of the answer", ("in {}",),
                  options=("celsius", "fahrenheit", "kelvin")),
    "color": Param(("color", "colour", "paint"), ("which_color", "color_name"), "string", "The color",
                   ("in {}", "in the color {}"), options=tuple(words.COLORS)),
    "size": Param(("size", "cup_size"), ("how_big", "which_size"), "string", "The size", ("in size {}",
        "The size is {}"),
                  options=("small", "medium", "large", "tiny", "huge")),
    "priority": Param(("priority", "importance"), ("how_urgent", "rank_name"), "string", "How important",
                      ("with {} priority",), options=("low", "normal", "high", "top")),
    "language": Param(("language", "target_language", "lang"), ("which_language", "into_language"), "string",
                      "The language", ("into {}",), options=tuple(words.LANGUAGES)),
    "currency": Param(("currency", "target_currency", "to_currency"), ("money_kind", "into_money"), "string",
                      "Currency code", ("in {}", "to {}"), options=tuple(words.CURRENCIES)),
    "genre": Param(("genre", "style", "kind"), ("music_kind", "which_style"), "string", "The kind", ("Make it {}",),
                   options=tuple(words.GENRES)),
    "mode": Param(("mode", "setting", "program"), ("run_mode", "how_to_run"), "string", "The mode",
                  ("in {} mode",), options=("eco", "fast", "quiet", "normal", "turbo", "night")),
    "transport": Param(("transport", "vehicle", "travel_mode"), ("go_by", "way_to_go"), "string", "How to travel",
                       ("by {}",), options=("car", "train", "bus", "bike", "plane", "boat")),
    # booleans: first what is said for true, then for false
    "urgent": Param(("urgent", "is_urgent", "rush"), ("in_a_hurry", "needs_haste"), "boolean", "Whether it is urgent",
                    ("It is urgent", "It is not urgent")),
    "return": Param(("round_trip", "return_trip"), ("and_back", "both_ways"), "boolean", "Whether it goes both ways",
                    ("I need a round trip", "I need only one way")),
    "loop": Param(("repeat", "loop"), ("again", "over_and_over"), "boolean", "Whether it repeats",
                  ("Repeat it", "Do not repeat it")),
    "open": Param(("open_now", "only_open"), ("is_open", "must_be_open"), "boolean", "Only what is open",
                  ("It must be open now", "It does not have to be open now")),
    "gift": Param(("gift", "gift_wrap"), ("as_present", "wrap_it"), "boolean", "Whether to wrap it",
                  ("Wrap it as a gift", "Do not wrap it")),
    # arrays
    "tags": Param(("tags", "labels", "keywords"), ("tag_list", "all_labels"), "array", "Some words",
                  ("with the tags {}", "The tags are {}"), _words),
    "guests": Param(("attendees", "guests", "invitees", "participants"), ("who_comes", "people_list"), "array",
                    "Who takes part", ("with {}",), lambda r: [words.first_name(r) for _ in range(r.choice((2, 2,
                        3)))]),
    "toppings": Param(("toppings", "extras", "with"), ("on_top", "extra_list"), "array", "What goes on it",
                      ("with {}",), _some(words.FOODS)),
    "items": Param(("items", "products", "things"), ("item_list", "all_things"), "array", "The items",
                   ("of {}", "for {}"), _some(words.FRUITS)),
}  # fmt: skip
