"""Servers that tests share, and folders that look like adapters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from adapters_over_http import make, serving
from small_server import SmallServer


@pytest.fixture(scope="module")
def greeter() -> Iterator[SmallServer]:
    """One for all tests of a file, whose model says hello."""
    server = SmallServer()
    server.says("hello")
    yield server
    server.close()


@pytest.fixture(scope="module")
def lasting_server() -> Iterator[SmallServer]:
    """One for all tests of a file, each of which tells it what to say."""
    server = SmallServer()
    yield server
    server.close()


@pytest.fixture
def fresh_server() -> Iterator[SmallServer]:
    """One of each test's own, that has seen nothing and says nothing yet."""
    server = SmallServer()
    yield server
    server.close()


@pytest.fixture
def server() -> Iterator[SmallServer]:
    """With an admin key, for adapters. Files about other things have servers of their own."""
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
