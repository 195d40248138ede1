"""A guide stands where its sequence stands: after a step run again, behind a thought, and at the end of the budget."""

from __future__ import annotations

import math

import pytest
import torch
from guides import Allowing, guided
from sampling import sequence, some_logits, step

from quire.engine.errors import RequestError
from quire.engine.grammar.guide import MOST_FORCED
from quire.engine.grammar.spec import GrammarSpec
from quire.engine.sampling import Sampler

VOCAB, EOS = 40, 0
GRAMMAR = GrammarSpec(kind="json_object")


def bound(matcher, answer=(), *, after=(), name="row", **options):
    seq = sequence((1, 2), answer, name=name, grammar=GRAMMAR, grammar_after=after, **options)
    return guided(seq, matcher, VOCAB, EOS, after)


def test_only_allowed_tokens_are_sampled_and_the_share_they_had_is_told():
    logits = some_logits(1, VOCAB, 3)
    seq = bound(Allowing([5, 6, 7]))
    (outcome,), _ = step(Sampler(VOCAB), logits, [seq])
    assert outcome.tokens[0] in (5, 6, 7)
    share = float(torch.softmax(logits[0], -1)[[5, 6, 7]].sum())
    assert outcome.guided.lowest == pytest.approx(share, rel=1e-5)
    assert outcome.guided.mean == outcome.guided.lowest
    assert outcome.guided.forced == 0


def test_a_free_row_beside_a_bound_one_keeps_its_bits():
    logits = some_logits(3, VOCAB, 4)
    free, other = sequence((1,), name="free"), sequence((2,), name="other")
    _, alone = step(Sampler(VOCAB), logits[[0, 2]], [free, other])
    _, mixed = step(Sampler(VOCAB), logits, [free, bound(Allowing([5])), other])
    assert torch.equal(mixed[[0, 2]], alone)


def test_a_step_that_is_run_again_gives_the_same_and_takes_no_token_twice():
    matcher = Allowing(range(3, 30))
    seq = bound(matcher, (9, 8))
    sampler, logits = Sampler(VOCAB), some_logits(1, VOCAB, 5)
    first, _ = step(sampler, logits, [seq])
    assert matcher.taken == [9, 8, first[0].tokens[0]]
    seq.guide.look(seq)
    assert matcher.taken == [9, 8]
    again, _ = step(sampler, logits, [seq])
    assert again[0].tokens == first[0].tokens
    assert again[0].guided == first[0].guided


def test_where_the_grammar_must_end_the_end_follows_at_once():
    seq = bound(Allowing([4], length=3, eos=EOS), (4, 4))
    (outcome,), _ = step(Sampler(VOCAB), some_logits(1, VOCAB, 6), [seq])
    assert outcome.tokens == [4]
    assert outcome.forced == [EOS]


def test_forced_tokens_follow_and_leave_room_for_one_that_is_sampled():
    long = list(range(3, 30))
    must = {1: long}
    (outcome,), _ = step(Sampler(VOCAB), some_logits(1, VOCAB, 7), [bound(Allowing([4], forced=must))])
    assert outcome.forced == long[:MOST_FORCED]
    assert outcome.guided.forced == MOST_FORCED
    (outcome,), _ = step(Sampler(VOCAB), some_logits(1, VOCAB, 7), [bound(Allowing([4], forced=must), max_tokens=4)])
    assert outcome.forced == long[:2]


@pytest.mark.parametrize("options", [{"logprobs": 0}, {"mirostat": 2}])
def test_who_asks_for_the_models_word_on_every_token_gets_it(options):
    seq = bound(Allowing([4], forced={1: [5, 6]}), **options)
    (outcome,), _ = step(Sampler(VOCAB), some_logits(1, VOCAB, 8), [seq])
    assert outcome.forced == []


def test_a_grammar_begins_behind_its_trigger_and_not_before():
    matcher = Allowing([5])
    seq = bound(matcher, (20, 21), after=(21, 22))
    assert not seq.guide.bound
    logits = some_logits(1, VOCAB, 9)
    (outcome,), after = step(Sampler(VOCAB), logits, [seq])
    assert torch.equal(after, logits)
    assert outcome.guided.lowest == 1.0
    seq.tokens.append(22)
    seq.guide.look(seq)
    assert seq.guide.bound
    assert matcher.taken == []
    (outcome,), _ = step(Sampler(VOCAB), logits, [seq])
    assert outcome.tokens == [5]
    assert matcher.taken == [5]


def test_the_matcher_is_told_how_many_tokens_may_still_come():
    matcher = Allowing([5])
    seq = bound(matcher, (5, 5), max_tokens=10)
    assert matcher.lefts == [8]
    seq.tokens.append(5)
    seq.guide.look(seq)
    assert matcher.lefts == [8, 7]


def test_a_grammar_that_became_too_much_ends_its_own_row_alone():
    class Failing(Allowing):
        def fill_mask(self, row, left=None):
            raise RequestError("too many states")

    seq = bound(Failing([5]))
    with pytest.raises(RequestError, match="too many states"):
        step(Sampler(VOCAB), some_logits(1, VOCAB, 10), [seq])


def test_what_the_mask_left_is_kept_by_place_and_averaged():
    matcher = Allowing([5, 6])
    seq = bound(matcher)
    sampler = Sampler(VOCAB)
    shares = []
    for n in range(3):
        logits = some_logits(1, VOCAB, 20 + n)
        shares.append(float(torch.softmax(logits[0], -1)[[5, 6]].sum()))
        (outcome,), _ = step(sampler, logits, [seq])
        seq.tokens += outcome.tokens
        seq.guide.look(seq)
    assert outcome.guided.lowest == pytest.approx(min(shares), rel=1e-5)
    assert outcome.guided.mean == pytest.approx(math.fsum(shares) / 3, rel=1e-5)
