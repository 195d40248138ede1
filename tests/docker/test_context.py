"""What goes to a build: all that the package is made of, and nothing that merely lies beside it."""

from __future__ import annotations

import io
import os
import shutil
import socketserver
import subprocess
import sys
import tarfile
import threading
import tomllib
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler
from importlib.metadata import version
from pathlib import Path

import pytest
from dockerfiles import Ignore, context

ROOT = Path(__file__).resolve().parents[2]
IGNORE = Ignore((ROOT / ".dockerignore").read_text(encoding="utf-8"))
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MOST_BYTES = 48 * 2**20


def test_all_that_the_package_is_built_of_goes():
    tools = SETTINGS["tool"]["setuptools"]
    sent = set(context(ROOT))
    named = {SETTINGS["project"]["readme"], *SETTINGS["project"]["license-files"], "pyproject.toml"}
    for extension in tools["ext-modules"]:
        named |= {*extension["sources"], *extension["depends"]}
    for package in tools["packages"]:
        folder = ROOT.joinpath(*package.split(".")[1:])
        named |= {path.relative_to(ROOT).as_posix() for path in folder.glob("*.py")}
        for pattern in tools["package-data"].get(package, ()):
            named |= {path.relative_to(ROOT).as_posix() for path in folder.glob(pattern)}
    assert sorted(named - sent) == []


@pytest.mark.parametrize(
    "path",
    [".env", "docker/.env", "quire.env", ".git/config", "key.pem", "id_rsa", "model.gguf", "models/mine/a.safetensors",
     "tests/test_package.py", "docs/docker.md", "build/lib/x.py", ".venv/bin/python", "quire.egg-info/PKG-INFO",
     "server/__pycache__/app.cpython-311.pyc", "kernels/_cpu.abi3.so", "engine/.env", "server/openai/.cache/token",
     "pocket/recipe/.mypy_cache/x.json", "docker/compose.yaml", "docker/Dockerfile.cpu", "servers/key"],
)  # fmt: skip
def test_what_lies_beside_the_code_stays(path: str):
    assert IGNORE(path)


def test_the_context_is_small():
    assert sum((ROOT / name).stat().st_size for name in context(ROOT)) < MOST_BYTES


@pytest.mark.parametrize(
    ("text", "stays", "goes"),
    [("a", ["a", "a/b", "a/b/c"], ["b/a", "ab"]), ("*.md", ["x.md"], ["d/x.md"]), ("**/*.md", ["x.md", "d/e/x.md"], []),
     ("*\n!a\n", ["b", "b/a"], ["a", "a/b"]), ("!a\n*", ["a"], []), ("a/*\n!a/b", ["a/c", "a/c/b"], ["a/b", "a/b/c"]),
     ("#a\n\n  b  ", ["b"], ["#a", "a"]), ("/a/", ["a/x"], ["b/a"]), ("a?c", ["abc"], ["a/c", "abbc"]),
     ("a/**/z", ["a/z", "a/b/c/z"], ["z"]), ("[ab]x", ["ax"], ["cx"])],
)  # fmt: skip
def test_patterns_mean_what_they_mean_to_docker(text: str, stays: list[str], goes: list[str]):
    ignore = Ignore(text)
    assert [path for path in stays if not ignore(path)] == []
    assert [path for path in goes if ignore(path)] == []


class Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """So much of a Docker engine as takes a context, and then says that it builds nothing."""

    daemon_threads = True

    def __init__(self, path: Path):
        super().__init__(str(path), Handler)
        self.sent = bytearray()


class Handler(BaseHTTPRequestHandler):
    server: Engine
    protocol_version = "HTTP/1.1"
    headers: Message

    def do_GET(self) -> None:
        self._answer(b"OK")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        while size := int(self.rfile.readline(), 16):
            self.server.sent += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        self._answer(b'{"errorDetail": {"message": "nothing is built here"}}\n')

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Api-Version", "1.44")
        self.send_header("Ostype", "linux")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(tmp_path / "engine.sock") as engine:
        threading.Thread(target=engine.serve_forever, args=(0.05,), daemon=True).start()
        yield engine
        engine.shutdown()


def sent_by_docker(engine: Engine, folder: Path, dockerfile: str) -> list[str]:
    """The files that Docker's own client sends of a folder, sorted."""
    env = {"DOCKER_HOST": f"unix://{engine.server_address!s}", "DOCKER_BUILDKIT": "0", "PATH": os.environ["PATH"]}
    env["DOCKER_CONFIG"] = str(Path(str(engine.server_address)).parent)
    command = ["docker", "build", "-f", str(folder / dockerfile), str(folder)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert "nothing is built here" in done.stderr, done.stderr
    with tarfile.open(fileobj=io.BytesIO(engine.sent)) as archive:
        return sorted(member.name for member in archive if not member.isdir())


@pytest.mark.skipif(shutil.which("docker") is None, reason="Docker's client is not installed")
def test_docker_sends_what_the_reader_says(engine: Engine):
    extra = {".dockerignore", "docker/Dockerfile.cpu"}  # which the older builder always needs
    sent = set(sent_by_docker(engine, ROOT, "docker/Dockerfile.cpu"))
    assert sent - extra == set(context(ROOT)) - extra
    assert extra <= sent


def install(into: Path, compiled: bool) -> Path:
    """What the images do: the context alone, installed into a fresh prefix. The folder of its packages."""
    source, prefix = into / "source", into / "prefix"
    for name in context(ROOT):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    more = [] if int(version("setuptools").split(".")[0]) < 77 else ["--no-build-isolation"]  # else pip fetches one
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", *more, "--prefix", str(prefix)]
    environ = {**os.environ, **({} if compiled else {"CC": "false", "CXX": "false"})}
    # An installation that is there already, as an editable one of these sources, is not this prefix's.
    done = subprocess.run([*command, "--ignore-installed", str(source)], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (packages,) = prefix.glob("lib/python*/site-packages")
    return packages


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_context_is_all_that_quire_is_installed_of(tmp_path: Path, compiled: bool):
    packages = install(tmp_path, compiled)
    home = packages / "quire"
    assert (home / "kernels" / "_cpu.abi3.so").exists() == compiled
    code = {name for name in context(ROOT) if name.endswith(".py") and name != "docker/healthcheck.py"}
    assert {path.relative_to(home).as_posix() for path in home.rglob("*.py")} == code
    environ = {**os.environ, "PYTHONPATH": str(packages)}

    def said(*command: str) -> str:
        done = subprocess.run([*command], cwd=tmp_path, env=environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    show = "import quire, quire.pocket as p; p.verify(p.FOLDER); p.verify(p.DRAFT); print(quire.__file__)"
    assert said(sys.executable, "-c", show).strip() == str(home / "__init__.py")
    assert "--max-model-len" in said(str(tmp_path / "prefix" / "bin" / "quire"), "serve", "--help")
    if compiled:
        show = "import torch, quire.kernels._cpu as k; print(k.__file__)"
        assert said(sys.executable, "-c", show).strip() == str(home / "kernels" / "_cpu.abi3.so")
