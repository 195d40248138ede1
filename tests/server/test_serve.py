"""Where the model comes from and where the server listens."""

from __future__ import annotations

import socket

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from quire.engine.errors import ConfigError, ModelError
from quire.server import serve


def test_a_folder_never_touches_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    (tmp_path / "config.json").write_text("{}")
    assert serve.find_model(str(tmp_path)) == tmp_path.resolve()


@pytest.mark.parametrize("wanted", ["nowhere", "./nowhere/there", "/nowhere/there", "a/b/c"])
def test_what_is_no_folder_and_no_hub_name_is_said_so(wanted, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    with pytest.raises(ModelError, match="no such folder"):
        serve.find_model(wanted)


def test_a_folder_or_file_that_is_no_model_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        serve.find_model(str(tmp_path))
    (tmp_path / "weights.gguf").write_text("")
    with pytest.raises(ModelError, match=r"weights\.gguf is a file; expected a model folder"):
        serve.find_model(str(tmp_path / "weights.gguf"))


def test_a_hub_name_is_fetched_without_pickles(tmp_path, monkeypatch):
    asked = {}

    def download(name: str, allow_patterns: list[str]) -> str:
        asked.update(name=name, patterns=allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert serve.find_model("owner/model") == tmp_path
    assert asked["name"] == "owner/model"
    assert not any(pattern.endswith((".bin", ".pt", ".pth", ".pkl", ".py", "*")) for pattern in asked["patterns"])


def test_a_hub_that_cannot_be_reached_is_one_clear_error(monkeypatch):
    def download(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelError, match="owner/model: no such folder here, and the hub did not give it: offline"):
        serve.find_model("owner/model")


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70000), ("127.0.0.1", -1), ("no.such.host.invalid", 0)])
def test_an_address_that_cannot_be_is_named(host, port):
    with pytest.raises(ConfigError, match=r"--port|no\.such\.host\.invalid"):
        serve.listen(host, port)


@pytest.mark.parametrize(
    ("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("::1", "[::1]")]
)
def test_the_url_can_be_pasted(host, shown):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with listener:
        assert serve.url_of(listener, host) == f"http://{shown}:{listener.getsockname()[1]}"
