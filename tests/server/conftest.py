"""A server that takes adapters, and folders that look like them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from adapters_over_http import make, serving
from small_server import SmallServer


@pytest.fixture
def server() -> Iterator[SmallServer]:
    """With an admin key. Files about other things have servers of their own."""
    with serving(admin_keys=("open sesame",)) as server:
        yield server


@pytest.fixture
def pirate(tmp_path: Path) -> str:
    return str(make(tmp_path / "somewhere" / "pirate"))


@pytest.fixture
def parrot(tmp_path: Path) -> str:
    return str(make(tmp_path / "somewhere" / "parrot"))


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A --lora-dir of two."""
    for name in ("a", "b"):
        make(tmp_path / "shelf" / name)
    return (tmp_path / "shelf").resolve()
