"""The package is whole: what pyproject lists is what there is, and the README's commands exist."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

import quire
from quire.clients.bench import __main__ as bench
from quire.server import cli, flags

ROOT = Path(__file__).resolve().parents[1]
CODE = ("server", "engine", "kernels", "clients", "pocket")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_folder_of_code_is_packaged():
    listed = set(PYPROJECT["tool"]["setuptools"]["packages"])
    found = {"quire"}
    for top in CODE:
        for init in (ROOT / top).rglob("__init__.py"):
            found.add("quire." + ".".join(init.parent.relative_to(ROOT).parts))
    assert listed == found


def test_the_root_is_the_package():
    assert Path(quire.__path__[0]).resolve() == ROOT
    assert quire.__version__


def commands(text: str) -> list[list[str]]:
    """Each `quire ...` in the blocks of a page and in the code amid its text: the words behind `quire`."""
    blocks = [line for block in FENCED.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"(?<!`)`([^`]+)`(?!`)", FENCED.sub("", text))
    lines = [shlex.split(line) for line in [*blocks, *spans] if re.match(r"(\S*/)?quire\s", line)]
    return [line[1:] for line in lines]


def test_the_readme_names_the_commands_that_ci_runs():
    """.ci/run takes the block behind the mark: the lines that speak of pytest run the tests, the others make what it
    lints with."""
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    mark = "<!-- test -->"
    assert mark in ci
    lines = FENCED.findall(README.split(mark)[1])[0].splitlines()
    install = [word for line in lines if "pytest" not in line for word in shlex.split(line)]
    tests = [shlex.split(line) for line in lines if "pytest" in line]
    assert [line[0] for line in tests] == [".venv/bin/pytest"]
    assert install[install.index("venv") + 1] == ".venv"
    extras = [extra for word in install for extra in re.findall(r"^\.\[(\w+)\]$", word)]
    installed = {re.match(r"[\w-]+", need)[0] for extra in extras for need in PROJECT["optional-dependencies"][extra]}
    asked = set(re.findall(r"\.venv/bin/([\w-]+)", ci)) | {"pytest"}
    assert asked - {"lint-imports"} | {"import-linter"} <= installed


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{name}" for name in ("gguf.md", "performance.md", "tools.md"))])
def test_every_command_of_a_page_is_one_that_quire_takes(page):
    """Read as the command line reads it, and nothing is started."""
    found = commands((ROOT / page).read_text(encoding="utf-8"))
    assert found
    for words in found:
        if words[0] == "bench":
            bench.parser().parse_args(words[1:])
        else:
            cli.parser().parse_args(words)


def test_every_flag_that_the_readme_speaks_of_is_one():
    known = {flag.name for flag in [*flags.SERVER, *flags.ENGINE]}
    spoken = set(re.findall(r"`(--[a-z][a-z-]*)", README))
    assert spoken
    assert spoken <= known


def test_no_file_of_code_has_grown_past_reading():
    long = {
        str(p.relative_to(ROOT)): n
        for top in CODE
        for p in (ROOT / top).rglob("*.py")
        if (n := len(p.read_text(encoding="utf-8").splitlines())) > 420
    }
    assert long == {}
