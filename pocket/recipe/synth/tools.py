"""Tool calls over invented tools: pick the right one or none, fill its arguments from the question, tell the result."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from ..samples import Sample
from . import chat, errands, fields, words
from .actions import RESERVED, TRAINED, Action
from .chat import Message
from .params import PARAMS, Make, Param
from .talk import small_talk

ANY_NAME = 0.6  # share of what is trained on whose tools are of any name
UNNAMED = 0.3  # share of those whose names do not say what they are for
VERBS = """get find set add check make start stop open read write load store count list move copy print scan sort
merge split share plan draw build clean paint test watch follow join leave enter pick drop lift push pull hide report
measure weigh compare cancel renew extend accept refuse assign release update remove insert replace restore archive
order book reserve call invite visit fetch query""".split()

OTHER_WORDS = (  # how one asks without the verb; {} is the thing, {a} the thing with its article
    ("get find check read query fetch measure report scan watch list count".split(),
     ("What is the {}", "Tell me the {}", "Show me the {}", "I want to know the {}", "How is the {}")),
    ("add make start open build draw order book reserve write plan insert invite call".split(),
     ("I need a new {}", "I want {a}", "We need {a}", "Please give me {a}", "I would like {a}")),
    ("stop remove cancel drop refuse release archive hide".split(),
     ("I do not want the {} any more", "Get rid of the {}", "I do not need the {} any more", "No more {} please")),
)  # fmt: skip


@dataclass(slots=True)
class Tool:
    """One offered tool. names: parameter -> its name here. schemas: parameter -> JSON schema."""

    action: Action
    name: str
    names: dict[str, str]
    schemas: dict[str, dict[str, Any]]
    required: tuple[str, ...]
    offer: dict[str, Any]


@dataclass(slots=True)
class Ask:
    """A question, the call it wants, and the values by parameter."""

    text: str
    call: dict[str, Any]
    values: dict[str, Any]


def make(rng: Random, held_out: bool) -> Sample:
    """A conversation with one to four tools on offer."""
    if not held_out and rng.random() < errands.SHARE:
        return errands.make(rng)
    wanted, *others = [_tool(rng, action, held_out) for action in _actions(rng, held_out)]
    shape = rng.choices(_SHAPES, _WEIGHTS)[0]
    messages, facts, offered = shape(rng, wanted, others)
    rng.shuffle(offered)
    head = chat.opening(rng, chat.TOOL_SYSTEM, 0.4)
    return Sample("tools", head + messages, [tool.offer for tool in offered], facts=facts)


def _actions(rng: Random, held_out: bool) -> list[Action]:
    """The action that is asked for, then zero to three others; some are invented from the ground up."""
    pool = RESERVED if held_out else TRAINED
    count = rng.choices((1, 2, 3, 4), (40, 33, 18, 9))[0]
    picked = rng.sample(pool, count)
    if not held_out and rng.random() < ANY_NAME:
        verb = rng.choice(VERBS) if rng.random() < 0.3 else ""  # so that the thing alone tells one from the other
        return [_any_action(rng, verb) if verb or rng.random() < 0.7 else action for action in picked]
    return [_invented(rng, held_out) if rng.random() < 0.15 else action for action in picked]


def _any_action(rng: Random, verb: str) -> Action:
    """An action of this verb, or any, on a thing of any name, with parameters of any names (see `fields`), each of
    which the question names."""
    verb, thing = verb or rng.choice(VERBS), fields.name_words(rng)
    plain = " ".join(thing)
    params = {f.names[0]: _param(f) for f in fields.different(rng, rng.choice((1, 1, 2, 2, 3)))}
    required = tuple(params)[: max(1, len(params) - rng.choice((0, 0, 1)))]
    asks: tuple[str, ...] = (
        f"{verb.capitalize()} the {plain}", f"{verb.capitalize()} {words.article(plain)}",
        f"I need to {verb} the {plain}", f"{verb.capitalize()} my {plain}",
    )  # fmt: skip
    for verbs, others in OTHER_WORDS:
        if verb in verbs and rng.random() < 0.4:
            asks = tuple(ask.format(plain, a=words.article(plain)) for ask in others)
    named = (verb, "_".join(thing))
    if rng.random() < UNNAMED:  # the description alone says what it is for
        named = rng.choice((
            (rng.choice(VERBS), named[1]), (verb, "_".join(fields.name_words(rng))),
            (rng.choice(VERBS), "_".join(fields.name_words(rng))),
        ))  # fmt: skip
    if len(required) == 1 and params[required[0]].type != "boolean" and rng.random() < 0.35:
        value = f"{{{required[0]}}}"  # said in the question, and not what it is
        asks += (f"{asks[0]} {value}", f"{verb.capitalize()} {value} for the {plain}",
                 f"{verb.capitalize()} the {value} {plain}", f"The {plain} {value}: {verb} it",
                 f"{verb.capitalize()} {value} and its {plain}")  # fmt: skip
    result = fields.text(rng)
    key = result.names[0]
    told = fields.plain(key)
    says = (f"The {told} is {{{key}}}.", f"Done. {told.capitalize()}: {{{key}}}.")
    about = f"{verb.capitalize()} {rng.choice(('the', 'a new', 'one', 'some'))} {plain}"
    optional = tuple(params)[len(required) :]
    return Action(named[:1], named[1:], about, required, optional, asks, {key: result.make}, says, params)


def _param(field: fields.Field) -> Param:
    name = field.names[0]
    plain = fields.plain(name)
    if field.type == "boolean":
        says = tuple(said.format(s="It").rstrip(".") for said in field.says)
    else:
        says = (f"with {plain} {{}}", f"with the {plain} {{}}", f"The {plain} is {{}}", f"Use {{}} as the {plain}",
                f"for {plain} {{}}", f"and {plain} {{}}", f"{plain.capitalize()}: {{}}")  # fmt: skip
    about = f"{'Whether' if field.type == 'boolean' else 'The'} {plain}"
    return Param((name,), (name,), field.type, about, says, field.make, field.options)


def _invented(rng: Random, held_out: bool) -> Action:
    """An action on a thing that does not exist, so that nothing but the schema says what to do."""
    noun = words.invented(rng)
    verbs = (
        ("seek", "inspect", "record", "mend") if held_out else ("get", "find", "set", "add", "check", "make", "start")
    )
    verb = rng.choice(verbs)
    keys = rng.sample(_PLAIN, rng.choice((1, 1, 2, 2, 3)))
    required = tuple(keys[: max(1, len(keys) - rng.choice((0, 0, 1)))])
    asks = (
        f"{verb.capitalize()} the {noun}",
        f"{verb.capitalize()} {words.article(noun)}",
        f"I need to {verb} the {noun}",
    )
    done: dict[str, Make] = {"result": words.code} if rng.random() < 0.5 else {noun: lambda r: r.randint(1, 999)}
    field = next(iter(done))
    says = (f"The result is {{{field}}}.",) if field == "result" else (f"The {noun} is {{{noun}}}.",)
    about = f"{verb.capitalize()} {words.article(noun)}"
    return Action((verb,), (noun,), about, required, tuple(keys[len(required) :]), asks, done, says)


def _tool(rng: Random, action: Action, held_out: bool) -> Tool:
    """The action under one of its names, with some of its optional parameters, described or not."""
    optional = tuple(key for key in action.optional if rng.random() < 0.45)
    names: dict[str, str] = {}
    for key in (*action.required, *optional):
        param = action.params[key]
        choices = param.reserved if held_out else param.names
        free = [name for name in choices if name not in names.values()]
        names[key] = rng.choice(free) if free else f"{key}_{choices[0]}"
    described = rng.random()
    schemas = {key: _schema(rng, action.params[key], described) for key in names}
    name = _name(rng, rng.choice(action.verbs), rng.choice(action.nouns))
    properties = {names[key]: schemas[key] for key in names}
    required = [names[key] for key in action.required]
    offer = chat.tool(name, action.about + rng.choice(("", ".")), properties, required)
    return Tool(action, name, names, schemas, action.required, offer)


def _name(rng: Random, verb: str, noun: str) -> str:
    roll = rng.random()
    if roll < 0.65:
        return f"{verb}_{noun}"
    if roll < 0.85:
        return verb + "".join(part.capitalize() for part in noun.split("_"))
    return f"{noun}_{verb}"


def _schema(rng: Random, param: Param, described: float) -> dict[str, Any]:
    """described: below 0.45 every parameter of the tool has a description, else only enums show their values."""
    schema: dict[str, Any] = {"type": param.type}
    if param.type == "array":
        schema["items"] = {"type": "string"}
    if param.options:
        schema["enum"] = rng.sample(param.options, rng.randint(2, min(4, len(param.options))))
    if described < 0.45:
        schema["description"] = param.about
    return schema


def _ask(rng: Random, tool: Tool, leave_out: str = "") -> Ask:
    """A question that says every required parameter (but leave_out) and about half of the optional ones."""
    keys = [k for k in tool.names if k in tool.required or rng.random() < 0.5]
    values = {k: _value(rng, tool.action.params[k], tool.schemas[k]) for k in keys if k != leave_out}
    asks = [ask for ask in tool.action.asks if not leave_out or f"{{{leave_out}}}" not in ask]
    text = rng.choice(asks or [f"I want to {tool.action.about[0].lower()}{tool.action.about[1:]}"])
    said = {k: _say(rng, v) for k, v in values.items()}
    phrases = [_phrase(rng, tool, k, v, said[k]) for k, v in values.items() if f"{{{k}}}" not in text]
    rng.shuffle(phrases)
    arguments = {tool.names[k]: values[k] for k in tool.names if k in values}
    return Ask(_question(rng, text.format(**said), phrases), {"name": tool.name, "arguments": arguments}, values)


def _value(rng: Random, param: Param, schema: dict[str, Any]) -> Any:
    if param.options:
        return rng.choice(schema["enum"])
    return rng.random() < 0.65 if param.type == "boolean" else param.make(rng)


def _say(rng: Random, value: Any) -> str:
    """A value in words; a small number is now and then spelled."""
    if isinstance(value, list):
        return words.listed(value)
    if type(value) is int and 2 <= value <= 12 and rng.random() < 0.2:
        return words.NUMBERS[value]
    return str(value)


def _phrase(rng: Random, tool: Tool, key: str, value: Any, said: str) -> str:
    param = tool.action.params[key]
    if param.type == "boolean":
        return param.says[0 if value else 1]
    natural = 0.95 if len(tool.action.verbs) > 1 else 0.5  # an invented action has one verb
    if rng.random() < natural:
        return rng.choice(param.says).format(said)
    plain = fields.plain(tool.names[key])
    return rng.choice((f"with {plain} {said}", f"The {plain} is {said}", f"{plain.capitalize()}: {said}"))


def _question(rng: Random, text: str, phrases: list[str]) -> str:
    """The question with its phrases: those in small letters go on, the others are sentences of their own."""
    stop = "?" if text.split()[0] in _ASKING else "."
    if stop == "." and text.split()[0] in _ORDERS and rng.random() < 0.4:
        before, stop = rng.choice(_POLITE)
        text = before + text[0].lower() + text[1:]
    on = [p for p in phrases if not p[0].isupper()]
    if ". " in text and on:  # the phrases belong to its first sentence
        first, rest = text.split(". ", 1)
        text = f"{first} {' '.join(on)}. {rest}"
    else:
        text = " ".join([text, *on])
    text = text if text.endswith(('."', '?"')) else text + ("" if stop == "." and rng.random() < 0.1 else stop)
    tail = [p + "." for p in phrases if p[0].isupper()]
    if tail and text[-1] not in '.?"':
        text += "."
    return " ".join([text, *tail])


_ASKING = {"What", "How", "Where", "Is", "When"}
_ORDERS = set(  # verbs that a polite question may begin with
    """Find Search Book Reserve Order Call Create Add Set Save Send Tell Text Write Pay Make Turn Start Wash Play Put
    Cancel Delete Remove Track Check Translate Convert Buy Give Rate Show Get Look Define Bring Lock Repair Rent
    Heat Feed Seek Inspect Record Mend""".split()
)
_POLITE = (
    ("Please ", "."),
    ("Can you ", "?"),
    ("Could you ", "?"),
    ("Could you please ", "?"),
    ("I want you to ", "."),
)
_PLAIN = tuple(k for k, p in PARAMS.items() if k not in ("text", "note", "task", "items", "toppings", "guests"))
_Shape = tuple[list[Message], dict[str, Any], list[Tool]]


def _told(rng: Random, tool: Tool, ask: Ask, number: int = 1) -> tuple[Message, str]:
    """The tool's result and the sentence that tells it; sometimes it failed."""
    if rng.random() < 0.06:
        why = rng.choice(("not found", "no connection", "not allowed", "try again later", "unknown value"))
        return chat.result(tool.name, {"error": why}, number), f"Sorry, that did not work: {why}."
    value = {field: make(rng) for field, make in tool.action.result.items()}
    said = {k: words.listed(v) if isinstance(v, list) else v for k, v in ask.values.items()}
    return chat.result(tool.name, value, number), rng.choice(tool.action.answers).format(**{**said, **value})


