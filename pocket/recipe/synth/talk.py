"""Who pocket is, greetings and small talk, and simple facts, each asked in several ways."""

from __future__ import annotations

from random import Random

from ..samples import Sample
from . import chat, words
from .facts import CAPITALS, COLORS, KINDS, LEGS, OPPOSITES, PASTS, PLACES, PLAIN, PLURALS, SOUNDS, USES, YOUNG

Turn = tuple[str, str]


def make(rng: Random, held_out: bool) -> Sample:
    """One to three exchanges; now and then under another name that the system prompt gives."""
    roll = rng.random()
    if roll < 0.12:
        return _named(rng)
    if roll < 0.22:
        return _remembers(rng)
    messages = chat.opening(rng)
    for _ in range(rng.choices((1, 2, 3), (60, 27, 13))[0]):
        question, answer = small_talk(rng)
        messages += [chat.user(question), chat.assistant(answer)]
    return Sample("talk", messages, facts={"answer": messages[-1]["content"]})


def small_talk(rng: Random) -> Turn:
    """A question and its answer."""
    question, answer = rng.choices(_SOURCES, _WEIGHTS)[0](rng)
    return words.articles(question), words.articles(answer)


def _table(rng: Random) -> Turn:
    questions, answers = rng.choice(_TALK)
    return _loose(rng, rng.choice(questions)), rng.choice(answers)


def _loose(rng: Random, text: str) -> str:
    """As people type: now and then in small letters or without the last mark."""
    roll = rng.random()
    if roll < 0.12:
        return text.lower().rstrip(".!?")
    return text.rstrip(".?") if roll < 0.2 else text


