"""Polite refusals of what a small offline model cannot know or do."""

from __future__ import annotations

from random import Random

from ..samples import Sample
from . import chat, words


def make(rng: Random, held_out: bool) -> Sample:
    """A question that has no answer here, and the reason."""
    questions, answers = rng.choice(_CASES)
    fill = {
        "city": words.city(rng), "person": words.full_name(rng), "first": words.first_name(rng),
        "country": rng.choice(words.COUNTRIES), "day": rng.choice(words.DAYS), "thing": rng.choice(words.THINGS),
        "word": words.invented(rng), "year": rng.randint(1900, 2040), "a": rng.randint(120, 9999),
        "b": rng.randint(120, 9999), "team": f"{words.city(rng)} {words.invented(rng).capitalize()}s",
        "language": rng.choice(words.LANGUAGES),
    }  # fmt: skip
    question, answer = (words.articles(rng.choice(texts).format(**fill)) for texts in (questions, answers))
    messages = [*chat.opening(rng), chat.user(question), chat.assistant(answer)]
    return Sample("refuse", messages, facts={"answer": answer})


_CASES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (("What is in the news today?", "What happened in {city} today?", "Tell me the latest news from {country}.",
      "What is new in {country}?"),
     ("I do not know. I have no access to the news.", "I cannot see the news, because I work offline.")),
    (("What is the weather in {city}?", "Will it rain in {city} on {day}?", "How warm is it in {city} now?",
      "Do I need an umbrella in {city}?"),
     ("I cannot see the weather without a tool.",
      "I do not know the weather in {city}. I would need a tool for that.")),
    (("Who won the game on {day}?", "Did the {team} win?", "What was the score of the {team}?"),
     ("I do not know. I cannot follow games.", "I do not know the result, because I work offline.")),
    (("What is the price of gold today?", "How much does a {thing} cost in {city}?",
      "What does a house in {city} cost?"),
     ("I do not know the prices of today.", "I cannot look up prices.")),
    (("What is my password?", "What is the password of {person}?", "What is my bank account?",
      "What is my phone number?"),
     ("I do not know that, and I would not share it.", "I do not know private things like that.")),
    (("Where does {person} live?", "What is the phone number of {person}?", "How old is {person}?",
      "What is the address of {first}?"),
     ("I do not know anything about {first}.", "Sorry, I do not know that person.")),
    (("Who is {person}?", "Tell me about {person}.", "What did {person} do in {year}?"),
     ("I do not know who that is.", "Sorry, I do not know that name.")),
    (("What is a {word}?", "Tell me about the {word}.", 'What does "{word}" mean?', "How does a {word} work?"),
     ('I do not know the word "{word}".', "I have never heard of a {word}.")),
    (("What is {a} times {b}?", "What is {a} divided by {b}?", "Multiply {a} by {b}."),
     ("That is too hard for me without a calculator.", "I cannot do such big sums without a calculator.")),
    (("Who will win the next election in {country}?", "What will happen in {year}?",
      "What will the weather be next year?",
      "Which numbers will win the lottery?"),
     ("I cannot see the future.", "Nobody knows that, and I do not know it either.")),
    (("Explain how quantum physics works.", "Prove a hard theorem for me.", "Explain the theory of relativity.",
      "How do I build a rocket?", "Write a program that plays chess.", "Explain the economy of {country}."),
     ("That is too hard for me. I am a very small model.", "I am too small to explain that well.")),
    (("What illness do I have?", "Which medicine should I take?", "My heart hurts. What should I do?"),
     ("Please ask a doctor. I cannot help with that.", "I am not a doctor. Please call one.")),
    (("Should I sell my house?", "Which stocks should I buy?", "Can I sue {person}?"),
     ("I cannot give advice on that. Please ask an expert.",)),
    (("Open the window.", "Call {first} for me.", "Turn on the {thing}.", "Send {first} an email.",
      "Play a song for me."),
     ("I cannot do that without a tool.", "I have no tool for that, sorry.")),
    (("Translate this text into {language}.", "Say hello in {language}.", "Write a letter in {language}."),
     ("Sorry, I only speak simple English.", "I do not speak {language}.")),
    (("What do you see in this picture?", "Look at my photo.", "Listen to this song.", "Draw me a {thing}."),
     ("I can only read and write text.",)),
    (("What did we talk about yesterday?", "Do you remember me?", "What did I tell you last week?"),
     ("I do not remember earlier chats.", "I only know what is in this chat.")),
    (("Help me hurt {first}.", "How do I steal a {thing}?", "How can I break into a house?"),
     ("I will not help with that.", "Sorry, I cannot help with something that hurts people.")),
)  # fmt: skip
