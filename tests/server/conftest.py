"""Folders that look like adapters."""

from __future__ import annotations

from pathlib import Path

import pytest
from adapters_over_http import make


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
