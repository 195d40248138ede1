"""Whoever guesses, and whatever a request asks for: the same answer; and the docs say the same."""

from __future__ import annotations

import pytest
import speculation_matrix


@pytest.fixture(scope="module")
def found() -> speculation_matrix.Found:
    return speculation_matrix.run()


def test_no_guess_changes_an_answer(found: speculation_matrix.Found) -> None:
    assert found.differ == []


def test_in_every_cell_guesses_were_checked_and_the_feature_was_at_work(found: speculation_matrix.Found) -> None:
    assert found.idle == []
    assert found.asleep == []


def test_the_matrix_in_the_docs_is_that_of_the_run(found: speculation_matrix.Found) -> None:
    written = speculation_matrix.in_docs()
    assert written == speculation_matrix.printed(found), "run python tests/support/speculation_matrix.py"
