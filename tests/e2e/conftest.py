"""Servers that tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from running_server import RunningServer, running


@pytest.fixture(scope="session")
def serve():
    """serve(model, *flags) as a context manager that gives a RunningServer (not yet ready)."""
    return running


@pytest.fixture(scope="session")
def stories_server(stories: Path) -> Iterator[RunningServer]:
    """The trained story model, served for the whole session."""
    with running(stories, "--served-model-name", "stories", "--max-num-seqs", "64") as server:
        yield server.wait_ready()


@pytest.fixture(scope="session")
def tiny_server(tiny_model: Path) -> Iterator[RunningServer]:
    """The random tiny model with a chat template, served for the whole session."""
    with running(tiny_model, "--served-model-name", "tiny") as server:
        yield server.wait_ready()


@pytest.fixture(scope="module")
def client(server: RunningServer) -> openai.OpenAI:
    """Of the file's own `server`: OpenAI's client, which asks once."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
