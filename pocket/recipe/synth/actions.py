"""What invented tools do: a verb, a noun, parameters, the questions that ask for it, its result and the answer.

`TRAINED` and `RESERVED` share no verb and no noun, so no tool name of one occurs in the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from . import words
from .params import PARAMS, Param

Make = Callable[[Random], Any]


@dataclass(frozen=True, slots=True)
class Action:
    """asks: questions; a {parameter} in one is said there, the others follow as phrases. answers: sentences over the
    required parameters and the result. A parameter is a key of `params`; the optional ones may be absent.
    """

    verbs: tuple[str, ...]
    nouns: tuple[str, ...]
    about: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    asks: tuple[str, ...]
    result: dict[str, Make]
    answers: tuple[str, ...]
    params: Mapping[str, Param] = field(default_factory=lambda: PARAMS)


def _n(low: int, high: int) -> Make:
    return lambda rng: rng.randint(low, high)


def _of(*items: Any) -> Make:
    return lambda rng: rng.choice(items)


_GET = ("get", "find", "show", "lookup", "fetch")
_ADD = ("add", "create", "make", "new")
_BOOK = ("book", "reserve", "order")
_SET = ("set", "change", "adjust")
_SEND = ("send", "write", "post")
_DROP = ("delete", "cancel", "remove")
_ID: dict[str, Make] = {"id": words.code}
_OK: dict[str, Make] = {"status": _of("ok", "done", "success")}

TRAINED: tuple[Action, ...] = (
    Action(_GET, ("weather", "forecast"), "Get the weather in a city", ("city",), ("unit", "date"),
           ("What is the weather in {city}", "How is the weather in {city}", "Tell me the weather in {city}",
            "Is it warm in {city}"), {"temperature": _n(-9, 36), "sky": _of("sunny", "cloudy", "rainy", "windy",
                "clear")},
           ("It is {temperature} degrees and {sky} in {city}.", "In {city} it is {sky}, with {temperature} degrees.")),
    Action(_GET, ("time", "local_time"), "Get the time in a city", ("city",), (),
           ("What time is it in {city}", "Tell me the time in {city}", "How late is it in {city}"),
           {"time": words.time}, ("It is {time} in {city}.", "The time in {city} is {time}.")),
    Action(_GET, ("stock", "stock_price", "share_price"), "Get the price of a stock", ("symbol",), ("currency", "date"),
           ("What is the price of {symbol}", "Check the stock {symbol}", "How much is one share of {symbol}"),
           {"price": words.money}, ("The price of {symbol} is {price}.", "{symbol} is at {price}.")),
    Action(_GET, ("population", "people_count"), "Get how many people live in a city", ("city",), ("year",),
           ("How many people live in {city}", "What is the population of {city}"), {"population": _n(900, 9000000)},
           ("{population} people live in {city}.", "{city} has {population} people.")),
    Action(_GET, ("recipe", "recipes"), "Find a recipe", ("food",), ("minutes", "people"),
           ("Find a recipe with {food}", "How do I cook something with {food}", "I want to cook with {food}"),
           {"recipe": words.dish, "minutes_needed": _n(10, 90)},
           ("You could make {recipe}. It takes {minutes_needed} minutes.",)),
    Action(_GET, ("word_meaning", "definition"), "Get the meaning of a word", ("word",), (),
           ('What does "{word}" mean', 'Define the word "{word}"', 'Look up the word "{word}"'),
           {"meaning": lambda r: words.article(f"{r.choice(words.ADJECTIVES)} {r.choice(words.THINGS)}")},
           ('"{word}" means {meaning}.',)),
    Action(("search", "find", "query"), ("hotel", "hotels"), "Find a hotel", ("city",), ("price", "date", "days",
        "people"),
           ("Find a hotel", "I need a hotel", "Search for a hotel"),
           {"hotel": lambda r: f"Hotel {words.invented(r).capitalize()}", "per_night": _n(30, 400)},
           ("I found {hotel} in {city} for {per_night} dollars a night.",)),
    Action(("search", "find", "query"), ("flight", "flights"), "Find a flight", ("from", "to"), ("date", "price",
        "return"),
           ("Find a flight", "I need a flight", "Search for flights", "I want to fly"),
           {"flight": words.code, "departs": words.time},
           ("Flight {flight} from {from} to {to} leaves at {departs}.", "You can take flight {flight} at {departs}.")),
    Action(("search", "find", "query"), ("restaurant", "restaurants"), "Find a restaurant", ("city",),
           ("food", "open", "price", "distance"), ("Find a restaurant", "Where can I eat",
                                                   "I am looking for a restaurant"),
           {"restaurant": words.title, "rating": _of(3.9, 4.2, 4.5, 4.8)},
           ("{restaurant} in {city} has a rating of {rating}.", "You could try {restaurant}.")),
    Action(("search", "find", "query"), ("book", "books", "library"), "Find books", ("word",), ("year", "limit"),
           ('Find books about "{word}"', 'Search the library for "{word}"'),
           {"title": words.title, "author": words.full_name}, ('I found "{title}" by {author}.',)),
    Action(_BOOK, ("table", "restaurant_table"), "Book a table", ("people", "time"), ("place", "date", "person"),
           ("Book a table", "Reserve a table", "I need a table"), _ID,
           ("Your table is booked. The number is {id}.", "Done. The booking for {time} has the number {id}.")),
    Action(_BOOK, ("taxi", "cab", "ride"), "Order a taxi", ("place",), ("time", "people", "urgent"),
           ("Order a taxi to the {place}", "I need a taxi to the {place}", "Call me a cab to the {place}"),
           {"driver": words.first_name, "arrives_in": _n(2, 25)},
           ("{driver} will pick you up in {arrives_in} minutes.",)),
    Action(_BOOK, ("pizza", "pizza_order"), "Order a pizza", ("size", "toppings"), ("quantity", "time"),
           ("Order a {size} pizza with {toppings}", "I would like a {size} pizza with {toppings}"),
           {"order": words.code, "minutes": _n(15, 60)},
           ("Your pizza comes in {minutes} minutes. The order is {order}.",)),
    Action(_BOOK, ("room", "meeting_room"), "Book a meeting room", ("date", "time"), ("people", "minutes"),
           ("Book a meeting room", "Reserve a room"), {"room": lambda r: f"{r.choice('ABCDEF')}{r.randint(1, 40)}"},
           ("Room {room} is booked for {date} at {time}.", "You have room {room}.")),
    Action(_ADD, ("event", "meeting", "appointment"), "Put an event into the calendar", ("title", "date"),
           ("time", "guests", "minutes", "place"), ("Create an event called {title}", "Add {title} to my calendar"),
           _ID,
           ("I added {title} on {date}.", "{title} is in your calendar.")),
    Action(_ADD, ("task", "todo"), "Add a task to the list", ("task",), ("priority", "date", "tags"),
           ("Add a task to {task}", "I have to {task}. Put it on my list"), {"task_id": words.code},
           ("I added the task to {task}.", "It is on your list as {task_id}.")),
    Action(_ADD, ("reminder", "alert"), "Set a reminder", ("text", "time"), ("date", "loop"),
           ('Remind me at {time}: "{text}"', 'Set a reminder at {time} saying "{text}"'), _OK,
           ("I will remind you at {time}.",)),
    Action(_ADD, ("note", "memo"), "Save a note", ("text",), ("tags", "title"),
           ('Save a note that says "{text}"', 'Write down: "{text}"', 'Make a note saying "{text}"'), _ID,
           ("I saved the note.", "Your note is saved as {id}.")),
    Action(_ADD, ("contact", "address_entry"), "Save a contact", ("person", "email"), ("note", "tags"),
           ("Save {person} with the email {email}", "Add {person} to my contacts, {email}"), _OK,
           ("I saved {person}.", "{person} is in your contacts.")),
    Action(_SEND, ("message", "text_message", "sms"), "Send a message", ("recipient", "text"), ("time", "urgent"),
           ('Send a message to {recipient}: "{text}"', 'Tell {recipient} "{text}"', 'Text {recipient} "{text}"'), _OK,
           ("I sent your message to {recipient}.", "Done. {recipient} has your message.")),
    Action(_SEND, ("email", "mail"), "Send an email", ("email", "text"), ("title", "urgent"),
           ('Send an email to {email} saying "{text}"', 'Write to {email}: "{text}"'), _OK,
           ("The email to {email} is sent.",)),
    Action(_SEND, ("payment", "money"), "Send money", ("amount", "recipient"), ("currency", "note"),
           ("Send {amount} to {recipient}", "Pay {recipient} {amount}"), {"payment": words.code},
           ("I sent {amount} to {recipient}.", "Payment {payment} is done.")),
    Action(_SET, ("light", "lamp"), "Set a light", ("room", "level"), ("color",),
           ("Set the light in the {room} to {level}", "Make the {room} light {level} percent bright"), _OK,
           ("The light in the {room} is at {level} percent.",)),
    Action(_SET, ("heating", "thermostat"), "Set the heating", ("degrees",), ("room", "mode"),
           ("Set the heating to {degrees} degrees", "Make it {degrees} degrees warm"), _OK,
           ("The heating is set to {degrees} degrees.",)),
    Action(_SET, ("volume", "sound"), "Set the volume", ("level",), ("room",),
           ("Set the volume to {level}", "Turn the sound to {level}"), _OK, ("The volume is now {level}.",)),
    Action(_SET, ("alarm", "wake_up"), "Set an alarm", ("time",), ("date", "loop", "title"),
           ("Set an alarm for {time}", "Wake me up at {time}"), _OK, ("The alarm is set for {time}.",)),
    Action(("start", "run", "begin"), ("timer", "countdown"), "Start a timer", ("minutes",), ("title",),
           ("Start a timer for {minutes} minutes", "Set a timer of {minutes} minutes"), _OK,
           ("The timer runs for {minutes} minutes.",)),
    Action(("start", "run", "begin"), ("washer", "washing_machine"), "Start the washing machine", ("mode",),
           ("time", "minutes"), ("Start the washing machine in {mode} mode", "Wash my clothes in {mode} mode"),
           {"ready_at": words.time}, ("Your clothes are ready at {ready_at}.",)),
    Action(("play", "start"), ("music", "song", "track"), "Play music", ("title",), ("loop", "level", "room"),
           ("Play the song {title}", "I want to hear {title}", "Put on {title}"), _OK, ("Now playing {title}.",)),
    Action(("play", "start"), ("radio", "station"), "Play the radio", ("genre",), ("room", "minutes"),
           ("Play some {genre}", "I want to hear {genre} on the radio"),
           {"station": lambda r: f"Radio {words.invented(r)}"},
           ("Now playing {station}.",)),
    Action(_DROP, ("booking", "reservation"), "Cancel a booking", ("id",), ("note",),
           ("Cancel my booking {id}", "I want to cancel the booking {id}"), _OK, ("The booking {id} is canceled.",)),
    Action(_DROP, ("file", "document"), "Delete a file", ("file",), (),
           ("Delete the file {file}", "Remove {file}", "I do not need {file} any more. Delete it"), _OK,
           ("{file} is deleted.", "I deleted {file}.")),
    Action(("track", "check", "follow"), ("parcel", "package", "shipment"), "See where a parcel is", ("id",), (),
           ("Where is my parcel {id}", "Track the package {id}", "Check the parcel {id}"),
           {"at": words.city, "arrives": words.day}, ("Your parcel is in {at}. It comes on {arrives}.",)),
    Action(("check", "get"), ("order", "order_status"), "See how an order is doing", ("id",), ("email",),
           ("What is the status of order {id}", "How is my order {id}"), {"state": _of("packed", "sent", "waiting",
               "paid")},
           ("Your order {id} is {state}.",)),
    Action(("translate", "convert"), ("text", "sentence"), "Translate a text", ("text", "language"), (),
           ('Translate "{text}" into {language}', 'How do you say "{text}" in {language}'),
           {"translation": lambda r: " ".join(words.invented(r) for _ in range(r.randint(2, 5)))},
           ('In {language} it is "{translation}".',)),
    Action(("convert", "exchange"), ("money_value", "rate"), "Convert an amount into a currency", ("amount",
        "currency"), (),
           ("Convert {amount} dollars to {currency}", "How much is {amount} dollars in {currency}"),
           {"value": words.money}, ("{amount} dollars are {value} {currency}.",)),
    Action(("plan", "get"), ("route", "directions", "trip"), "Find the way between two cities", ("from", "to"),
           ("transport",),
           ("How do I get from {from} to {to}", "Find the way from {from} to {to}"), {"km": _n(5, 900), "hours": _n(1,
               12)},
           ("It is {km} km from {from} to {to} and takes {hours} hours.",)),
    Action(("buy", "order", "get"), ("ticket", "tickets"), "Buy tickets", ("title", "quantity"), ("date", "price"),
           ("Buy {quantity} tickets for {title}", "I want {quantity} tickets for {title}"), {"total": words.money},
           ("You have {quantity} tickets for {title}. They cost {total} dollars.",)),
    Action(("buy", "order", "add"), ("item", "cart"), "Buy an item", ("item",), ("color", "quantity", "gift"),
           ("Buy the {item}", "I want to buy the {item}", "Put the {item} into my cart"), {"total": words.money},
           ("I ordered the {item} for {total} dollars.",)),
    Action(("rate", "review"), ("movie", "film"), "Rate a movie", ("title", "stars"), ("note",),
           ("Give {title} {stars} stars", "Rate the movie {title} with {stars} stars"), _OK,
           ("You gave {title} {stars} stars.",)),
    Action(("list", "show", "get"), ("news", "headlines"), "Get the news", (), ("country", "limit", "word"),
           ("What is in the news", "Show me the news", "Get the latest news"),
           {"headline": lambda r: words.sentence(r)},
           ("The news says: {headline}",)),
    Action(("check", "get"), ("battery", "charge"), "Get the battery level", (), (),
           ("How full is my battery", "Check the battery", "What is the battery level"), {"percent": _n(1, 100)},
           ("The battery is at {percent} percent.",)),
)  # fmt: skip

_SEEK = ("seek", "inspect", "obtain")
_LAY = ("register", "log", "record")

RESERVED: tuple[Action, ...] = (
    Action(_SEEK, ("tide", "sea_level"), "Get the height of the tide in a city", ("city",), ("date",),
           ("How high is the tide in {city}", "What is the tide in {city}"), {"meters": _n(1, 9)},
           ("The tide in {city} is {meters} meters high.",)),
    Action(_SEEK, ("air_quality", "pollen"), "Get the quality of the air", ("city",), ("date",),
           ("How clean is the air in {city}", "Tell me about the air in {city}"), {"quality": _of("good", "fair",
               "bad")},
           ("The air in {city} is {quality}.",)),
    Action(_SEEK, ("museum", "gallery"), "Find a museum", ("city",), ("open", "price", "distance"),
           ("Find a museum", "I want to see a museum"), {"museum": words.title}, ("{museum} is a museum in {city}.",)),
    Action(_SEEK, ("ferry", "ship"), "Find a ferry", ("from", "to"), ("date", "people", "return"),
           ("Find a ferry", "I need a ferry"), {"sails_at": words.time},
           ("The ferry from {from} to {to} sails at {sails_at}.",)),
    Action(_SEEK, ("patient", "chart"), "Get the chart of a patient", ("person",), ("year",),
           ("Show the chart of {person}", "Look at the chart of {person}"), {"blood_type": _of("A", "B", "AB", "O")},
           ("{person} has blood type {blood_type}.",)),
    Action(("hire", "rent"), ("bicycle", "scooter"), "Rent a bicycle", ("place", "minutes"), ("color", "size"),
           ("Rent a bicycle at the {place}", "I want a bicycle at the {place}"), {"lock": words.code},
           ("Your bicycle is at the {place}. The lock code is {lock}.",)),
    Action(_LAY, ("workout", "exercise"), "Save a workout", ("minutes",), ("date", "note"),
           ("Save a workout of {minutes} minutes", "I trained for {minutes} minutes. Save it"), {"calories": _n(50,
               900)},
           ("I saved it. You burned {calories} calories.",)),
    Action(_LAY, ("expense", "receipt"), "Save what was paid", ("amount", "title"), ("date", "tags"),
           ("Save {amount} dollars for {title}", "I paid {amount} dollars for {title}. Write it down"),
           {"entry": words.code},
           ("I saved {amount} dollars for {title}.",)),
    Action(_LAY, ("guest", "visitor"), "Sign a visitor in", ("person", "age"), ("email", "time"),
           ("Sign in {person}, aged {age}", "{person} is here, aged {age}. Sign them in"), {"badge": words.code},
           ("{person} has the badge {badge}.",)),
    Action(("deliver", "ship"), ("flowers", "bouquet"), "Have flowers brought to somebody", ("recipient", "color"),
           ("date", "note", "gift"), ("Bring {color} flowers to {recipient}",
                                      "I want {recipient} to get {color} flowers"),
           {"comes_at": words.time}, ("{recipient} gets the flowers at {comes_at}.",)),
    Action(("lock", "close"), ("door", "gate"), "Lock a door", ("room",), ("minutes", "urgent"),
           ("Lock the door in the {room}", "Close the {room} door"), _OK, ("The door in the {room} is locked.",)),
    Action(("tune", "dim"), ("oven", "stove"), "Heat the oven", ("degrees",), ("minutes", "mode"),
           ("Heat the oven to {degrees} degrees", "I need the oven at {degrees} degrees"), _OK,
           ("The oven is at {degrees} degrees.",)),
    Action(("mend", "repair"), ("machine", "appliance"), "Send somebody to repair an item", ("item", "date"),
           ("urgent", "person"), ("Repair the {item}", "My {item} is broken. Send somebody"),
           {"worker": words.first_name},
           ("{worker} will repair the {item} on {date}.",)),
    Action(("feed", "water"), ("pet", "plant"), "Feed a pet", ("food", "time"), ("loop",),
           ("Feed the pet with {food}", "Give the pet some {food}"), _OK, ("The pet gets {food} at {time}.",)),
)  # fmt: skip
