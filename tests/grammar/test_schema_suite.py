"""The official suite, two-sided: valid documents can be written, invalid ones cannot; and the docs say the same."""

from __future__ import annotations

import grammar_suite
import pytest

pytestmark = pytest.mark.usefixtures("shared")


@pytest.fixture(scope="module")
def outcome(shared: object) -> grammar_suite.Outcome:
    return grammar_suite.run()


def test_no_invalid_document_of_the_suite_can_be_written(outcome: grammar_suite.Outcome) -> None:
    assert outcome.unsound == []
    assert outcome.documents["invalid"] > 900


def test_nine_of_ten_valid_documents_can_be_written_in_plain_and_compact_form(outcome: grammar_suite.Outcome) -> None:
    assert outcome.documents["valid"] > 9 * outcome.documents["tight"]


def test_the_table_in_the_docs_is_what_the_suite_gives(outcome: grammar_suite.Outcome) -> None:
    assert grammar_suite.PART.read() == grammar_suite.printed(outcome), "run python tests/support/grammar_suite.py"
