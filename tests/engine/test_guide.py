"""A guide stands where its sequence stands: after a step run again, behind a thought, and at the end of the budget."""

from __future__ import annotations

import math

import msgspec
import pytest
import torch
from guides import Allowing, guided, look
from sampling import sequence, some_logits, step

from quire.engine.errors import RequestError
from quire.engine.grammar.answer import MOST_FORCED
from quire.engine.grammar.errors import GrammarFailed
from quire.engine.grammar.spec import GrammarSpec
from quire.engine.messages import Guided, ThoughtBudget
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
    (first,), _ = step(sampler, logits, [seq])
    assert matcher.taken == [9, 8, first.tokens[0]]
    look(seq)  # nothing was committed
    assert seq.guide.outcome(seq.generated) is first
    seq.tokens.pop()
    look(seq)
    assert matcher.taken == [9]
    assert seq.guide.outcome(seq.generated) is None


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
    assert seq.guide.masks == [None]
    logits = favour(22)
    (outcome,), after = step(Sampler(VOCAB), logits, [seq])
    assert torch.equal(after, logits)
    assert outcome.guided.lowest == 1.0
    seq.tokens += outcome.tokens
    look(seq)
    assert seq.guide.masks[0] is not None
    assert matcher.taken == []
    (outcome,), _ = step(Sampler(VOCAB), logits, [seq])
    assert outcome.tokens == [5]
    assert matcher.taken == [5]


def test_the_matcher_is_told_how_many_tokens_may_still_come():
    matcher = Allowing([5])
    seq = bound(matcher, (5, 5), max_tokens=10)
    assert matcher.lefts == [8]
    seq.tokens.append(5)
    look(seq)
    assert matcher.lefts == [8, 7]


def test_a_grammar_that_became_too_much_ends_its_own_row_alone():
    class Failing(Allowing):
        def fill_mask(self, row, left=None):
            raise RequestError("too many states")

    seq = bound(Failing([5]))
    assert seq.guide.outcome(seq.generated).error == "too many states"


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
        look(seq)
    assert outcome.guided.lowest == pytest.approx(min(shares), rel=1e-5)
    assert outcome.guided.mean == pytest.approx(math.fsum(shares) / 3, rel=1e-5)


# ---------------------------------------------------------------- budgets of thoughts

TAG, LINE = 30, 31
BUDGET = ThoughtBudget(tokens=2, ends=("</t>",), close=(TAG,), newline=(LINE,), inside=True)


def written(token: int) -> bytes:
    return {TAG: b"</t>", LINE: b"\n"}.get(token, b"a")


def thinking(answer=(), *, matcher=None, after=(), budget=BUDGET, name="row", **options):
    options |= {"thought": budget, "grammar": GRAMMAR if matcher is not None else None, "grammar_after": after}
    seq = sequence((1, 2), answer, name=name, **options)
    return guided(seq, matcher, VOCAB, EOS, after, budget, written)


def favour(token: int) -> torch.Tensor:
    """Logits [1, vocab] that leave next to no doubt."""
    logits = torch.zeros(1, VOCAB)
    logits[0, token] = 50.0
    return logits


def test_a_budget_lets_the_model_think_and_then_the_end_follows_what_it_said_last():
    logits = some_logits(1, VOCAB, 30)
    seq = thinking()
    assert seq.guide.masks == [None]
    (outcome,), after = step(Sampler(VOCAB), logits, [seq])
    assert torch.equal(after, logits)
    assert outcome.forced == []
    assert outcome.guided == Guided(None, None, 0)
    seq = thinking((5,))
    (outcome,), _ = step(Sampler(VOCAB), favour(7), [seq])
    assert (outcome.tokens, outcome.forced) == ([7], [LINE, TAG])
    assert outcome.guided == Guided(None, None, 2, (False, True, True))
    seq.tokens += [7, LINE, TAG]
    look(seq)
    (outcome,), _ = step(Sampler(VOCAB), favour(9), [seq])
    assert (outcome.tokens, outcome.forced) == ([9], [])
    assert outcome.guided == Guided(None, None, 2)


def test_no_budget_at_all_closes_before_the_first_token_and_in_a_step_that_is_run_again():
    seq = thinking(budget=msgspec.structs.replace(BUDGET, tokens=0))
    (outcome,), _ = step(Sampler(VOCAB), favour(7), [seq])
    assert (outcome.tokens, outcome.forced) == ([LINE], [TAG])
    assert outcome.guided.forced == 2
    look(seq)
    assert seq.guide.outcome(seq.generated) is outcome


@pytest.mark.parametrize("options", [{"logprobs": 0}, {"mirostat": 2}])
def test_where_nothing_is_forced_the_mask_closes_the_thought_token_by_token(options):
    seq, sampler, said = thinking((5, 6), **options), Sampler(VOCAB), []
    for _ in range(3):
        (outcome,), _ = step(sampler, favour(7), [seq])
        assert outcome.forced == []
        said += outcome.tokens
        seq.tokens += outcome.tokens
        look(seq)
    assert said == [LINE, TAG, 7]
    assert outcome.guided.forced == 2
    if "logprobs" in options:
        assert outcome.logprobs[0].logprob == pytest.approx(0, abs=1e-3)


