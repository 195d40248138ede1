"""A thought ends where its budget does, whatever tokens it is spelled by, and all that is known rolls back by count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sampling import steady

from quire.engine.grammar.thoughts import CHARACTER, Thoughts
from quire.engine.messages import ThoughtBudget

PIECES = [
    b"a", b"b ", b"\n", b"<", b"/t", b">", b"<t>", b"</t>", b">\n\n", b"x</", b"t", b" <t>\n", b"</t>c",
    *(bytes([b]) for b in "ö€🙂".encode()),
]  # fmt: skip
TOKEN = {piece: token for token, piece in enumerate(PIECES)}
CLOSE, NEWLINE = (TOKEN[b"</t>"],), (TOKEN[b"\n"],)


def thoughts(tokens: int, *, inside: bool = True, anywhere: bool = False, close=CLOSE, newline=NEWLINE) -> Thoughts:
    budget = ThoughtBudget(
        tokens=tokens, begin="<t>", ends=("</t>",), close=close, newline=newline, inside=inside, anywhere=anywhere
    )
    return Thoughts(budget, PIECES.__getitem__)


def tokens_of(*pieces: bytes | str) -> list[int]:
    return [TOKEN[piece if isinstance(piece, bytes) else piece.encode()] for piece in pieces]


def due(mine: Thoughts, *pieces: bytes | str) -> tuple[int, ...]:
    mine.stand(tokens_of(*pieces))
    return mine.due(lambda tokens: True)


def test_behind_so_many_tokens_the_end_is_due_on_a_line_of_its_own():
    assert due(thoughts(2), "a") == ()
    assert due(thoughts(2), "a", "b ") == (*NEWLINE, *CLOSE)
    assert due(thoughts(2), "a", "\n") == CLOSE
    assert due(thoughts(0)) == (*NEWLINE, *CLOSE)
    assert due(thoughts(0, newline=())) == CLOSE


def test_what_is_due_is_due_until_it_has_come_and_then_nothing_is():
    mine = thoughts(1)
    assert due(mine, "a") == (*NEWLINE, *CLOSE)
    assert due(mine, "a", "\n") == CLOSE
    assert due(mine, "a", "\n", "</t>") == ()
    assert due(mine, "a", "\n", "</t>", "a", "b ", "a") == ()
    assert mine.closed(2) == 1
    assert mine.closed(6) == 2


@pytest.mark.parametrize("spelled", [["</t>"], ["<", "/t", ">"], ["<", "/t", ">\n\n"], ["x</", "t", ">"], ["</t>c"]])
def test_a_thought_that_ended_by_itself_is_not_ended_again(spelled):
    assert due(thoughts(9), "a", *spelled, *["a"] * 20) == ()


def test_the_model_may_finish_a_tag_that_it_has_begun_but_not_dawdle():
    assert due(thoughts(2), "a", "<") == ()
    assert due(thoughts(2), "a", "<", "/t") == ()
    assert due(thoughts(2), "a", "<", "/t", ">") == ()
    assert due(thoughts(2), "a", "<", "a") != ()
    mine = thoughts(2)
    assert due(mine, "a", *["<"] * CHARACTER) == ()
    assert due(mine, "a", *["<"] * (CHARACTER + 1)) != ()


def test_no_character_is_cut_in_two_unless_it_never_ends():
    first, *_, last = (bytes([b]) for b in "🙂".encode())
    second, third = (bytes([b]) for b in "🙂".encode()[1:3])
    assert due(thoughts(1), first) == ()
    assert due(thoughts(1), first, second, third) == ()
    assert due(thoughts(1), first, second, third, last) != ()
    assert due(thoughts(1), *[first] * CHARACTER) == ()
    assert due(thoughts(1), *[first] * (CHARACTER + 1)) != ()


@pytest.mark.parametrize("opened", [["<t>"], [" <t>\n"], ["\n", "\n", "<t>"], ["<", "t", ">"], ["<", "t", ">\n\n"]])
def test_a_thought_that_the_model_begins_is_counted_from_its_tag_on(opened):
    mine = thoughts(2, inside=False)
    assert due(mine, *opened) == ()
    assert due(mine, *opened, "a") == ()
    assert due(mine, *opened, "a", "b ") != ()


def test_an_answer_that_began_without_a_thought_has_none():
    assert due(thoughts(0, inside=False), "a", "<t>", "a") == ()
    assert due(thoughts(0, inside=False), "<", "a", "<t>", "a") == ()
    assert due(thoughts(0, inside=False, anywhere=True), "a", "<t>") != ()


def test_several_thoughts_share_one_budget():
    mine = thoughts(3, inside=False, anywhere=True)
    assert due(mine, "a", "<t>", "a", "</t>", "b ", "<t>") == ()
    assert due(mine, "a", "<t>", "a", "</t>", "b ", "<t>", "a") != ()  # the tag itself is one of them


def test_an_end_that_cannot_come_yet_waits_and_may_do_without_its_line():
    mine = thoughts(1)
    mine.stand(tokens_of("a"))
    assert mine.due(lambda tokens: False) == ()
    assert mine.due(lambda tokens: len(tokens) == 1) == CLOSE
    mine = thoughts(1)
    mine.stand(tokens_of("a", "b ", "a"))
    assert mine.due(lambda tokens: True) == (*NEWLINE, *CLOSE)


@given(
    st.lists(st.sampled_from(range(len(PIECES))), max_size=40),
    st.integers(0, 12),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(0, 40), max_size=6),
)
@steady
def test_wherever_it_stood_before_it_says_what_a_new_one_says(answer, tokens, inside, anywhere, visits):
    """And no thought is longer than allowed, as the bytes of the whole answer tell."""
    moved = thoughts(tokens, inside=inside, anywhere=anywhere)
    for place in visits:
        moved.stand(answer[:place])
        moved.due(lambda tokens: True)
    moved.stand([])
    fresh = thoughts(tokens, inside=inside, anywhere=anywhere)
    written: list[int] = []
    for token in answer:  # as a model would write them, what is due coming first
        for mine in (moved, fresh):
            mine.stand(written)
        must = fresh.due(lambda tokens: True)
        assert moved.due(lambda tokens: True) == must
        written.append(must[0] if must else token)
    fresh.stand(written)
    assert moved.closed(99) <= fresh.closed(99)
    assert thought_tokens(written, inside, anywhere) <= tokens + 2 * CHARACTER + 2


def thought_tokens(written: list[int], inside: bool, anywhere: bool) -> int:
    """By the text alone: tokens before which a thought is open."""
    count, text = 0, b""
    for token in written:
        count += is_open(text, inside, anywhere)
        text += PIECES[token]
    return count


def is_open(text: bytes, inside: bool, anywhere: bool) -> bool:
    if not inside and not anywhere and not text.lstrip().startswith(b"<t>"):
        return False
    state, at = inside, 0
    if not inside and not anywhere:
        state, at = True, text.index(b"<t>") + 3
    while True:
        tag = b"</t>" if state else b"<t>"
        if not state and not anywhere:
            return False
        found = text.find(tag, at)
        if found < 0:
            return state
        state, at = not state, found + len(tag)
