"""compose.yaml and what it mounts fit together, and fit the image and the server."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from quire.server import flags

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker" / "compose.yaml"
TWINS = {flag.env: flag for flag in flags.SERVER + flags.ENGINE}


def filled(text: str, given: dict[str, str]) -> str:
    """Compose's ${NAME:-default}: what is given, where it is not empty, else the default."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: given.get(m[1]) or m[2], text)


def load(**given: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(filled(COMPOSE.read_text(encoding="utf-8"), given))
    return found


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return load()


def read(path: str) -> Any:
    return yaml.safe_load((ROOT / "docker" / path).read_text(encoding="utf-8"))


def mounts(service: dict[str, Any]) -> dict[str, str]:
    """Where in the container -> what lies there."""
    return {target: source for source, target, *_ in (one.split(":") for one in service.get("volumes", ()))}


def test_every_variable_has_a_default():
    assert "$" not in filled(COMPOSE.read_text(encoding="utf-8"), {})


def test_what_is_mounted_is_there(compose):
    for service in compose["services"].values():
        for target, source in mounts(service).items():
            assert target.startswith("/")
            if source.startswith(("/", ".")):
                assert (COMPOSE.parent / source).exists(), source
            else:
                assert source in compose["volumes"], source
    for secret in compose["secrets"].values():
        assert Path(secret["file"]).exists()


def test_images_are_releases_and_the_own_one_is_built(compose):
    for name, service in compose["services"].items():
        if name == "quire":
            build = service["build"]
            assert (COMPOSE.parent / build["context"]).resolve() == ROOT
            assert (ROOT / build["dockerfile"]).is_file()
        else:
            assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])


def test_the_server_gets_a_gpu_its_caches_and_time_to_end(compose, images):
    service, image = compose["services"]["quire"], images["cuda"].image
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}
    (volume,) = image.last("VOLUME").exec
    assert volume in mounts(service)
    drain = next(flag.default for flag in flags.SERVER if flag.name == "--drain-timeout")
    assert float(service["stop_grace_period"].removesuffix("s")) >= drain + 10
    assert "profiles" not in service
    assert "shm_size" not in service  # processes of quire share no memory; they talk over a socket
    assert "ipc" not in service


def test_nothing_is_open_to_other_machines_unless_it_is_asked_for(compose, images):
    ports = {name: service["ports"] for name, service in compose["services"].items()}
    assert all(port.startswith("127.0.0.1:") for many in ports.values() for port in many)
    inside = images["cuda"].image.last("EXPOSE").rest
    assert ports["quire"] == [f"127.0.0.1:8000:{inside}"]
    assert load(LISTEN="0.0.0.0:80")["services"]["quire"]["ports"] == [f"0.0.0.0:80:{inside}"]


def test_variables_that_are_passed_on_are_known_and_have_no_value_here(compose):
    service = compose["services"]["quire"]
    assert set(service["environment"].values()) == {None}  # an empty one would not be "not set"
    assert set(service["environment"]) - TWINS.keys() == {"QUIRE_MODEL", "HF_TOKEN"}
    assert service["env_file"] == [{"path": ".env", "required": False}]
    assert ".env" in (ROOT / "docker" / ".gitignore").read_text(encoding="utf-8").split()


def test_what_watches_comes_when_it_is_asked_for(compose):
    profiles = {name: service.get("profiles") for name, service in compose["services"].items()}
    assert profiles == {"quire": None, "prometheus": ["watch"], "grafana": ["watch"]}


def test_prometheus_asks_the_server_with_its_key(compose, images):
    settings = read("prometheus.yml")
    (job,) = settings["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert target == f"quire:{images['cuda'].image.last('EXPOSE').rest}"
    assert "metrics_path" not in job  # the default is /metrics
    (secret,) = compose["services"]["prometheus"]["secrets"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    placed = mounts(compose["services"]["prometheus"])
    for name in ("prometheus.yml", *settings["rule_files"]):
        assert placed[f"/etc/prometheus/{name}"] == f"./{name}"


def test_grafana_finds_prometheus_and_the_dashboard(compose):
    service = compose["services"]["grafana"]
    (source,) = read("grafana/provisioning/datasources/prometheus.yml")["datasources"]
    inside = compose["services"]["prometheus"]["ports"][0].rpartition(":")[2]
    assert source["url"] == f"http://prometheus:{inside}"
    assert source["jsonData"]["timeInterval"] == read("prometheus.yml")["global"]["scrape_interval"]
    (provider,) = read("grafana/provisioning/dashboards/quire.yml")["providers"]
    folder = ROOT / "docker" / mounts(service)[provider["options"]["path"]]
    home = Path(service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert str(home.parent) == provider["options"]["path"]
    dashboard = json.loads((folder / home.name).read_text(encoding="utf-8"))
    used = re.findall(r'"uid": "([^"]*)"', json.dumps([dashboard["panels"], dashboard["templating"]]))
    assert set(used) == {source["uid"]}
    assert mounts(service)["/etc/grafana/provisioning"] == "./grafana/provisioning"


def test_grafana_has_no_password_that_everyone_knows(compose):
    environment = compose["services"]["grafana"]["environment"]
    assert environment["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert all(isinstance(value, str) for value in environment.values())  # YAML's true is not the text Grafana reads


def test_the_page_names_only_variables_that_there_are():
    page = (ROOT / "docs" / "docker.md").read_text(encoding="utf-8")
    text = COMPOSE.read_text(encoding="utf-8")
    assert set(re.findall(r"QUIRE_[A-Z_]+", page)) <= {*TWINS, "QUIRE_MODEL"}
    for name in re.findall(r"\$\{(\w+):-", text):
        assert f"`{name}`" in page, name
    known = {flag.name for flag in TWINS.values()}
    for line in re.findall(r"^docker run (?:.*\\\n)*.*$", page, re.MULTILINE):
        ours = re.split(r"\squire(?::cpu)?(?=\s|$)", line.replace("\\\n", " "))[-1]
        assert set(re.findall(r"--[a-z-]+", ours)) <= known, line
