"""The documented order is the order in which options act."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from guides import Allowing, guided
from sampling import NEVER, acted, kept, piece_of, sequence, some_logits

import quire.engine.sampling as sampling
from quire.engine.grammar.spec import GrammarSpec
from quire.engine.messages import SamplingParams
from quire.engine.sampling import CHAIN
from quire.engine.sampling.memory import Memory
from quire.engine.sampling.rows import rows_of

DOC = Path(__file__).resolve().parents[2] / "docs" / "sampling.md"
VOCAB = 40
TEXT = [1, 2, 3, 1, 2, 3, 1, 2]


def test_the_table_in_the_manual_is_the_chain() -> None:
    table = re.findall(r"^\| (\d+) \| `([^`]+)` \|", DOC.read_text(encoding="utf-8"), re.MULTILINE)
    assert [int(number) for number, _ in table] == list(range(1, len(CHAIN) + 1))
    assert [name for _, name in table] == [link.name for link in CHAIN]


def test_the_manual_says_from_which_option_on_greedy_runs_none() -> None:
    (number,) = re.findall(r"With temperature 0 the options from (\d+) on", DOC.read_text(encoding="utf-8"))
    assert [link.greedy for link in CHAIN] == [i + 1 < int(number) for i in range(len(CHAIN))]


ON = {  # options that turn on one link each; both values change what a plain row gives
    "grammar": {"grammar": GrammarSpec(kind="json_object")},
    "allowed_token_ids": {"allowed_token_ids": (*range(30), 35)},
    "min_tokens": {"min_tokens": 9, "stop_token_ids": (2, 4)},
    "bad_words": {"bad_words": ((2, 3), (7,))},
    "logit_bias": {"logit_bias": {1: 4.0, 3: 3.0, 5: -3.0}},
    "repetition_penalty": {"repetition_penalty": 1.7},
    "presence_penalty, frequency_penalty": {"presence_penalty": 1.1, "frequency_penalty": 0.4},
    "dry": {"dry_multiplier": 0.9},
    "top_n_sigma": {"top_n_sigma": 1.5},
    "temperature": {"temperature": 1.8},
    "top_k": {"top_k": 6},
    "typical_p": {"typical_p": 0.6},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.15},
    "xtc": {"xtc_probability": 1.0, "xtc_threshold": 0.08},
    "mirostat": {"mirostat": 2, "mirostat_tau": 1.2},
}


def row_with(*names: str):
    options = {key: value for name in names for key, value in ON[name].items()}
    seq = sequence(TEXT[:3], TEXT[3:], **options)
    return guided(seq, Allowing([*range(2, 28), 36]), VOCAB) if "grammar" in names else seq


@pytest.mark.parametrize("name", ON)
def test_an_option_turns_on_its_own_link_alone_and_acts(name) -> None:
    seq = row_with(name)
    assert [link.name for link in CHAIN if link.used(seq.params)] == [name]
    logits = some_logits(1, VOCAB, 1)
    logits[0, 3] = logits[0].max() + 0.5  # what the text would repeat is the most likely
    after = acted(logits, seq)[0]
    assert not torch.equal(torch.log_softmax(after, -1), torch.log_softmax(logits[0], -1))


def test_every_link_is_tried_here_and_none_is_on_by_default() -> None:
    assert list(ON) == [link.name for link in CHAIN]
    assert not any(link.used(SamplingParams(max_tokens=1, seed=0)) for link in CHAIN)


# Pairs of options whose order matters, first the one that acts first. Those left out commute: bans with each other,
# penalties that subtract with each other, and top_n_sigma with temperature (sigma scales as the logits do).
MATTERS = [
    ("grammar", "top_k"),
    ("allowed_token_ids", "top_p"),
    ("min_tokens", "top_k"),
    ("bad_words", "top_k"),
    ("logit_bias", "repetition_penalty"),
    ("repetition_penalty", "presence_penalty, frequency_penalty"),
    ("repetition_penalty", "dry"),
    ("presence_penalty, frequency_penalty", "temperature"),
    ("dry", "top_n_sigma"),
    ("top_n_sigma", "top_p"),
    ("temperature", "typical_p"),
    ("temperature", "top_p"),
    ("temperature", "min_p"),
    ("temperature", "xtc"),
    ("top_k", "typical_p"),
    ("top_k", "top_p"),
    ("typical_p", "top_p"),
    ("typical_p", "min_p"),
    ("top_p", "xtc"),
    ("min_p", "xtc"),
    ("xtc", "mirostat"),
]


def by_hand(logits: torch.Tensor, names: tuple[str, ...]) -> torch.Tensor:
    links = {link.name: link for link in CHAIN}
    result, memory = logits.clone(), Memory(VOCAB)
    for name in names:
        links[name].act(result, rows_of([piece_of(row_with(*names))]), memory)
    return result


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """The same distribution."""
    if kept(a[0]) != kept(b[0]):
        return False
    p, q = torch.log_softmax(a[0].double(), -1), torch.log_softmax(b[0].double(), -1)
    there = p > NEVER
    return torch.allclose(p[there], q[there], atol=1e-4)


@pytest.mark.parametrize(("first", "second"), MATTERS)
def test_two_options_act_in_the_documented_order_and_the_other_way_round_would_differ(
    first, second, monkeypatch
) -> None:
    swapped = [link for link in CHAIN if link.name != first]
    swapped.insert([link.name for link in swapped].index(second) + 1, next(x for x in CHAIN if x.name == first))
    differ = 0
    for seed in range(30):
        logits = some_logits(1, VOCAB, seed, 1.5)
        ours = acted(logits, row_with(first, second))
        assert same(ours, by_hand(logits, (first, second)))
        other = by_hand(logits, (second, first))
        with monkeypatch.context() as patch:
            patch.setattr(sampling, "CHAIN", tuple(swapped))
            assert same(acted(logits, row_with(first, second)), other)
        differ += not same(ours, other)
    assert differ > 0


def test_all_options_at_once_act_as_one_after_the_other() -> None:
    for seed in range(20):
        logits = some_logits(1, VOCAB, seed, 1.0)
        assert same(acted(logits, row_with(*ON)), by_hand(logits, tuple(ON)))


def test_nothing_brings_back_what_a_person_forbade() -> None:
    logits = some_logits(1, VOCAB, 1)
    seq = sequence(TEXT, logit_bias={5: 1000.0, 6: 1000.0, 7: 1.0}, bad_words=((5,),), allowed_token_ids=(5, 7, 8))
    assert kept(acted(logits, seq)[0]) == {7, 8}
