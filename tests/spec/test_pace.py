"""Drafts where they pay, and none where they do not."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.engine.spec.pace import DOUBT, GAIN, PRIOR, Costs, Offer, Record, Trust, shares


def costs(**known: float) -> Costs:
    """_4=0.1: a step of 4 tokens takes 0.1 s."""
    found = Costs()
    for size, seconds in known.items():
        found.learn(int(size[1:]), seconds)
    return found


def test_where_nothing_is_measured_nothing_is_drafted():
    assert shares([Offer(0.9, 8)], 1, Costs()) == [0]


def test_a_draft_that_costs_nothing_is_taken_and_one_that_doubles_the_step_is_not():
    assert shares([Offer(0.3, 4)], 1, costs(_1=0.1, _8=0.1)) == [4]
    assert shares([Offer(0.3, 4)], 1, costs(_1=0.1, _2=0.2, _8=0.8)) == [0]
    assert shares([Offer(0.9, 4)], 1, costs(_1=0.1, _2=0.1, _3=0.4, _8=0.8)) == [1]


def test_a_dear_draft_may_lead_to_cheap_ones():
    """Two rows cost as much more as eight: one alone does not pay, all do."""
    assert shares([Offer(0.9, 8)], 1, costs(_1=0.1, _2=0.25, _9=0.25)) == [8]


def test_what_making_a_draft_costs_counts_too():
    table = costs(_1=0.1, _9=0.12)
    assert shares([Offer(0.6, 8)], 1, table)[0] > 2
    free = shares([Offer(0.6, 8)], 1, table)
    made = Offer(0.6, 8, made=True)
    assert shares([made], 1, table, making=lambda n: 0.02)[0] < free[0]
    assert shares([made], 1, table, making=lambda n: 0.2) == [0]
    assert shares([Offer(0.6, 8)], 1, table, making=lambda n: 0.2) == free, "it is there already"
    assert shares([Offer(0.6, 8, True, entry=0.2)], 1, table) == [0], "its text must be read first, for too little"


def test_one_that_drafts_alone_pays_for_the_round():
    """A draft model takes as long for one sequence as for four."""
    table = costs(_4=0.1, _8=0.11, _36=0.2)
    four, one = [Offer(0.4, 8, made=True)] * 4, [Offer(0.4, 8, made=True), *[Offer(0.0, 0)] * 3]
    assert sum(shares(four, 4, table, making=lambda n: 0.02)) > 0
    assert sum(shares(one, 4, table, making=lambda n: 0.02)) == 0


def test_what_did_not_pay_is_tried_again_later():
    record = Record()
    for _ in range(20):
        record.learn(4, 0)
    table = costs(_1=0.1, _9=0.15)
    assert shares([Offer(record.chance, 8)], 1, table) == [0]
    steps = 0
    while shares([Offer(record.chance, 8)], 1, table) == [0]:
        record.rest(DOUBT, PRIOR)
        steps += 1
    assert 10 < steps < 200


def test_of_a_sequence_that_drafted_little_what_is_known_of_others_is_expected():
    others, own = Record(right=20.0, tried=100.0), Record(0.0, 0.0)
    assert own.within(others) == pytest.approx(0.2)
    own.learn(3, 3)
    assert 0.4 < own.within(others) < 0.6, "three that were right may be luck"
    for _ in range(20):
        own.learn(3, 3)
    assert own.within(others) > 0.85


def test_where_drafts_give_less_than_was_expected_fewer_are_taken_and_later_more_again():
    table, trust = costs(_1=0.1, _9=0.16), Trust()
    assert trust.share == 1
    taken = lambda: shares([Offer(0.6, 8)], 1, table, trust=trust.share)[0]  # noqa: E731
    before = taken()
    for _ in range(100):
        trust.learn(3.0, 1)
    assert trust.share < 0.5
    assert taken() < before
    rests = 0
    while taken() < before:
        trust.rest()
        rests += 1
    assert 100 < rests < 5000
    for _ in range(300):
        trust.learn(1.0, 3)
    assert trust.share == 1, "no more than was expected is believed"


def test_who_is_right_more_often_gets_more():
    found = shares([Offer(0.2, 8), Offer(0.95, 8)], 2, costs(_2=0.1, _18=0.5))
    assert found[0] < found[1]
    assert found[0] == 0


def test_beside_a_prompt_a_draft_costs_what_any_row_does_and_gives_no_more():
    """Where a row more is free in a small step it is not in one that is filled by a prompt."""
    table = costs(_1=0.1, _9=0.1)
    assert shares([Offer(0.9, 8)], 1, table)[0] == 8
    assert shares([Offer(0.9, 8)], 1, table, row=0.01)[0] == 8
    assert 0 < shares([Offer(0.9, 8)], 1, table, row=0.06)[0] < 8
    assert shares([Offer(0.9, 8)], 1, table, row=0.1) == [0]


@given(
    st.lists(st.tuples(st.floats(0, 0.99), st.integers(0, 3)), min_size=1, max_size=3),
    st.lists(st.floats(0.01, 1.0), min_size=13, max_size=13),
)
def test_no_other_choice_gives_more_tokens_a_second(offered, steps):
    """Against all choices. The greedy order is the best one, as a draft's chance falls with its place."""
    table, total = Costs(), 0.0
    for size, more in enumerate(steps, 1):
        total += more
        table.learn(size, total)

    def rate(counts) -> float:
        tokens = len(offered) + sum(
            chance**n for (chance, _), m in zip(offered, counts, strict=True) for n in range(1, m + 1)
        )
        return tokens / table.of(len(offered) + sum(counts))

    best = max(rate(counts) for counts in product(*(range(most + 1) for _, most in offered)))
    none = rate([0] * len(offered))
    chosen = rate(shares([Offer(*one) for one in offered], len(offered), table))
    assert chosen == pytest.approx(best if best >= GAIN * none else none)


