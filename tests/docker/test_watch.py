"""What watches the server asks for what the server says: its health, and metrics under the names it really has."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType

import httpx
import pytest
import yaml
from dockerfiles import Dockerfile
from prometheus_client.parser import text_string_to_metric_families
from running_server import RunningServer, running

from quire import pocket

DOCKER = Path(__file__).resolve().parents[2] / "docker"
EXAMPLES = Path(__file__).with_name("alerts.promtool.yml")
KEY = {"authorization": "Bearer sesame"}
ENDS = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
ADDED = {"instance", "job", "le"}  # labels that Prometheus adds, and that of the buckets
CHAT = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """The server of the image without a model named, with a key and an adapter."""
    with running(None, "--api-key", "sesame", "--lora-modules", f"json={pocket.ADAPTERS['json']}") as server:
        yield server.wait_ready()


@pytest.fixture(scope="module")
def exported(server: RunningServer) -> dict[str, set[str]]:
    """Name of a sample -> its labels, after a few requests."""

    def ask(**more: object) -> str:
        answer = httpx.post(f"{server.url}/v1/chat/completions", json={**CHAT, **more}, headers=KEY, timeout=60)
        assert answer.status_code == 200, answer.text
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text

    ask(model="json")
    said = ask(model="pocket")
    ask(model="pocket", prediction={"type": "content", "content": said})  # so that there is something to guess
    found: defaultdict[str, set[str]] = defaultdict(set)
    for family in text_string_to_metric_families(httpx.get(f"{server.url}/metrics", headers=KEY).text):
        for end in ENDS[family.type]:
            found[family.name + end] |= set()
        for sample in family.samples:
            found[sample.name] |= sample.labels.keys()
    return found


def expressions() -> list[tuple[str, str, list[str]]]:
    """Title, PromQL, and the labels that its legend or text names: of every panel and every alert."""
    found = []
    dashboard = json.loads((DOCKER / "grafana/dashboards/quire.json").read_text(encoding="utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            found.append((panel["title"], target["expr"], re.findall(r"\{\{\s*(\w+)", target["legendFormat"])))
    for variable in dashboard["templating"]["list"]:
        asked, _, label = variable["query"]["query"].removeprefix("label_values(").rstrip(")").partition(", ")
        found.append((variable["name"], asked, [label]))
    for group in yaml.safe_load((DOCKER / "alerts.yml").read_text(encoding="utf-8"))["groups"]:
        for rule in group["rules"]:
            labels = re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"]))
            found.append((rule["alert"], rule["expr"], labels))
    return found


def test_every_query_names_metrics_and_labels_that_are_exported(exported: dict[str, set[str]]):
    asked = expressions()
    assert len(asked) > 30
    for title, expr, shown in asked:
        names = re.findall(r"quire:\w+", expr)
        assert names or "up{" in expr, title
        assert [name for name in names if name not in exported] == [], title
        labels = {label for part in re.findall(r"\bby \(([^)]*)\)", expr) for label in part.split(", ")}
        labels |= set(re.findall(r"(\w+)=~?\"", expr)) | set(shown)
        known = set().union(*(exported[name] for name in names)) | ADDED
        assert labels <= known, title
        counts = re.findall(r"(quire:\w+)(?:\{[^}]*\})?(\[)?", expr)
        for name, ranged in counts:  # a count is read as a rate, a gauge as it is
            assert bool(ranged) == name.endswith(("_total", "_bucket", "_sum", "_count")), f"{title}: {name}"


def test_a_share_is_one_of_counts_by_the_same_labels():
    for title, expr, _ in expressions():
        if " / " in expr.replace("\n", " "):
            above, below = (re.findall(r"\bby \(([^)]*)\)", side) for side in expr.split(" / "))
            assert above == below, title


def test_alerts_are_of_the_job_that_prometheus_scrapes():
    (job,) = yaml.safe_load((DOCKER / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    named = {name for _, expr, _ in expressions() for name in re.findall(r'job="([^"]*)"', expr)}
    assert named == {job["job_name"]}


def test_every_alert_has_an_example_that_fires_and_one_that_does_not():
    alerts = {
        rule["alert"]: rule["annotations"]["summary"]
        for group in yaml.safe_load((DOCKER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    }
    ill, well = yaml.safe_load(EXAMPLES.read_text(encoding="utf-8"))["tests"]
    assert {one["alertname"] for one in ill["alert_rule_test"] if one["exp_alerts"]} == alerts.keys()
    assert {one["alertname"] for one in well["alert_rule_test"] if not one["exp_alerts"]} == alerts.keys()


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, which comes with Prometheus, is not installed")
def test_promtool_agrees_with_the_examples():
    done = subprocess.run(["promtool", "test", "rules", str(EXAMPLES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(["promtool", "check", "rules", str(DOCKER / "alerts.yml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_two_panels_lie_over_each_other():
    panels = json.loads((DOCKER / "grafana/dashboards/quire.json").read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in panels):
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_prometheus_needs_the_key_and_health_does_not(server: RunningServer):
    assert httpx.get(f"{server.url}/metrics").status_code == 401
    assert httpx.get(f"{server.url}/metrics", headers=KEY).status_code == 200
    assert httpx.get(f"{server.url}/health").status_code == 200


def check(images: dict[str, Dockerfile], **env: str) -> subprocess.CompletedProcess[str]:
    """What HEALTHCHECK runs, with the file where it lies here."""
    words = json.loads(images["cpu"].image.last("HEALTHCHECK").rest.removeprefix("CMD "))
    assert words[0] == "python"
    command = [sys.executable, *words[1:-1], str(DOCKER / Path(words[-1]).name)]
    return subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True, timeout=20)


def test_the_health_check_tells_a_server_that_lives_from_none(server: RunningServer, images: dict[str, Dockerfile]):
    port = server.url.rpartition(":")[2]
    nowhere = {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}  # of a container that may go out by a proxy only
    done = check(images, QUIRE_HOST="0.0.0.0", QUIRE_PORT=port, **nowhere)
    assert (done.returncode, done.stdout) == (0, f"/health of 0.0.0.0:{port} says 200; expected 200\n")
    with socket.create_server(("127.0.0.1", 0)) as free:
        other = str(free.getsockname()[1])
    done = check(images, QUIRE_HOST="0.0.0.0", QUIRE_PORT=other)
    assert done.returncode == 1
    assert "cannot be asked: ConnectionRefusedError" in done.stdout


@pytest.fixture(scope="module")
def module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("healthcheck", DOCKER / "healthcheck.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_server_that_says_no_is_not_healthy(module: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys):
    class Broken(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(500)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Broken) as broken:
        threading.Thread(target=broken.handle_request, daemon=True).start()
        monkeypatch.setenv("QUIRE_HOST", "127.0.0.1")
        monkeypatch.setenv("QUIRE_PORT", str(broken.server_port))
        assert module.main() == 1
    assert "says 500; expected 200" in capsys.readouterr().out


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-OpenSSH\r\n"])
def test_what_does_not_speak_http_is_not_healthy(module, monkeypatch: pytest.MonkeyPatch, capsys, answer: bytes):
    """Silence lasts no longer than the check may."""
    monkeypatch.setattr(module, "SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("QUIRE_PORT", str(listener.getsockname()[1]))

        def talk() -> None:
            peer = listener.accept()[0]
            peer.sendall(answer)
            peer.recv(1000)
            threading.Event().wait(0.5)

        threading.Thread(target=talk, daemon=True).start()
        assert module.main() == 1
    assert "cannot be asked" in capsys.readouterr().out


def test_a_port_that_is_none_is_a_reason_and_no_traceback(module, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("QUIRE_PORT", "http")
    assert module.main() == 1
    assert "0.0.0.0:http cannot be asked" in capsys.readouterr().out
