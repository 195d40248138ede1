"""Where the model comes from and where the server listens."""

from __future__ import annotations

import json
import socket
import subprocess
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import filter_repo_objects
from small_server import TEMPLATE, small_vocabulary

from quire.engine.errors import ConfigError, ModelError
from quire.engine.messages import Ready
from quire.server import serve
from quire.server.banner import ready_block
from quire.server.cli import main
from quire.server.config import ServerConfig
from quire.server.openai.params import DEFAULTS, model_defaults

INFO = Ready(
    architecture="X", dtype="float32", device="cpu", vocab_size=8, max_model_len=512, block_size=16, num_blocks=64,
    kv_bytes=1024, kept="bfloat16", weights="float32", weight_bytes=1024, load_seconds=1.0,
)  # fmt: skip


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
    (tmp_path / "weights.onnx").write_text("")
    with pytest.raises(ModelError, match=r"weights\.onnx is a file; expected a model folder"):
        serve.find_model(str(tmp_path / "weights.onnx"))


@pytest.mark.parametrize("failing", ["stat", "listdir"])
def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch, failing):
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(serve.os, failing, refused)
    with pytest.raises(ModelError, match=rf"{tmp_path.name}: cannot be read \(Permission denied\)"):
        serve.find_model(str(tmp_path))


def test_a_name_too_long_for_a_folder_is_an_error_of_one_line(capsys):
    assert main(["serve", "a" * 5000], {}) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_an_interrupt_while_starting_is_no_traceback(monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(serve, "find_model", interrupted)
    assert main(["serve", "model"], {}) == 130


def test_a_hub_name_is_fetched_without_pickles(tmp_path, monkeypatch):
    asked = {}

    def download(name: str, **patterns: list[str]) -> str:
        asked.update(name=name, **patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert serve.find_model("owner/model") == tmp_path
    assert asked["name"] == "owner/model"
    there = [
        "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "config.json",
        "tokenizer.json", "chat_template.jinja", "additional_chat_templates/tool_use.jinja", "merges.txt",
        "consolidated.safetensors", "consolidated.00.pth", "original/model.safetensors", "pytorch_model.bin",
        "model.pt", "model.pkl", "modeling_x.py", "model.gguf", "onnx/model.onnx",
    ]  # fmt: skip
    wanted = {key: asked[key] for key in ("allow_patterns", "ignore_patterns")}
    assert list(filter_repo_objects(there, **wanted)) == there[:8]


def test_looking_on_the_hub_is_a_plain_line_where_there_is_no_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    serve.find_model("owner/model")
    assert capsys.readouterr().err == "quire: looking for owner/model on the hub\n"
    assert huggingface_hub.utils.are_progress_bars_disabled()


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


@pytest.mark.parametrize("name", ["plain", 'it\'s "quoted"', "owner/ü"])
@pytest.mark.parametrize("chat", [True, False])
def test_the_curl_of_the_start_block_can_be_pasted(name, chat):
    config = ServerConfig(served_model_names=(name,), api_keys=("sesame",))
    block = ready_block(INFO, config, url="http://127.0.0.1:8000", chat=chat)
    line = block.splitlines()[-1].removeprefix("  try        ")
    done = subprocess.run(
        ["sh", "-c", line.replace("curl", "printf '%s\\n'", 1)], capture_output=True, text=True, env={"KEY": "sesame"}
    )
    url, _, key, _, kind, _, body = done.stdout.splitlines()
    assert url == f"http://127.0.0.1:8000/v1/{'chat/' if chat else ''}completions"
    assert (key, kind) == ("Authorization: Bearer sesame", "Content-Type: application/json")
    assert json.loads(body)["model"] == name
    assert "1,024 tokens in bfloat16 (1.0 KiB): 2.0 requests of full length fit" in block


def test_a_wider_address_without_a_key_is_warned_of():

    def warned(**config: Any) -> bool:
        block = ready_block(INFO, ServerConfig(served_model_names=("x",), **config), url="http://x", chat=True)
        return "warning" in block

    assert warned(host="0.0.0.0")
    assert not warned(host="0.0.0.0", api_keys=("sesame",))
    assert not warned(host="127.0.0.1")


def test_a_template_is_reported_on_without_an_engine(tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer.json").write_text(small_vocabulary())
    assert main(["check-template", str(folder)], {}) == 1
    assert "no chat template" in capsys.readouterr().err
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    assert main(["check-template", str(folder)], {}) == 1
    assert "calls are read as none, thoughts as none\nok " in (shown := capsys.readouterr().out)
    assert "warn  tools " in shown
    assert "hermes" in shown
    assert main(["check-template", str(folder), "--tool-call-parser", "none", "--reasoning-parser", "think"], {}) == 1
    assert "thoughts as think" in capsys.readouterr().out
    assert main(["check-template", str(folder), "--tool-call-parser", "nothing"], {}) == 1
    assert "--tool-call-parser is 'nothing'" in capsys.readouterr().err
    assert main(["check-template", str(tmp_path)], {}) == 1


def test_what_is_said_of_the_template_stands_in_the_start_block():
    config = ServerConfig(served_model_names=("x",))
    assert "template   calls" in ready_block(INFO, config, url="http://x", chat=True, template="calls are read as x")
    assert "template " not in ready_block(INFO, config, url="http://x", chat=False, template="calls")


@pytest.mark.parametrize(
    "told",
    [
        {"temperature": "hot"},
        {"temperature": -3},
        {"temperature": float("nan")},
        {"temperature": True},
        {"top_p": 1.5},
        {"top_p": float("inf")},
        {"top_k": 2.5},
        {"min_p": -1},
        {"repetition_penalty": 0},
    ],
)
def test_sampling_defaults_that_no_request_could_ask_for_are_named(tmp_path, told):
    (tmp_path / "generation_config.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match=rf"generation_config\.json: {next(iter(told))}: .*; it is "):
        model_defaults(tmp_path, use=True)
    assert model_defaults(tmp_path, use=False) == DEFAULTS
    (tmp_path / "generation_config.json").write_text(json.dumps({**told, "do_sample": False}))
    assert model_defaults(tmp_path, use=True) == DEFAULTS


def test_what_the_models_sampling_asks_for_in_vain_is_logged(tmp_path, caplog):
    nothing = {"typical_p": 1.0, "num_beams": 1, "suppress_tokens": [], "stop_strings": None, "min_length": 0}
    (tmp_path / "generation_config.json").write_text(json.dumps({**nothing, "max_length": 20, "temperature": 0.5}))
    assert model_defaults(tmp_path, use=True)["temperature"] == 0.5
    assert not caplog.records
    asked = {"typical_p": 0.9, "no_repeat_ngram_size": 3, "suppress_tokens": [7]}
    (tmp_path / "generation_config.json").write_text(json.dumps({**asked, "do_sample": False}))
    assert model_defaults(tmp_path, use=False) == DEFAULTS
    assert not caplog.records
    assert model_defaults(tmp_path, use=True) == DEFAULTS
    assert caplog.messages == [f"{tmp_path / 'generation_config.json'}: answers go without its {', '.join(asked)}"]


def test_sampling_defaults_are_those_of_the_model(tmp_path):
    assert model_defaults(tmp_path, use=True) == DEFAULTS
    told = {"temperature": 0, "top_k": 20.0, "top_p": None, "max_length": 20, "stop": 5}
    (tmp_path / "generation_config.json").write_text(json.dumps(told))
    assert model_defaults(tmp_path, use=True) == {**DEFAULTS, "temperature": 0, "top_k": 20}