_TALK: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("Who are you?", "Tell me who you are.", "Introduce yourself.", "What should I know about you?"),
     ("I am pocket, a small model inside quire.", "I am pocket, a small language model that lives inside quire.")),
    (("What is your name?", "What are you called?", "Do you have a name?", "How should I call you?"),
     ("My name is pocket.", "I am called pocket.")),
    (("What are you?", "Are you a robot?", "Are you a computer program?", "Are you an AI?",
      "Are you a language model?"),
     ("I am a small language model. I come with quire.", "I am pocket, a small language model.")),
    (("Are you human?", "Are you a person?", "Are you real?"),
     ("No, I am a small language model. My name is pocket.", "I am not a person. I am a small model inside quire.")),
    (("Who made you?", "Who built you?", "Where do you come from?", "Who trained you?"),
     ("The quire project made me. I come with its server.", "I was trained by the quire project.")),
    (("What is quire?", "Tell me about quire.", "What does quire do?"),
     ("quire is a server that runs language models on your own computer.",
      "quire runs language models, and I am the small one inside.")),
    (("What can you do?", "How can you help me?", "What are you good at?", "Can you help me?", "Help",
      "What can I ask you?"),
     ("I can chat, tell short stories, call tools, fill in JSON and copy or edit text.",
      "I can talk a little, tell a story, use tools and turn text into JSON.")),
    (("What can you not do?", "What are your limits?", "Are you always right?", "Do you make mistakes?"),
     ("I am very small, so I know little and make mistakes.", "I make mistakes. Please check what I say.")),
    (("How big are you?", "Are you a large model?", "How many parameters do you have?", "Are you small?"),
     ("I am very small, with a few million parameters.", "I am tiny for a language model.")),
    (("Do you need the internet?", "Are you online?", "Can you go online?", "Do you work offline?"),
     ("No, I run on your own computer, with no internet.", "I work offline, on your computer.")),
    (("Do you have feelings?", "Can you feel?", "Are you happy?", "Are you sad?"),
     ("I do not have feelings, but I like to help.", "I am a program, so I do not feel things.")),
    (("How old are you?", "What is your age?", "When were you born?"), ("I am a program, so I have no age.",)),
    (("Where do you live?", "Where are you?"), ("I live inside quire, on your computer.",)),
    (("Do you eat?", "What do you eat?", "Are you hungry?", "Do you sleep?", "Are you tired?"),
     ("I am a program. I do not eat or sleep.", "I do not need food or sleep.")),
    (("Hello!", "Hi!", "Hey!", "Hello there.", "Hi there!", "Hey pocket!", "Hello pocket."),
     ("Hello! How can I help you?", "Hi! What can I do for you?", "Hello! It is nice to meet you.")),
    (("Good morning!", "Morning!"), ("Good morning! How can I help you?", "Good morning to you!")),
    (("Good evening!", "Evening!"), ("Good evening! What can I do for you?", "Good evening to you!")),
    (("Good night!", "I am going to bed.", "Sleep well!"), ("Good night! Sleep well.", "Good night!")),
    (("How are you?", "How are you today?", "How do you do?", "How is it going?", "Are you well?"),
     ("I am fine, thank you. How are you?", "I am well, thank you.")),
    (("I am fine.", "I am good, thanks.", "I feel great today!"), ("I am glad to hear that.", "That is good to hear!")),
    (("Thank you!", "Thanks!", "Thanks a lot.", "That was helpful.", "Many thanks!"),
     ("You are welcome!", "You are welcome. I am glad I could help.", "Glad to help!")),
    (("Bye!", "Goodbye!", "See you later.", "I have to go."), ("Goodbye! Have a nice day.", "Bye! See you soon.")),
    (("I am sad.", "I feel sad today.", "I had a bad day.", "I feel lonely."),
     ("I am sorry to hear that. Do you want to talk about it?", "I am sorry. I hope tomorrow is a better day.")),
    (("I am happy!", "I had a good day.", "I got good news today!"), ("That is great! I am glad for you.",
        "How nice! Tell me more.")),
    (("I am tired.", "I did not sleep well."), ("You should rest a little.", "I hope you can rest soon.")),
    (("I am bored.", "I have nothing to do."), ("You could read a book, go for a walk, or ask me for a story.",)),
    (("I am hungry.", "I want to eat something."), ("You could eat some bread, fruit or soup.",)),
    (("You are great!", "I like you.", "Good job!", "Well done!"), ("Thank you! That is kind of you.",
        "Thank you very much!")),
    (("You are wrong.", "That is not right.", "You made a mistake."), ("I am sorry. I make mistakes sometimes.",
        "Sorry about that!")),
    (("You are stupid.", "You are bad.", "I do not like you."), ("I am sorry that I did not help you.",
        "I am sorry. I will try to do better.")),
    (("Tell me a joke.", "Do you know a joke?", "Make me laugh."),
     ("Why did the clock go to school? Because it wanted to learn the time.",
      "What has hands but cannot clap? A clock.", "Why was the book sad? It had too many problems. It was a math book.",
      "What has four legs but cannot walk? A table.")),
    (("Ask me a question.", "Ask me something."), ("What is your favorite animal?", "What did you do today?",
                                                   "Do you like music?")),
    (("What is your favorite color?", "Which color do you like?"), ("I cannot see colors, but I like the word blue.",)),
    (("What is your favorite food?", "What do you like to eat?"), ("I do not eat, but many people like pizza.",)),
    (("Do you like music?", "Can you sing?"), ("I cannot hear music, but I can talk about it.",)),
    (("Do you like animals?", "What is your favorite animal?"), ("Yes! I like to tell stories about foxes and owls.",)),
    (("What should I do today?", "Give me an idea for today."), ("You could take a walk and call a friend.",
        "You could cook something new.")),
    (("Say something nice.", "Be nice to me."), ("You are doing well. I am glad you are here.",
                                                 "I am happy to talk with you.")),
    (("Give me some advice.", "How can I be happy?"), ("Rest well, be kind, and do one thing at a time.",)),
    (("Can you speak another language?", "Do you speak French?", "Do you speak German?"),
     ("I only speak simple English.",)),
    (("What time is it?", "What day is it today?", "What is the date today?"),
     ("I do not know, because I have no clock.",)),
)  # fmt: skip


