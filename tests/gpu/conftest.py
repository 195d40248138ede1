"""Tests that need a GPU: elsewhere they are skipped, and say so. (tests/support/on_gpu.py: how to try them without.)"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from on_gpu import CUDA, LACK, write_small

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if LACK is not None:
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=LACK))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of bfloat16."""
    return write_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def small32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of float32."""
    return write_small(tmp_path_factory.mktemp("small32"), torch.float32)


@pytest.fixture(scope="session")
def count() -> int:
    """Requests of a test: on a GPU 50."""
    return 50 if CUDA else 4
