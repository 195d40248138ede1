"""The two images, read."""

from __future__ import annotations

from pathlib import Path

import dockerfiles
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def docker() -> Path:
    return ROOT / "docker"


@pytest.fixture(scope="session")
def images(docker: Path) -> dict[str, dockerfiles.Dockerfile]:
    return {kind: dockerfiles.read(docker / f"Dockerfile.{kind}") for kind in ("cpu", "cuda")}


@pytest.fixture(params=["cpu", "cuda"])
def image(request: pytest.FixtureRequest, images: dict[str, dockerfiles.Dockerfile]) -> dockerfiles.Dockerfile:
    return images[request.param]