def test_a_grammar_begins_behind_the_end_that_was_forced_and_its_figures_know_nothing_of_it():
    matcher = Allowing([8, 9], forced={1: [3, 4]})
    seq, sampler = thinking((5,), matcher=matcher, after=(TAG,)), Sampler(VOCAB)
    (outcome,), _ = step(sampler, favour(7), [seq])
    assert outcome.forced == [LINE, TAG]
    assert outcome.guided == Guided(1.0, 1.0, 2, (False, True, True))
    seq.tokens += [7, LINE, TAG]
    look(seq)
    (outcome,), _ = step(sampler, torch.zeros(1, VOCAB), [seq])
    assert outcome.tokens[0] in (8, 9)
    assert outcome.forced == [3, 4]
    assert outcome.guided.lowest == pytest.approx(2 / VOCAB)
    assert outcome.guided.forced == 4
    assert matcher.taken == outcome.tokens + outcome.forced


def test_a_grammar_around_the_thought_has_the_last_word_about_its_end():
    class Late(Allowing):
        """Lets the tag come from the fourth token on, and no line before it."""

        def accept(self, tokens):
            count = 0
            for token in tokens:
                if token == LINE or (token == TAG and len(self.taken) < 4):
                    break
                self.taken.append(token)
                count += 1
            return count

    matcher = Late([5, TAG])
    seq, sampler, said = thinking(matcher=matcher), Sampler(VOCAB), []
    while TAG not in said:
        (outcome,), _ = step(sampler, favour(5), [seq])
        said += outcome.tokens + outcome.forced
        seq.tokens += outcome.tokens + outcome.forced
        look(seq)
        assert matcher.taken == seq.tokens[2:]
    assert said == [5, 5, 5, 5, TAG]


def test_an_end_of_many_tokens_goes_on_where_a_step_or_the_answer_had_no_room():
    close = tuple(range(10, 10 + MOST_FORCED + 4))
    budget = msgspec.structs.replace(BUDGET, close=close, newline=())
    seq, sampler = thinking((5,), budget=budget), Sampler(VOCAB)
    (outcome,), _ = step(sampler, favour(7), [seq])
    assert outcome.forced == list(close[:MOST_FORCED])
    seq.tokens += outcome.tokens + outcome.forced
    look(seq)
    (outcome,), _ = step(sampler, favour(7), [seq])
    assert outcome.tokens + outcome.forced == list(close[MOST_FORCED:])
    assert outcome.guided.forced == len(close)
    tight = thinking((5,), budget=budget, max_tokens=5)
    (outcome,), _ = step(Sampler(VOCAB), favour(7), [tight])
    assert outcome.forced == list(close[:2])


def test_a_grammar_that_becomes_too_much_when_a_token_is_taken_fails_its_own_row_with_its_own_error():
    class Failing(Allowing):
        def accept(self, tokens):
            raise GrammarFailed("too many states", param="guided_regex")

    logits = some_logits(2, VOCAB, 11)
    seq = bound(Failing([5]))
    other = sequence((2,), name="other")
    (failed, fine), _ = step(Sampler(VOCAB), logits, [seq, other])
    assert (failed.error, failed.code, failed.param) == ("too many states", "invalid_grammar", "guided_regex")
    assert failed.tokens == []
    assert fine.error is None
    (alone,), _ = step(Sampler(VOCAB), logits[1:], [other])
    assert fine.tokens == alone.tokens


SPELLED = {30: b"</think>", 31: b"</", 32: b"think", 33: b">", 34: b">\n\n", 35: b">{", 36: b"x"}


@pytest.mark.parametrize("answer", [(36, 30), (36, 31, 32, 33), (31, 32, 34), (31, 31, 32, 33)])
def test_a_grammar_begins_behind_its_tag_however_the_model_spells_it(answer):
    matcher = Allowing([5])
    seq = sequence((1, 2), answer, grammar=GRAMMAR, grammar_after=(30,))
    guided(seq, matcher, VOCAB, EOS, (30,), written=lambda token: SPELLED.get(token, b""))
    assert seq.guide.masks[0] is not None
    seq.tokens.append(5)
    look(seq)
    assert matcher.taken == [5]
    del seq.tokens[-2:]
    look(seq)
    assert seq.guide.masks == [None]


def test_an_answer_that_begins_within_the_tags_token_is_an_error_and_never_unbound():
    seq = sequence((1, 2), (31, 32, 35), grammar=GRAMMAR, grammar_after=(30,))
    guided(seq, Allowing([5]), VOCAB, EOS, (30,), written=lambda token: SPELLED.get(token, b""))
    outcome = seq.guide.outcome(seq.generated)
    assert outcome.code == "invalid_grammar"
    assert "in one token" in outcome.error
