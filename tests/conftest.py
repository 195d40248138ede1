"""What every test may use: where the real data lies, and a tiny model made on the spot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real test data beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip("the folder shared/data with real test data is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def stories(shared: Path) -> Path:
    """A really trained Llama of 260k parameters."""
    return shared / "stories260k"


@pytest.fixture(scope="session")
def golden(stories: Path) -> dict:
    """Its greedy continuation of BOS, 200 tokens: prompt_ids, completion_ids, text."""
    return json.loads((stories / "golden.json").read_text(encoding="utf-8"))


@pytest.fixture
def one_thread() -> None:
    """torch computes on one thread from here on."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random-weight model folder with tokenizer and chat template, made in seconds."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    subprocess.run([sys.executable, "-m", "quire.clients.bench.make_model", "tiny", str(folder)], check=True)
    return folder
