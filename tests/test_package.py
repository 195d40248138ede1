"""The package is whole: what pyproject lists is what there is, and the README's commands exist."""

from __future__ import annotations

import tomllib
from pathlib import Path

import quire

ROOT = Path(__file__).resolve().parents[1]
CODE = ("server", "engine", "kernels", "clients", "pocket")


def test_every_folder_of_code_is_packaged():
    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    found = {"quire"}
    for top in CODE:
        for init in (ROOT / top).rglob("__init__.py"):
            found.add("quire." + ".".join(init.parent.relative_to(ROOT).parts))
    assert listed == found


def test_the_root_is_the_package():
    assert Path(quire.__path__[0]).resolve() == ROOT
    assert quire.__version__


def test_the_readme_names_the_commands_that_ci_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = text.split("<!-- test -->")[1].split("```")[1]
    assert "pip install" in block
    assert "pytest" in block


def test_no_file_of_code_has_grown_past_reading():
    long = {
        str(p.relative_to(ROOT)): n
        for top in CODE
        for p in (ROOT / top).rglob("*.py")
        if (n := len(p.read_text(encoding="utf-8").splitlines())) > 420
    }
    assert long == {}
