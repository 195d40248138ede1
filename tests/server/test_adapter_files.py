"""Names of adapters and where they lie: a name from a request never leads out of its folder."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from quire.engine.errors import EngineUnavailable, ModelNotFound, RequestError
from quire.server import adapter_files as files


def make(folder: Path, *, weights: bool = True) -> Path:
    folder.mkdir(parents=True)
    (folder / files.CONFIG).write_text("{}")
    if weights:
        (folder / files.WEIGHTS).write_text("")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with two adapters, and secrets around it."""
    make(tmp_path / "outside")
    root = tmp_path / "root"
    make(root / "pirate")
    make(root / "ünïcode-2.0_x@y:z+w", weights=False)
    make(root / "pirate" / "nested")
    make(root / ".hidden")
    make(root / "with space")
    (root / "empty").mkdir()
    (root / "file").write_text("")
    return root.resolve()


def test_folders_with_a_configuration_are_adapters(root):
    assert files.names_in(root) == ["pirate", "ünïcode-2.0_x@y:z+w"]
    assert files.found_in(root, "pirate") == root / "pirate"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../outside", "pirate/../../outside", "/etc", "//etc", "pirate/", "pirate/nested", "./pirate",
     ".hidden", "with space", "pirate\0", "\0", "a\nb", "pirate\n", "~", "~root", "..\\outside", "C:\\x", "%2e%2e",
     "empty", "file", "nothing", "a" * 201, "a" * 5000, "\udc80"],
)  # fmt: skip
def test_other_names_are_not_found(root, name):
    assert files.found_in(root, name) is None


def test_a_name_that_cannot_be_one_is_not_looked_for(root, monkeypatch):
    monkeypatch.setattr(Path, "lstat", lambda self, **_: pytest.fail(f"looked at {self}"))
    for name in ("..", "../outside", "/etc/passwd", "pirate/nested", ".hidden", "a\0b", ""):
        assert files.found_in(root, name) is None


@pytest.mark.parametrize(
    "target", ["../outside", "pirate/nested", "/", ".", "..", "pirate/..", "nothing", "link", "pirate/../../outside"]
)
def test_a_link_that_leads_anywhere_but_to_another_adapter_is_not_followed(root, monkeypatch, target):
    (root / "link").symlink_to(target)
    (root / "absolute").symlink_to(root.parent / "outside")
    inside = Path.lstat

    def watched(self: Path, **more: object) -> os.stat_result:
        assert root in self.parents, f"looked at {self}"
        return inside(self)

    monkeypatch.setattr(Path, "lstat", watched)
    assert files.found_in(root, "link") is None
    assert files.found_in(root, "absolute") is None


def test_a_link_to_another_adapter_is_followed(root):
    (root / "latest").symlink_to("stable")
    (root / "stable").symlink_to(root / "pirate")
    assert files.found_in(root, "latest") == root / "pirate"
    assert "latest" in files.names_in(root)


@pytest.mark.parametrize("file", [files.CONFIG, files.WEIGHTS])
def test_files_that_are_links_are_not_read(root, file):
    (root / "pirate" / file).unlink()
    (root / "pirate" / file).symlink_to(root.parent / "outside" / file)
    assert files.found_in(root, "pirate") is None


def test_a_circle_of_links_ends(root):
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    assert files.found_in(root, "a") is None


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(st.sampled_from("ab./\\\0~-_: é"), max_size=12) | st.text(max_size=12))
@example("..")
@example("a/../..")
@example("pirate")
def test_whatever_the_name_the_folder_is_one_of_the_root(root, name):
    assert files.names_in(root) == ["pirate", "ünïcode-2.0_x@y:z+w"]
    found = files.found_in(root, name)
    assert found == (root / name if name in files.names_in(root) else None)
    if files.is_name(name):
        assert not {".", "..", ""} & set(name.split("/"))
        assert Path(os.path.normpath(root / name)) != root
        assert root in Path(os.path.normpath(root / name)).parents


def test_a_folder_that_cannot_be_listed_is_empty(tmp_path):
    assert files.names_in(tmp_path / "nothing") == []


# ---------------------------------------------------------------- what an operator names


def test_an_operator_may_name_any_folder(root, monkeypatch):
    assert files.folder_of(str(root / "pirate"), hub=False) == str(root / "pirate")
    monkeypatch.chdir(root)
    assert files.folder_of("../outside", hub=False) == str(root.parent / "outside")
    monkeypatch.setenv("HOME", str(root))
    assert files.folder_of("~/pirate", hub=False) == str(root / "pirate")


@pytest.mark.parametrize(
    ("path", "told"),
    [("/no/such/folder", "no such folder"), ("a\0b", "no such|cannot be read"),
     ("~nobody-of-that-name", "cannot be read"), ("a" * 5000, "cannot be read"),
     ("owner/name", "--lora-hub"), ("a/b/c", "no such folder")],
)  # fmt: skip
def test_what_is_no_folder_is_said_so(monkeypatch, tmp_path, path, told):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=told):
        files.folder_of(path, hub=False)


def test_a_file_is_said_to_be_one(root):
    with pytest.raises(RequestError, match="is a file"):
        files.folder_of(str(root / "file"), hub=True)


# ---------------------------------------------------------------- the hub


def test_only_two_files_are_fetched(monkeypatch, tmp_path):
    asked = {}

    def snapshot(name: str, allow_patterns: list[str]) -> str:
        asked.update(name=name, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert files.folder_of("owner/name", hub=True) == str(tmp_path)
    assert asked == {"name": "owner/name", "patterns": ["adapter_config.json", "adapter_model.safetensors"]}


def test_a_folder_of_that_name_never_touches_the_network(monkeypatch, tmp_path):
    make(tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    assert files.folder_of("owner/name", hub=True) == str(tmp_path / "owner" / "name")


@pytest.mark.parametrize(
    ("error", "kind"),
    [(LocalEntryNotFoundError("offline"), EngineUnavailable), (OSError("disk full"), EngineUnavailable)],
)
def test_a_hub_that_does_not_answer_is_a_503(monkeypatch, tmp_path, error, kind):
    def snapshot(*_: object, **__: object) -> str:
        raise error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(kind, match=str(error)) as raised:
        files.download("owner/name")
    assert (raised.value.status, raised.value.code) == (503, "hub_unavailable")


def test_a_name_that_the_hub_does_not_know_is_a_404(monkeypatch):
    class Missing(RepositoryNotFoundError):
        def __init__(self) -> None:
            Exception.__init__(self, "404")

    def snapshot(*_: object, **__: object) -> str:
        raise Missing

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(ModelNotFound, match="owner/name"):
        files.download("owner/name")


def test_a_slow_download_takes_no_thread_of_others_and_may_be_left_waiting():
    go = threading.Event()

    async def scene() -> list[int]:
        slow = [asyncio.ensure_future(files.in_thread(go.wait)) for _ in range(50)]
        others = [await asyncio.to_thread(lambda i=i: i) for i in range(3)]
        slow[0].cancel()
        go.set()
        await asyncio.gather(*slow[1:])
        with pytest.raises(ZeroDivisionError):
            await files.in_thread(lambda: 1 // 0)
        return others

    assert asyncio.run(scene()) == [0, 1, 2]