def test_costs_between_two_that_are_known_and_beyond():
    table = costs(_2=0.2, _4=0.4, _8=0.3)
    assert table.of(3) == pytest.approx(0.3)
    assert table.of(1) == pytest.approx(0.2)
    assert table.of(8) == pytest.approx(0.4), "a larger step is never taken to be cheaper"
    assert table.of(12) == pytest.approx(0.4), "as between 4 and 8"
    assert costs(_2=0.2, _4=0.3, _8=0.5).of(12) == pytest.approx(0.7)
    assert costs(_2=0.2).of(12) > 0.2


def test_a_hiccup_changes_little():
    table = costs(_1=0.1, _2=0.1)
    for _ in range(5):
        table.learn(1, 0.1)
    table.learn(1, 60.0)
    assert table.of(1) < 1.15 * table.of(2)


def test_a_machine_that_becomes_slow_does_not_make_the_next_size_dear():
    """What is measured for the first time while it is slow costs as much more as it really does."""
    table = costs(_1=0.1)
    for slow in (1.0, 1.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0, 3.0):
        for _ in range(3):
            table.learn(1, 0.1 * slow)
    table.learn(2, 0.12 * 3.0)
    assert table.of(2) / table.of(1) == pytest.approx(1.2, rel=0.1)


def test_what_hardly_pays_is_not_tried():
    assert shares([Offer(0.5, 4)], 1, costs(_1=0.1, _2=0.149, _3=0.2, _8=0.8)) == [0]


def test_the_chance_follows_what_came_of_drafts():
    record = Record()
    before = record.chance
    for _ in range(5):
        record.learn(4, 0)
    assert record.chance < before / 2
    for _ in range(30):
        record.learn(4, 4)
    assert record.chance > 0.9
    for _ in range(20):
        record.learn(4, 1)
    assert 0.4 < record.chance < 0.75
