"""Whoever guesses, and whatever a request asks for: the same answer; and the docs say the same."""

from __future__ import annotations

import pytest
import speculation_matrix


def test_no_guess_of_the_whole_stack_changes_an_answer() -> None:
    found = speculation_matrix.run(("off", "all"))
    assert found.differ == []
    assert found.idle == []
    assert found.asleep == []


@pytest.mark.slow
def test_no_guess_of_anybody_changes_an_answer_and_the_docs_say_so() -> None:
    found = speculation_matrix.run()
    assert found.differ == []
    assert found.idle == [], "in every cell guesses are to be checked"
    assert found.asleep == [], "every feature is to be at work"
    written = speculation_matrix.PART.read()
    assert written == speculation_matrix.printed(found), "run python tests/support/speculation_matrix.py"
