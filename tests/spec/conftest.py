"""The tiny model without guesses, to compare with."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_place import Place, local_runner
from speculation_cases import asked

from quire.engine.config import Speculation
from quire.engine.runner import Runner


@pytest.fixture(scope="session")
def guessing_nothing(tiny_model: Path) -> Runner:
    return local_runner(tiny_model, speculative_config=Speculation(method="none"))


@pytest.fixture(scope="session")
def plainly(guessing_nothing: Runner) -> Place:
    """What it says to all that ASKED holds."""
    return asked(Place(guessing_nothing)).run()
