"""A process of the engine's own runs the code that its parent runs."""

from __future__ import annotations

import msgspec

from quire.engine import child


class Start(msgspec.Struct):
    wire: int


def test_a_child_finds_modules_where_its_parent_does_and_not_in_the_current_folder(tmp_path, monkeypatch):
    for name in ("parents", "current"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "some_child.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').write({name!r})")
    monkeypatch.syspath_prepend(tmp_path / "parents")
    monkeypatch.chdir(tmp_path / "current")
    process, wire = child.spawn("some_child", Start)
    with wire, process:
        assert process.wait(60) == 0
    assert (tmp_path / "ran").read_text() == "parents"