def _single(rng: Random, wanted: Tool, others: list[Tool]) -> _Shape:
    """One call, and often its result and further questions: what the tools cost to show is paid once."""
    offered = [wanted, *others]
    ask = _ask(rng, wanted)
    facts, tool, number = chat.facts([ask.call]), wanted, 1
    messages = [chat.user(ask.text), chat.calls([ask.call])]
    while number < _MOST and rng.random() < 0.8:
        reply, answer = _told(rng, tool, ask, number)
        messages += [reply, chat.assistant(answer)]
        roll = rng.random()
        if roll > 0.75:
            if roll > 0.9:
                thanks, welcome = rng.choice(_THANKS)
                messages += [chat.user(thanks), chat.assistant(welcome)]
            break
        tool, number = rng.choice(offered), number + 1
        ask = _ask(rng, tool)
        messages += [chat.user(ask.text), chat.calls([ask.call], number)]
    return messages, facts, offered


_MOST = 5  # calls of one conversation
_THANKS = (("Thank you!", "You are welcome!"), ("Thanks.", "You are welcome."), ("Great, thanks!", "Glad to help!"))


def _parallel(rng: Random, wanted: Tool, others: list[Tool]) -> _Shape:
    """Two calls at once: of one tool twice, or of two tools."""
    second = others[0] if others and rng.random() < 0.6 and others[0].name != wanted.name else wanted
    asks = [_ask(rng, wanted), _ask(rng, second)]
    if asks[0].call == asks[1].call:
        return _single(rng, wanted, others)
    joined = rng.choice((" Also: ", " And then: ", " And another one: ", " Then: ", " "))
    first = asks[0].text if asks[0].text[-1] in '.?"' else asks[0].text + "."
    messages = [chat.user(first + joined + asks[1].text), chat.calls([ask.call for ask in asks])]
    if rng.random() < 0.6:
        told = [_told(rng, tool, ask, n + 1) for n, (tool, ask) in enumerate(zip((wanted, second), asks, strict=True))]
        messages += [reply for reply, _ in told] + [chat.assistant(" ".join(answer for _, answer in told))]
    return messages, chat.facts([ask.call for ask in asks]), [wanted, *others]


