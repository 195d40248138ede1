"""What a request may ask for, to be answered with guesses and without, and what is compared."""

from __future__ import annotations

import json

from engine_place import Place

from quire.engine.grammar.spec import GrammarSpec

SCHEMA = GrammarSpec(
    kind="json_schema",
    text=json.dumps(
        {
            "type": "object",
            "properties": {
                "name": {"type": "string"},
                "kind": {"enum": ["cat", "bird of paradise"]},
                "n": {"type": "integer"},
            },
            "required": ["name", "kind", "n"],
            "additionalProperties": False,
        }
    ),
)
LENGTH = 40
ASKED = {  # what a request may ask for
    "greedy": {"temperature": 0.0},
    "sampled": {},
    "hot": {"temperature": 1.7, "top_k": 50},
    "top_p": {"top_p": 0.7, "min_p": 0.02},
    "typical_p": {"typical_p": 0.8},
    "xtc": {"xtc_probability": 0.9, "xtc_threshold": 0.05},
    "penalties": {"repetition_penalty": 1.3, "presence_penalty": 0.8, "frequency_penalty": 0.6},
    "dry": {"dry_multiplier": 0.8},
    "bias": {"logit_bias": {5: 3.0, 9: -4.0}, "bad_words": ((7, 8), (11,)), "allowed_token_ids": tuple(range(3, 300))},
    "min_tokens": {"min_tokens": 12, "allowed_token_ids": (2, *range(3, 12))},
    "mirostat": {"mirostat": 2},
    "logprobs": {"logprobs": 3},
    "grammar": {"spec": SCHEMA},
    "grammar, tight": {"spec": SCHEMA, "budget": 24},
    "grammar, logprobs": {"spec": SCHEMA, "logprobs": 0},
    "regex": {"spec": GrammarSpec(kind="regex", text="(ab|cd|[0-9]{2}){3,9}z")},
    "lark": {"spec": GrammarSpec(kind="lark", text='start: ("x" /[a-c]+/ ";")+')},
    "n": {"n": 3},
}


def asked(place: Place, names=tuple(ASKED), seeds=range(3)) -> Place:
    for name in names:
        for seed in seeds:
            options = dict(ASKED[name])
            place.add(f"{name} {seed}", options.pop("spec", None), options.pop("budget", LENGTH), seed=seed, **options)
    return place


def told(place: Place) -> dict:
    """Answers, their logprobs and what their grammars did, to be compared."""
    found = {}
    for key, answer in place.answers.items():
        logprobs = [one for delta in place.deltas[key] for one in delta.logprobs or []]
        found[key] = (
            answer,
            [(one.token, one.rank, [t for t, _ in one.top]) for one in logprobs],
            place.ends[key].finish,
        )
    return found