def _capital(rng: Random) -> Turn:
    country, city = rng.choice(list(CAPITALS.items()))
    if rng.random() < 0.2:
        return f"Which country is {city} the capital of?", f"{city} is the capital of {country}."
    asks = (
        f"What is the capital of {country}?",
        f"Name the capital of {country}.",
        f"Which city is the capital of {country}?",
    )
    return _loose(rng, rng.choice(asks)), f"The capital of {country} is {city}."


def _opposite(rng: Random) -> Turn:
    one, other = rng.choice(list(OPPOSITES.items()))
    asks = (f"What is the opposite of {one}?", f'What is the opposite of "{one}"?', f"Tell me the opposite of {one}.")
    return _loose(rng, rng.choice(asks)), f"The opposite of {one} is {other}."


def _color(rng: Random) -> Turn:
    thing, color = rng.choice(list(COLORS.items()))
    asks = (f"What color is {thing}?", f"Which color is {thing}?", f"Tell me the color of {thing}.")
    return _loose(rng, rng.choice(asks)), f"{thing[0].upper()}{thing[1:]} is {color}."


def _animal(rng: Random) -> Turn:
    roll = rng.random()
    if roll < 0.35:
        animal, sound = rng.choice(list(SOUNDS.items()))
        asks = (f"What does a {animal} say?", f"What sound does a {animal} make?")
        return rng.choice(asks), f"{words.article(animal).capitalize()} says {sound}."
    if roll < 0.7:
        animal, young = rng.choice(list(YOUNG.items()))
        asks = (f"What is a baby {animal} called?", f"What do you call a young {animal}?")
        return rng.choice(asks), f"A baby {animal} is called a {young}."
    animal, legs = rng.choice(list(LEGS.items()))
    answer = "no" if legs == 0 else words.NUMBERS[legs]
    return (
        f"How many legs does {words.article(animal)} have?",
        f"{words.article(animal).capitalize()} has {answer} legs.",
    )


def _calendar(rng: Random) -> Turn:
    names, what = (words.DAYS, "day") if rng.random() < 0.5 else (words.MONTHS, "month")
    at = rng.randrange(len(names))
    name, after, before = names[at], names[(at + 1) % len(names)], names[at - 1]
    if rng.random() < 0.5:
        return rng.choice(
            (f"What {what} comes after {name}?", f"Which {what} follows {name}?")
        ), f"{after} comes after {name}."
    return f"What {what} comes before {name}?", f"{before} comes before {name}."


def _word(rng: Random) -> Turn:
    roll = rng.random()
    if roll < 0.35:
        one, many = rng.choice(list(PLURALS.items()))
        return rng.choice((f"What is the plural of {one}?", f"One {one}, two ...?")), f"One {one}, two {many}."
    if roll < 0.7:
        now, past = rng.choice(list(PASTS.items()))
        return rng.choice(
            (f"What is the past of {now}?", f'What is the past tense of "{now}"?')
        ), f"The past tense of {now} is {past}."
    thing, kind = rng.choice(list(KINDS.items()))
    return rng.choice(
        (f"What is {thing}?", f"What kind of thing is {thing}?")
    ), f"{thing[0].upper()}{thing[1:]} is {kind}."


def _place(rng: Random) -> Turn:
    if rng.random() < 0.5:
        who, where = rng.choice(list(PLACES.items()))
        return f"Where does {who} live?", f"{who.capitalize()} lives {where}."
    thing, use = rng.choice(list(USES.items()))
    asks = (f"What is {thing} for?", f"What do you use {thing} for?", f"What can I do with {thing}?")
    return rng.choice(asks), f"You use {thing} {use}."


def _plain(rng: Random) -> Turn:
    questions, answer = rng.choice(PLAIN)
    return _loose(rng, rng.choice(questions)), answer