def _no_need(rng: Random, wanted: Tool, others: list[Tool]) -> _Shape:
    """A question that no tool is needed for."""
    question, answer = small_talk(rng)
    while "time is it" in question.lower() or "date" in question.lower():  # a tool may know
        question, answer = small_talk(rng)
    return [chat.user(question), chat.assistant(answer)], {"calls": [], "answer": answer}, [wanted, *others]


def _no_tool(rng: Random, wanted: Tool, others: list[Tool]) -> _Shape:
    """A task whose tool is not on offer."""
    offered = [tool for tool in others if tool.name.split("_")[-1] not in wanted.name]
    if not offered or any(set(tool.action.nouns) & set(wanted.action.nouns) for tool in offered):
        return _single(rng, wanted, others)
    answer = rng.choice(chat.LACKING)
    return [chat.user(_ask(rng, wanted).text), chat.assistant(answer)], {"calls": []}, offered


def _missing(rng: Random, wanted: Tool, others: list[Tool]) -> _Shape:
    """A required value is not said: ask for it, then call."""
    if not wanted.required:
        return _single(rng, wanted, others)
    key = rng.choice(wanted.required)
    ask = _ask(rng, wanted, leave_out=key)
    value = _value(rng, wanted.action.params[key], wanted.schemas[key])
    plain = fields.plain(wanted.names[key])
    said = ("Yes." if value else "No.") if isinstance(value, bool) else _say(rng, value)
    back = rng.choice((f"What is the {plain}?", f"Please tell me the {plain}."))
    values = {**ask.values, key: value}
    call = {"name": wanted.name, "arguments": {wanted.names[k]: values[k] for k in wanted.names if k in values}}
    messages = [chat.user(ask.text), chat.assistant(back), chat.user(said), chat.calls([call])]
    return messages, {"answer": back, "calls": []}, [wanted, *others]


_SHAPES = (_single, _parallel, _no_need, _no_tool, _missing)
_WEIGHTS = (66, 12, 12, 5, 5)
