"""What the loop knows of grammars that are followed elsewhere: who waits, who sits a step out, and what is lost."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from sampling import sequence

from quire.engine import guides as module
from quire.engine.errors import EngineUnavailable, GrammarRefused
from quire.engine.grammar import wire
from quire.engine.grammar.link import Gone
from quire.engine.grammar.spec import GrammarSpec
from quire.engine.guides import Grammar, Guide, Guides
from quire.engine.messages import Guided
from quire.engine.plan import Outcome, Slice

SPEC = GrammarSpec(kind="json_object")
NOTHING = Guided(1.0, 1.0, 0)


class Desk:
    """Says what a test lets it say, one batch each time that it is asked; keeps what it heard."""

    channel = None

    def __init__(self, *said):
        self.said, self.heard, self.asked = list(said), [], 0

    def send(self, messages) -> None:
        self.heard += messages

    def receive(self) -> list:
        self.asked += 1
        found = self.said.pop(0) if self.said else []
        if isinstance(found, Exception):
            raise found
        return found

    def of(self, kind: type) -> list:
        return [message for message in self.heard if isinstance(message, kind)]


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    monkeypatch.setattr(module, "ALONE", 0.0)


def mask(answer: int, place: int, *tokens: int) -> wire.Masks:
    bits = np.zeros(64, bool)
    bits[list(tokens)] = True
    return wire.Masks(answer, place, 0, [np.packbits(bits, bitorder="little").tobytes()])


def piece(seq) -> Slice:
    return Slice(seq, len(seq.tokens) - 1, seq.tokens[-1:] + seq.drafts, len(seq.drafts))


def test_a_grammar_that_is_given_up_is_asked_for_anew_and_what_comes_of_it_late_is_forgotten():
    desk = Desk()
    guides = Guides(desk)
    first = guides.compile(SPEC)
    guides.give_up(first)
    (asked,), (given_up,) = desk.of(wire.Compile), desk.of(wire.Forget)
    assert given_up.grammar == asked.grammar
    desk.said = [[wire.Ready(asked.grammar, 1), wire.Refused(asked.grammar, "invalid_grammar", "x", None)]]
    second = guides.compile(SPEC)
    assert not first.done()
    assert not second.done()
    assert [one.grammar for one in desk.of(wire.Forget)] == [asked.grammar] * 2
    desk.said = [[wire.Ready(desk.of(wire.Compile)[1].grammar, 1)]]
    guides.hear()
    assert second.result(0).shortest == 1


def bound(guides: Guides, answer=(), name: str = "row", **options):
    """A sequence that looks at its next token; the number of its answer."""
    seq = sequence((1, 2), answer, name=name, **options)
    seq.guide = Guide(None)
    guides.look([piece(seq)])
    return seq, seq.guide.number


def test_a_mask_that_is_not_here_lets_its_sequence_sit_the_step_out():
    desk = Desk()
    guides = Guides(desk)
    seq, answer = bound(guides)
    guides.wait([seq], alone=False)
    assert seq.guide.outcome(0) == Outcome()
    assert seq.guide.late
    guides.look([piece(seq)])  # of the next step
    assert len(desk.of(wire.Look)) == 1, "it is asked once"
    desk.said = [[mask(answer, 0, 5, 40)]]
    guides.wait([seq], alone=False)
    assert seq.guide.outcome(0) is None
    assert list(struct.unpack("<2I", seq.guide.masks[0])) == [1 << 5, 1 << 8]


def test_who_was_late_once_is_not_waited_for_again_while_others_are_in_the_step(monkeypatch):
    desk = Desk()
    guides = Guides(desk)
    seq, _ = bound(guides)
    guides.wait([seq], alone=False)
    monkeypatch.setattr(module, "PATIENCE", 60.0)
    guides.wait([seq], alone=False)
    assert seq.guide.late


def test_who_is_ready_is_not_held_up_by_who_is_late_where_both_are_bound(monkeypatch):
    """Alone a step waits long, but only where nobody could go on."""
    monkeypatch.setattr(module, "ALONE", 60.0)
    desk = Desk()
    guides = Guides(desk)
    late, _ = bound(guides, name="late")
    ready, answer = bound(guides, name="ready")
    desk.said = [[], [mask(answer, 0, 5)]]  # it comes while both are waited for
    guides.wait([late, ready], alone=True)
    assert ready.guide.outcome(0) is None
    assert late.guide.outcome(0) == Outcome()
    found = guides.take([(ready, Outcome([5], kept=[1.0]))], False)
    assert found == [Outcome()]


def test_who_is_late_again_and_again_is_waited_for_less_and_less(monkeypatch):
    desk = Desk()
    guides = Guides(desk)
    seq, answer = bound(guides)
    shares = []
    for place in range(5):
        guides.wait([seq], alone=False)
        shares.append(seq.guide.patience)
        desk.said = [[mask(answer, place, 5)]]
        guides.hear()
        seq.tokens += [5]
        guides.look([piece(seq)])
    assert shares == [1 / 4, 1 / 16, 1 / 16, 1 / 16, 1 / 16]
    monkeypatch.setattr(module, "PATIENCE", 60.0)
    desk.said = [[], [mask(answer, 5, 5)]]  # not there, and then in time
    guides.wait([seq], alone=False)
    assert (seq.guide.late, seq.guide.patience) == (False, 1 / 8)


def test_what_must_follow_a_token_comes_with_it_or_in_a_later_step():
    desk = Desk()
    guides = Guides(desk)
    seq, answer = bound(guides)
    desk.said = [[mask(answer, 0, 5)]]
    guides.wait([seq], True)
    said = Outcome([5], kept=[0.25])
    assert guides.take([(seq, said)], False) == [Outcome()]
    assert desk.of(wire.Took) == [wire.Took(answer, 0, [5], [0.25])]
    guides.look([piece(seq)])
    assert len(desk.of(wire.Look)) == 1, "nothing new is asked before that is known"
    desk.said = [[wire.Follows(answer, 0, [7, 8], [], NOTHING)]]
    guides.wait([seq], False)
    found = seq.guide.outcome(0)
    assert found is said
    assert (found.tokens, found.forced, found.guided) == ([5], [7, 8], NOTHING)
    seq.tokens += [5, 7, 8]
    guides.look([piece(seq)])
    assert len(desk.of(wire.Look)) == 1, "the desk looks at what follows by itself"
    assert seq.guide.outcome(3) == Outcome()
    desk.said = [[mask(answer, 3, 9)]]
    guides.wait([seq], False)
    assert seq.guide.outcome(3) is None


def test_a_sequence_that_is_elsewhere_is_told_from_the_place_where_both_agree():
    desk = Desk()
    guides = Guides(desk)
    seq, answer = bound(guides, (5, 6, 7))
    assert desk.of(wire.Look) == [wire.Look(answer, 0, [5, 6, 7])]
    seq.tokens[4:] = []
    guides.look([piece(seq)])
    seq.tokens += [8, 9]
    guides.look([piece(seq)])
    assert desk.of(wire.Look)[1:] == [wire.Look(answer, 2, []), wire.Look(answer, 2, [8, 9])]
    desk.said = [[mask(answer, 2, 1)]]  # of a place that it has left
    guides.wait([seq], False)
    assert seq.guide.outcome(4) == Outcome()


def test_an_answer_that_fails_still_says_what_came_before():
    desk = Desk()
    guides = Guides(desk)
    seq, answer = bound(guides)
    followed, failed = wire.Follows(answer, 0, [], [], NOTHING), wire.Failed(answer, "invalid_grammar", "too much", "x")
    desk.said = [[mask(answer, 0, 5)], [followed, failed]]
    guides.wait([seq], True)
    (found,) = guides.take([(seq, Outcome([5], kept=[1.0]))], True)
    assert found.tokens == [5]
    seq.tokens += [5]
    failed = seq.guide.outcome(1)
    assert (failed.error, failed.code, failed.param) == ("too much", "invalid_grammar", "x")


def test_who_asks_for_the_models_word_says_so_and_who_leaves_is_closed():
    desk = Desk()
    guides = Guides(desk)
    numbers = {}
    for name, options in {"plain": {}, "logprobs": {"logprobs": 0}, "mirostat": {"mirostat": 2}}.items():
        seq, numbers[name] = bound(guides, name=name, max_tokens=7, **options)
    found = [(one.every, one.ahead, one.most) for one in desk.of(wire.Open)]
    assert found == [(False, True, 7), (True, True, 7), (True, False, 7)]
    guides.forget([seq.id, "nobody"])
    assert desk.of(wire.Close) == [wire.Close(numbers["mirostat"])]


def test_equal_grammars_are_compiled_once_and_told_to_all():
    desk = Desk()
    guides = Guides(desk)
    first, second = guides.compile(SPEC), guides.compile(GrammarSpec(kind="json_object"))
    assert first is second
    (asked,) = desk.of(wire.Compile)
    desk.said = [[wire.Ready(asked.grammar, 7)]]
    guides.hear()
    assert first.result(0).shortest == 7
    other = guides.compile(GrammarSpec(kind="regex", text="("))
    desk.said = [[wire.Refused(desk.of(wire.Compile)[-1].grammar, "invalid_grammar", "not closed (at 0)", None)]]
    guides.hear()
    with pytest.raises(GrammarRefused, match="not closed"):
        other.result(0)


def test_a_grammar_that_nobody_has_any_more_is_forgotten(monkeypatch):
    monkeypatch.setattr(module, "KEPT", 1)
    desk = Desk()
    guides = Guides(desk)
    texts = ["a", "b", "c"]
    kept = []
    for text in texts:
        future = guides.compile(GrammarSpec(kind="regex", text=text))
        desk.said = [[wire.Ready(desk.of(wire.Compile)[-1].grammar, 1)]]
        guides.hear()
        if text == "b":
            kept.append(future.result(0))  # somebody's answer
        del future
    guides.compile(GrammarSpec(kind="regex", text="d"))
    numbers = [one.grammar for one in desk.of(wire.Compile)]
    assert [one.grammar for one in desk.of(wire.Forget)] == [numbers[0], numbers[2]]
    kept.clear()
    guides.compile(GrammarSpec(kind="regex", text="e"))
    assert [one.grammar for one in desk.of(wire.Forget)] == [numbers[0], numbers[2], numbers[1]]


def test_a_process_that_died_while_nobody_asked_costs_the_next_one_nothing():
    desk = Desk()
    guides = Guides(desk)
    first = guides.compile(SPEC)
    desk.said = [[wire.Ready(desk.of(wire.Compile)[0].grammar, 1)]]
    guides.hear()
    desk.said = [Gone("was killed by signal 9")]
    again = guides.compile(SPEC)
    assert again is not first
    assert not again.done()
    desk.said = [[wire.Ready(desk.of(wire.Compile)[1].grammar, 1)]]
    seq = sequence((1,), name="next")
    guides.hear()
    seq.guide = Guide(again.result(0))
    guides.look([piece(seq)])
    assert seq.guide.failed is None


def test_where_the_process_ends_its_answers_fail_and_the_next_ones_do_not(caplog):
    desk = Desk()
    guides = Guides(desk)
    grammar = guides.compile(SPEC)
    desk.said = [[wire.Ready(desk.of(wire.Compile)[0].grammar, 1)]]
    guides.hear()
    known = grammar.result(0)
    seq, _ = bound(guides)
    waiting = guides.compile(GrammarSpec(kind="regex", text="a"))
    desk.said = [Gone("was killed by signal 9")]
    guides.wait([seq], True)
    assert "was killed by signal 9" in seq.guide.outcome(0).error
    assert seq.guide.outcome(0).code == "engine_unavailable"
    with pytest.raises(EngineUnavailable, match="signal 9"):
        waiting.result(0)
    late = sequence((1,), name="late")
    late.guide = Guide(known)  # its grammar went with the process
    guides.look([piece(late)])
    assert late.guide.outcome(0).code == "engine_unavailable"
    guides.forget([seq.id, late.id])
    assert not desk.of(wire.Close), "the next process never heard of them"
    assert guides.compile(SPEC) is not grammar
    assert isinstance(known, Grammar)
    fresh, _ = bound(guides, name="fresh")
    assert fresh.guide.outcome(0) == Outcome()
    assert "follows grammars was killed" in caplog.text


def known(guides: Guides, desk: Desk, spec: GrammarSpec) -> Grammar:
    future = guides.compile(spec)
    desk.said = [[wire.Ready(desk.of(wire.Compile)[-1].grammar, 1)]]
    guides.hear()
    return future.result(0)


def test_what_is_not_plainly_quick_has_a_process_of_its_own():
    plain, other = Desk(), Desk()
    guides = Guides(plain, other)
    guides.warm()
    assert other.heard == [] == plain.heard
    seqs = {}
    for desk, spec in ((plain, SPEC), (other, GrammarSpec(kind="regex", text="a"))):
        seq = seqs[desk] = sequence((1, 2), (), name=spec.kind)
        seq.guide = Guide(known(guides, desk, spec))
        guides.look([piece(seq)])
    thinking, _ = bound(guides, name="thinking")
    for desk, wanted in ((plain, 2), (other, 1)):
        assert (len(desk.of(wire.Compile)), len(desk.of(wire.Open)), len(desk.of(wire.Look))) == (1, wanted, wanted)
        desk.said = [[mask(seqs[desk].guide.number, 0, 5)]]
    guides.wait(list(seqs.values()), False)
    assert [seq.guide.outcome(0) for seq in seqs.values()] == [None, None]
    for desk, seq in seqs.items():
        desk.said = [[wire.Follows(seq.guide.number, 0, [7], [], NOTHING)]]
    found = guides.take([(seq, Outcome([5], kept=[1.0])) for seq in seqs.values()], False)
    assert [one.forced for one in found] == [[7], [7]]
    guides.forget([seq.id for seq in seqs.values()])
    for desk, seq in seqs.items():
        assert desk.of(wire.Took) == [wire.Took(seq.guide.number, 0, [5], [1.0])]
        assert desk.of(wire.Close) == [wire.Close(seq.guide.number)]
    assert thinking.guide.outcome(0) == Outcome()


@pytest.mark.parametrize("dies", ["plain", "other"])
def test_where_one_of_the_two_ends_the_answers_of_the_other_go_on(dies):
    desks = {"plain": Desk(), "other": Desk()}
    specs = {"plain": SPEC, "other": GrammarSpec(kind="regex", text="a")}
    guides = Guides(*desks.values())
    seqs, futures = {}, {}
    for name, desk in desks.items():
        seqs[name] = sequence((1, 2), (), name=name)
        seqs[name].guide = Guide(known(guides, desk, specs[name]))
    guides.look([piece(seq) for seq in seqs.values()])
    futures["plain"] = guides.compile(GrammarSpec(kind="choice", text='["a"]'))
    futures["other"] = guides.compile(GrammarSpec(kind="regex", text="b"))
    (lives,) = desks.keys() - {dies}
    desks[dies].said = [Gone("was killed by signal 9")]
    guides.hear()
    assert seqs[dies].guide.outcome(0).code == "engine_unavailable"
    assert isinstance(futures[dies].exception(0), EngineUnavailable)
    assert guides.compile(specs[lives]).result(0) is seqs[lives].guide.grammar, "it is known as before"
    assert not guides.compile(specs[dies]).done()
    desks[lives].said = [
        [mask(seqs[lives].guide.number, 0, 5), wire.Ready(desks[lives].of(wire.Compile)[1].grammar, 1)]
    ]
    guides.hear()
    assert seqs[lives].guide.outcome(0) is None
    assert futures[lives].result(0).shortest == 1