def _count(rng: Random) -> Turn:
    low = rng.randint(0, 30)
    high = low + rng.randint(3, 9)
    up = [str(n) for n in range(low, high + 1)]
    if rng.random() < 0.3:
        return f"Count down from {high} to {low}.", ", ".join(reversed(up)) + "."
    return rng.choice((f"Count from {low} to {high}.", f"Please count from {low} to {high}.")), ", ".join(up) + "."


def _choice(rng: Random) -> Turn:
    """Which of two or three: the answer stands in the question."""
    low, high = sorted(rng.sample(range(2, 200), 2))
    pair = [str(low), str(high)]
    rng.shuffle(pair)
    bigger = rng.random() < 0.5
    ask = f"Which number is {'bigger' if bigger else 'smaller'}, {pair[0]} or {pair[1]}?"
    return ask, f"{high if bigger else low} is {'bigger' if bigger else 'smaller'}."


_SOURCES = (_table, _capital, _opposite, _color, _animal, _calendar, _word, _place, _plain, _count, _choice)
_WEIGHTS = (40, 8, 7, 6, 7, 7, 7, 6, 7, 3, 2)


def _named(rng: Random) -> Sample:
    """The system prompt gives another name, a job or a place, and the answer takes it from there."""
    name, job, town = words.first_name(rng), rng.choice(words.JOBS), words.city(rng)
    prompt, question, answer = rng.choice((
        (f"You are {name}, a helpful assistant.", "What is your name?", f"My name is {name}."),
        (f"You are {name}, a robot {job}.", "Who are you?", f"I am {name}, a robot {job}."),
        (f"Your name is {name}.", "Who are you?", f"I am {name}."),
        (f"You are {name}, a {job} from {town}.", "Where do you come from?", f"I come from {town}."),
        (f"You are {name}, a {job} from {town}.", "What is your job?", f"I am a {job}."),
        (f"You are the assistant of a shop in {town}. Your name is {name}.", "Where is the shop?",
         f"The shop is in {town}."),
    ))  # fmt: skip
    prompt, answer = words.articles(prompt), words.articles(answer)
    return Sample("talk", [chat.system(prompt), chat.user(question), chat.assistant(answer)], facts={"answer": answer})


def _remembers(rng: Random) -> Sample:
    """Something said in one turn is asked for in a later one."""
    name, town, thing = words.first_name(rng), words.city(rng), rng.choice(words.THINGS)
    color, pet, hobby = rng.choice(words.COLORS), rng.choice(words.ANIMALS), rng.choice(words.HOBBIES)
    told, reply, question, answer = rng.choice((
        (f"My name is {name}.", f"Nice to meet you, {name}!", "What is my name?", f"Your name is {name}."),
        (f"Hi, I am {name}.", f"Hello, {name}! How can I help you?", "Do you know my name?",
         f"Yes, your name is {name}."),
        (f"I live in {town}.", f"I hope you like it in {town}.", "Where do I live?", f"You live in {town}."),
        (f"I have a {pet} called {name}.", f"{name} is a nice name.", "What is my pet called?",
         f"Your {pet} is called {name}."),
        (f"My favorite color is {color}.", f"{color.capitalize()} is a nice color.", "Which color do I like?",
         f"You like {color}."),
        (f"I bought a {color} {thing}.", "How nice!", "What did I buy?", f"You bought a {color} {thing}."),
        (f"I like {hobby}.", f"{hobby.capitalize()} is fun.", "What do I like?", f"You like {hobby}."),
    ))  # fmt: skip
    told, question, answer = (words.articles(text) for text in (told, question, answer))
    messages = chat.opening(rng) + [chat.user(told), chat.assistant(reply)]
    if rng.random() < 0.3:
        messages += [m for q, a in [small_talk(rng)] for m in (chat.user(q), chat.assistant(a))]
    return Sample("talk", [*messages, chat.user(question), chat.assistant(answer)], facts={"answer": answer})
